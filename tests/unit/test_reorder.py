"""Partials are given out in part order, each once, whatever the order in which they came and wherever they waited."""

import errno
import io
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.job import reorder
from pymar.job.reorder import ReorderBuffer


@pytest.fixture
def files(monkeypatch, temporary_files):
    """What has ten bytes waits in a file; the files that were made."""
    monkeypatch.setattr(reorder, "LARGE", 10)
    return temporary_files


@pytest.fixture
def buffer(files):
    one = ReorderBuffer()
    yield one
    one.close()


ARRIVALS = st.lists(st.binary(max_size=20), max_size=12).flatmap(
    lambda values: st.permutations(list(enumerate(values))).map(lambda order: (values, order))
)


@given(ARRIVALS, st.sets(st.integers(0, 12)))
def test_partials_come_out_in_part_order_each_once(arrivals, pauses):
    values, order = arrivals
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reorder, "LARGE", 10)
        one, found = ReorderBuffer(), []
        for number, partial in enumerate(order):
            one.add([partial])
            if number in pauses:
                found += one.next()
        found += one.next()
        assert list(one.next()) == []
        one.close()
    assert found == list(enumerate(values))


def test_several_come_at_once(buffer):
    buffer.add([(2, b"c"), (0, b"a"), (1, b"b")])
    assert list(buffer.next()) == [(0, b"a"), (1, b"b"), (2, b"c")]


def test_who_comes_early_waits_for_those_before(buffer):
    buffer.add([(1, b"b"), (3, b"d")])
    assert list(buffer.next()) == []
    buffer.add([(0, b"a")])
    assert list(buffer.next()) == [(0, b"a"), (1, b"b")]


def test_what_was_not_taken_waits_on(buffer):
    buffer.add([(0, b"a"), (1, b"b" * 10), (2, b"c")])
    assert next(buffer.next()) == (0, b"a")
    assert list(buffer.next()) == [(1, b"b" * 10), (2, b"c")]


def test_a_partial_that_is_empty_counts(buffer):
    buffer.add([(0, b"")])
    assert list(buffer.next()) == [(0, b"")]


def test_a_large_one_waits_in_a_file_and_a_small_one_does_not(buffer, files):
    buffer.add([(2, b"x" * 9)])
    assert not files
    buffer.add([(1, b"x" * 10)])
    assert [file.seek(0, 2) for file in files] == [10]


def test_a_large_one_whose_turn_it_is_goes_through_no_file(buffer, files):
    buffer.add([(0, b"x" * 100)])
    assert list(buffer.next()) == [(0, b"x" * 100)]
    assert not files


def test_the_file_is_emptied_once_nothing_waits_in_it_and_used_again(buffer, files):
    for turn in (0, 3):
        buffer.add([(turn + 2, b"c" * 30), (turn + 1, b"b" * 20)])
        assert files[0].seek(0, 2) == 50
        buffer.add([(turn, b"a")])
        assert list(buffer.next()) == [(turn, b"a"), (turn + 1, b"b" * 20), (turn + 2, b"c" * 30)]
        assert files[0].seek(0, 2) == 0
    assert len(files) == 1


def test_what_is_added_between_two_that_are_read_is_not_written_over_them(buffer):
    buffer.add([(1, b"b" * 20), (2, b"c" * 30), (0, b"a")])
    coming = buffer.next()
    assert [next(coming), next(coming)] == [(0, b"a"), (1, b"b" * 20)]
    buffer.add([(3, b"d" * 40)])
    assert list(coming) == [(2, b"c" * 30), (3, b"d" * 40)]


def test_a_part_that_has_failed_takes_its_turn(buffer):
    buffer.add([(1, None), (2, b"c")])
    buffer.add([(0, b"a")])
    assert list(buffer.next()) == [(0, b"a"), (1, None), (2, b"c")]


@pytest.mark.parametrize("late", [b"b", b"b" * 10])
def test_a_partial_that_comes_late_counts_until_its_turn(buffer, late):
    buffer.add([(1, None)])
    buffer.add([(1, late)])
    buffer.add([(0, b"a")])
    assert list(buffer.next()) == [(0, b"a"), (1, late)]
    buffer.add([(1, late)])
    assert list(buffer.next()) == []


def test_behind_the_end_nothing_is_kept_or_comes(buffer):
    buffer.add([(1, b"b"), (3, b"d" * 10), (4, b"e")])
    buffer.end_at(3)
    buffer.end_at(2)
    buffer.end_at(4)
    buffer.add([(2, b"c"), (5, b"f")])
    assert buffer._small.keys() | buffer._large.keys() == {1}
    buffer.add([(0, b"a")])
    assert list(buffer.next()) == [(0, b"a"), (1, b"b")]


def test_what_is_left_is_dropped_with_its_file(buffer, files):
    buffer.add([(1, b"x"), (2, b"x" * 10)])
    buffer.close()
    assert files[0].closed
    buffer.close()


class FullDisk(io.BytesIO):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


class FullWhenFlushed(io.BytesIO):
    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")


def no_file():
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory")


@pytest.mark.parametrize("make", [FullDisk, FullWhenFlushed, no_file])
def test_a_disk_that_takes_nothing_is_an_error_that_says_what_to_do(buffer, monkeypatch, tmp_path, make):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: make())
    with pytest.raises(OSError, match="TMPDIR") as caught:
        buffer.add([(1, b"x" * 12_345)])
    monkeypatch.setattr(FullWhenFlushed, "flush", io.BytesIO.flush)
    text = str(caught.value)
    for noun in ("12,345 bytes", str(tmp_path), "smaller partials", caught.value.__cause__.strerror):
        assert noun in text
    assert caught.value.errno == caught.value.__cause__.errno
