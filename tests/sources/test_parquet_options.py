"""Options of Parquet: columns from folders, files that differ, filters, parts of structs, and values by their types."""

import datetime
import decimal
import logging
import math
import os
import struct
import sys
import uuid
from contextlib import contextmanager

import pytest
from conftest import needed

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError
from pymar.sources import ParquetBatches, ParquetRows
from pymar.sources.hive import kind_of, texts_of, texts_of_files
from pymar.testing import check_source

pa = needed("pyarrow")
pc = needed("pyarrow.compute")
pq = needed("pyarrow.parquet")


def read(path, source=ParquetRows, **settings):
    return list(DataSourceFactory(source, path=str(path), **settings).build_data_source())


def checked(path, **settings):
    """The rows, the same however the files are cut."""
    check_source(DataSourceFactory(ParquetRows, path=str(path), **settings), seed=1)
    return read(path, **settings)


@pytest.fixture
def write(tmp_path):
    def write(name, columns, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
        return path

    return write


# Columns from folders


def test_folders_of_hive_are_columns(write, tmp_path):
    write("year=2013/month=1/a.parquet", {"n": [1, 2]})
    write("year=2013/month=12/a.parquet", {"n": [3]})
    write("year=2014/month=1/b.parquet", {"n": [4]})
    assert checked(tmp_path) == [
        {"n": 1, "year": 2013, "month": 1},
        {"n": 2, "year": 2013, "month": 1},
        {"n": 3, "year": 2013, "month": 12},
        {"n": 4, "year": 2014, "month": 1},
    ]
    assert checked(tmp_path, columns=["month", "n"], filter=[("year", "==", 2014)]) == [{"month": 1, "n": 4}]
    assert checked(tmp_path, columns=["year"]) == [{"year": 2013}] * 3 + [{"year": 2014}]
    assert checked(tmp_path, columns=["n"], filter=[("month", ">", 1)]) == [{"n": 3}]
    assert checked(tmp_path, hive=False) == [{"n": n} for n in (1, 2, 3, 4)]
    (batch,) = read(tmp_path, ParquetBatches, filter=[("month", "==", 12)])
    assert batch.schema == pa.schema([("n", pa.int64()), ("year", pa.int64()), ("month", pa.int64())])
    assert batch.to_pylist() == [{"n": 3, "year": 2013, "month": 12}]


@pytest.mark.parametrize(
    ("folders", "values"),
    [
        (["1", "-2"], [1, -2]),
        (["01", "2"], ["01", "2"]),
        (["0", "__HIVE_DEFAULT_PARTITION__"], [0, None]),
        (["__HIVE_DEFAULT_PARTITION__"], [None]),
        (["a%20b%3D%2F", "c+d"], ["a b=/", "c+d"]),
        (["2013-01-01"], ["2013-01-01"]),
        (["9223372036854775808"], ["9223372036854775808"]),
        (["\u0663"], ["\u0663"]),
        (["-0"], ["-0"]),
        (["1.5", "x=y"], ["1.5", "x=y"]),
        ([""], [""]),
    ],
)
def test_what_folders_are_called_is_decoded_and_is_text_unless_all_are_integers(write, tmp_path, folders, values):
    for number, folder in enumerate(folders):
        write(f"{number}/k={folder}/a.parquet", {"n": [1]})
    found = checked(tmp_path, columns=["k"])
    assert [(row["k"], type(row["k"])) for row in found] == [(value, type(value)) for value in values]


def test_files_whose_folders_rule_them_out_are_not_opened(write, tmp_path):
    write("year=2013/a.parquet", {"n": [1]})
    (tmp_path / "year=2014").mkdir()
    (tmp_path / "year=2014/b.parquet").write_bytes(b"no Parquet at all")
    wanted = [[("year", "==", 2013), ("n", ">", 0)], [("year", "<", 2013)]]
    assert checked(tmp_path, filter=wanted) == [{"n": 1, "year": 2013}]
    with pytest.raises(SourceError, match=r"b\.parquet is not a Parquet file"):
        read(tmp_path, filter=[[("year", "==", 2013)], [("n", ">", 0)]])


def test_no_file_at_all_may_be_left(write, tmp_path):
    write("year=2013/a.parquet", {"n": [1]})
    assert checked(tmp_path, filter=[("year", "in", [1, 2])]) == []
    with pytest.raises(SourceError, match=r"a\.parquet has no column 'm'; it has n, year"):
        read(tmp_path, filter=[("year", "==", 1), ("m", "==", 1)])
    with pytest.raises(SourceError, match=r"filter has \('year', '==', 'x'\).*int64"):
        read(tmp_path, filter=[("year", "==", "x")])


def test_a_null_of_a_folder_meets_conditions_as_any_null(write, tmp_path):
    for name in ("1", "2", "__HIVE_DEFAULT_PARTITION__"):
        write(f"k={name}/a.parquet", {"n": [1]})
    for condition, values in (
        (("k", "!=", 1), [2]),
        (("k", "not in", [1]), [2]),
        (("k", "==", None), [None]),
        (("k", "!=", None), [1, 2]),
        (("k", "in", [None, 2]), [2, None]),
    ):
        assert [row["k"] for row in checked(tmp_path, filter=[condition])] == values


def test_a_file_that_has_the_column_too_has_to_say_the_same(write, tmp_path):
    write("year=2013/a.parquet", {"year": pa.array([2013, 2013], pa.int16()), "n": [1, 2]})
    assert checked(tmp_path) == [{"year": 2013, "n": 1}, {"year": 2013, "n": 2}]
    (batch,) = read(tmp_path, ParquetBatches)
    assert batch.schema.field("year").type == pa.int16()
    write("year=2014/b.parquet", {"year": pa.array([2014, 2015], pa.int16()), "n": [1, 2]})
    with pytest.raises(SourceError, match=r"b\.parquet, row groups 0 to 1: .*'year' is 2015 in the file, and 2014"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"'year' is 2015"):
        read(tmp_path, filter=[("year", "==", 2014)])
    assert [row["year"] for row in read(tmp_path, hive=False)] == [2013, 2013, 2014, 2015]


def test_a_column_of_dates_in_the_file_gives_the_folders_its_type(write, tmp_path):
    day = datetime.date(2013, 1, 2)
    write("day=2013-01-02/a.parquet", {"day": [day]})
    write("day=2013-01-03/a.parquet", {"day": [day + datetime.timedelta(1)]})
    assert checked(tmp_path, filter=[("day", "<=", day)]) == [{"day": day}]
    os.rename(tmp_path / "day=2013-01-03", tmp_path / "day=today")
    with pytest.raises(SourceError, match=r"day=today, which is no date32.*hive=False"):
        read(tmp_path)


def test_files_at_different_depths_are_named(write, tmp_path):
    write("year=2013/month=1/a.parquet", {"n": [1]})
    write("year=2013/b.parquet", {"n": [1]})
    with pytest.raises(SourceError, match=r"b\.parquet give.*year, those of .*a\.parquet year, month.*hive=False"):
        read(tmp_path)
    assert len(checked(tmp_path, hive=False)) == 2


def test_below_a_pattern_folders_are_columns_only_if_that_is_said(write, tmp_path, caplog):
    write("env=prod/year=2013/a.parquet", {"n": [1]})
    path = f"{tmp_path}/env=prod/year=*/*.parquet"
    with caplog.at_level(logging.WARNING):
        assert checked(path) == [{"n": 1}]
    assert "year=2013" in caplog.text
    assert "hive=True" in caplog.text
    caplog.clear()
    assert checked(path, hive=False) == [{"n": 1}]
    assert checked(path, hive=True) == [{"n": 1, "year": 2013}]
    assert not caplog.text
    assert checked(tmp_path / "env=prod") == [{"n": 1, "year": 2013}]
    assert checked(tmp_path / "env=prod/year=2013") == [{"n": 1}]
    file = tmp_path / "env=prod/year=2013/a.parquet"
    assert checked(file) == [{"n": 1}]
    assert not caplog.text
    assert checked(file, hive=True) == [{"n": 1, "env": "prod", "year": 2013}]


def test_hive_without_such_folders_is_refused(write, tmp_path):
    write("year=2013/a.parquet", {"n": [1]})
    with pytest.raises(SourceError, match=r"hive=True.*year=2013.*folder above"):
        read(tmp_path / "year=2013", hive=True)
    with pytest.raises(SourceError, match=r"ParquetRows\.hive is 1: it has to be True or False"):
        read(tmp_path, hive=1)


def test_several_folders_are_each_a_root(write, tmp_path):
    write("one/year=2013/a.parquet", {"n": [1]})
    write("two/year=2014/a.parquet", {"n": [2]})
    factory = DataSourceFactory(ParquetRows, path=[str(tmp_path / "one"), str(tmp_path / "two") + "/"])
    assert list(factory.build_data_source()) == [{"n": 1, "year": 2013}, {"n": 2, "year": 2014}]


@pytest.mark.parametrize(
    ("given", "is_wanted"),
    [("s3://bucket/d", None), ("s3a://bucket/d/", None), (["s3://bucket/d/*/*"], True), ("s3://bucket/**", True)],
)
def test_folders_of_a_store_are_columns(given, is_wanted):
    files = ["s3://bucket/d/year=2013/k=a%20b/a.parquet", "s3://bucket/d/year=2014/k=c/b.parquet"]
    expected = [{"year": "2013", "k": "a b"}, {"year": "2014", "k": "c"}]
    assert texts_of_files(given, files, is_wanted) == (expected, "")
    assert texts_of_files(files[0], files[:1], True) == (expected[:1], "")
    assert texts_of_files(files[0], files[:1], None) == ([{}], "")


def test_the_texts_of_a_path():
    assert texts_of("/d/x=1/y=a%3Db/z/f=2", "/d") == {"x": "1", "y": "a=b"}
    assert texts_of("s3://b/d/x=1/f", "s3://b/d") == {"x": "1"}
    assert texts_of("/d/=1/x=/f", "/d/") == {"x": ""}
    with pytest.raises(SourceError, match="x=1 and x=2"):
        texts_of("/d/x=1/x=2/f", "/d")
    with pytest.raises(SourceError, match=r"x=%FF.*UTF-8"):
        texts_of("/d/x=%FF/f", "/d")
    assert kind_of([]) == kind_of([None]) == kind_of(["1", ""]) == "string"
    assert kind_of(["-9223372036854775808", None]) == "int64"


# Files that differ


def test_what_the_values_of_a_list_are_called_is_no_difference(write, tmp_path):
    """Writers call them item, element or array."""
    for name in ("item", "element"):
        field = pa.field(name, pa.timestamp("ns"))
        write(
            f"{name}.parquet",
            pa.table({"x": pa.array([[NOON], None], pa.list_(field))}),
            use_compliant_nested_type=False,
        )
    assert checked(tmp_path) == [{"x": [NOON]}, {"x": None}] * 2
    assert checked(tmp_path, union=True) == [{"x": [NOON]}, {"x": None}] * 2
    assert [batch.num_rows for batch in read(tmp_path, ParquetBatches)] == [2, 2]


def test_a_uuid_and_bytes_are_different_columns(tmp_path):
    if not hasattr(pa, "uuid"):
        pytest.skip("this pyarrow writes no UUIDs")
    storage = pa.array([bytes(16)], pa.binary(16))
    pq.write_table(pa.table({"x": pa.ExtensionArray.from_storage(pa.uuid(), storage)}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"x": storage}), tmp_path / "2.parquet")
    for settings in ({}, {"union": True}):
        with pytest.raises(SourceError, match=r"2\.parquet.*fixed_size_binary.*uuid"):
            read(tmp_path, **settings)


