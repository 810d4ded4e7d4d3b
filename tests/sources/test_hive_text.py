"""Columns of Hive's folders, of CSV and JSON Lines."""

import pytest

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError
from pymar.producer import Producer
from pymar.sinks import CSVSink, JSONLinesSink
from pymar.sources import CSVRows, JSONLines, TextLines
from pymar.testing import check_source


def read(source, path, **settings):
    return list(DataSourceFactory(source, path=str(path), **settings).build_data_source())


@pytest.fixture
def folder(tmp_path):
    for year, who, text in ((2013, "a%2Fb", "n\n1\n2\n"), (2014, "__HIVE_DEFAULT_PARTITION__", "n\n3\n")):
        place = tmp_path / f"year={year}" / f"who={who}"
        place.mkdir(parents=True)
        (place / "x.csv").write_text(text)
    return tmp_path


ROWS = [
    {"n": "1", "year": "2013", "who": "a/b"},
    {"n": "2", "year": "2013", "who": "a/b"},
    {"n": "3", "year": "2014", "who": None},
]


def test_rows_have_the_columns_of_their_folders(folder):
    assert read(CSVRows, folder) == ROWS
    assert read(CSVRows, folder, as_tuples=True) == [tuple(row.values()) for row in ROWS]
    assert read(CSVRows, folder, columns=["year", "n"]) == [{"year": row["year"], "n": row["n"]} for row in ROWS]
    assert [row["year"] for row in read(CSVRows, folder, types={"year": int})] == [2013, 2013, 2014]
    assert check_source(DataSourceFactory(CSVRows, path=str(folder), single_line=True), seed=1) == 3


def test_not_if_the_pattern_is_given_or_they_are_not_wanted(folder, caplog):
    assert read(CSVRows, f"{folder}/*/*/*.csv") == [{"n": row["n"]} for row in ROWS]
    assert "year=2013" in caplog.text
    assert read(CSVRows, f"{folder}/*/*/*.csv", hive=True) == ROWS
    assert read(CSVRows, folder, hive=False) == [{"n": row["n"]} for row in ROWS]
    assert read(TextLines, folder) == ["n", "1", "2", "n", "3"]


def test_without_a_header(folder):
    found = read(CSVRows, folder, header=False)
    assert found[0] == ("n", "2013", "a/b")
    assert read(CSVRows, folder, header=False, columns=["x"])[1] == {"x": "1", "year": "2013", "who": "a/b"}


def test_a_column_that_the_file_has_itself(folder):
    (folder / "year=2013" / "who=a%2Fb" / "x.csv").write_text("year\n1\n")
    with pytest.raises(SourceError, match=r"the column 'year' itself.*hive=False"):
        read(CSVRows, folder, columns=["who"])


def test_values_have_integers(tmp_path):
    for year, text in ((2013, '{"n": 1}\n'), (2014, '{"n": 2, "year": 2014}\n')):
        (tmp_path / f"year={year}").mkdir()
        (tmp_path / f"year={year}" / "x.jsonl").write_text(text)
    assert read(JSONLines, tmp_path) == [{"n": 1, "year": 2013}, {"n": 2, "year": 2014}]
    (tmp_path / "year=2014" / "x.jsonl").write_text('{"year": 2015}\n')
    with pytest.raises(SourceError, match="2015 in the file, and 2014 by its folder"):
        read(JSONLines, tmp_path)
    (tmp_path / "year=2014" / "x.jsonl").write_text("[1]\n")
    with pytest.raises(SourceError, match="hive=False"):
        read(JSONLines, tmp_path)


def test_folders_whose_column_begins_with_an_underscore(tmp_path):
    (tmp_path / "_day=1").mkdir()
    (tmp_path / "_day=1" / "x.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "_SUCCESS").write_text("")
    assert read(JSONLines, tmp_path) == [{"n": 1, "_day": 1}]


class Same(Producer):
    @staticmethod
    def map_fn(records):
        yield from records


def test_what_a_sink_partitions_reads_back(tmp_path):
    rows = [{"n": n, "year": 2000 + n % 3} for n in range(30)]
    Same().write(DataSourceFactory(rows), JSONLinesSink(tmp_path / "j", partition_by=["year"]))
    assert sorted(read(JSONLines, tmp_path / "j"), key=lambda row: row["n"]) == rows
    Same().write(DataSourceFactory(rows), CSVSink(tmp_path / "c", partition_by=["year"]))
    found = read(CSVRows, tmp_path / "c", types={"n": int, "year": int})
    assert sorted(found, key=lambda row: row["n"]) == rows
