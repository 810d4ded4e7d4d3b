"""Batches are as large as parts are cheap, within bounds; what is slow is copied, once, and not too much of it."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.job.pacing import _SAMPLE, GROWTH, LARGEST_BATCH, SLOW, SLOW_SECONDS, Backups, Pacing

SECONDS = st.floats(0.0, 1e6)


def grown(pacing=None, rounds=6):
    """A pacing whose parts cost nothing."""
    pacing = pacing or Pacing()
    for _ in range(rounds):
        pacing.batch_took(pacing.batch_size(None, 1), 0.0)
    return pacing


def test_the_first_batch_is_one_part():
    assert Pacing().batch_size(None, 1) == 1
    assert Pacing().batch_size(1_000_000, 1) == 1


def test_a_batch_holds_as_many_parts_as_take_its_seconds():
    pacing = Pacing(batch_seconds=1.0)
    pacing.batch_took(10, 2.0)
    assert pacing.batch_size(None, 1) == 5


def test_batches_grow_by_a_bounded_factor():
    pacing, sizes = Pacing(), []
    for _ in range(5):
        sizes.append(pacing.batch_size(None, 1))
        pacing.batch_took(sizes[-1], 0.0)
    assert sizes == [1, GROWTH, GROWTH**2, GROWTH**3, LARGEST_BATCH]


def test_a_short_batch_does_not_make_a_long_one_shorter_if_its_parts_were_cheap():
    pacing = grown()
    pacing.batch_took(1, 0.0)
    assert pacing.batch_size(None, 1) == LARGEST_BATCH


def test_batches_shrink_at_once_to_one_part():
    pacing = grown()
    pacing.batch_took(LARGEST_BATCH, 1e9)
    assert pacing.batch_size(None, 1) == 1


def test_one_begins_anew_where_the_next_parts_are_not_like_the_last_ones():
    pacing = grown()
    pacing.restart()
    assert pacing.batch_size(None, 1) == 1


@pytest.mark.parametrize(
    ("remaining", "slots", "size"),
    [(None, 4, 1_000), (8_000, 4, 1_000), (7_999, 4, 999), (80, 4, 10), (8, 4, 1), (1, 4, 1), (0, 4, 1), (80, 0, 40)],
)
def test_of_the_last_parts_each_slot_gets_a_few(remaining, slots, size):
    assert grown().batch_size(remaining, slots) == size


@given(
    st.lists(st.tuples(st.integers(1, 2_000), SECONDS), max_size=20),
    st.none() | st.integers(0, 5_000),
    st.integers(0, 9),
)
def test_a_batch_is_never_empty_nor_too_large_nor_grown_too_fast(batches, remaining, slots):
    pacing = Pacing()
    for parts, seconds in batches:
        before = pacing.batch_size(None, 1)
        pacing.batch_took(parts, seconds)
        assert 1 <= pacing.batch_size(None, 1) <= min(LARGEST_BATCH, max(before, GROWTH * parts))
    size = pacing.batch_size(remaining, slots)
    assert 1 <= size <= LARGEST_BATCH
    if remaining is not None:
        assert size == 1 or 2 * size * max(1, slots) <= remaining


def test_nothing_is_slow_while_nothing_is_known():
    assert Pacing().slow() is None


def test_slow_is_what_takes_some_times_the_median_and_no_blink():
    pacing = Pacing()
    for seconds in (1.0, 2.0, 100.0):
        pacing.part_took(seconds)
    assert pacing.slow() == SLOW * 2.0
    pacing = Pacing()
    pacing.part_took(SLOW_SECONDS / SLOW / 2)
    assert pacing.slow() == SLOW_SECONDS


def test_what_was_long_ago_says_nothing_of_what_is_slow():
    pacing = Pacing()
    for _ in range(_SAMPLE):
        pacing.part_took(100.0)
    for _ in range(_SAMPLE):
        pacing.part_took(1.0)
    assert pacing.slow() == SLOW


@given(st.lists(SECONDS, min_size=1, max_size=300))
def test_at_most_half_of_what_was_measured_last_is_slow(seconds):
    pacing = Pacing()
    for one in seconds:
        pacing.part_took(one)
    limit = pacing.slow()
    assert limit >= SLOW_SECONDS
    last = seconds[-_SAMPLE:]
    assert 2 * sum(one > limit for one in last) <= len(last)


@dataclass
class Out:
    """A batch that was handed out at 0."""

    began: float = 0.0
    has_begun: bool = True


def due(backups, out, now, *, done=100, slots=10, limit=1.0):
    return list(backups.due(out, done, slots, limit, now))


def parts(*indices, **fields):
    return {index: Out(**fields) for index in indices}


def test_a_part_is_copied_once_it_has_run_longer_than_the_limit():
    backups = Backups(1.0)
    out = parts(1) | parts(2, began=5.0)
    assert due(backups, out, 1.0) == []
    assert due(backups, out, 5.0) == [1]
    assert due(backups, out, 6.5) == [2]


def test_each_part_is_copied_once():
    backups = Backups(1.0)
    assert due(backups, parts(1), 5.0) == [1]
    assert due(backups, parts(1), 50.0) == []
    assert due(backups, parts(1, began=60.0), 70.0) == [], "it was lost, and handed out again"


def test_nothing_is_copied_while_nobody_knows_what_is_slow():
    assert due(Backups(1.0), parts(1), 100.0, limit=None) == []


@pytest.mark.parametrize(("slots", "copied"), [(2, []), (3, []), (4, [1, 2, 3])])
def test_copies_are_for_slots_that_have_nothing_to_do(slots, copied):
    assert due(Backups(1.0), parts(1, 2, 3), 100.0, slots=slots) == copied


@pytest.mark.parametrize(
    ("share", "done", "copied"), [(0.0, 100, 0), (0.01, 0, 1), (0.02, 95, 2), (0.5, 3, 4), (1.0, 9, 5)]
)
def test_a_share_of_all_parts_is_copied_and_one_in_any_case(share, done, copied):
    assert len(due(Backups(share), parts(*range(5)), 100.0, done=done)) == copied


def test_a_part_that_may_have_waited_is_not_slow_before_all_have_a_slot():
    backups = Backups(1.0)
    waiting = parts(1, has_begun=False)
    assert due(backups, waiting | parts(2, 3), 100.0, slots=2) == []
    assert due(backups, waiting, 101.0, slots=2) == [], "from now on it has a slot"
    assert due(backups, waiting, 102.0, slots=2) == []
    assert due(backups, waiting, 102.1, slots=2) == [1]


def test_what_waits_again_is_measured_anew():
    backups = Backups(1.0)
    waiting = parts(1, has_begun=False)
    assert due(backups, waiting, 10.0, slots=2) == []
    assert due(backups, waiting | parts(2, 3), 100.0, slots=2) == []
    assert due(backups, waiting, 100.5, slots=2) == []
    assert due(backups, waiting, 102.0, slots=2) == [1]


def test_who_was_given_to_two_is_told_once_it_is_finished():
    backups = Backups(1.0)
    out = parts(1, 2)
    assert due(backups, out, 100.0) == [1, 2]
    assert backups.superfluous(out) == []
    del out[1]
    assert backups.superfluous(out) == [1]
    assert backups.superfluous(out) == []
    out.clear()
    assert backups.superfluous(out) == [2]


def test_who_was_not_copied_is_not_superfluous():
    assert Backups(1.0).superfluous({}) == []


@given(
    st.floats(0.0, 1.0),
    st.integers(1, 6),
    st.lists(st.tuples(st.sets(st.integers(0, 15)), st.integers(0, 50), st.booleans()), max_size=20),
)
def test_never_more_are_copied_than_allowed_and_none_twice(share, slots, rounds):
    backups, copied = Backups(share), []
    for now, (indices, done, has_begun) in enumerate(rounds):
        out = parts(*indices, has_begun=has_begun)
        new = due(backups, out, 10.0 * now, done=done, slots=slots)
        if new:
            assert len(out) < slots
            assert set(new) <= set(out)
            assert len(copied) + len(new) < max(share * (done + len(out)), 1) + 1
        copied += new
    assert len(copied) == len(set(copied))
    assert not copied or share > 0
    assert sorted(backups.superfluous({})) == sorted(copied)
