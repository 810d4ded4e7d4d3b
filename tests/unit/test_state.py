"""The job's state machine: whatever comes, in whatever order, twice or late, each part counts once."""

from collections import deque
from itertools import count
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.exceptions import PartFailed, PartLost, PartsFailed, PymarError
from pymar.job.pacing import SLOW_SECONDS
from pymar.job.state import REFUSALS, RETURNS, Job, Rules
from pymar.parts import Cause, Done, Failed, Failure, Joined, Left, Lost, Part, Refused, Returned, Running

DIED = Cause("died", "killed by SIGKILL")


def parts(count):
    return iter([Part(index, 0, index * 10, 10) for index in range(count)])


def job_of(count, slots=2, **rules):
    job = Job(parts(count), count, Rules(**rules))
    job.receive([Joined("here", slots)], 0.0)
    return job


def handed_out(job, now=0.0):
    return [part.index for batch in job.due(now) for part in batch]


def done(index, seconds=0.1):
    return Done(index, b"%d" % index, seconds)


#: What may come: made of the index of a part that was handed out at some time.
COMING = [
    lambda index: done(index, 0.0001),
    lambda index: done(index, 1.0),
    lambda index: Running(index, "a"),
    lambda index: Lost(index, DIED),
    lambda index: Failed(index, "a", Failure("ValueError")),
    lambda index: Returned(index),
    lambda index: Returned(index, alone=False),
    lambda index: Refused((index, index + 1), "its code is another"),
    lambda index: Refused((index,), "its children do not come up", is_passing=True),
    lambda index: Joined("ab"[index % 2], 2),
    lambda index: Left("ab"[index % 2]),
]
ROUND = st.tuples(
    st.sampled_from([0.0, 0.01, 5.0]),
    st.lists(st.tuples(st.sampled_from(COMING), st.integers(0, 1_000)), max_size=4),
)


@given(count=st.integers(0, 30), is_known=st.booleans(), rounds=st.lists(ROUND, max_size=60))
def test_each_part_counts_once_whatever_comes(count, is_known, rounds):
    with patch("pymar.job.state.REFUSALS", 1_000):
        count_once(count, is_known, rounds)


def count_once(count, is_known, rounds):
    job = Job(parts(count), count if is_known else None, Rules(attempts=1_000, retries=1_000, backups=0.5))
    given_out, kept, now = [], [], 0.0
    for seconds, coming in rounds:
        now += seconds
        given_out += handed_out(job, now)
        reports = [make(given_out[pick % len(given_out)]) for make, pick in coming if given_out]
        kept += [report.index for report in job.receive(reports, now)]
    # Whatever has not come by then, does; and everything else comes once more, late.
    while not job.over:
        given_out += handed_out(job, now)
        kept += [report.index for report in job.receive([done(index) for index in given_out], now)]
    kept += [report.index for report in job.receive([done(index) for index in given_out], now)]
    assert sorted(kept) == list(range(count))
    assert job.done == count
    assert job.error is None


@given(count=st.integers(0, 30), most=st.integers(1, 30), rounds=st.lists(ROUND, max_size=60))
def test_each_part_is_finished_or_set_aside_once_whatever_comes(count, most, rounds):
    with patch("pymar.job.state.REFUSALS", 1_000):
        finish_or_set_aside(count, most, rounds)


def finish_or_set_aside(count, most, rounds):
    job = Job(parts(count), count, Rules(attempts=2, backups=0.5, max_failed=most))
    given_out, kept, now = [], set(), 0.0

    def receive(reports):
        aside = set(job.errors)
        for report in job.receive(reports, now):
            assert report.index not in kept, "a part counted twice"
            kept.add(report.index)
        noted = set(job.newly_failed())
        assert noted <= set(job.errors) <= aside | noted
        assert kept.isdisjoint(job.errors)
        assert job.done == len(kept)

    def send():
        batch = handed_out(job, now)
        assert set(batch).isdisjoint(job.errors), "a part that was set aside is sent again"
        given_out.extend(batch)

    for seconds, coming in rounds:
        now += seconds
        send()
        receive([make(given_out[pick % len(given_out)]) for make, pick in coming if given_out])
        if job.error is not None:  # whoever drives it stops here
            break
    while not job.over:
        send()
        receive([done(index) for index in given_out if index not in job.errors])
    if job.error is None:
        assert kept | set(job.errors) == set(range(count))
        assert len(job.errors) <= most
    elif isinstance(job.error, PartsFailed):
        assert len(job.error.exceptions) > most
        assert [one.index for one in job.error.exceptions] == sorted(job.errors)


def failed(index):
    return Failed(index, "slot 1", Failure(f"ValueError: no {index}"))