D = decimal.Decimal
NOON = datetime.datetime(2020, 1, 1, 12)
UTC_NOON = NOON.replace(tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("one", "other", "united"),
    [
        (pa.array([1], pa.int32()), pa.array([2**40]), pa.array([1, 2**40])),
        (pa.array([255], pa.uint8()), pa.array([-1], pa.int8()), pa.array([255, -1], pa.int16())),
        (pa.array([2**63 - 1], pa.uint64()), pa.array([-1], pa.int8()), pa.array([2**63 - 1, -1])),
        (pa.array([0.5], pa.float32()), pa.array([0.1]), pa.array([0.5, 0.1])),
        (pa.array([2**53]), pa.array([0.1], pa.float32()), pa.array([2.0**53, 0.10000000149011612])),
        (pa.array([None]), pa.array(["x"]), pa.array([None, "x"])),
        (pa.array([["x"]]), pa.array([None]), pa.array([["x"], None])),
        (pa.array(["x"], pa.large_string()), pa.array(["y"]), pa.array(["x", "y"], pa.large_string())),
        (pa.array(["x", None]).dictionary_encode(), pa.array(["y"]), pa.array(["x", None, "y"])),
        (pa.array([b"x"], pa.binary(1)), pa.array([b"yz"]), pa.array([b"x", b"yz"])),
        (
            pa.array([NOON], pa.timestamp("ms")),
            pa.array([NOON], pa.timestamp("us")),
            pa.array([NOON, NOON], pa.timestamp("us")),
        ),
        (
            pa.array([NOON], pa.timestamp("ms", "Europe/Berlin")),
            pa.array([NOON], pa.timestamp("us", "UTC")),
            pa.array([NOON, NOON], pa.timestamp("us", "UTC")),
        ),
        (pa.array([1], pa.time32("ms")), pa.array([1], pa.time64("us")), pa.array([1_000, 1], pa.time64("us"))),
        (
            pa.array([D("1.5")], pa.decimal128(10, 1)),
            pa.array([D("2.25")], pa.decimal128(10, 2)),
            pa.array([D("1.50"), D("2.25")], pa.decimal128(11, 2)),
        ),
        (
            pa.array([D("1.5")], pa.decimal128(38, 1)),
            pa.array([D("2.25")], pa.decimal128(38, 20)),
            pa.array([D("1.5"), D("2.25")], pa.decimal256(57, 20)),
        ),
        (pa.array([7], pa.int8()), pa.array([D("0.5")], pa.decimal128(4, 1)), pa.array([D("7.0"), D("0.5")])),
        (
            pa.array([{"a": 1, "b": "x"}, None]),
            pa.array([{"b": "y", "a": 2.5, "c": True}]),
            pa.array([{"a": 1.0, "b": "x", "c": None}, None, {"a": 2.5, "b": "y", "c": True}]),
        ),
        (
            pa.array([[{"a": 1}], None, [], [{"a": 2}, None]]),
            pa.array([[{"b": 3}]]),
            pa.array(
                [[{"a": 1, "b": None}], None, [], [{"a": 2, "b": None}, None], [{"a": None, "b": 3}]],
                pa.list_(pa.struct([("a", pa.int64()), ("b", pa.int64())])),
            ),
        ),
        (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), pa.array([[3]]), pa.array([[1, 2], [3]])),
        (
            pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
            pa.array([[("k", 2), ("k", None)]], pa.map_(pa.string(), pa.int64())),
            pa.array([[("k", 1)], None, [("k", 2), ("k", None)]], pa.map_(pa.string(), pa.int64())),
        ),
    ],
    ids=lambda value: str(value.type).replace(" ", ""),
)
@pytest.mark.parametrize("is_turned", [False, True])
def test_types_are_united_without_loss(write, tmp_path, one, other, united, is_turned):
    rows = values(united)
    if is_turned:
        one, other, rows = other, one, rows[len(one) :] + rows[: len(one)]
    write("1.parquet", pa.table({"x": one, "only": list(range(len(one)))}), row_group_size=1)
    write("2.parquet", pa.table({"id": list(range(len(other))), "x": other}), row_group_size=1)
    found = checked(tmp_path, union=True)
    assert repr([ordered(row["x"]) for row in found]) == repr(list(map(ordered, rows)))
    assert [row["only"] for row in found] == [*range(len(one)), *[None] * len(other)]
    assert [row["id"] for row in found] == [*[None] * len(one), *range(len(other))]
    assert list(found[0]) == ["x", "only", "id"]
    with pytest.raises(SourceError, match=r"2\.parquet has other columns than .*1\.parquet.*union=True"):
        read(tmp_path)


