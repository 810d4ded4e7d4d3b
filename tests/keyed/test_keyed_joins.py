"""Joins, sort and distinct against plain loops and `sorted`, on engines and in memories of any size."""

import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymar import DataSourceFactory, PartFailed
from pymar.exceptions import UsageError
from pymar.keyed import KeyedProducer, Sum, distinct, join, joining, reducing, sort, sorting

HOW = ("inner", "left", "right", "outer", "semi", "anti")
keys = st.none() | st.integers(0, 4) | st.sampled_from(["a", "b"]) | st.sampled_from([1.0, float("nan")])
sides = st.lists(st.tuples(keys, st.integers(0, 99)), max_size=12)


def matches(one, other):
    return one is not None and other is not None and (one == other or (one != one and other != other))


def expected(left, right, how):
    """The records of a join by two loops, in some order."""
    found = []
    for key, value in left:
        others = [other for again, other in right if matches(key, again)]
        if how in ("semi", "anti"):
            found += [(key, value)] if bool(others) == (how == "semi") else []
        else:
            found += [(key, (value, other)) for other in others]
            if not others and how in ("left", "outer"):
                found.append((key, (value, None)))
    if how in ("right", "outer"):
        found += [(key, (None, value)) for key, value in right if not any(matches(key, again) for again, _ in left)]
    return found


def same(records):
    """Records as sorted texts; of equal keys of the left, 1 and 1.0, one is shown for both."""
    return sorted(str((float(key) if type(key) is int else key, value)) for key, value in records)


@settings(max_examples=150, deadline=None)
@given(left=sides, right=sides, how=st.sampled_from(HOW), small=st.booleans(), large=st.booleans())
def test_a_join_is_that_of_two_loops(left, right, how, small, large):
    before = joining.SMALL_SIDE, joining.LARGE
    joining.SMALL_SIDE = before[0] if small else -1
    joining.LARGE = before[1] if large else 1
    try:
        found = join(left, right, how=how, engine="serial").to_list()
    finally:
        joining.SMALL_SIDE, joining.LARGE = before
    assert same(found) == same(expected(left, right, how))


ROUTES = [{"carrier": number % 3, "hour": number % 5, "delay": number} for number in range(40)]
WEATHER = [{"hour": hour, "delay": -1, "wind": hour * 10} for hour in (0, 1, 2, 9)]


@pytest.mark.parametrize("small", [True, False])
def test_rows_are_joined_by_the_names_of_columns(monkeypatch, small):
    monkeypatch.setattr(joining, "SMALL_SIDE", 8 << 20 if small else -1)
    found = join(ROUTES, WEATHER, on="hour", how="left", engine="serial").to_list()
    by_hour = {row["hour"]: row for row in WEATHER}
    wanted = [
        {**row, "delay_right": -1, "wind": by_hour[row["hour"]]["wind"]}
        if row["hour"] in by_hour
        else {**row, "delay_right": None, "wind": None}
        for row in ROUTES
    ]
    assert sorted(found, key=repr) == sorted(wanted, key=repr)
    assert all(list(row) == ["carrier", "hour", "delay", "delay_right", "wind"] for row in found)
    outer = join(ROUTES, WEATHER, on=("hour",), how="outer", engine="serial").to_list()
    assert len(outer) == 41
    assert {"carrier": None, "hour": 9, "delay": None, "delay_right": -1, "wind": 90} in outer


def test_a_join_is_the_same_on_processes_and_the_source_of_the_next_job(monkeypatch):
    monkeypatch.setattr(joining, "SMALL_SIDE", 10_000)
    left = [(number * 7919 % 5_000, number) for number in range(30_000)]
    right = [(number, str(number)) for number in range(0, 8_000, 2)]
    for how in HOW:
        with join(left, right, how=how, engine="serial") as serial, join(left, right, how=how) as processes:
            assert serial.to_list() == processes.to_list()
            assert len(distinct(processes)) == len(set(serial))


def test_a_row_without_the_column_is_an_error():
    with pytest.raises(PartFailed, match="'hours'"):
        join(ROUTES, WEATHER, on="hours", engine="serial")
    with pytest.raises(PartFailed, match="takes rows"):
        join([(1, 2)], WEATHER, on="hour", engine="serial")
    with pytest.raises(UsageError, match="how='cross'"):
        join(ROUTES, WEATHER, on="hour", how="cross")