def test_a_failed_part_is_set_aside_and_the_others_are_computed():
    job = job_of(30, max_failed=2)
    out = handed_out(job)
    job.receive([failed(1)], 0.0)
    assert job.error is None
    assert job.newly_failed() == [1]
    assert job.newly_failed() == []
    job.receive([done(index) for index in out if index != 1], 0.0)
    while not job.over:
        out = handed_out(job)
        assert 1 not in out
        job.receive(map(done, out), 0.0)
    assert (job.done, list(job.errors), job.failed) == (29, [1], 1)
    assert job.errors[1].rerun == Part(1, 0, 10, 10)


def test_one_more_than_may_fail_stops_the_job_with_all_so_far_in_part_order():
    job = job_of(30, max_failed=2)
    handed_out(job)
    job.receive([failed(5), failed(1), done(2)], 0.0)
    assert not job.over
    job.receive([failed(3), done(0)], 0.0)
    assert job.over
    assert handed_out(job) == []
    assert [error.index for error in job.error.exceptions] == [1, 3, 5]
    assert (job.error.done, job.error.total, job.error.is_stopped) == (2, 30, True)


def test_a_part_is_set_aside_after_its_retries_and_its_attempts_only():
    job = job_of(3, max_failed=3, retries=1, attempts=2)
    handed_out(job)
    job.receive([failed(0), Lost(1, DIED)], 0.0)
    assert not job.errors
    assert handed_out(job) == [0, 1]
    job.receive([failed(0), Lost(1, DIED)], 0.0)
    assert isinstance(job.errors[0], PartFailed)
    assert job.errors[1].causes == (DIED.text, DIED.text)
    job.receive([done(2)], 0.0)
    assert job.over


def test_a_late_good_result_of_a_part_that_was_set_aside_counts_once():
    job = job_of(3, max_failed=1)
    handed_out(job)
    job.receive([failed(0)], 0.0)
    assert job.receive([done(0)], 0.0) == [done(0)]
    assert not job.errors
    assert job.receive([done(0), failed(0)], 0.0) == []
    job.receive([done(1), done(2)], 0.0)
    assert job.over
    assert job.done == 3


def test_a_part_that_fails_and_comes_in_the_same_round_has_not_failed():
    job = job_of(3, max_failed=1)
    handed_out(job)
    job.receive([failed(0), done(0)], 0.0)
    assert job.newly_failed() == []
    assert job.done == 1


def test_a_part_whose_copy_runs_on_is_not_waited_for_once_it_is_set_aside():
    job = job_of(1, max_failed=1, attempts=1)
    handed_out(job)
    job.receive([Lost(0, DIED, again=False)], 0.0)
    assert list(job.errors) == [0]
    assert job.over


def test_a_job_may_end_with_the_parts_that_were_made_so_far():
    job = Job((Part(index, 0, index, 1) for index in count()), None, Rules(max_failed=1))
    job.receive([Joined("here", 2)], 0.0)
    out = handed_out(job)
    job.make_no_more()
    job.receive([failed(0), *map(done, out[1:])], 0.0)
    assert handed_out(job) == []
    assert job.over
    assert job.done == len(out) - 1


def test_parts_that_were_set_aside_are_not_taken_to_another_engine():
    job = job_of(5, max_failed=1)
    handed_out(job)
    job.receive([failed(2)], 0.0)
    job.take_back_all()
    job.receive([Joined("there", 1)], 0.0)
    assert handed_out(job) == [0, 1, 3, 4]


def test_workers_that_do_not_start_stop_the_job_however_many_may_fail():
    job = job_of(100, max_failed=100, attempts=2)
    for _ in range(2):
        out = handed_out(job)
        job.receive([Lost(out[0], Cause("start", "killed"))], 0.0)
    assert isinstance(job.error, PartLost)
    job = job_of(3, max_failed=3)
    while not job.over:
        job.receive([Refused(tuple(handed_out(job)), "its code is another")], 0.0)
    assert isinstance(job.error, PartLost)


def test_batches_are_sized_for_the_parts_that_remain():
    job = Job(parts(1_000), 1_000, Rules(max_failed=1_000))
    job.receive([Joined("here", 1)], 0.0)
    for _ in range(3):  # parts are cheap
        job.receive([done(index, 1e-6) for index in handed_out(job)], 0.0)
    sizes = []
    while not job.over:
        batches = list(job.due(0.0))
        sizes += map(len, batches)
        job.receive([failed(part.index) for batch in batches for part in batch], 0.0)
    assert sizes[-1] == 1, "the last parts are spread over the slots"


def test_at_most_the_window_is_handed_out():
    job = job_of(1_000, slots=3)
    assert len(list(job.due(0.0))) == 2 * 3 + 8
    assert handed_out(job) == []


def test_parts_are_made_when_they_are_handed_out():
    made = []
    job = Job((made.append(index) or Part(index, 0, index, 1) for index in range(1_000)), 1_000, Rules())
    handed_out(job)
    assert len(made) <= 8


