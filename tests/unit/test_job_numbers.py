"""What `pymar jobs` makes of answers, and how the rate of a job is taken: without a broker."""

import pytest

from pymar.amqp import protocol
from pymar.amqp.jobs import Found, Job, Worker, as_json, joined, named
from pymar.amqp.producer.pace import Pace
from pymar.amqp.status import utc
from pymar.cli.jobs import _show
from pymar.events import JobProgress
from pymar.exceptions import UsageError

QUEUE = protocol.job_queue("node7", 4711, "x" * 24, "alice")
WHOSE = protocol.Whose("alice", "node7", 4711)


def number(start):
    return bytes.fromhex(start) + bytes(14)


def answer(*ids, total=10, waits="", since=100.0):
    rows = [[one, "Name", "pool", "code", since, 3, 2, 0, 0, 1, total, 8, 1.5, waits] for one in ids]
    return protocol.Jobs(QUEUE, 130.0, rows, [[one, "node1 5", 4, 2] for one in ids])


def here(name, *holds):
    agent = protocol.Agent(name.encode(), name, "queue", 4)
    return protocol.Here(agent, "pool", "code", "path", "3.11", 1, 1, [*holds], 0.0)


def test_a_producers_numbers_are_taken_as_they_are():
    (job,) = joined([answer(number("aa00"))], [])
    assert (job.done, job.running, job.left, job.total, job.set_aside) == (3, 2, 6, 10, 1)
    assert (job.seconds, job.state, job.whose, job.workers) == (30.0, "runs", WHOSE, (Worker("node1 5", 4, 2),))
    assert str(job) == "job aa000000 of Name (alice at node7, pid 4711)"


def test_what_is_not_known_is_null():
    (job,) = joined([answer(number("aa00"), total=-1)], [])
    assert (job.total, job.left) == (None, None)
    (silent,) = joined([], [here("node1 5", [number("aa00"), "", QUEUE, 1, 0, 8.0])])
    found = as_json(silent)
    assert (found["since"], found["since_seconds"], found["parts"]["done"], found["state"]) == (
        None,
        None,
        None,
        "silent",
    )


def test_a_job_whose_producer_answers_is_not_silent_whatever_workers_say():
    (job,) = joined([answer(number("aa00"))], [here("node1 5", [number("aa00"), "Name", QUEUE, 1, 0, 99.0])])
    assert job.answers
    assert job.unheard is None


def test_a_silent_job_has_what_all_its_workers_say():
    holds = [number("aa00"), "", QUEUE, 1, 0, 9.0], [number("aa00"), "Name", QUEUE, 2, 1, 8.0]
    (job,) = joined([], [here("node1 5", holds[0]), here("node2 6", holds[1])])
    assert (job.name, job.running, job.unheard, job.slots) == ("Name", 3, 8.0, 8)
    assert [worker.name for worker in job.workers] == ["node1 5", "node2 6"]


def test_jobs_are_named_by_a_start_that_one_of_them_has():
    jobs = joined([answer(number("aa00"), number("aabb"))], [])
    assert named(jobs, "aab") is jobs[1]
    assert named(jobs, " AAB ") is jobs[1]
    for start, says in (("aa", "give more of the id"), ("b", "no job"), ("", "no job")):
        with pytest.raises(UsageError, match=says):
            named(jobs, start)
    with pytest.raises(UsageError, match="another broker, or another key"):
        named([], "aa")


def test_the_names_of_the_json_stay():
    (job,) = joined([answer(number("aa00"), waits="no worker")], [])
    assert as_json(job) == {
        "id": "aa00" + "00" * 14,
        "name": "Name",
        "state": "waits",
        "user": "alice",
        "host": "node7",
        "pid": 4711,
        "pool": "pool",
        "code": "code",
        "since": "1970-01-01T00:01:40.000+00:00",
        "since_seconds": 100.0,
        "seconds": 30.0,
        "parts": {"done": 3, "running": 2, "left": 6, "failed": 0, "lost": 0, "set_aside": 1, "total": 10},
        "parts_a_second": 1.5,
        "slots": 8,
        "workers": [{"name": "node1 5", "slots": 4, "running": 2}],
        "waits_for": "no worker",
        "producer_unheard_seconds": None,
    }


def test_a_time_that_no_calendar_has_is_no_fault():
    (job,) = joined([answer(number("aa00"), since=1e12)], [])
    assert as_json(job)["since"] is None
    _show(Found([job], []), "amqp://broker:5672")
    assert utc(-1e12) is None


def test_the_rate_is_that_of_the_last_half_minute_without_what_a_checkpoint_had():
    pace = Pace(0.0, 1_000.0)
    assert pace.rate(0.0) == 0.0
    for second in range(1, 101):
        pace.note(JobProgress(50 + second, 1, 0, 0, 1_000, recalled=50), float(second))
    assert pace.rate(100.0) == pytest.approx(1.0)
    for second in range(101, 141):
        pace.note(JobProgress(150, 1, 0, 0, 1_000, recalled=50), float(second))
    assert pace.rate(140.0) == 0.0
    assert pace.progress.done == 150


def test_whose_a_job_is_stands_in_the_name_of_its_queue():
    assert protocol.whose(QUEUE) == WHOSE
    assert protocol.whose(protocol.job_queue("a.b", 7, "x", "bob jones")) == protocol.Whose("bob-jones", "a-b", 7)
    for other in ("", "pymar.job", "a.b.c.d.e", "pymar.job.h.-1.x.u", "pymar.job.h.12345678901.x.u"):
        assert not protocol.whose(other).host


def test_a_silent_producer_is_said_to_be_silent():
    row = [number("aa00"), "Name", QUEUE, 1, 0, 8.4]
    assert protocol.held_text(row) == (
        "job aa000000 of Name (alice at node7, pid 4711; its producer has not been heard for 8 s)"
    )
    assert "heard" not in protocol.held_text([*row[:5], 3.0])
    assert str(Job("aa" * 16, "", protocol.Whose("", "", 0), False)).endswith("(an unknown producer)")
