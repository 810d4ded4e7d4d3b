"""An agent that cannot compute what is in its queue takes nothing for a while: how long, and what ends it."""

import pytest

from pymar.amqp.agent.pausing import Pausing
from pymar.amqp.timing import LONGEST_REFUSED_PAUSE, REFUSED_PAUSE


@pytest.fixture
def pausing():
    return Pausing()


def begun(pausing, why="its code is another", now=0.0, renews=False, grows=False):
    return pausing.begin(why, now, renews=renews, grows=grows)


def may_end(pausing, now, file_is_right=True, processes_start=True):
    return pausing.may_end(now, file_is_right=file_is_right, processes_start=processes_start)


def test_it_is_off_at_first(pausing):
    assert (pausing.is_on, pausing.why, pausing.renews) == (False, "", False)


def test_a_pause_says_why_and_for_how_long(pausing):
    assert begun(pausing) == REFUSED_PAUSE
    assert (pausing.is_on, pausing.why) == (True, "its code is another")


def test_it_is_begun_once_and_keeps_its_reason_and_its_end(pausing):
    begun(pausing, "first", now=0.0)
    assert begun(pausing, "second", now=4.0, grows=True) is None
    assert pausing.why == "first"
    assert may_end(pausing, REFUSED_PAUSE)


def test_it_ends_after_its_seconds_and_not_before(pausing):
    begun(pausing, now=100.0)
    assert not may_end(pausing, 100.0 + REFUSED_PAUSE - 0.001)
    assert may_end(pausing, 100.0 + REFUSED_PAUSE)


def test_it_does_not_end_while_processes_do_not_start(pausing):
    begun(pausing)
    assert not may_end(pausing, 1_000.0, processes_start=False)
    assert may_end(pausing, 1_000.0)


def test_it_does_not_end_while_the_file_is_another(pausing):
    begun(pausing)
    assert not may_end(pausing, 1_000.0, file_is_right=False)


def test_it_ends_at_once_when_the_file_is_the_right_one_again(pausing):
    begun(pausing)
    assert not may_end(pausing, 0.1, file_is_right=False)
    assert not may_end(pausing, 0.2, processes_start=False)
    assert may_end(pausing, 0.3)


def test_that_the_file_was_another_is_of_one_pause_only(pausing):
    begun(pausing)
    may_end(pausing, 0.1, file_is_right=False)
    pausing.end()
    begun(pausing, now=10.0)
    assert not may_end(pausing, 10.1)


def test_nothing_is_left_of_it_once_it_has_ended(pausing):
    begun(pausing, renews=True)
    pausing.end()
    assert (pausing.is_on, pausing.why, pausing.renews) == (False, "", False)


def test_processes_are_renewed_if_any_reason_asks_for_it(pausing):
    begun(pausing)
    assert not pausing.renews
    begun(pausing, renews=True)
    begun(pausing)
    assert pausing.renews


def lengths(pausing, times, grows):
    found = []
    for _ in range(times):
        found.append(begun(pausing, grows=grows))
        pausing.end()
    return found


def test_pauses_in_a_row_grow_up_to_the_longest(pausing):
    found = lengths(pausing, 6, grows=True)
    assert found[:3] == [REFUSED_PAUSE, 2 * REFUSED_PAUSE, 4 * REFUSED_PAUSE]
    assert found[-1] == LONGEST_REFUSED_PAUSE


def test_one_that_does_not_grow_is_short_and_makes_no_other_longer(pausing):
    lengths(pausing, 2, grows=True)
    assert lengths(pausing, 2, grows=False) == [REFUSED_PAUSE] * 2
    assert lengths(pausing, 1, grows=True) == [4 * REFUSED_PAUSE]


def test_what_was_computed_makes_the_next_pause_short(pausing):
    lengths(pausing, 4, grows=True)
    pausing.computed()
    assert lengths(pausing, 2, grows=True) == [REFUSED_PAUSE, 2 * REFUSED_PAUSE]


def test_a_pause_that_has_grown_lasts_so_long(pausing):
    lengths(pausing, 2, grows=True)
    begun(pausing, grows=True)
    assert not may_end(pausing, 4 * REFUSED_PAUSE - 0.001)
    assert may_end(pausing, 4 * REFUSED_PAUSE)