def test_batches_grow_while_parts_are_cheap_and_shrink_when_they_are_dear():
    job = job_of(100_000)
    sizes = []
    for seconds in [1e-6] * 6 + [1.0] * 3:
        batches = list(job.due(0.0))
        sizes.append(max(map(len, batches)))
        job.receive([done(part.index, seconds) for batch in batches for part in batch], 0.0)
    assert sizes[:5] == [1, 8, 64, 512, 1_000]
    assert sizes[-1] == 1


def test_a_lost_part_runs_again_alone_before_others():
    job = job_of(1_000)
    handed_out(job)
    job.receive([done(0, 1e-6), Lost(5, DIED)], 0.0)
    assert next(job.due(0.0)) == [Part(5, 1, 50, 10)]


def test_a_part_is_lost_for_good_after_its_attempts():
    job = job_of(3, attempts=3)
    for attempt in range(3):
        assert job.error is None
        assert 1 in handed_out(job)
        job.receive([Lost(1, Cause("died", f"signal {attempt}"))], 0.0)
    assert isinstance(job.error, PartLost)
    assert job.error.causes == ("signal 0", "signal 1", "signal 2")
    assert job.over
    assert handed_out(job) == []


def test_a_part_gets_two_attempts_at_a_limit():
    job = job_of(1)
    for _ in range(2):
        handed_out(job)
        job.receive([Lost(0, Cause("timeout", "too long"))], 0.0)
    assert isinstance(job.error, PartLost)


def test_handing_back_costs_no_attempt_but_has_an_end():
    job = job_of(1)
    for _ in range(RETURNS):
        assert handed_out(job) == [0]
        job.receive([Returned(0)], 0.0)
        assert job.error is None
    handed_out(job)
    job.receive([Returned(0)], 0.0)
    assert "handed back" in str(job.error)


def test_an_exception_ends_the_job_at_once_unless_retries_say_otherwise():
    job = job_of(3)
    handed_out(job)
    job.receive([Failed(1, "slot 1", Failure("ValueError: no", "trace", "x = 1"))], 0.0)
    assert isinstance(job.error, PartFailed)
    assert (job.error.index, job.error.offset, job.error.worker) == (1, 10, "slot 1")
    job = job_of(3, retries=1)
    handed_out(job)
    job.receive([Failed(1, "slot 1", Failure("ValueError"))], 0.0)
    assert job.error is None
    assert handed_out(job) == [1]


def test_a_result_that_comes_late_spares_the_second_run():
    job = job_of(2)
    handed_out(job)
    assert job.receive([Lost(0, DIED)], 0.0) == []
    assert [report.index for report in job.receive([done(0)], 0.0)] == [0]
    assert handed_out(job) == []
    assert job.receive([done(0)], 0.0) == []
    assert job.duplicates == 1


def test_a_slow_part_is_copied_once_when_a_slot_is_idle():
    job = job_of(8, slots=4)
    handed_out(job)
    job.receive([done(index, 0.1) for index in range(7)] + [Running(7, "here")], 10.0)
    assert handed_out(job, 10.0 + SLOW_SECONDS / 2) == []
    assert handed_out(job, 11.0) == [7]
    assert handed_out(job, 20.0) == []
    assert [report.index for report in job.receive([done(7)], 21.0)] == [7]
    assert job.superfluous() == [7]
    assert job.superfluous() == []
    assert job.over


def test_a_part_that_may_have_waited_for_a_slot_is_not_called_slow():
    job = job_of(4, slots=2)
    handed_out(job)
    job.receive([done(0, 10.0), done(1, 10.0), done(2, 10.0)], 30.0)
    assert handed_out(job, 31.0) == []  # part 3 was handed out at 0, and began at 20 at the earliest
    assert handed_out(job, 59.0) == []
    assert handed_out(job, 62.0) == [3]


def test_parts_that_waited_behind_a_dear_one_are_measured_anew():
    job = job_of(1_000, slots=2)
    for _ in range(3):
        job.receive([done(index, 0.0001) for index in handed_out(job)], 0.0)
    first, *others = job.due(0.0)
    assert len(first) > 10
    job.receive([done(part.index, 0.0001) for batch in others[1:] for part in batch], 0.5)
    job.receive([done(first[0].index, 5.0), *(Returned(part.index, alone=False) for part in first[1:])], 5.0)
    assert [part.index for batch in job.due(5.0) for part in batch if len(batch) == 1][:5] == [
        part.index for part in first[1:6]
    ]


def test_no_part_is_copied_without_backups():
    job = job_of(8, slots=4, backups=0)
    handed_out(job)
    job.receive([done(index, 0.1) for index in range(7)], 10.0)
    assert handed_out(job, 100.0) == []


