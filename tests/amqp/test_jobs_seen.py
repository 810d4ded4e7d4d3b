"""`pymar jobs` shows what runs, by the jobs' own numbers, and `pymar cancel` ends it: real agents, real producers."""

import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from amqp_jobs import executions
from broker import FAST
from conftest import is_running, wait_until
from watching import ANSWER, FILE, PATIENCE, answer, begun, serve, submitted

from pymar import Executor
from pymar.amqp import protocol, wire
from pymar.amqp.jobs import jobs_of
from pymar.amqp.keys import Keys, keys_of, new_key
from pymar.amqp.producer.engine import end_all
from pymar.exceptions import JobCancelled

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("empty_queue")]

HOST = socket.gethostname()
PRODUCER = """
import json, sys
from pymar.amqp import timing
vars(timing).update(json.loads(sys.argv[1]))
sys.path.insert(0, sys.argv[2])
from amqp_jobs import *
from pymar import DataSourceFactory
url, checkpoint = sys.argv[3:5]
for text in sys.argv[5:]:
    name, _, value = text.partition("=")
    setattr(Watched, name, type(getattr(Watched, name))(value))
print(Watched(mq_server=url).map(DataSourceFactory(Steps), checkpoint=checkpoint or None)[0])
"""


@pytest.fixture(autouse=True)
def a_session_of_its_own():
    end_all()
    yield
    end_all()


@pytest.fixture
def producer(broker, watched):
    """Start producers in processes of their own: part 3 of each takes an hour. They end with the test."""
    started = []

    def start(checkpoint="", environ=(), **settings):
        given = {"folder": watched, "slow": 60, "slow_seconds": 3_600.0, **settings}
        command = [sys.executable, "-c", PRODUCER, json.dumps(FAST), str(FILE.parent), f"127.0.0.1:{broker.port}"]
        command += [str(checkpoint), *(f"{name}={value}" for name, value in given.items())]
        environ = {**os.environ, **dict(environ)}
        started.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
        )
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.send_signal(signal.SIGCONT)
            one.kill()
            one.communicate()


@pytest.fixture
def pymar(broker):
    """Run a command on the broker."""

    def run(*words, **environ):
        command = [
            str(Path(sys.executable).parent / "pymar"),
            *map(str, words),
            "-q",
            f"127.0.0.1:{broker.port}",
            "--wait",
            "0.3",
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environ})

    return run


def jobs(broker, keys=None):
    """The jobs that are there now."""
    from pymar.amqp.address import parse

    return jobs_of(parse(f"127.0.0.1:{broker.port}"), keys or Keys(), 0.3).jobs


def only(broker, is_so, what):
    """Wait until there is one job of which something is true, and return it."""

    def found():
        there = jobs(broker)
        return there[0] if len(there) == 1 and is_so(there[0]) else None

    return wait_until(found, what)


def pids_of(folder, part):
    return [int(path.name.split("-")[1]) for path in folder.glob(f"{part}-*")]


def test_a_job_is_shown_by_its_own_numbers_to_people_and_programs(broker, agents, watched, producer, pymar):
    agent = serve(agents)
    one = producer()
    only(broker, lambda job: job.done == 19, "all parts but the slow one")
    before = time.time()
    shown = json.loads(pymar("jobs", "--json").stdout)
    (job,) = shown["jobs"]
    assert job["parts"] == {
        "done": 19,
        "running": 1,
        "left": 1,
        "failed": 0,
        "lost": 0,
        "set_aside": 0,
        "total": 20,
    }
    assert (job["name"], job["state"], job["host"], job["pid"]) == ("Watched", "runs", HOST, one.pid)
    assert job["user"] == protocol.whose(protocol.job_queue("h", 1, "x", _me())).user
    assert job["workers"] == [{"name": f"{HOST} {agent.pid}", "slots": 2, "running": 1}]
    assert job["slots"] == 2
    assert before - 60 < job["since_seconds"] <= before
    since = datetime.datetime.fromisoformat(job["since"]).timestamp()
    assert abs(since - job["since_seconds"]) < 0.01
    assert 0 < job["seconds"] < 60
    assert job["parts_a_second"] > 0
    assert re.fullmatch("[0-9a-f]{32}", job["id"])
    (worker,) = json.loads(pymar("status", "--json").stdout)["workers"]
    assert (worker["name"], worker["slots"], worker["running"]) == (f"{HOST} {agent.pid}", 2, 1)
    assert [(held["id"], held["name"], held["pid"]) for held in worker["jobs"]] == [(job["id"], "Watched", one.pid)]
    text = pymar("jobs").stdout
    assert re.search(rf"{job['id'][:8]} +Watched +.*at {HOST}, pid {one.pid} +19 of 20 +1 +1 ", text), text
    assert f"{HOST} {agent.pid} (1 of 2 slots)" in text


