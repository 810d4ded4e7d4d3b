"""Datasets of files and databases: the rows are the same whichever way they are read, and columns stay columns."""

import csv
import math

import pytest
from conftest import needed

import pymar
from pymar.exceptions import PartFailed, UsageError
from pymar.keyed import Count, Max, Mean, Min, Sum

ROWS = [
    {
        "carrier": name,
        "hour": number % 24,
        "delay": None if number % 7 == 0 else number * 0.1,
        "code": f"{number:03}",
    }
    for number, name in enumerate(["AA", "UA", "DL", "AA", "B6"] * 100)
]
AGGREGATIONS = {"flights": Count(), "known": Count("delay"), "mean": Mean("delay"), "most": Max("delay")}


def expected():
    found = {}
    for row in ROWS:
        found.setdefault(row["carrier"], []).append(row["delay"])
    return {
        carrier: {
            "flights": len(delays),
            "known": len(known := [delay for delay in delays if delay is not None]),
            "mean": pytest.approx(math.fsum(known) / len(known), rel=1e-12),
            "most": max(known),
        }
        for carrier, delays in found.items()
    }


def by_carrier(dataset):
    found = dataset.group_by("carrier").aggregate(**AGGREGATIONS).collect()
    return {row.pop("carrier"): row for row in found}


@pytest.fixture
def flights(tmp_path):
    path = tmp_path / "flights.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["carrier", "hour", "delay", "code"])
        writer.writeheader()
        writer.writerows(ROWS)
    return path


@pytest.fixture
def parquet(tmp_path):
    needed("pyarrow")
    pymar.dataset(ROWS, engine="serial", parts=4).write_parquet(tmp_path / "flights")
    return tmp_path / "flights"


def test_small_files_are_not_cut_into_parts_that_are_empty(tmp_path):
    path = tmp_path / "small.csv"
    path.write_text("a\n1\n2\n3\n")
    found = pymar.read_csv(path, engine="serial", single_line=True).map_parts(lambda some: [sum(r["a"] for r in some)])
    assert found.collect() == [6]


def test_a_pattern_with_an_extension_has_names_that_begin_with_an_underscore(tmp_path):
    for name in ("a.txt", "_b.txt", "_SUCCESS", ".c.txt"):
        (tmp_path / name).write_text(name + "\n")
    assert sorted(pymar.read_text(tmp_path / "*.txt", engine="serial").collect()) == ["_b.txt", "a.txt"]
    assert pymar.read_text(tmp_path / "*", engine="serial").collect() == ["a.txt"]
    assert pymar.read_text(tmp_path, engine="serial").collect() == ["a.txt"]


def test_types_of_csv_are_found_and_codes_keep_their_zeros(flights):
    assert pymar.read_csv(flights, engine="serial").collect() == ROWS
    assert pymar.read_csv(flights, engine="serial", single_line=True).take(3) == ROWS[:3]
    assert pymar.read_csv(flights, engine="serial", types={}).take(1)[0]["hour"] == "0"


@pytest.mark.parametrize("by_columns", [True, False])
def test_a_code_with_zeros_that_comes_late_is_an_error_and_no_number(tmp_path, by_columns):
    path = tmp_path / "codes.csv"
    path.write_text("code\n" + "7\n" * 2_000 + "007\n")
    dataset = pymar.read_csv(path, engine="serial")
    assert dataset.take(1) == [{"code": 7}]
    with pytest.raises(PartFailed, match="'007'"):
        dataset.group_by("code").count().collect() if by_columns else dataset.collect()
    assert pymar.read_csv(path, engine="serial", types={"code": "int"}).group_by("code").count().collect() == [
        {"code": 7, "count": 2_001}
    ]


@pytest.mark.parametrize("by_columns", [True, False])
def test_na_is_nothing_in_columns_of_numbers_alone(tmp_path, by_columns):
    path = tmp_path / "na.csv"
    path.write_text("place,n\nNA,1\nUS,NA\n" + "US,2\n" * 2_000 + "NA,NA\n")
    dataset = pymar.read_csv(path, engine="serial")
    assert dataset.take(2) == [{"place": "NA", "n": 1}, {"place": "US", "n": None}]
    if by_columns:
        needed("pyarrow")
    groups = (dataset if by_columns else dataset.map(dict)).group_by("place").aggregate(n=Sum("n"), rows=Count())
    assert sorted(groups.collect(), key=str) == [
        {"place": "NA", "n": 1, "rows": 2},
        {"place": "US", "n": 4_000, "rows": 2_001},
    ]
    assert pymar.read_csv(path, engine="serial", columns=["n"]).count() == 2_003