def ordered(value):
    """A value whose dicts have their names in order, so that its text tells types and values, and nothing else."""
    if isinstance(value, dict):
        return {name: ordered(value[name]) for name in sorted(value)}
    return list(map(ordered, value)) if isinstance(value, list) else value


def values(array):
    """The values of an array; times in UTC as the library has them."""
    found = array.to_pylist()
    if pa.types.is_timestamp(array.type) and array.type.tz:
        return [time.astimezone(datetime.UTC) for time in found]
    return found


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (pa.array([1]), pa.array(["x"]), "'x', is string, and int64"),
        (pa.array([True]), pa.array([1]), "'x', is int64, and bool"),
        (pa.array([b"x"]), pa.array(["x"]), "'x', is string, and binary"),
        (pa.array([NOON]), pa.array([NOON], pa.timestamp("us", "UTC")), "tz=UTC.*, and timestamp"),
        (pa.array([NOON.date()]), pa.array([NOON]), "timestamp.*, and date32"),
        (pa.array([D("1.5")]), pa.array([1.5]), "double, and decimal128"),
        (pa.array([D(1)], pa.decimal256(76, 0)), pa.array([D("0.5")]), "decimal128.*, and decimal256"),
        (pa.array([[1]]), pa.array([1]), "int64, and list"),
        (pa.array([{"a": 1}]), pa.array([{"a": "x"}]), "string>, and struct"),
    ],
)
def test_types_that_none_holds_are_named_with_both_files(write, tmp_path, one, other, says):
    write("1.parquet", pa.table({"x": one}))
    write("2.parquet", pa.table({"x": other}))
    with pytest.raises(SourceError, match=rf"2\.parquet, column .*{says}.*1\.parquet.*columns="):
        read(tmp_path, union=True)
    with pytest.raises(SourceError, match=r"2\.parquet has other columns") as refused:
        read(tmp_path)
    assert "union" not in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1, 2**53 + 1]), pa.array([0.5])),
        (pa.array([2**63], pa.uint64()), pa.array([-1])),
        (
            pa.array([datetime.datetime(9999, 1, 1)], pa.timestamp("us")),
            pa.array([NOON], pa.timestamp("ns")),
        ),
    ],
)
def test_a_value_that_the_united_type_does_not_hold_is_an_error_with_its_place(write, tmp_path, one, other):
    write("1.parquet", pa.table({"x": one, "y": list(range(len(one)))}))
    write("2.parquet", pa.table({"x": other, "y": [9]}))
    with pytest.raises(SourceError, match=r"1\.parquet, row groups 0 to 1, column 'x'.*exactly"):
        read(tmp_path, union=True)
    assert [row["y"] for row in checked(tmp_path, union=True, columns=["y"])] == [*range(len(one)), 9]


