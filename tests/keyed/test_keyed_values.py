"""What keys, values and records are at the end: the types they had, equal ones as one, in the order of the data."""

import datetime
from collections import namedtuple
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from pymar import DataSourceFactory, PartFailed
from pymar.exceptions import UsageError
from pymar.keyed import Count, KeyedProducer, Quantile, Sum, join, reducing, sort, vectors
from pymar.keyed.arrowjoin import ArrowSide

NAN = float("nan")
Point = namedtuple("Point", "x y")


class Counted(KeyedProducer):
    WORKERS_NUMBER = 2
    reduce_fn = Count()


class Named(KeyedProducer):
    reduce_fn = {"n": Count()}  # noqa: RUF012 - it becomes an aggregation


class Both(KeyedProducer):
    reduce_fn = {"n": Count(), "median": Quantile(0.5)}  # noqa: RUF012 - likewise


class OfColumn(KeyedProducer):
    KEY = "k"
    reduce_fn = Sum("x")


def pairs_of(*keys):
    return DataSourceFactory([(key, 1) for key in keys])


@pytest.mark.parametrize("has_numpy", [True, False])
def test_a_dict_of_one_aggregation_gives_dicts(monkeypatch, has_numpy):
    if not has_numpy:
        monkeypatch.setattr(vectors, "_numpy", False)
    assert Named(engine="serial").map(pairs_of("a", "a")).to_dict() == {"a": {"n": 2}}
    assert Named(engine="serial").map(pairs_of()).to_arrow().column_names == ["key", "n"]


def test_what_does_not_combine_keeps_others_from_holding_it():
    found = Both(engine="serial").map(DataSourceFactory([("a", number) for number in range(101)]))
    assert found["a"] == {"n": 101, "median": 50}


@pytest.mark.parametrize("together", [-1, 1 << 20])
def test_an_hour_that_comes_twice_is_one_key_as_in_a_dict(monkeypatch, together):
    monkeypatch.setattr(reducing, "TOGETHER", together)
    zone = ZoneInfo("Europe/Berlin")
    hours = [datetime.datetime(2025, 10, 26, 2, 30, tzinfo=zone, fold=fold) for fold in (0, 1)]
    assert len(Counted(engine="serial").map(pairs_of(*hours))) == len(set(hours))


def test_nan_within_named_tuples_and_sets_is_one_key():
    found = Counted(engine="serial").map(pairs_of(Point(NAN, 1), Point(float("nan"), 1)))
    assert list(found.values()) == [2]
    found = Counted(engine="serial").map(pairs_of(frozenset({float("nan")}), frozenset({float("nan")})))
    assert list(found.values()) == [2]


def test_times_of_numpy_are_keys_if_python_holds_them():
    numpy = pytest.importorskip("numpy")
    found = Counted(engine="serial").map(pairs_of(numpy.datetime64("2020-01-02T00:00:00", "ns")))
    assert list(found) == [datetime.datetime(2020, 1, 2)]
    for key, text in ((numpy.datetime64(1, "ns"), "round it"), (numpy.longdouble(1), "key_bytes_fn")):
        with pytest.raises(PartFailed, match=text):
            Counted(engine="serial").map(pairs_of(key))


def test_records_of_sort_and_join_stay_what_they_are():
    numpy = pytest.importorskip("numpy")
    values = [Decimal("NaN"), numpy.float32(1.5), numpy.datetime64(5, "ns"), numpy.arange(3)]
    records = [(place, value) for place, value in enumerate(values)]
    found = sort(records, key=lambda record: -record[0], engine="serial").to_list()
    assert [*map(repr, found)] == [*map(repr, reversed(records))]
    assert repr(join(records, records, engine="serial").to_list()[3]) == repr((3, (values[3], values[3])))


@pytest.mark.parametrize("as_arrow", [True, False])
def test_a_join_keeps_values_that_arrow_would_change(as_arrow):
    pyarrow = pytest.importorskip("pyarrow")
    left = [{"k": 1, "a": 1}, {"k": 2, "a": 2}]
    right = [{"k": 1, "x": 1, "m": Decimal("1.10"), "t": (1, 2)}, {"k": 2, "x": 2.5, "m": Decimal("2.5"), "t": (3,)}]
    given = [pyarrow.Table.from_pylist(left)] if as_arrow else left
    found = join(given, right, on="k", engine="serial").to_list()
    assert [*map(repr, found)] == [repr({**one, **other}) for one, other in zip(left, right, strict=True)]