def _me():
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def test_numbers_of_a_job_that_goes_on_from_its_checkpoint_are_right(broker, agents, watched, producer, tmp_path):
    serve(agents)
    first = producer(tmp_path / "run.ckpt")
    only(broker, lambda job: job.done == 19, "all parts but the slow one")
    first.terminate()
    first.communicate(timeout=PATIENCE)
    wait_until(lambda: not jobs(broker), "the end of the job")
    for path in watched.glob("60-*"):
        path.unlink()  # that part is slow again
    second = producer(tmp_path / "run.ckpt")
    job = only(broker, lambda job: job.running == 1, "the slow part")
    assert (job.done, job.left, job.total, job.rate) == (19, 1, 20, 0.0)
    assert second.poll() is None


def test_a_job_that_waits_for_workers_is_shown_with_the_reason(broker, watched, agents, producer, pymar):
    one = producer()
    job = only(broker, lambda job: job.waits, "the job, which no worker computes")
    assert (job.state, job.done, job.slots, job.workers) == ("waits", 0, 0, ())
    shown = pymar("jobs")
    assert f"job {job.short} of Watched" in shown.stdout
    assert "waits: there is no worker of the pool Watched" in shown.stdout
    assert one.poll() is None


def test_several_jobs_of_several_producers_are_told_apart(broker, agents, watched, producer, settings, pymar, tmp_path):
    serve(agents)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        producer(folder=tmp_path / name)
    settings(folder=str(watched), seconds=3_600.0)
    futures = [submitted(broker), submitted(broker)]
    wait_until(lambda: len(jobs(broker)) == 4, "four jobs")
    there = jobs(broker)
    assert len({job.id for job in there}) == 4
    assert len({job.whose.pid for job in there}) == 3
    assert [job.since for job in there] == sorted(job.since for job in there)
    done = pymar("cancel", there[0].id)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: {job.id for job in jobs(broker)} == {job.id for job in there[1:]}, "the end of that one alone")
    for future in futures:
        future.cancel()


def test_a_cancelled_job_ends_with_one_line_and_keeps_its_checkpoint(
    broker, agents, watched, producer, pymar, tmp_path
):
    serve(agents)
    one = producer(tmp_path / "run.ckpt")
    job = only(broker, lambda job: job.done == 19, "all parts but the slow one")
    (slow,) = pids_of(watched, 60)
    done = pymar("cancel", job.short)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"job {job.short} of Watched" in done.stdout
    assert "cancelled" in done.stdout
    out, err = one.communicate(timeout=PATIENCE)
    assert (one.returncode, out) == (1, "")
    (line,) = [line for line in err.splitlines() if "cancelled" in line]
    assert f"by {_me()} at {HOST}" in line
    assert "19 parts of 20 were done" in line
    assert "run.ckpt" in line
    assert "Traceback" not in err
    wait_until(lambda: not is_running(slow), "the end of the slow part")
    again = producer(tmp_path / "run.ckpt", slow=-1)
    out, err = again.communicate(timeout=PATIENCE)
    assert again.returncode == 1, "another setting is another job"
    assert "CheckpointMismatch" in err


def test_a_program_may_catch_that_its_job_was_cancelled(broker, agents, watched, settings, pymar):
    serve(agents)
    settings(folder=str(watched), slow=60, slow_seconds=3_600.0)
    future = submitted(broker)
    job = only(broker, lambda job: job.done == 19, "all parts but the slow one")
    assert pymar("cancel", job.short).returncode == 0
    with pytest.raises(JobCancelled, match=f"at {HOST}") as caught:
        future.result(PATIENCE)
    assert caught.value.who.endswith(f"at {HOST}")
    settings(slow=-1)
    assert answer(submitted(broker)), "the next job of the same process runs"