def test_a_third_file_is_named_with_the_file_that_gave_the_type(write, tmp_path):
    write("1.parquet", {"x": pa.array([1], pa.int8())})
    write("2.parquet", {"x": [1.5]})
    write("3.parquet", {"x": ["text"]})
    with pytest.raises(SourceError, match=r"3\.parquet, column 'x', is string, and double in .*2\.parquet"):
        read(tmp_path, union=True)


def test_filters_see_the_united_columns(write, tmp_path):
    write("1.parquet", {"x": pa.array([1, 2, None], pa.int32()), "only": ["a", "b", "c"]})
    write("2.parquet", {"x": [2.0, math.nan, 0.5]})
    assert [row["x"] for row in checked(tmp_path, union=True, filter=[("x", "==", 2)])] == [2.0, 2.0]
    assert [row["x"] for row in checked(tmp_path, union=True, filter=[("x", "<", 1.5)])] == [1.0, 0.5]
    assert checked(tmp_path, union=True, filter=[("only", "==", "b")]) == [{"x": 2.0, "only": "b"}]
    found = checked(tmp_path, union=True, columns=["only"], filter=[("only", "==", None)])
    assert found == [{"only": None}] * 3
    with pytest.raises(SourceError, match=r"path='.*' has no column 'none'; it has x, only"):
        read(tmp_path, union=True, columns=["none"])


def test_a_part_of_a_struct_that_only_some_files_have(write, tmp_path):
    write("1.parquet", {"a": [{"p": 1}, None]})
    write("2.parquet", {"a": [{"p": 2, "q": 3}]})
    write("3.parquet", {"b": [1]})
    found = checked(tmp_path, union=True, columns=["a.q"])
    assert found == [{"a": {"q": None}}, {"a": None}, {"a": {"q": 3}}, {"a": None}]
    assert checked(tmp_path, union=True, columns=["a.p"], filter=[("a.q", "==", 3)]) == [{"a": {"p": 2}}]


def test_folders_and_union_together(write, tmp_path):
    write("k=1/a.parquet", {"n": pa.array([1], pa.int8())})
    write("k=2/b.parquet", {"m": [2], "k": [2]})
    write("k=3/c.parquet", {"n": [3]})
    expected = [{"n": 1, "k": 1, "m": None}, {"n": None, "k": 2, "m": 2}, {"n": 3, "k": 3, "m": None}]
    assert checked(tmp_path, union=True) == expected
    assert checked(tmp_path, union=True, filter=[("k", ">", 1), ("n", "==", None)]) == expected[1:2]
    assert checked(tmp_path, union=True, filter=[("k", "==", 2)]) == [{"m": 2, "k": 2}]  # of the files that are left


