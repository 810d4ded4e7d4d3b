"""Sources and factories: the interface of the first version, lists and dicts, slices, prepare."""

from array import array
from collections import Counter, OrderedDict, deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.datasource import RECORDS_A_PART, DataSource, DataSourceFactory, DictDataSource, ListDataSource
from pymar.exceptions import UsageError
from pymar.parts import cut
from pymar.producer import Producer
from pymar.testing import Numbers, Total


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_a_cut_covers_the_length_in_order_with_even_parts(length, count):
    parts = list(cut(length, count))
    assert len(parts) == min(length, count)
    assert [number for offset, limit in parts for number in range(offset, offset + limit)] == list(range(length))
    sizes = {limit for _, limit in parts}
    assert not sizes or (min(sizes) > 0 and max(sizes) - min(sizes) <= 1)


def test_a_source_has_the_interface_of_the_first_version():
    source = Numbers(offset=3, limit=4)
    source.set_offset(5)
    source.set_limit(2)
    assert (source.offset, source.limit, len(source), list(source)) == (5, 2, 2, [5, 6])
    assert list(DataSource.add_default_keys("ab")) == [(0, "a"), (0, "b")]


class Letters(ListDataSource):
    data = list("abcdefghij")  # noqa: RUF012 - as users write it


class Ages(DictDataSource):
    data = {"ann": 30, "bob": 40, "cid": 50}  # noqa: RUF012 - as users write it


class Pairs(Producer):
    WORKERS_NUMBER = 4

    @staticmethod
    def map_fn(data_source):
        return [[pair] for pair in data_source]

    @staticmethod
    def reduce_fn(data_source):
        return [item for items in data_source for item in items]


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_sources_of_lists_and_dicts_give_pairs(engine):
    pairs = Pairs(engine=engine)
    assert pairs.map(DataSourceFactory(Letters)) == [(0, letter) for letter in "abcdefghij"]
    assert pairs.map(DataSourceFactory(data_source_class=Ages)) == list(Ages.data.items())


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
@pytest.mark.parametrize(
    ("data", "records"),
    [
        ([3, 1, 2], [3, 1, 2]),
        ((3, 1, 2), [3, 1, 2]),
        (range(10), list(range(10))),
        ({"a": 1, "b": 2}, [("a", 1), ("b", 2)]),
        (OrderedDict(b=1, a=2), [("b", 1), ("a", 2)]),
        (Counter("aab"), [("a", 2), ("b", 1)]),
        (deque([3, 1, 2]), [3, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        (array("d", [1.5, 2.5]), [1.5, 2.5]),
        (np.arange(5), list(range(5))),
        ((number for number in range(2_500)), list(range(2_500))),
        (iter([]), []),
        ([], []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_data_of_the_producer_gives_its_records_as_they_are(engine, data, records):
    if not hasattr(data, "__len__"):
        data = iter(records)  # a fresh one for each engine
    assert Pairs(engine=engine).map(DataSourceFactory(data)) == records


def test_an_iterable_without_length_is_read_lazily():
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield 1

    partials = Total(engine="processes://2").partials(DataSourceFactory(endless()))
    assert next(partials) == RECORDS_A_PART
    partials.close()
    assert read <= 40 * RECORDS_A_PART


def test_a_factory_cuts_slices_of_slices():
    factory = DataSourceFactory(Numbers, limit=100, offset=50)
    assert factory.length() == 100
    part = factory.part(10, 20).part(3, 4)
    assert (part.offset, part.limit, part.length()) == (74, 3, 3)
    assert list(part.build_data_source()) == [74, 75, 76]
    data = DataSourceFactory(list(range(100)), offset=50)
    assert data.length() == 50
    assert list(data.part(3, 4).build_data_source()) == [54, 55, 56]
    assert data.part(100, 40).length() == 10
    items = DataSourceFactory({"a": 1, "b": 2, "c": 3})
    assert list(items.part(2, 1).build_data_source()) == [("b", 2), ("c", 3)]


@pytest.mark.parametrize("data", [Numbers, list(range(1_000)), dict.fromkeys(range(1_000))])
def test_a_factory_of_a_slice_is_computed_as_that_slice(data):
    factory = DataSourceFactory(data, limit=10, offset=5)
    first = Pairs(engine="serial").map(factory)
    assert [record[0] if isinstance(record, tuple) else record for record in first] == list(range(5, 15))


def test_the_length_of_an_iterable_is_not_guessed():
    with pytest.raises(UsageError, match="generator"):
        DataSourceFactory(number for number in range(3)).length()


def test_settings_of_a_factory_reach_its_length():
    assert DataSourceFactory(Numbers, length=7).length() == 7
    assert Numbers.length == 1_000


class Prepared(Numbers):
    """Counts calls of `prepare`, and what is held because of them."""

    asked = held = 0
    bounds = None

    @classmethod
    def prepare(cls):
        Prepared.asked += 1
        Prepared.held += 1
        return {"bounds": (5, 25)}

    @classmethod
    def release_prepared(cls):
        assert cls.bounds == (5, 25)
        Prepared.held -= 1

    @classmethod
    def full_length(cls):
        return cls.bounds[1] - cls.bounds[0]

    def __iter__(self):
        start = self.bounds[0] + self.offset
        return iter(range(start, start + self.limit))


def test_prepare_is_called_once_a_job_and_reaches_the_workers(monkeypatch):
    monkeypatch.setattr(Prepared, "asked", 0)
    factory = DataSourceFactory(Prepared)
    for number, engine in enumerate(("processes://2", "serial"), 1):
        assert Total(engine=engine).map(factory) == sum(range(5, 25))
        assert Prepared.asked == number
    assert Prepared.bounds is None


def test_what_prepare_holds_is_released_after_the_length_or_the_job():
    factory = DataSourceFactory(Prepared)
    assert factory.length() == 20
    assert Prepared.held == 0
    partials = Total(engine="serial").partials(factory)
    next(partials)
    assert Prepared.held == 1
    partials.close()
    assert Prepared.held == 0
    with pytest.raises(UsageError, match=r"limit=21 .*Prepared"):
        DataSourceFactory(Prepared, limit=21).length()
    assert Prepared.held == 0


class Halves(Total):
    """Divides any source after its third record."""

    def divide(self, factory):
        yield factory.part(3, 0)
        yield factory.part(factory.length() - 3, 3)


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_a_producer_may_divide_as_it_likes(engine):
    class Spans(Halves):
        @staticmethod
        def map_fn(data_source):
            return [[(data_source.offset, data_source.limit)]]

        @staticmethod
        def reduce_fn(data_source):
            return [item for items in data_source for item in items]

    assert Spans(engine=engine).map(DataSourceFactory(Numbers)) == [(0, 3), (3, 997)]
    assert Halves(engine=engine).map(DataSourceFactory(list(range(10)))) == 45
    assert [part.limit for part in Total().divide(DataSourceFactory(range(20)))] == [2] * 10


def test_the_number_of_parts_depends_on_the_length_alone(monkeypatch):
    monkeypatch.setattr(Total, "WORKERS_NUMBER", None)
    seen = []
    for engine in ("serial", "processes://1", "processes://2"):
        Total(engine=engine, listeners=[seen.append]).map(DataSourceFactory(Numbers))
    assert {event.parts for event in seen if hasattr(event, "parts")} == {256}
