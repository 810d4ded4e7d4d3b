"""Jobs that end, or wait, in the wrong way: whose producer has gone, or that no worker can serve. Logs say so."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from amqp_jobs import executions
from broker import FAST
from conftest import children_of, is_running, wait_until
from watching import ANSWER, FILE, PATIENCE, PRODUCER_SILENT, answer, begun, serve, submitted

from pymar.amqp import protocol
from pymar.amqp import timing as times
from pymar.amqp.keys import new_key
from pymar.amqp.producer import waiting
from pymar.amqp.producer.engine import end_all

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("empty_queue", "log_of_the_producer")]

#: Agents that soon believe that a producer is dead.
SOON = {**FAST, "PRODUCER_SILENT": 2.0}


@pytest.fixture(autouse=True)
def a_session_of_its_own():
    """One that has lived before this test may have a tick to come that is not of FAST."""
    end_all()
    yield
    for one in _producers:
        if one.poll() is None:
            one.kill()
            one.communicate()
    _producers.clear()


#: Those that a test has started: they end with it, whatever came of it.
_producers = []

PRODUCER = """
import json, sys
from pymar.amqp import timing
from pymar.amqp.link import client
vars(timing).update(json.loads(sys.argv[1]))
sys.path.insert(0, sys.argv[2])
from amqp_jobs import *
how, url = sys.argv[3:5]
for text in sys.argv[5:]:
    name, _, value = text.partition("=")
    setattr(Watched, name, type(getattr(Watched, name))(value))
job, factory = Watched(mq_server=url), DataSourceFactory(Steps)
if how == "map":
    print("answer", job.map(factory)[0])
if how == "partials":
    found = job.partials(factory)
    next(found)
if how == "closed":
    found = job.partials(factory)
    next(found)
    found.close()
if how == "submit":
    future = job.submit(factory)
    while not os.listdir(Watched.folder):
        time.sleep(0.01)  # between two looks; the test that waits has a deadline