# Filters


def test_a_filter_is_any_of_lists_of_which_all_hold(write):
    path = write("a.parquet", {"a": [1, 1, 2, 3], "b": [1, 3, 0, 5]}, row_group_size=1)
    either = [[("a", "==", 1), ("b", ">", 2)], [("a", "in", [3])]]
    assert checked(path, filter=either) == [{"a": 1, "b": 3}, {"a": 3, "b": 5}]
    assert checked(path, filter=[[("a", "==", 2)]]) == checked(path, filter=[("a", "==", 2)]) == [{"a": 2, "b": 0}]
    assert checked(path, columns=["b"], filter=[[("a", "!=", 1)], [("b", "==", 1)]]) == [{"b": 1}, {"b": 0}, {"b": 5}]
    assert checked(path, filter=[["a", "==", 2]]) == [{"a": 2, "b": 0}]


def test_all_forms_of_filters_agree_with_python(write):
    """Each condition, alone and with others, over values with nulls and NaN, however rows are grouped."""
    x = [1.0, math.nan, 1.0, 1.0, None, 2.0, -0.0, 0.0, math.nan, None]
    rows = [{"i": i, "x": value} for i, value in enumerate(x)]
    alone = {
        ("x", "==", 1.0): lambda v: v == 1.0,
        ("x", "!=", 1.0): lambda v: v != 1.0,
        ("x", "in", (1.0, 0)): lambda v: v in (1.0, 0),
        ("x", "not in", (1.0, 0)): lambda v: v not in (1.0, 0),
        ("x", "in", (2.0, math.nan)): lambda v: v == 2.0,
        ("x", "not in", (1.0, math.nan)): lambda v: v != 1.0,
        ("x", "not in", (math.nan,)): lambda v: True,
        ("x", "not in", ()): lambda v: True,
        ("x", "in", ()): lambda v: False,
        ("x", ">=", 1.0): lambda v: v >= 1.0,
        ("x", "<", 1.0): lambda v: v < 1.0,
        ("x", "!=", math.nan): lambda v: True,
        ("x", "==", math.nan): lambda v: False,
        ("x", "<=", math.inf): lambda v: v <= math.inf,
    }
    either = {condition: (lambda v, holds=holds: v is not None and holds(v)) for condition, holds in alone.items()}
    either |= {
        ("x", "==", None): lambda v: v is None,
        ("x", "!=", None): lambda v: v is not None,
        ("x", "in", (None, 2.0)): lambda v: v in (None, 2.0),
        ("x", "not in", (None, 2.0)): lambda v: v is not None and v != 2.0,
    }
    for size in (1, 2, 3, 10):
        path = write("a.parquet", {"i": range(10), "x": x}, row_group_size=size)
        for one, holds in either.items():
            found = read(path, columns=["i"], filter=[one])
            assert [row["i"] for row in found] == [row["i"] for row in rows if holds(row["x"])], one
            for other, holds_too in either.items():
                both = read(path, columns=["i"], filter=[one, other, ("i", "<", 9)])
                assert [row["i"] for row in both] == [
                    row["i"] for row in rows[:9] if holds(row["x"]) and holds_too(row["x"])
                ], (one, other)
        any_of = read(path, columns=["i"], filter=[[("x", "!=", 1.0)], [("x", "==", None)], [("i", "==", 0)]])
        assert [row["i"] for row in any_of] == [0, 1, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("kind", "there", "condition", "expected"),
    [
        (pa.int64(), [2**53, 2**53 + 1], ("x", "==", 2**53 + 1), [2**53 + 1]),
        (pa.int64(), [2**53, 2**53 + 1], ("x", "==", float(2**53)), [2**53]),
        (pa.int64(), [2**53, 2**53 + 1], ("x", "in", [float(2**53), 0.5]), [2**53]),
        (pa.int64(), [1, 2], ("x", ">", 1.5), [2]),
        (pa.int32(), [1, 2], ("x", "in", [2, 3_000_000_000]), [2]),
        (pa.int32(), [1, 2], ("x", "<", 3_000_000_000), [1, 2]),
        (pa.uint64(), [1, 2**64 - 1], ("x", ">", 1), [2**64 - 1]),
        (pa.uint64(), [1, 2**64 - 1], ("x", "not in", [2**64 - 1]), [1]),
        (pa.float32(), [0.5, 0.1], ("x", "in", [0.5, 0.1]), [0.5]),
        (pa.float32(), [0.5, 0.1], ("x", "==", 0.1), []),
        (pa.string(), ["a", "b"], ("x", "not in", ["a"]), ["b"]),
        (pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"], ("x", "==", "a"), ["a", "a"]),
        (pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"], ("x", "not in", ["a"]), ["b"]),
        (pa.string_view(), ["a", "b"], ("x", ">", "a"), ["b"]),
        (pa.string_view(), ["a", "b"], ("x", "in", ["a"]), ["a"]),
        (pa.binary(2), [b"ab", b"cd"], ("x", "==", b"cd"), [b"cd"]),
        (pa.binary(2), [b"ab", b"cd"], ("x", "in", [b"cd", b"xyz"]), [b"cd"]),
        (pa.bool_(), [True, False], ("x", "!=", True), [False]),
        (pa.decimal128(5, 2), [D("1.50"), D("2.25")], ("x", "==", D("1.5")), [D("1.50")]),
        (pa.decimal128(5, 2), [D("1.50"), D("2.25")], ("x", "==", D("1.505")), []),
        (pa.decimal128(5, 2), [D("1.50"), D("2.25")], ("x", "<", D("1.505")), [D("1.50")]),
        (pa.decimal128(5, 2), [D("2.00"), D("2.25")], ("x", "==", 2), [D("2.00")]),
        (pa.decimal128(5, 2), [D("2.00"), D("2.25")], ("x", ">", 2), [D("2.25")]),
        (pa.decimal128(5, 2), [D("2.00"), D("2.25")], ("x", "in", [D("2.255"), D("2.250"), 2]), [D("2.00"), D("2.25")]),
        (pa.decimal128(5, 2), [D("2.00"), D("2.25")], ("x", "not in", [2, 10**30]), [D("2.25")]),
        (pa.timestamp("ms"), [NOON], ("x", "==", NOON.replace(microsecond=1)), []),
        (pa.timestamp("ms"), [NOON], ("x", "<", NOON.replace(microsecond=1)), [NOON]),
        (pa.timestamp("ms"), [NOON], ("x", "in", [NOON.replace(microsecond=1)]), []),
        (pa.timestamp("s"), [NOON], ("x", "in", [NOON]), [NOON]),
        (pa.timestamp("ms", "UTC"), [UTC_NOON], ("x", "in", [UTC_NOON]), [UTC_NOON]),
        (pa.date32(), [NOON.date()], ("x", "in", [NOON.date()]), [NOON.date()]),
        (pa.timestamp("ns"), [NOON], ("x", "<=", NOON), [NOON]),
    ],
)
def test_values_are_compared_exactly(write, kind, there, condition, expected):
    path = write("a.parquet", pa.table({"x": pa.array(there, kind)}), row_group_size=1)
    found = [row["x"] for row in checked(path, filter=[condition])]
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize(
    "wrong",
    [
        [[]],
        [[("n", "==", 1)], ("n", "==", 2)],
        [("n", "==", 1), []],
        [("n", "not in", 5)],
        [("n", "not in", "ab")],
        [(1, "==", 1)],
        [("n", ["=="], 1)],
        "n > 1",
        {"n": 1},
        5,
    ],
)
def test_what_is_no_filter_is_refused(write, wrong):
    path = write("a.parquet", {"n": [1]})
    with pytest.raises(SourceError, match=r"filter has .*list of conditions \(column, operator, value\).*not in"):
        read(path, filter=wrong)


@pytest.mark.parametrize(
    "condition", [("n", "==", "x"), ("n", "in", ["x"]), ("n", "in", [1, "x"]), ("s", ">", 1), ("l", "==", 1)]
)
def test_values_of_another_type_are_the_filters_fault(write, condition):
    path = write("a.parquet", {"n": [1], "s": ["x"], "l": [[1]]})
    with pytest.raises(SourceError, match=rf"filter has \('{condition[0]}'.*column '{condition[0]}' is .*of that type"):
        read(path, filter=[condition])


# Parts of structs


@pytest.fixture
def nested(write):
    rows = [
        {"a": {"b": {"c": 1, "d": 2}, "e": "x"}, "a.e": 10},
        {"a": {"b": None, "e": None}, "a.e": 20},
        {"a": None, "a.e": 30},
        {"a": {"b": {"c": 4, "d": 5}, "e": "y"}, "a.e": 40},
    ]
    return write("a.parquet", pa.Table.from_pylist(rows), row_group_size=2)


def test_parts_of_structs_are_structs_with_these_parts_alone(nested):
    assert [row["a"] for row in checked(nested, columns=["a.b.c"])] == [
        {"b": {"c": 1}},
        {"b": None},
        None,
        {"b": {"c": 4}},
    ]
    found = checked(nested, columns=["a.b.d", "a.b.c"])
    assert found[0] == {"a": {"b": {"c": 1, "d": 2}}}
    assert checked(nested, columns=["a.b", "a"])[0] == {"a": {"b": {"c": 1, "d": 2}, "e": "x"}}
    assert read(nested, columns=["a.b.c"]) == pq.ParquetFile(nested).read(columns=["a.b.c"]).to_pylist()


def test_a_column_with_a_dot_in_its_name_comes_first(nested):
    assert checked(nested, columns=["a.e"]) == [{"a.e": n} for n in (10, 20, 30, 40)]
    assert checked(nested, columns=["a.e"], filter=[("a.e", ">", 20)]) == [{"a.e": 30}, {"a.e": 40}]
    assert checked(nested, columns=["a.e", "a.b.c"])[0] == {"a.e": 10, "a": {"b": {"c": 1}}}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (("a.b.c", "==", 4), [40]),
        (("a.b.c", "!=", 4), [10]),
        (("a.b.c", "not in", [4]), [10]),
        (("a.b.c", "in", [1, 4]), [10, 40]),
        (("a.b.c", "==", None), [20, 30]),
        (("a.b", "==", None), [20, 30]),
        (("a", "==", None), [30]),
        (("a", "!=", None), [10, 20, 40]),
        (("a.b.c", "<", 4), [10]),
    ],
)
def test_conditions_on_parts_of_structs(nested, condition, expected):
    assert [row["a.e"] for row in checked(nested, columns=["a.e"], filter=[condition])] == expected
    either = [[condition], [("a.b.d", ">", 1_000)]]
    assert [row["a.e"] for row in checked(nested, columns=["a.e", "a.b.d"], filter=either)] == expected