def test_a_value_that_is_none_of_the_type_is_an_error_with_the_remedy(tmp_path):
    path = tmp_path / "late.csv"
    path.write_text("n\n" + "1\n" * 2_000 + "x\n")
    with pytest.raises(PartFailed, match=r"'x'.*types=.*null="):
        pymar.read_csv(path, engine="serial").collect()
    types = {"n": "text"}
    assert pymar.read_csv(path, engine="serial", types=types).count() == 2_001


def test_types_that_are_given_for_some_columns_leave_the_others_to_be_found(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("code,n,x\n7,1,NA\n8,2,0.5\n")
    found = pymar.read_csv(path, engine="serial", types={"code": "text"}).collect()
    assert found == [{"code": "7", "n": 1, "x": None}, {"code": "8", "n": 2, "x": 0.5}]


def test_options_of_other_libraries_are_named_as_they_are_here(tmp_path):
    with pytest.raises(UsageError, match="delimiter="):
        pymar.read_csv(tmp_path / "x.csv", sep=";")


@pytest.mark.parametrize("options", [{}, {"single_line": True}])
@pytest.mark.parametrize("by_columns", [True, False])
def test_groups_of_csv(flights, options, by_columns):
    needed("pyarrow")
    dataset = pymar.read_csv(flights, engine="serial", **options)
    assert by_carrier(dataset if by_columns else dataset.filter(lambda row: True)) == expected()


def test_groups_of_parquet_are_the_same_as_columns_and_as_rows(parquet):
    dataset = pymar.read_parquet(parquet, engine="serial")
    assert by_carrier(dataset) == by_carrier(dataset.map(dict)) == expected()


def test_columns_stay_columns(parquet, monkeypatch):
    """No record is made: the class that would make them is not used, and only what is needed is read."""
    from pymar.sources import ParquetRows

    def refuse(self):
        raise AssertionError("a record was made")

    monkeypatch.setattr(ParquetRows, "__iter__", refuse)
    dataset = pymar.read_parquet(parquet, engine="serial")
    assert dataset.group_by("carrier").aggregate(n=Count(), low=Min("delay")).count() == 4
    assert dataset.count() == len(ROWS)
    assert dataset.to_arrow().num_rows == len(ROWS)
    with pytest.raises(PartFailed, match="a record was made"):
        dataset.collect()


def test_only_the_columns_that_are_needed_are_read(parquet):
    groups = pymar.read_parquet(parquet).group_by(("carrier", "hour")).sum("delay")
    assert groups.origin.needed() == ["carrier", "hour", "delay"]


def test_explain_says_what_stays_columns_and_what_runs_where(parquet, capsys):
    dataset = pymar.read_parquet(parquet, engine="serial")
    dataset.group_by("carrier").aggregate(mean=Mean("delay")).explain()
    text = capsys.readouterr().out
    assert "engine: serial (engine= is given)" in text
    assert "as Arrow record batches, the columns carrier, delay" in text
    assert "combined by key by pyarrow, as columns" in text
    dataset.filter(lambda row: row["delay"]).group_by("carrier").count().map(str).explain()
    text = capsys.readouterr().out
    assert "record by record" in text
    assert ".filter(lambda), written in" in text
    assert ".map(str)" in text
    assert "exchange" in text


def test_joins_of_columns_and_of_rows_are_the_same(parquet):
    names = pymar.dataset([{"carrier": "AA", "name": "American"}, {"carrier": "UA", "name": "United"}], engine="serial")
    dataset = pymar.read_parquet(parquet, engine="serial")
    joined = dataset.join(names, "carrier")
    assert joined.collect() == dataset.map(dict).join(names, "carrier").collect()
    assert joined.count() == sum(row["carrier"] in ("AA", "UA") for row in ROWS)
    itself = dataset.join(dataset, ("carrier", "code"), "semi")
    assert itself.count() == len(ROWS)


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "sql"])
def test_what_is_written_is_read_again(tmp_path, form):
    if form == "parquet":
        needed("pyarrow")
    if form == "sql":
        needed("sqlalchemy")
    rows = pymar.dataset(ROWS, engine="serial", parts=3)
    counts = rows.group_by("carrier").count()
    place = f"sqlite:///{tmp_path}/out.db" if form == "sql" else tmp_path / "out"
    where = (place, "counts") if form == "sql" else (place,)
    written = getattr(counts, f"write_{form}")(*where)
    assert written.records == 4
    found = getattr(pymar, f"read_{form}")(*where, engine="serial").collect()
    assert sorted(found, key=str) == sorted(counts.collect(), key=str)