@settings(max_examples=60, deadline=None)
@given(
    left=st.lists(st.tuples(st.none() | st.integers(0, 4), st.integers(0, 99)), min_size=1, max_size=20),
    right=st.lists(st.tuples(st.none() | st.integers(0, 4), st.text(max_size=2)), max_size=8),
    how=st.sampled_from(["inner", "left", "semi", "anti"]),
    by_text=st.booleans(),
)
def test_arrow_tables_are_joined_as_rows_are(left, right, how, by_text):
    pyarrow = pytest.importorskip("pyarrow")

    def key(number):
        return None if number is None else f"k{number}" if by_text else number

    rows = [{"id": key(number), "x": x, "z": x % 3} for number, x in left]
    others = [{"id": key(number), "z": z} for number, z in right]
    tables = [pyarrow.Table.from_pylist(rows[start : start + 7]) for start in range(0, len(rows), 7)]
    tables = [table.cast(pyarrow.Table.from_pylist(rows).schema) for table in tables]
    expected_rows = join(rows, others, on="id", how=how, engine="serial").to_list()
    found = join(tables, others, on="id", how=how, engine="serial")
    columns = ["id", "x", "z"] + (["z_right"] if how in ("inner", "left") and others else [])
    assert found.to_list() == [{name: row[name] for name in columns} for row in expected_rows]
    if expected_rows:
        assert found.to_arrow().to_pylist() == found.to_list()


class Lengths(KeyedProducer):
    KEY = "z"
    reduce_fn = Sum("x")


def test_a_join_gives_batches_to_the_next_job():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"id": list(range(20_000)), "x": [1.5] * 20_000})
    other = pyarrow.table({"id": [1, 3, 19_999], "z": ["a", "b", "a"]})
    with join(table.to_batches(1_000), [other], on="id") as joined:
        assert Lengths().map(DataSourceFactory(joined.batches())).to_dict() == {"a": 3.0, "b": 1.5}


orderable = st.none() | st.floats() | st.integers(-3, 3) | st.integers(-(2**70), 2**70)


def behind(value):
    return (2,) if value is None else (1,) if value != value else (0, value)


@settings(max_examples=150, deadline=None)
@given(st.lists(orderable, max_size=60), st.booleans(), st.booleans())
def test_sort_is_sorted_with_nan_and_none_behind(values, reverse, large):
    before = sorting.LARGE, sorting.RUN, sorting.BLOCK, sorting.BYTES_A_PARTITION
    if large:
        sorting.LARGE, sorting.RUN, sorting.BLOCK, sorting.BYTES_A_PARTITION = 1, 100, 3, 20
    try:
        found = sort(values, reverse=reverse, parts=4, engine="serial").to_list()
        pairs = [(value, number) for number, value in enumerate(values)]
        stable = sort(pairs, key=lambda pair: pair[0], reverse=reverse, parts=4, engine="serial").to_list()
    finally:
        sorting.LARGE, sorting.RUN, sorting.BLOCK, sorting.BYTES_A_PARTITION = before
    assert [*map(repr, found)] == [*map(repr, sorted(values, key=behind, reverse=reverse))]
    assert [*map(repr, stable)] == [*map(repr, sorted(pairs, key=lambda pair: behind(pair[0]), reverse=reverse))]


class Counted(KeyedProducer):
    SORTED = True
    reduce_fn = Sum()


def test_a_sorted_result_is_in_the_order_of_its_keys_and_finds_them(monkeypatch):
    monkeypatch.setattr(sorting, "BYTES_A_PARTITION", 20_000)
    generator = random.Random(print(seed := 5) or seed)
    pairs = [(f"{generator.randrange(20_000)}", 1) for _ in range(50_000)]
    totals = {}
    for key, value in pairs:
        totals[key] = totals.get(key, 0) + value
    with Counted().map(DataSourceFactory(pairs)) as result:
        assert list(result.items()) == sorted(totals.items())
        assert all(result[key] == totals[key] for key in islice(totals, 50))
        assert "" not in result
        assert "x" not in result
        assert 5 not in result


def test_records_are_read_by_place():
    with sort(range(1_000, 0, -1), engine="serial") as found:
        assert (found[0], found[-1], len(found)) == (1, 1_000, 1_000)
        with pytest.raises(IndexError):
            found[1_000]


def test_distinct_counts_each_record():
    assert distinct(["b", "a", "b"], engine="serial").to_dict() == {"b": 2, "a": 1}
    assert distinct([3, 1], map_fn=lambda numbers: (number % 2 for number in numbers), engine="serial").to_dict() == {
        1: 2
    }


def test_records_that_cannot_be_compared_are_named():
    with pytest.raises((PartFailed, UsageError), match=r"1 \(int\) and 'a' \(str\)"):
        sort([1, "a"], engine="serial")


def test_a_large_bucket_is_divided_the_same_way_everywhere(monkeypatch):
    monkeypatch.setattr(reducing, "LARGE", 1_000)
    left = [(number % 50, number) for number in range(3_000)]
    monkeypatch.setattr(joining, "LARGE", 1_000)
    monkeypatch.setattr(joining, "SMALL_SIDE", -1)
    found = join(left, left[:200], engine="serial").to_list()
    assert sorted(found) == sorted(expected(left, left[:200], "inner"))
