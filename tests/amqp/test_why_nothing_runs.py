"""Why no worker computes a job: its producer logs it and `pymar doctor FILE` says it; with real agents."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from broker import FAST
from conftest import wait_until
from watching import FILE, begun, serve, submitted

from pymar.amqp import protocol
from pymar.amqp.address import parse
from pymar.amqp.doctor import Target, examined
from pymar.amqp.keys import keys_of, new_key
from pymar.amqp.producer import waiting
from pymar.amqp.producer.engine import end_all
from pymar.version import __version__

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("empty_queue")]

HOST = socket.gethostname()
KEY, OTHER = new_key(), new_key()


@pytest.fixture(autouse=True)
def soon(monkeypatch, caplog):
    """What a job waits for is logged soon, and each test has a session of its own."""
    caplog.set_level(logging.INFO, logger="pymar")
    monkeypatch.setattr(waiting, "LOG_WAITING_AFTER", 0.3)
    end_all()
    yield
    end_all()


@pytest.fixture
def doctor(broker, capsys):
    """What `pymar doctor` says of something, in this process, with the keys of this process."""

    def say(text="", pool=""):
        capsys.readouterr()
        well = examined(lambda: (parse(f"127.0.0.1:{broker.port}"), keys_of()), Target(text, "", pool))
        said = " ".join(capsys.readouterr().out.split())
        assert well == ("wrong " not in said)
        return said

    return say


@pytest.fixture
def logged(broker, caplog):
    """Submit the job, and wait until its producer logs this."""
    futures = []

    def wait(pattern):
        futures.append(submitted(broker))
        return wait_until(lambda: re.search(pattern, caplog.text), f"the producer to log {pattern!r}")

    yield wait
    for future in futures:
        future.cancel()


def test_no_worker(broker, agents, watched, logged, doctor):
    assert logged(
        r"Watched waits: there is no worker of the pool Watched \(code \w+\) at .*pymar worker -f \S+amqp_jobs"
    )
    assert "Watched: there is no worker of the pool Watched" in doctor(str(FILE))
    serve(agents)
    assert re.search(r"ok +Watched: 1 workers with 2 slots serve its pool", doctor(str(FILE)))


@pytest.mark.parametrize(
    ("here", "there", "says"),
    [
        (KEY, OTHER, "they have another key, or are stopped"),
        (KEY, "", "they have no key, and this process has one"),
        ("", KEY, "they have another key than this process, which has none"),
    ],
    ids=["another", "only here", "only there"],
)
def test_a_key_that_differs(broker, agents, watched, logged, doctor, monkeypatch, here, there, says):
    monkeypatch.setenv("PYMAR_KEY", here)
    serve(agents, environ={"PYMAR_KEY": there})
    assert says in doctor(str(FILE))
    assert logged(rf"Watched: 2 consumers .* and none answers: {says}")


def test_another_file_and_the_line_in_which_it_differs_first(broker, agents, watched, logged, doctor, tmp_path):
    lines = FILE.read_text().splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines, 1) if "yield sum(numbers)" in line)
    lines[number - 1] = lines[number - 1].replace("sum(numbers)", "sum(numbers) + 1")
    other = tmp_path / "amqp_jobs.py"
    other.write_text("".join(lines))
    agent = agents.start(other, "-p", "Watched", "-w", "2")
    says = rf"{HOST} {agent.pid} serves the pool Watched with other code: .*line {number} differs first"
    assert re.search(says, doctor(str(FILE)))
    assert logged(says)


def test_another_version_of_pymar(broker, watched, logged, doctor, tmp_path):
    """As far as that can be had here: its messages have the version before."""
    code = f"from pymar.amqp import protocol; protocol.VERSION = {protocol.VERSION - 1}; import pymar.cli as cli; "
    command = [sys.executable, "-c", code + "cli.worker.main()", str(FILE), "-p", "Watched", "-w", "2"]
    log = tmp_path / "old.log"
    with open(log, "w") as out:
        old = subprocess.Popen([*command, "-q", f"127.0.0.1:{broker.port}"], stdout=out, stderr=out)
    try:
        wait_until(lambda: "serving the pool" in log.read_text(), "the worker")
        says = f"they have another version of Pymar. Install {__version__} on all hosts"
        assert says in doctor(str(FILE))
        assert logged(re.escape(says))
    finally:
        old.send_signal(signal.SIGTERM)
        old.wait(30)


def test_another_python_of_a_pool(broker, agents, doctor, monkeypatch, script, tmp_path):
    """The name of its queue has the version in it; it is asked all the same, and named."""
    monkeypatch.setenv("PYMAR_KEY", KEY)
    agent = agents.start("--pool", "lab", "-w", "1")
    assert "lab: 1 workers with 1 slots serve its pool" in doctor(pool="lab")
    for module in ("protocol", "doctor"):
        monkeypatch.setattr(f"pymar.amqp.{module}.python_version", lambda: "3.99")
    here = "{}.{}".format(*sys.version_info)
    says = f"the worker {HOST} {agent.pid} has Python {here}, and this process 3.99: it is left out"
    assert says in doctor(pool="lab")
    done = script(
        "import pymar, sys\n"
        "from pymar.amqp import protocol\n"
        "from pymar.amqp.producer import run, waiting\n"
        "for module in (protocol, run, waiting):\n"
        "    module.python_version = lambda: '3.99'\n"
        f"pymar.map(abs, [1], engine='amqp://127.0.0.1:{broker.port}?pool=lab', timeout=4, on_timeout='fail')\n",
        check=False,
    )
    assert says in done.stderr


def test_slots_that_are_busy_for_a_producer_that_is_dead(broker, agents, watched, logged, doctor, monkeypatch):
    monkeypatch.setattr(protocol, "SILENT", 1.0)
    agent = serve(agents, times={**FAST, "PRODUCER_SILENT": 100.0})
    code = (
        f"import sys; sys.path.insert(0, {str(FILE.parent)!r})\n"
        "from amqp_jobs import *\n"
        f"Watched.folder, Watched.seconds = {str(watched)!r}, 3_600.0\n"
        f"Watched(mq_server='127.0.0.1:{broker.port}').map(DataSourceFactory(Steps))"
    )
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ}) as other:
        begun(watched, 2)
        other.kill()
    busy = rf"all slots are busy with job \w{{8}} of Watched \(\S+ at {HOST}, pid {other.pid}"
    assert logged(busy)
    unheard = rf"{busy}; its producer has not been heard for \d+ s\), on the workers {HOST} {agent.pid}"
    assert wait_until(lambda: re.search(unheard, doctor(str(FILE))), "that to be said")


def test_a_broker_that_takes_no_messages(broker, agents, watched, logged, caplog, settings):
    serve(agents)
    settings(folder=str(watched))
    broker.eval("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []})")
    try:
        assert logged("Watched: the broker takes no messages: .*memory")
    finally:
        broker.eval("rabbit_alarm:clear_alarm({resource_limit, memory, node()})")


def test_a_job_that_runs_and_one_that_waits_by_their_ids(broker, agents, watched, settings, doctor):
    settings(folder=str(watched), slow=60, slow_seconds=3_600.0)
    from pymar.amqp.jobs import jobs_of
    from pymar.amqp.keys import Keys

    def job(is_so):
        there = jobs_of(parse(f"127.0.0.1:{broker.port}"), Keys(), 0.3).jobs
        return there[0] if there and is_so(there[0]) else None

    future = submitted(broker)
    waits = wait_until(lambda: job(lambda job: job.waits), "the job to wait")
    assert f"{waits} waits: there is no worker of the pool Watched" in doctor(waits.short)
    serve(agents)
    wait_until(lambda: job(lambda job: job.done == 19), "all parts but the slow one")
    assert f"ok {waits} runs: 1 parts on 1 workers" in doctor(waits.short)
    assert "no job" in doctor("1234567890")
    future.cancel()