def test_pairs_are_written_as_rows_and_lines_as_text(tmp_path):
    needed("pyarrow")
    words = pymar.dataset(["a b", "a"], engine="serial").flat_map(str.split)
    counts = words.group_by().count()
    counts.write_parquet(tmp_path / "direct")
    counts.map(lambda pair: pair).write_parquet(tmp_path / "mapped")
    expected = [{"key": "a", "value": 2}, {"key": "b", "value": 1}]
    for name in ("direct", "mapped"):
        found = pymar.read_parquet(tmp_path / name, engine="serial").collect()
        assert sorted(found, key=lambda row: row["key"]) == expected
    assert sorted(counts.to_arrow(engine="serial").to_pylist(), key=lambda row: row["key"]) == expected
    words.write_text(tmp_path / "text")
    assert pymar.read_text(tmp_path / "text", engine="serial").collect() == ["a", "b", "a"]


def test_whole_files_and_lines_of_json(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    assert pymar.read_files(tmp_path / "in", engine="serial").map(lambda pair: len(pair[1])).collect() == [18]
    assert pymar.read_jsonl(tmp_path / "in", engine="serial").map(lambda value: value["a"]).sum() == 3


def test_pandas(parquet):
    needed("pandas")
    frame = pymar.read_parquet(parquet, engine="serial").to_pandas()
    assert frame["delay"].sum() == pytest.approx(math.fsum(row["delay"] or 0 for row in ROWS))


def test_a_source_class_with_its_settings_is_a_dataset():
    from pymar.datasource import DataSource

    class Squares(DataSource):
        length = 5

        @classmethod
        def full_length(cls):
            return cls.length

        def __iter__(self):
            return (number**2 for number in range(self.offset, self.offset + self.limit))

    assert pymar.dataset(Squares, engine="serial", length=4).collect() == [0, 1, 4, 9]
    with pytest.raises(UsageError, match="lenght"):
        pymar.dataset(Squares, lenght=4)


def test_a_result_of_a_keyed_job_is_data():
    from pymar import DataSourceFactory
    from pymar.keyed import KeyedProducer

    class Totals(KeyedProducer):
        reduce_fn = Sum()

        @staticmethod
        def map_fn(numbers):
            for number in numbers:
                yield number % 3, number

    with Totals(engine="serial").map(DataSourceFactory(range(10))) as result:
        assert pymar.dataset(result, engine="serial").map(lambda pair: pair[1]).sum() == 45


def test_take_computes_no_more_parts_than_it_needs(tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()

    def noted(number):
        (seen / str(number)).touch()
        return number

    dataset = pymar.dataset(range(1_000), parts=100, engine="processes://4").map(noted)
    assert dataset.take(3) == [0, 1, 2]
    assert {int(path.name) // 10 for path in seen.iterdir()} == {0}
    assert dataset.take(25) == list(range(25))
    assert {int(path.name) // 10 for path in seen.iterdir()} == {0, 1, 2}
    assert dataset.filter(lambda number: number > 990).take(2) == [991, 992]


def test_an_iteration_holds_a_few_parts(tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()

    def noted(number):
        (seen / str(number)).touch()
        return number

    iterator = iter(pymar.dataset(range(10_000), parts=10_000, engine="processes://2").map(noted))
    assert [next(iterator) for _ in range(10)] == list(range(10))
    iterator.close()
    assert len(list(seen.iterdir())) < 2_000
