"""Files that grow while they are read, JSON over several lines, and bytes that are no text."""

import gzip
import json
import os

import pytest

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, SourceChanged, SourceError
from pymar.producer import Producer
from pymar.sources import CSVRows, JSONLines, TextLines
from pymar.testing import check_source


def read(source, path, **settings):
    return list(DataSourceFactory(source, path=str(path), **settings).build_data_source())


class Growing(TextLines):
    """Its file gets another line between the producer's look at it and the reading."""

    log = ""

    def __iter__(self):
        with open(self.log, "a") as file:
            file.write("later\n")
        return super().__iter__()


class Lines(Producer):
    WORKERS_NUMBER = 4

    @staticmethod
    def map_fn(lines):
        yield list(lines)

    @staticmethod
    def reduce_fn(lists):
        return [line for lines in lists for line in lines]


def test_a_log_is_read_as_far_as_it_was_listed(tmp_path):
    log = tmp_path / "app.log"
    lines = [f"line {n}" for n in range(1_000)]
    log.write_text("\n".join(lines) + "\nhalf a li")
    settings = {"path": str(log), "log": str(log)}
    assert Lines().map(DataSourceFactory(Growing, **settings, until="listed")) == lines
    assert "later" in log.read_text()
    with pytest.raises((PartFailed, SourceChanged), match="has changed"):
        Lines().map(DataSourceFactory(Growing, **settings))


@pytest.mark.parametrize(
    "text", ["", "no line end", "\n", "a\n", "a\nb", "a\n\n", "x" * 300_000 + "\ny", "y" * 300_000]
)
def test_only_lines_that_are_whole(tmp_path, text):
    (tmp_path / "log").write_text(text)
    expected = text[: text.rfind("\n") + 1].split("\n")[:-1]
    factory = DataSourceFactory(TextLines, path=str(tmp_path / "log"), until="listed")
    assert check_source(factory, seed=1) == len(expected)
    assert list(factory.build_data_source()) == expected


def test_a_delimiter_of_several_bytes_across_the_pieces_that_are_searched(tmp_path):
    for size in range(131_070, 131_075):
        (tmp_path / "log").write_text("a||" + "x" * size)
        assert read(TextLines, tmp_path / "log", until="listed", delimiter="||") == ["a"]


def test_values_and_rows_of_logs_too(tmp_path):
    (tmp_path / "log").write_text('{"n": 1}\n{"n": ')
    assert read(JSONLines, tmp_path / "log", until="listed") == [{"n": 1}]
    (tmp_path / "csv").write_text("a,b\n1,2\n3,")
    assert read(CSVRows, tmp_path / "csv", until="listed", single_line=True) == [{"a": "1", "b": "2"}]
    with pytest.raises(SourceError, match="single_line"):
        read(CSVRows, tmp_path / "csv", until="listed")


def test_a_log_that_is_cut_or_replaced_is_an_error(tmp_path):
    log = tmp_path / "log"
    for change in ("cut", "replaced"):
        log.write_text("one\ntwo\n")
        factory = DataSourceFactory(TextLines, path=str(log), until="listed").for_a_job()
        assert factory.length() == 8
        source = factory.part(8, 0).build_data_source()
        if change == "cut":
            os.truncate(log, 3)
        else:
            (tmp_path / "new").write_text("one\nTWO\n")
            (tmp_path / "new").rename(log)
        with pytest.raises(SourceChanged):
            list(source)


def test_what_cannot_grow_is_refused(tmp_path):
    (tmp_path / "log.gz").write_bytes(gzip.compress(b"a\n"))
    with pytest.raises(SourceError, match="not compressed"):
        read(TextLines, tmp_path / "log.gz", until="listed")