def test_the_calls_of_an_executor_end_with_its_job(broker, agents, producer, pymar, monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", key := new_key())
    agents.start("--pool", "lab", "-w", "1")
    keys = keys_of({"PYMAR_KEY": key})
    with Executor(f"amqp://127.0.0.1:{broker.port}?pool=lab") as executor:
        future = executor.submit(time.sleep, 3_600)
        job = wait_until(lambda: next((job for job in jobs(broker, keys) if job.running), None), "the call")
        assert (job.name, job.done, job.left) == ("Executor", 0, None)
        assert pymar("cancel", job.short).returncode == 0
        with pytest.raises(JobCancelled):
            future.result(PATIENCE)


@pytest.mark.parametrize("start", ["", "zz", "0" * 32])
def test_an_unknown_job_is_not_cancelled_and_the_others_are_named(broker, agents, watched, producer, pymar, start):
    serve(agents)
    one = producer()
    job = only(broker, lambda job: job.done == 19, "all parts but the slow one")
    done = pymar("cancel", start)
    assert done.returncode == 1
    assert str(job) in done.stderr
    assert one.poll() is None


def test_a_producer_that_has_died_is_shown_and_its_parts_are_dropped(broker, agents, watched, producer, pymar):
    agent = serve(agents, times={**FAST, "PRODUCER_SILENT": 100.0})
    one = producer()
    job = only(broker, lambda job: job.done == 19, "all parts but the slow one")
    (slow,) = pids_of(watched, 60)
    one.kill()
    one.communicate()
    dead = only(broker, lambda job: not job.answers, "the job without its producer")
    assert (dead.id, dead.name, dead.whose, dead.running, dead.state) == (job.id, "Watched", job.whose, 1, "silent")
    assert dead.workers[0].name == f"{HOST} {agent.pid}"
    assert f"pymar cancel {job.short}" in pymar("jobs").stdout
    done = pymar("cancel", job.short)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dropped" in done.stdout
    assert not jobs(broker)
    wait_until(lambda: not is_running(slow), "the end of the slow part")


def test_a_stopped_producer_is_cancelled_when_it_goes_on(broker, agents, watched, producer, pymar):
    serve(agents)
    one = producer()
    job = only(broker, lambda job: job.done == 19, "all parts but the slow one")
    one.send_signal(signal.SIGSTOP)
    done = pymar("cancel", job.short)
    assert done.returncode == 0, done.stderr
    one.send_signal(signal.SIGCONT)
    _, err = one.communicate(timeout=PATIENCE)
    assert "cancelled by" in err
    assert one.returncode == 1


def test_who_has_another_key_sees_and_ends_nothing(broker, agents, watched, producer, pymar):
    key = new_key()
    serve(agents, environ={"PYMAR_KEY": key})
    one = producer(environ={"PYMAR_KEY": key})
    begun(watched, 19)
    seen = json.loads(pymar("jobs", "--json", PYMAR_KEY=key).stdout)["jobs"]
    for environ in ({}, {"PYMAR_KEY": new_key()}):
        shown = pymar("jobs", "--json", **environ)
        assert json.loads(shown.stdout)["jobs"] == []
        assert pymar("cancel", seen[0]["id"], **environ).returncode == 1
    assert one.poll() is None
    assert pymar("cancel", seen[0]["id"], PYMAR_KEY=key).returncode == 0
    one.communicate(timeout=PATIENCE)


def test_a_recorded_message_ends_no_other_job(broker, agents, watched, producer):
    """It is for one job, good once, and for five minutes."""
    key = keys_of({"PYMAR_KEY": new_key()})
    text = key._secrets[0].decode()
    serve(agents, environ={"PYMAR_KEY": text})
    one = producer(environ={"PYMAR_KEY": text})
    begun(watched, 19)
    (job,) = wait_until(lambda: jobs(broker, key), "the job")
    number = bytes.fromhex(job.id)
    old = protocol.EndJob(number, "somebody", "", [time.time() - 400, b"nonce"])
    with broker.channel() as channel:
        for body in (
            wire.encode(old, "", key, protocol.PRODUCERS),
            wire.encode(old._replace(fresh=wire.fresh()), "", key, protocol.CONTROL),
            wire.encode(old._replace(fresh=wire.fresh()), "", Keys(), protocol.PRODUCERS),
        ):
            channel.basic_publish(protocol.PRODUCERS, "", body)
    wait_until(lambda: jobs(broker, key), "an answer, which comes after those")
    assert one.poll() is None


def test_ask_a_broker_where_nothing_runs(broker, pymar):
    shown = pymar("jobs")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "no job runs" in shown.stdout
    assert json.loads(pymar("jobs", "--json").stdout) == {"jobs": [], "refused": []}
    done = pymar("cancel", "1234")
    assert done.returncode == 1
    assert "1234" in done.stderr
    assert "Traceback" not in done.stderr


def test_each_execution_is_counted_once_though_a_job_is_asked_for_all_the_time(broker, agents, watched, producer):
    serve(agents)
    one = producer(slow=-1, seconds=0.05)
    while one.poll() is None:  # its end is what a wait would wait for
        for job in jobs(broker):
            assert job.left is None or (job.left, job.total) == (20 - job.done, 20)
    assert one.communicate()[0] == f"{ANSWER}\n"
    assert set(executions(watched).values()) == {1}