@pytest.mark.parametrize("name", ["a.x", "a.b.c.d", "a.", ".a", "b", "a.b.x"])
def test_a_part_that_is_not_there_is_named(nested, name):
    for settings in ({"columns": [name]}, {"filter": [(name, "==", 1)]}):
        with pytest.raises(SourceError, match=rf"a\.parquet has no column '{name}'; it has a, a\.b, a\.b\.c"):
            read(nested, **settings)


def test_of_a_part_of_a_struct_nothing_else_is_read(write):
    path = write("a.parquet", {"a": [{"small": n, "large": os.urandom(1_000)} for n in range(1_000)]}, compression=None)
    sizes = []

    class Counted(ParquetBatches):
        @contextmanager
        def _open(self, row):
            with super()._open(row) as file:
                yield Reads(file)

    class Reads:
        def __init__(self, file):
            self.file, self.closed = file, False

        def __getattr__(self, name):
            return getattr(self.file, name)

        def read(self, size=-1):
            data = self.file.read(size)
            sizes.append(len(data))
            return data

    (batch,) = read(path, Counted, columns=["a.small"])
    assert batch.num_rows == 1_000
    assert sum(sizes) < 300_000 < path.stat().st_size


# Values


def decoded(write, array, **options):
    """What ParquetRows makes of an array, alone and within structs, lists and maps."""
    path = write("values.parquet", pa.table({"x": array}), **options)
    return [row["x"] for row in checked(path)]


