"""Reduce by key against a plain dict: any pairs, cut anywhere, in any memory, with numpy and without."""

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pymar import DataSourceFactory
from pymar.keyed import Collect, Count, First, KeyedProducer, Last, Max, Mean, Min, Sum, mapping, reducing, vectors
from pymar.keyed.keys import NAN, bucket_of, buckets_of

numbers = st.integers(-3, 3) | st.integers(-(2**70), 2**70) | st.floats() | st.booleans()
keys = st.one_of(
    st.integers(-5, 5),
    st.text(max_size=2),
    numbers,
    st.binary(max_size=2),
    st.none(),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.dates(),
    st.uuids(),
    st.tuples(st.integers(0, 3), st.text(max_size=1) | st.floats() | st.none()),
)


class Total(KeyedProducer):
    WORKERS_NUMBER = 3
    reduce_fn = Sum()


class Listed(KeyedProducer):
    WORKERS_NUMBER = 3
    reduce_fn = Collect()


class Folded(KeyedProducer):
    WORKERS_NUMBER = 3

    @staticmethod
    def reduce_fn(key, values):
        found = []
        for value in values:
            found += value if isinstance(value, list) else [value]
        return found


class Streamed(KeyedProducer):
    WORKERS_NUMBER = 3
    COMBINE = False

    @staticmethod
    def reduce_fn(key, values):
        assert isinstance(values, Iterator)
        return list(values)


def one_nan(key):
    """The key with all NaNs replaced by one: what a dict needs to find them equal."""
    if isinstance(key, tuple):
        return tuple(map(one_nan, key))
    return NAN if key != key else key


def grouped(pairs):
    """What a plain dict makes of pairs: the values of each key, in order."""
    found = {}
    for key, value in pairs:
        found.setdefault(one_nan(key), []).append(value)
    return found


def exact(result):
    """A result as texts, with the types and all bits of keys and values; equal keys as one."""
    return {one_nan(key): repr(value) for key, value in result.items()}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Windows, windows between them and large buckets of a few pairs, so that each path is taken."""
    monkeypatch.setattr(mapping, "WINDOW", 8)
    monkeypatch.setattr(mapping, "UNCOMBINED", 16)
    monkeypatch.setattr(mapping, "BLOCK", 16)
    monkeypatch.setattr(mapping, "KEYS_HELD", 10)


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(st.tuples(keys, st.integers(-9, 9) | st.text(max_size=3) | st.none()), max_size=60), data=st.data()
)
@example(pairs=[(1, 1), (True, 2), (1.0, 3), (Decimal(1), 4), (Fraction(1), 5)], data=None)
@example(pairs=[(float("nan"), 1), (float("nan"), 2), ((float("nan"), 1), 3), ((float("nan"), 1), 4)], data=None)
@example(pairs=[(0.0, 1), (-0.0, 2), (0, 3)], data=None)
def test_all_values_of_a_key_meet_in_their_order(pairs, data):
    expected = {key: repr(values) for key, values in grouped(pairs).items()}
    for producer in (Listed, Folded, Streamed):
        assert exact(producer(engine="serial").map(DataSourceFactory(pairs))) == expected


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 9) | st.text(max_size=1), numbers), max_size=60))
def test_sums_have_the_bits_of_python(pairs):
    with_numpy = Total(engine="serial").map(DataSourceFactory(pairs))
    there, vectors._numpy = vectors._numpy, False
    try:
        without = Total(engine="serial").map(DataSourceFactory(pairs))
    finally:
        vectors._numpy = there
    assert [*map(repr, with_numpy.items())] == [*map(repr, without.items())]
    exact_values = [(key, value) for key, value in pairs if type(value) is int]
    result = Total(engine="serial").map(DataSourceFactory(exact_values))
    assert result.to_dict() == {key: sum(values) for key, values in grouped(exact_values).items()}


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 99), st.floats(allow_nan=False)), max_size=200), large=st.integers(1, 200)
)
def test_a_bucket_that_memory_does_not_hold_gives_the_same(pairs, large):
    for producer in (Total, Listed, Streamed):
        expected = [*map(repr, producer(engine="serial").map(DataSourceFactory(pairs)).items())]
        before, reducing.LARGE = reducing.LARGE, large
        try:
            found = [*map(repr, producer(engine="serial").map(DataSourceFactory(pairs)).items())]
        finally:
            reducing.LARGE = before
        assert found == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(keys, min_size=1, max_size=20))
def test_equal_keys_have_one_bucket(several):
    assert list(buckets_of(several)) == list(map(bucket_of, several))
    for one in several:
        for other in several:
            if one == other:
                assert bucket_of(one) == bucket_of(other)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        (Sum(), 9),
        (Count(), 4),
        (Min(), 2),
        (Max(), 4),
        (Mean(), 3.0),
        (First(), 3),
        (Last(), 2),
        (Collect(), [3, None, 4, 2]),
    ],
)
def test_aggregations(aggregation, expected):
    class Mine(KeyedProducer):
        WORKERS_NUMBER = 2
        reduce_fn = aggregation

    pairs = [("a", 3), ("a", None), ("b", 1), ("a", 4), ("a", 2)]
    assert Mine(engine="serial").map(DataSourceFactory(pairs))["a"] == expected
    assert aggregation("a", [3, None, 4, 2]) == expected
