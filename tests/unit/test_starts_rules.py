"""Children that do not come up: how long one waits before the next is tried, and when hope is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.slots.starts import BETWEEN, FIRST_PAUSE, LONGEST_PAUSE, TRIES, Starts


def failed(starts, times, now=0.0):
    """So many failures, each as soon as it may be; what the last one was told, and when it was."""
    told = False
    for _ in range(times):
        now = max(now, now + starts.wait(now)) + 0.001
        told = starts.failed("killed", now, now)
    return told, now


def test_the_first_may_be_tried_at_once():
    starts = Starts()
    assert starts.may(0.0)
    assert starts.wait(0.0) == 0.0
    assert (starts.why, starts.failures, starts.episodes) == ("", 0, 0)
    assert not starts.keep_failing


def test_the_next_tries_are_a_little_apart():
    starts = Starts()
    for number in range(1, TRIES):
        _, now = failed(starts, 1, now=10.0 * number)
        assert starts.wait(now) == pytest.approx(BETWEEN * number)
        assert not starts.may(now)
        assert starts.may(now + BETWEEN * number)


def test_the_last_hope_is_lost_once_for_each_pause():
    starts = Starts()
    assert failed(starts, TRIES - 1)[0] is False
    told, now = failed(starts, 1, now=1.0)
    assert told
    assert starts.keep_failing
    assert starts.episodes == 1
    assert starts.wait(now) == pytest.approx(FIRST_PAUSE)
    told, now = failed(starts, 1, now)
    assert told
    assert starts.episodes == 2
    assert starts.wait(now) == pytest.approx(2 * FIRST_PAUSE)


def test_no_pause_is_longer_than_the_longest():
    starts = Starts()
    _, now = failed(starts, TRIES + 50)
    assert starts.wait(now) == pytest.approx(LONGEST_PAUSE)


def test_one_that_comes_up_brings_hope_and_short_pauses_back():
    starts = Starts()
    failed(starts, TRIES + 5)
    starts.succeeded()
    assert starts.failures == 0
    assert not starts.keep_failing
    _, now = failed(starts, TRIES, now=1_000.0)
    assert starts.wait(now) == pytest.approx(FIRST_PAUSE)


def test_episodes_are_counted_on_after_a_success():
    starts = Starts()
    failed(starts, TRIES)
    starts.succeeded()
    failed(starts, TRIES, now=1_000.0)
    assert starts.episodes == 2


def test_a_reason_to_try_ends_the_pause_but_not_the_doubt():
    starts = Starts()
    _, now = failed(starts, TRIES)
    assert not starts.may(now)
    starts.again()
    assert starts.may(now)
    assert starts.wait(now) == 0.0
    assert starts.keep_failing
    told, _ = failed(starts, 1, now)
    assert told


def test_those_that_were_started_before_the_last_failure_was_counted_are_not_counted():
    starts = Starts()
    starts.failed("first", began=1.0, now=2.0)
    for began in (0.0, 1.0, 2.0):
        assert not starts.failed("second", began, now=3.0)
        assert starts.failures == 1
    assert starts.why == "second"
    starts.failed("third", began=2.1, now=3.0)
    assert starts.failures == 2


@given(st.lists(st.tuples(st.sampled_from(["fail", "succeed", "again"]), st.floats(0.001, 100.0)), max_size=60))
def test_one_waits_never_without_end_and_hope_is_lost_only_after_all_tries(steps):
    starts, now, in_a_row, lost = Starts(), 0.0, 0, 0
    for step, seconds in steps:
        now += seconds
        if step == "fail":
            in_a_row += 1
            told = starts.failed("killed", now, now)
            assert told == (in_a_row >= TRIES) == starts.keep_failing
            lost += told
            assert 0.0 < starts.wait(now) <= LONGEST_PAUSE + 1e-6
        elif step == "succeed":
            starts.succeeded()
            in_a_row = 0
        else:
            starts.again()
            assert starts.may(now)
        assert starts.failures == in_a_row
        assert starts.episodes == lost
        assert starts.may(now) == (starts.wait(now) == 0.0)