UUIDS = [uuid.UUID(int=1), None, uuid.UUID(int=2**128 - 1)]


def test_a_uuid_is_a_uuid_and_bytes_in_batches(write):
    if not hasattr(pa, "uuid"):
        pytest.skip("this pyarrow writes no UUIDs")
    storage = pa.array([one and one.bytes for one in UUIDS], pa.binary(16))
    array = pa.ExtensionArray.from_storage(pa.uuid(), storage)
    table = pa.table({"x": array, "l": [[1], [], None], "s": pa.StructArray.from_arrays([array], ["u"])})
    lists = pa.ListArray.from_arrays([0, 1, 3, 3], array)
    table = table.append_column("many", lists)
    path = write("a.parquet", table)
    rows = checked(path)
    assert [row["x"] for row in rows] == UUIDS
    assert [row["s"] for row in rows] == [{"u": one} for one in UUIDS]
    assert [row["many"] for row in rows] == [UUIDS[:1], UUIDS[1:], []]
    (batch,) = read(path, ParquetBatches)
    assert batch.schema.types == [pa.binary(16), pa.list_(pa.int64()), pa.struct([("u", pa.binary(16))])] + [
        pa.list_(pa.binary(16))
    ]
    assert batch.column("x").to_pylist() == storage.to_pylist()
    assert checked(path, columns=["x"], filter=[("x", "==", UUIDS[2])]) == [{"x": UUIDS[2]}]
    assert checked(path, columns=["x"], filter=[("x", "in", [UUIDS[0], None])]) == [{"x": UUIDS[0]}, {"x": None}]
    assert checked(path, columns=["x"], filter=[("s.u", "!=", UUIDS[0])]) == [{"x": UUIDS[2]}]


def test_a_uuid_that_only_parquet_knows_of_is_one(write):
    """As Spark, DuckDB or polars write it: without a schema of Arrow."""
    if not hasattr(pa, "uuid"):
        pytest.skip("this pyarrow writes no UUIDs")
    storage = pa.array([one and one.bytes for one in UUIDS], pa.binary(16))
    array = pa.ExtensionArray.from_storage(pa.uuid(), storage)
    table = pa.table({"before": [[{"p": 1}]] * 3, "x": array, "plain": storage})
    path = write("a.parquet", table, store_schema=False)
    assert [row["x"] for row in checked(path)] == UUIDS
    assert [row["plain"] for row in checked(path)] == storage.to_pylist()