"""


def producer(broker, how, **settings):
    """A producer in a process of its own."""
    import json

    given = [f"{name}={value}" for name, value in settings.items()]
    url = f"127.0.0.1:{broker.port}"
    command = [sys.executable, "-c", PRODUCER, json.dumps(FAST), str(FILE.parent), how, url, *given]
    _producers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return _producers[-1]


def parts_of(agent, folder):
    """The worker processes that have begun a part."""
    return {int(path.name.split("-")[1]) for path in folder.iterdir()} & {*map(int, children_of(agent.pid))}


def test_the_parts_of_a_producer_that_is_killed_stop_and_others_take_their_slots(
    broker, agents, watched, settings, tmp_path
):
    agent = serve(agents, times=SOON)
    dies = producer(broker, "map", folder=watched, seconds=100.0)
    begun(watched, 2)
    pids = parts_of(agent, watched)
    assert len(pids) == 2
    dies.kill()
    dies.communicate()
    wait_until(lambda: not any(map(is_running, pids)), "the end of its parts")
    assert f"{PRODUCER_SILENT}, {socket.gethostname()} {dies.pid}" in agent.said()
    other = tmp_path / "other"
    other.mkdir()
    settings(folder=str(other))
    assert answer(submitted(broker)) == ANSWER


def test_a_producer_that_was_silent_for_a_while_loses_nothing(broker, agents, watched):
    agent = serve(agents, times=SOON)
    stopped = producer(broker, "map", folder=watched, seconds=0.3, ATTEMPTS=1)
    begun(watched, 4)
    stopped.send_signal(signal.SIGSTOP)
    wait_until(lambda: PRODUCER_SILENT in agent.said(), "the agent to stop its parts")
    count = sum(executions(watched).values())
    stopped.send_signal(signal.SIGCONT)
    out, err = stopped.communicate(timeout=PATIENCE)
    assert out == f"answer {ANSWER}\n", err
    assert sum(executions(watched).values()) <= 20 + 2, "what ran when it was stopped may run again"
    assert count < 20


def test_a_producer_that_is_cut_off_for_a_while_loses_nothing(broker, agents, watched, proxy):
    agent = serve(agents, times=SOON)
    cut = producer(_Behind(proxy.port), "map", folder=watched, seconds=0.3, ATTEMPTS=1)
    begun(watched, 4)
    proxy.flowing.clear()
    wait_until(lambda: PRODUCER_SILENT in agent.said(), "the agent to stop its parts")
    proxy.flowing.set()
    proxy.reset()
    out, err = cut.communicate(timeout=PATIENCE)
    assert out == f"answer {ANSWER}\n", err
    assert sum(executions(watched).values()) <= 20 + 4


class _Behind:
    """A broker, by the port of what stands before it."""

    def __init__(self, port):
        self.port = port


def test_a_part_that_takes_long_is_not_stopped_while_its_producer_lives(broker, agents, watched, settings):
    settings(seconds=3.0, WORKERS_NUMBER=2)
    agent = serve(agents, times=SOON)
    assert answer(submitted(broker)) == ANSWER
    assert PRODUCER_SILENT not in agent.said()
    assert set(executions(watched).values()) == {1}


def test_a_job_that_waits_behind_anothers_parts_logs_whose_they_are(broker, agents, watched, caplog):
    agent = serve(agents)
    other = producer(broker, "map", folder=watched, seconds=100.0)
    begun(watched, 2)
    future = submitted(broker)
    host = socket.gethostname()
    whose = re.compile(rf"Watched: all slots are busy with job \w+ of Watched .*{host}, pid {other.pid}\).*{agent.pid}")
    wait_until(lambda: whose.search(caplog.text), "the producer to log whose")
    command = [str(Path(sys.executable).parent / "pymar"), "status", "-q", f"127.0.0.1:{broker.port}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert re.search(rf"\(job \w+ of Watched \(.*at {host}, pid {other.pid}\)", shown.stdout), shown.stdout
    other.kill()
    other.communicate()
    agent.kill()
    serve(agents, "--purge-queue")
    assert answer(future) == ANSWER


def test_consumers_with_another_key_are_logged_with_a_remedy(broker, agents, watched, monkeypatch, caplog):
    monkeypatch.setattr(waiting, "LOG_WAITING_AFTER", 0.3)
    monkeypatch.setattr(times, "PROBE_AFTER", 0.5)
    monkeypatch.setattr(times, "LONGEST_PROBE", 1.0)
    other = agents.start(FILE, "-p", "Watched", "-w", "2", environ={"PYMAR_KEY": new_key()})
    future = submitted(broker)
    wait_until(lambda: "2 consumers" in caplog.text, "the producer to log them")
    assert re.search(r"2 consumers .*pool Watched, code .* another key .*`pymar doctor`", caplog.text)
    other.kill()  # which takes parts, and drops them
    serve(agents)
    assert answer(future) == ANSWER


@pytest.mark.parametrize("how", ["partials", "submit", "closed"])
def test_a_script_that_ends_in_the_middle_blocks_no_slot(broker, agents, watched, settings, how):
    # An agent tries a queue of results that is not there for GIVE_UP_AFTER, unless it has received the end of the job.
    agent = serve(agents, times={**FAST, "GIVE_UP_AFTER": 100.0})
    ends = producer(broker, how, folder=watched, seconds=0.05)
    _, err = ends.communicate(timeout=PATIENCE)
    assert ends.returncode == 0, err
    assert bool(re.search(r"script .* Watched", err)) == (how != "closed"), err
    settings(folder="")
    assert answer(submitted(broker)) == ANSWER
    assert agent.process.poll() is None
    assert not [queue for queue in broker.queues("pymar.job.") if f".{ends.pid}." in queue]


def test_the_queue_of_results_names_its_producer():
    queue = protocol.job_queue("über.example.org", 4711, os.urandom(12).hex())
    assert protocol.producer_of(queue) == "-ber-example-org 4711"
    for other in ("", "amq.gen-x", "pymar.job.0123", "a.b.c.d.e", "pymar.job.\x1b[2J.12x.y"):
        assert protocol.producer_of(other) == "an unknown producer"


def test_an_agent_of_another_python_does_not_begin_a_job_that_it_knows(broker, agents, watched, monkeypatch, caplog):
    """It has computed the same classes for a producer of its own version, and still asks what this job is."""
    from pymar.amqp.producer import run

    agent = serve(agents)
    assert answer(submitted(broker)) == ANSWER
    before = sum(executions(watched).values())
    end_all()
    monkeypatch.setattr(run, "python_version", lambda: "3.99")
    future = submitted(broker)
    wait_until(lambda: "Python 3.99" in caplog.text, "the producer to refuse it")
    assert re.search(rf"worker {socket.gethostname()} {agent.pid} .*Python 3\.", caplog.text)
    assert sum(executions(watched).values()) == before
    monkeypatch.undo()
    serve(agents)
    assert not future.done() or answer(future) == ANSWER
