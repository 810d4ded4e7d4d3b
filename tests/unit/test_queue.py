"""Reports on their way from the thread that makes them to the one that waits: all, in order, and errors as they are."""

import threading
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.exceptions import PymarError, UsageError
from pymar.parts import Done, Joined, Part, Running
from pymar.slots.queue import PoolJob, Reports, Work, drained

#: Seconds that a test waits at most.
PATIENCE = 10


def done(index):
    return Done(index, b"", 0.1)


def test_reports_come_in_the_order_in_which_they_were_put():
    reports = Reports()
    reports.put([done(0), done(1)])
    reports.put([done(2)])
    assert reports.next(0) == [done(0), done(1), done(2)]
    assert reports.next(0) == []


@pytest.mark.parametrize("timeout", [0, -1.0, 0.001])
def test_nothing_comes_once_the_time_is_up(timeout):
    assert Reports().next(timeout) == []


def test_what_was_known_from_the_start_is_given_once():
    reports = Reports(Joined("here", 2))
    assert reports.next(0) == [Joined("here", 2)]
    assert reports.next(0) == []


def test_what_wakes_nobody_comes_with_the_next_that_does():
    reports = Reports()
    reports.put_without_waking(Running(0, "a"))
    reports.put([done(0)])
    assert sorted(reports.next(PATIENCE), key=lambda one: type(one).__name__) == [done(0), Running(0, "a")]


def test_what_wakes_nobody_comes_at_the_end_of_the_wait_at_the_latest():
    reports = Reports()
    reports.put_without_waking(Running(0, "a"))
    assert reports.next(0.001) == [Running(0, "a")]


def test_no_reports_wake_as_well():
    reports = Reports()
    reports.put([])
    assert reports.next(PATIENCE) == []


def test_who_waits_is_woken_by_another_thread():
    reports = Reports()
    thread = threading.Thread(target=reports.put, args=([done(0)],))
    thread.start()
    assert reports.next(PATIENCE) == [done(0)]
    thread.join()


def test_an_error_of_ours_is_raised_as_it_is():
    reports, problem = Reports(), UsageError("no")
    reports.put(problem)
    with pytest.raises(UsageError) as caught:
        reports.next(0)
    assert caught.value is problem


@pytest.mark.parametrize("problem", [ValueError("the reason"), KeyboardInterrupt("the reason")])
def test_another_error_is_the_cause_of_ours(problem):
    reports = Reports()
    reports.put(problem)
    with pytest.raises(PymarError, match="the reason") as caught:
        reports.next(0)
    assert caught.value.__cause__ is problem


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=10), st.sets(st.integers(0, 9)))
def test_nothing_is_lost_or_comes_twice(batches, looks):
    reports, found = Reports(), []
    for number, batch in enumerate(batches):
        reports.put([done(index) for index in batch])
        if number in looks:
            found += reports.next(0)
    found += reports.next(0)
    assert [one.index for one in found] == [index for batch in batches for index in batch]


def test_what_is_put_while_one_takes_is_not_lost():
    reports, found = Reports(), []

    def put():
        for number in range(2_000):
            (reports.put_without_waking if number % 2 else lambda one: reports.put([one]))(done(number))
        reports.put([done(-1)])

    thread = threading.Thread(target=put)
    thread.start()
    while done(-1) not in (news := reports.next(PATIENCE)):
        found += news
    found += [one for one in news if one.index >= 0]
    thread.join()
    found += reports.next(0)
    indices = [one.index for one in found]
    assert sorted(indices) == list(range(2_000))
    assert [index for index in indices if index % 2 == 0] == list(range(0, 2_000, 2))
    assert [index for index in indices if index % 2] == list(range(1, 2_000, 2))


def test_a_queue_is_drained_as_far_as_it_is_filled():
    queue = SimpleQueue()
    assert list(drained(queue, 0)) == []
    for number in range(3):
        queue.put(number)
    assert list(drained(queue, PATIENCE)) == [0, 1, 2]
    assert queue.empty()


def test_what_was_not_taken_of_a_queue_stays():
    queue = SimpleQueue()
    queue.put(1)
    queue.put(2)
    assert next(drained(queue, 0)) == 1
    assert queue.get_nowait() == 2


def test_a_job_knows_which_of_its_parts_wait_in_order():
    job = PoolJob(1, Work(b""), 2, Reports())
    assert job.indices_waiting() == []
    job.waiting += [[Part(3, 0, 0, 1), Part(1, 0, 0, 1)], [], [Part(2, 0, 0, 1)]]
    assert job.indices_waiting() == [3, 1, 2]
    assert (job.busy, job.enqueued) == (0, 0)


def test_jobs_share_no_queue_and_no_quota():
    one, other = (PoolJob(key, Work(b""), 2, Reports()) for key in (1, 2))
    one.waiting.append([Part(3, 0, 0, 1)])
    assert not other.waiting
    assert one.prints is not other.prints