def test_other_extension_types_are_their_storage(write):
    if not hasattr(pa, "json_"):
        pytest.skip("this pyarrow does not know them")
    table = pa.table(
        {
            "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])),
            "flag": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([2], pa.int8())),
            "opaque": pa.ExtensionArray.from_storage(pa.opaque(pa.int32(), "t", "v"), pa.array([5], pa.int32())),
            "tensor": pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.float32(), (2,)), pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))
            ),
        }
    )
    path = write("a.parquet", table)
    (row,) = checked(path)
    assert row == {"json": '{"a": 1}', "flag": True, "opaque": 5, "tensor": [1.0, 2.0]}
    assert list(map(type, row.values())) == [str, bool, int, list]
    assert checked(path, columns=["json"], filter=[("flag", "==", 2)]) == [{"json": '{"a": 1}'}]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1.5, None], pa.float32()).cast(pa.float16()), [1.5, None]),
        (pa.array([0.1, 2.0], pa.float32()), list(struct.unpack("2f", struct.pack("2f", 0.1, 2.0)))),
        (pa.array([-1, 2**63 - 1]), [-1, 2**63 - 1]),
        (pa.array([0, 2**64 - 1], pa.uint64()), [0, 2**64 - 1]),
        (pa.array([-128, 127], pa.int8()), [-128, 127]),
        (pa.array([1, None, 3], pa.int16()), [1, None, 3]),
        (pa.array([True, None, False]), [True, None, False]),
        (pa.array([None, None]), [None, None]),
        (pa.array([D("1.50"), None], pa.decimal128(5, 2)), [D("1.50"), None]),
        (pa.array([D(10) ** 70], pa.decimal256(76, 3)), [D(10) ** 70]),
        (pa.array(["x" * 50, "", None], pa.string_view()), ["x" * 50, "", None]),
        (pa.array([b"\0", None], pa.binary_view()), [b"\0", None]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array([NOON, None], pa.timestamp("ns")), [NOON, None]),
        (pa.array([NOON], pa.timestamp("ms")), [NOON]),
        (pa.array([NOON], pa.timestamp("s", "UTC")), [UTC_NOON]),
        (pa.array([NOON], pa.timestamp("us", "+05:30")), [UTC_NOON]),
        (pa.array([NOON], pa.timestamp("us", "Europe/Berlin")), [UTC_NOON]),
        (pa.array([NOON.date()], pa.date64()), [NOON.date()]),
        (pa.array([1_000], pa.time64("ns")), [datetime.time(microsecond=1)]),
        (pa.array([1], pa.time32("s")), [datetime.time(second=1)]),
        (pa.array([1_000, None], pa.duration("ns")), [datetime.timedelta(microseconds=1), None]),
        (pa.array([1], pa.duration("s")), [datetime.timedelta(seconds=1)]),
        (pa.array([[NOON, None], None], pa.list_(pa.timestamp("ns"), 2)), [[NOON, None], None]),
        (pa.array([[NOON], None], pa.large_list(pa.timestamp("ns", "UTC"))), [[UTC_NOON], None]),
        (
            pa.array(
                [{"m": [("k", NOON), ("k", None)]}, {"m": None}, None],
                pa.struct([("m", pa.map_(pa.string(), pa.timestamp("ns")))]),
            ),
            [{"m": [("k", NOON), ("k", None)]}, {"m": None}, None],
        ),
        (pa.array([[[1, None], None, []], None]), [[[1, None], None, []], None]),
        (pa.array([[{"x": 1}, None]]), [[{"x": 1}, None]]),
    ],
    ids=lambda value: str(value.type).replace(" ", "") if hasattr(value, "type") else "",
)
def test_values_are_pythons_own(write, array, expected):
    found = decoded(write, array)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))
    for size in (1, 2):
        assert decoded(write, array, row_group_size=size) == expected


def test_time_zones_are_those_of_the_library_whatever_is_installed(write):
    for zone, name in (("UTC", "UTC"), ("-03:30", "UTC-03:30"), ("Europe/Berlin", "CET")):
        (time,) = decoded(write, pa.array([NOON], pa.timestamp("us", zone)))
        assert time == UTC_NOON
        assert time.tzname() == name
        assert type(time.tzinfo).__module__ in ("datetime", "zoneinfo")


@pytest.mark.parametrize(
    "array",
    [
        pa.array([10**18], pa.timestamp("us")),
        pa.array([10**8], pa.date32()),
        pa.array([10**18], pa.duration("s")),
        pa.array([0], pa.timestamp("us", "No/Where")),
        pa.array([[1]], pa.list_(pa.timestamp("ns"), 1)),
        pa.array([1], pa.timestamp("ns")).dictionary_encode(),
        pa.array([1], pa.time64("ns")),
        pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["twice", "twice"]),
    ],
    ids=lambda array: str(array.type).replace(" ", ""),
)
def test_values_that_python_does_not_hold_are_an_error_with_their_place(write, array):
    path = write("a.parquet", pa.table({"x": array, "y": [1]}))
    with pytest.raises(SourceError, match=r"a\.parquet, row groups 0 to 1, column 'x'.*batches.*columns="):
        read(path)
    assert read(path, columns=["y"]) == [{"y": 1}]
    assert [batch.num_rows for batch in read(path, ParquetBatches)] == [1]


def test_views_of_lists_and_batches_of_few_rows(write):
    kind = pa.list_view(pa.timestamp("ns"))
    array = pa.array([[NOON], None, [NOON, None], []], kind)
    try:
        path = write("a.parquet", pa.table({"x": array}))
    except pa.ArrowException:
        path = write("a.parquet", pa.table({"x": array.cast(pa.list_(pa.timestamp("ns")))}))
    assert [row["x"] for row in checked(path, batch_rows=1)] == [[NOON], None, [NOON, None], []]


@pytest.mark.parametrize("has_pandas", [True, False])
def test_what_is_nested_does_not_depend_on_pandas(write, monkeypatch, has_pandas):
    if has_pandas:
        needed("pandas")
    else:
        monkeypatch.setitem(sys.modules, "pandas", None)
    fixed = pa.array([[NOON]], pa.list_(pa.timestamp("ns"), 1))
    (value,) = decoded(write, fixed)
    assert (value, type(value[0])) == ([NOON], datetime.datetime)
    (value,) = decoded(write, pa.array([NOON], pa.timestamp("ns")).dictionary_encode())
    assert (value, type(value)) == (NOON, datetime.datetime)


@pytest.mark.parametrize("setting", ["union", "hive"])
def test_flags_are_true_or_false(write, setting):
    path = write("a.parquet", {"n": [1]})
    with pytest.raises(SourceError, match=rf"ParquetRows\.{setting} is 'yes': it has to be True or False"):
        read(path, **{setting: "yes"})