VALUES = [{"n": 1, "text": 'é "]},', "list": [1, [2, {}]]}, [], "x]", 12345678901234567890, -1.5e300, True, None, 7]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 17])
@pytest.mark.parametrize("compressed", [False, True])
def test_elements_of_an_array_are_records(tmp_path, indent, chunk, compressed, monkeypatch):
    monkeypatch.setattr("pymar.sources.cuts.CHUNK", chunk)
    data = json.dumps(VALUES, indent=indent, ensure_ascii=False).encode()
    (tmp_path / "a.json").write_bytes(gzip.compress(data) if compressed else data)
    assert repr(read(JSONLines, tmp_path / "a.json", json_array=True)) == repr(VALUES)


@pytest.mark.parametrize("between", ["\n", "\n\n", " ", "\r\n\t"])
@pytest.mark.parametrize("chunk", [1, 5, 1 << 17])
def test_values_over_several_lines_are_records(tmp_path, between, chunk, monkeypatch):
    monkeypatch.setattr("pymar.sources.cuts.CHUNK", chunk)
    values = [value for value in VALUES if value != []]
    text = between.join(json.dumps(value, indent=3) for value in values)
    (tmp_path / "a.json").write_text(f"{between}{text}{between}")
    assert repr(read(JSONLines, tmp_path / "a.json", json_array=True)) == repr(values)


def test_empty_files_and_arrays(tmp_path):
    for text in ("", " \n", "[]", " [ ] \n", "\ufeff[]"):
        (tmp_path / "a.json").write_text(text)
        assert read(JSONLines, tmp_path / "a.json", json_array=True) == []


def test_several_files_in_parts(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.json").write_text(json.dumps([number] * 100))
    assert check_source(DataSourceFactory(JSONLines, path=str(tmp_path), json_array=True), seed=1) == 300


@pytest.mark.parametrize(
    ("text", "byte"),
    [
        ("[1, 2", 5), ("[1 2]", 3), ("[1,]", 3), ("[,1]", 1), ("[1]]", 3), ("[1] 2", 4), ('[1, "é', 4), ("[1, tru]", 4),
        ('{"a": 1', 0), ("{} ]", 3), ("[é]", 1), ("nul", 0), ("[1,\n\n {]", 6),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [1, 4, 1 << 17])
def test_what_is_no_json_is_named_with_its_byte(tmp_path, text, byte, chunk, monkeypatch):
    monkeypatch.setattr("pymar.sources.cuts.CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceError, match=rf"a\.json, byte {byte}: this is not JSON"):
        read(JSONLines, tmp_path / "a.json", json_array=True)


def test_a_value_that_is_too_long_is_an_error(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(["x" * 1_000_000]))
    with pytest.raises(SourceError, match="max_record"):
        read(JSONLines, tmp_path / "a.json", json_array=True, max_record=1_000)


def test_bytes_that_are_no_text(tmp_path):
    data = b"a\xff\nb\xc3\xa9\n\xe2\x82\n"
    (tmp_path / "a.txt").write_bytes(data)
    assert read(TextLines, tmp_path / "a.txt", errors="replace") == ["a\ufffd", "b\xe9", "\ufffd"]
    assert read(TextLines, tmp_path / "a.txt", errors="ignore") == ["a", "b\xe9", ""]
    assert read(TextLines, tmp_path / "a.txt", errors="backslashreplace") == ["a\\xff", "b\xe9", "\\xe2\\x82"]
    escaped = read(TextLines, tmp_path / "a.txt", errors="surrogateescape")
    assert "\n".join(escaped).encode("utf-8", "surrogateescape") + b"\n" == data
    factory = DataSourceFactory(TextLines, path=str(tmp_path / "a.txt"), errors="replace")
    assert check_source(factory, seed=1) == 3
    with pytest.raises(SourceError, match="errors='replace'"):
        read(TextLines, tmp_path / "a.txt")


def test_values_that_are_nested_too_deeply_are_named(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    for json_array in (True, False):
        with pytest.raises(SourceError, match=r"a\.json"):
            read(JSONLines, tmp_path / "a.json", json_array=json_array)


def test_a_missing_colon_is_named(tmp_path):
    (tmp_path / "a.json").write_text('[{"a" 1}]')
    with pytest.raises(SourceError, match="Expecting ':' delimiter"):
        read(JSONLines, tmp_path / "a.json", json_array=True)