def test_what_is_unfinished_can_be_taken_to_another_engine():
    job = job_of(20)
    handed_out(job)
    job.receive([done(0), done(3), Lost(1, DIED)], 0.0)
    job.take_back_all()
    job.receive([Joined("there", 1)], 0.0)
    again = []
    while not job.over:
        batch = handed_out(job)
        again += batch
        job.receive([done(index) for index in batch], 0.0)
    assert sorted(again) == sorted(set(range(20)) - {0, 3})


def test_no_parts_are_no_job():
    job = job_of(0)
    assert handed_out(job) == []
    assert job.over


def test_refused_parts_wait_for_those_who_take_others():
    job = job_of(3, slots=1)
    assert handed_out(job) == [0, 1, 2]
    job.receive([Refused((1, 2), "no")], 0.0)
    assert handed_out(job) == [], "somebody computes part 0, and has no slot for others"
    job.receive([done(0)], 0.0)
    assert handed_out(job) == [1, 2]
    assert job.receive([done(1), done(2)], 0.0)
    assert job.over
    assert job.error is None


def test_parts_that_everybody_refuses_end_the_job_with_the_reason_and_are_charged_with_nothing():
    job = job_of(3)
    for _ in range(REFUSALS + 1):
        assert handed_out(job) == [0, 1, 2]
        job.receive([Refused((0, 1, 2), "its code is another")], 0.0)
        assert not job.over
    assert handed_out(job) == []
    assert isinstance(job.error, PartLost)
    assert job.error.causes == ("its code is another",)
    assert job.lost == 0


def test_a_worker_that_joins_is_a_reason_to_hand_out_what_was_refused():
    job = job_of(1)
    for number in range(5 * REFUSALS):
        assert handed_out(job) == [0]
        job.receive([Refused((0,), "no"), Joined(f"worker {number}", 1)], 0.0)
    assert job.error is None


def test_a_refused_part_whose_result_comes_late_is_finished():
    job = job_of(1)
    handed_out(job)
    job.receive([Refused((0,), "no")], 0.0)
    assert job.receive([done(0)], 0.0)
    assert job.over


def test_children_that_come_up_nowhere_end_the_job_once_nobody_is_left():
    job = job_of(100)
    out = handed_out(job)
    for index in out[:5]:
        job.receive([Lost(index, Cause("start", f"cause {index}"))], 0.0)
        assert job.error is None, "a worker is there, which may do better"
    job.receive([Left("here")], 0.0)
    assert isinstance(job.error, PartLost)
    assert len(job.error.causes) == 5


def test_a_result_says_that_children_come_up_somewhere():
    job = job_of(100)
    out = handed_out(job)
    job.receive([Lost(index, Cause("start", "killed")) for index in out[:3]], 0.0)
    job.receive([done(out[4]), Lost(out[5], Cause("start", "killed")), Left("here")], 0.0)
    assert job.error is None


def test_a_report_of_no_kind_is_an_error():
    job = job_of(1)
    with pytest.raises(PymarError, match="what no job understands: 5"):
        job.receive([5], 0.0)


def test_a_result_of_a_part_that_does_not_wait_is_not_looked_for():
    """A flood of results that nobody wants takes a time of its length, however many parts wait."""

    class Unread(deque):
        def __iter__(self):
            raise AssertionError("the parts that wait were gone through")

    job = job_of(3, slots=1)
    handed_out(job)
    job.receive([Returned(1, alone=False)], 0.0)
    job._back = Unread(job._back)
    assert job.receive([done(99), done(-1), done(10_000)], 0.0) == []
    assert job.duplicates == 3
    job._back = deque([job._back.pop()])
    assert job.receive([done(1), done(1)], 0.0) == [done(1)]  # one that was given up, and has come all the same


def test_a_cancelled_part_is_over_and_what_comes_of_it_does_not_count():
    job = job_of(2)
    assert handed_out(job) == [0, 1]
    job.cancel(0)
    late = [Running(0, "a"), Lost(0, DIED), Failed(0, "a", Failure("ValueError")), Returned(0), done(0), done(1)]
    assert [report.index for report in job.receive(late, 1.0)] == [1]
    assert handed_out(job) == []
    assert job.over
    assert (job.done, job.error) == (1, None)


@pytest.mark.parametrize("report", [Lost(0, DIED), Returned(0), Returned(0, alone=False), Refused((0,), "busy", True)])
def test_a_part_that_waits_to_be_sent_again_can_be_cancelled(report):
    job = job_of(1)
    handed_out(job)
    job.receive([report], 0.0)
    job.cancel(0)
    assert handed_out(job) == []
    assert job.over
    assert job.receive([done(0)], 0.0) == []


def test_a_cancelled_part_makes_room_for_others():
    job = job_of(100, slots=1)
    sent = handed_out(job)
    for index in sent:
        job.cancel(index)
    assert len(handed_out(job)) == len(sent)
