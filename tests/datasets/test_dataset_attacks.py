"""Datasets under attack: records that look alike, and results that do not depend on how the data is cut."""

import pytest

import pymar
from pymar.exceptions import PartFailed, UsageError


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


def csv(tmp_path, text, **settings):
    (tmp_path / "table.csv").write_text(text)
    return pymar.read_csv(tmp_path / "table.csv", engine="serial", **settings)


@pytest.mark.parametrize("single_line", [False, True])
def test_na_is_nothing_in_columns_of_numbers_and_a_text_in_those_of_texts(tmp_path, single_line):
    rows = csv(tmp_path, "country,n\nNA,1\nDE,NA\n,3\n", single_line=single_line)
    expected = [{"country": "NA", "n": 1}, {"country": "DE", "n": None}, {"country": None, "n": 3}]
    assert rows.collect() == rows.to_arrow().to_pylist() == expected
    assert rows.group_by("country").sum("n").sort("n").take(1) == [{"country": "DE", "n": 0}]


@pytest.mark.parametrize("settings", [{}, {"with_path": True}, {"header": False}, {"as_tuples": True}])
def test_records_of_csv_are_counted_however_they_are_made(tmp_path, settings):
    table = csv(tmp_path, "n\n99999999999999999999\n1\n", **settings)
    assert table.count() == len(table.collect())


def test_the_key_of_a_pair_is_not_lost_to_a_column_of_its_value():
    with pytest.raises(UsageError, match="a column 'key' too"):
        of([(1, {"key": 2})]).to_arrow()


@pytest.mark.parametrize("data", [range(31), [7 * number for number in range(30)]])
def test_what_is_kept_of_a_checkpoint_is_not_that_of_other_records_of_an_earlier_stage(tmp_path, data):
    def sums(numbers):
        return of([*numbers], 10).group_by(lambda number: number % 7).sum().map(lambda pair: pair)

    sums(range(30)).collect(checkpoint=tmp_path / "run.ckpt")
    found = sums(data).collect(checkpoint=tmp_path / "run.ckpt", on_mismatch="keep")
    assert found == sums(data).collect(checkpoint=tmp_path / "run.ckpt") == sums(data).collect()


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_what_is_joined_is_written(tmp_path, form):
    left, right = of([{"a": 1, "b": 2}, {"a": 2, "b": 3}]), of([{"a": 1, "c": 4}])
    for how in ("inner", "left", "outer", "semi", "anti"):
        joined = left.join(right, "a", how)
        getattr(joined, f"write_{form}")(tmp_path / how)
        assert getattr(pymar, f"read_{form}")(tmp_path / how, engine="serial").collect() == joined.collect()


def test_no_column_is_lost_that_the_first_row_lacks():
    found = of([{"a": 1}, {"b": 2}, (3, {"a": 4})]).to_arrow().to_pylist()
    assert found == [{"a": 1, "b": None, "key": None}, {"a": None, "b": 2, "key": None}, {"a": 4, "b": None, "key": 3}]
    with pytest.raises(UsageError, match="column 'a' has values of no one type"):
        of([{"a": 1}, {"a": "x"}]).to_arrow()