@pytest.mark.parametrize("as_arrow", [True, False])
def test_a_join_whose_columns_would_have_one_name_is_refused(as_arrow):
    pyarrow = pytest.importorskip("pyarrow")
    left = [{"k": 1, "x": 1, "x_right": 5}]
    given = [pyarrow.Table.from_pylist(left)] if as_arrow else left
    with pytest.raises(PartFailed, match="'x_right'"):
        join(given, [{"k": 1, "x": 2}], on="k", engine="serial")


def test_keys_of_more_columns_than_a_number_holds_are_left_to_python():
    pyarrow = pytest.importorskip("pyarrow")
    names = ["a", "b", "c", "d"]
    held = {(number,) * 4: [(number,) * 4] for number in range(60_000)}
    table = pyarrow.table({name: list(range(60_000)) for name in names})
    assert ArrowSide(held, names, names).joined(table, "inner") is None
    assert len(ArrowSide(held, names, names[:2]).joined(table, "semi")) == 60_000


def test_tables_over_an_array_that_changes_are_taken_as_they_were():
    numpy, pyarrow = pytest.importorskip("numpy"), pytest.importorskip("pyarrow")

    class Reusing(OfColumn):
        @staticmethod
        def map_fn(numbers):
            keys = numpy.zeros(2, "int64")
            for number in numbers:
                keys[:] = number
                yield pyarrow.table({"k": keys, "x": [1, 1]})

    found = Reusing(engine="serial").map(DataSourceFactory([1, 2, 3], limit=3))
    assert found.to_dict() == {1: 2, 2: 2, 3: 2}


def test_categories_that_differ_between_tables_are_unified():
    pyarrow = pytest.importorskip("pyarrow")
    tables = [pyarrow.table({"k": pyarrow.array(list(keys)).dictionary_encode(), "x": [1, 2]}) for keys in ("ab", "bc")]
    found = OfColumn(engine="serial").map(DataSourceFactory(tables))
    assert found.to_dict() == {"a": 1, "b": 3, "c": 2}


def test_the_columns_of_a_join_stand_in_the_order_of_the_first_part():
    rows = [{"k": 1, "a": 1}, {"a": 2, "k": 2}]
    found = join(rows, [{"k": 1}, {"k": 2}], on="k", how="right", parts=2, engine="serial").to_list()
    assert [list(row) for row in found] == [["k", "a"]] * 2


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"KEY": ("k",), "reduce_fn": Sum("x")}, "KEY = 'k'"),
        ({"KEY": "k", "reduce_fn": {"k": Sum("x")}}, "which KEY has too"),
        ({"reduce_fn": sum}, r"Sum\(\)"),
    ],
)
def test_classes_that_cannot_mean_what_they_say_are_refused(attributes, text):
    with pytest.raises(UsageError, match=text):
        type("Mine", (KeyedProducer,), attributes)(engine="serial").map(pairs_of("a"))


def test_a_closed_result_is_closed_however_small():
    found = Counted(engine="serial").map(pairs_of("a"))
    found.close()
    for read in (lambda: found["a"], lambda: list(found), lambda: found.top(1), lambda: DataSourceFactory(found)):
        with pytest.raises(UsageError, match="closed"):
            read()


def test_a_key_without_a_hash_is_named_on_either_side_of_a_join():
    for left, right in ([[([1], 2)], [(1, 2)]], [[(1, 2)], [([1], 2)]]):
        with pytest.raises(PartFailed, match=r"the key \[1\] is of type list"):
            join(left, right, engine="serial")


def test_an_iterator_is_no_value_of_a_hot_key_either(monkeypatch):
    monkeypatch.setattr(reducing, "LARGE", 1)

    class Lazy(KeyedProducer):
        COMBINE = False

        @staticmethod
        def reduce_fn(key, values):
            return map(str, values)

    with pytest.raises(PartFailed, match=r"return list\(...\)"):
        Lazy(engine="serial").map(pairs_of(*["a"] * 100))


def test_nothing_but_arrow_tables_needs_arrow_or_numpy(script):
    done = script(
        """
import sys
sys.modules["pyarrow"] = sys.modules["numpy"] = None  # as if they were not installed
from pymar import DataSourceFactory
from pymar.keyed import KeyedProducer, Mean, join, sort

class ByKey(KeyedProducer):
    KEY = "k"
    reduce_fn = {"mean": Mean("x")}

rows = [{"k": number % 3, "x": float(number)} for number in range(30)]
print(ByKey(engine="serial").map(DataSourceFactory(rows))[0])
for how in ("left", "outer"):
    print(len(join(rows, [{"k": 1, "y": 2}], on="k", how=how, engine="serial")))
print(sort([3, 1.5, 2], engine="serial").to_list())
"""
    )
    assert done.stdout.split("\n")[:4] == ["{'mean': 13.5}", "30", "30", "[1.5, 2, 3]"]
