"""Datasets under attack: records that look alike, and results that do not depend on how the data is cut."""

import pytest

import pymar
from pymar.exceptions import PartFailed


def of(data, parts=3):
    return pymar.dataset(data, engine="serial", parts=parts)


def test_rows_are_equal_whatever_the_order_of_their_columns_and_keep_that_of_the_first():
    rows = [{"b": 1, "a": 2}, {"a": 2, "b": 1}, {"a": 2}, {"a": 2.0}, {}, {}, {1: 2, "a": 3}, {"a": 3, 1: 2}]
    found = of(rows).distinct().collect()
    assert sorted(map(str, found)) == sorted(map(str, [rows[0], rows[2], rows[4], rows[6]]))


def test_no_record_is_taken_for_the_key_of_a_row():
    mark = "a dict of"
    records = [(mark,), (mark, ("a", 1)), {"a": 1}, (mark, ("a",), 1), (mark, None, {1}.__len__()), mark, None, ()]
    found = of([*records, *records]).distinct().collect()
    assert sorted(map(repr, found)) == sorted(map(repr, records))


@pytest.mark.parametrize("record", [{"a": [1]}, [1], ([1],)])
def test_a_record_without_a_hash_is_shown_as_it_is(record):
    with pytest.raises(PartFailed) as raised:
        of([1, record]).distinct().collect()
    assert f"the key {record!r} is of type {type(record).__name__}" in str(raised.value)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_ints_that_add_up_to_zero_do_not_vanish_from_a_sum(parts):
    with pytest.raises((TypeError, PartFailed), match="unsupported operand"):
        of([5, -5, "a"], parts).sum()


def test_a_sum_leaves_nothing_behind_that_worker_processes_would_miss():
    numbers = pymar.dataset([0.5, 2], parts=1).map(abs)
    assert [numbers.sum(engine=engine) for engine in ("serial", "processes://1", "serial")] == [2.5] * 3
