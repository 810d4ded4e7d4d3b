"""What parts print on other hosts is shown at the producer: with part and host, in order, bounded and counted."""

import re
import socket
import time
from pathlib import Path

import loud_jobs
import pytest
from conftest import wait_until
from links import Tap, message_in
from loud_jobs import FACTORY, Loud, Numbers

from pymar.amqp import protocol, wire
from pymar.amqp.agent.relay import BURST, LINES_A_SECOND
from pymar.amqp.keys import Keys, new_key
from pymar.amqp.producer.engine import end_all, session
from pymar.exceptions import PartFailed, PartLost
from pymar.slots.output import wait_until_written

FILE = Path(loud_jobs.__file__)
HOST = socket.gethostname()
ANSWER = sum(range(Numbers.length))


@pytest.fixture
def loud(monkeypatch, tmp_path):
    """Set attributes of the job."""

    def put(how, **values):
        for name, value in {"how": how, "folder": str(tmp_path), **values}.items():
            monkeypatch.setattr(Loud, name, value)

    return put


@pytest.fixture
def shown(capfd):
    """Return the lines on stderr so far, once all are written."""

    def lines():
        end_all()  # the jobs before are closed: their last lines are written
        wait_until_written()
        return capfd.readouterr().err.splitlines()

    return lines


def serve(agents, *options, **settings):
    return agents.start(FILE, "-p", "Loud", "-w", "2", *options, **settings)


def of_part(lines, index):
    return [line.partition("] ")[2] for line in lines if line.startswith(f"[part {index} @ {HOST}] ")]


def shown_and_dropped(lines):
    """Return the lines of parts, and how many others were dropped, as the last line says."""
    of_parts = [line for line in lines if line.startswith("[part ")]
    [dropped] = [line for line in lines if "dropped:" in line]
    return of_parts, int(re.match(rf"\[{HOST}\] ([\d,]+) lines were dropped", dropped)[1].replace(",", ""))


@pytest.fixture(params=["without a key", "with a key"])
def key(request, tmp_path, monkeypatch):
    if request.param == "with a key":
        path = tmp_path / "key"
        path.write_text(new_key())
        path.chmod(0o600)
        monkeypatch.setenv("PYMAR_KEY_FILE", str(path))


@pytest.mark.usefixtures("key")
def test_all_ways_to_print_are_shown_with_part_and_host(broker, agents, loud, shown):
    loud("hello")
    agent = serve(agents)
    assert Loud(engine=broker.engine()).map(FACTORY) == ANSWER
    lines = shown()
    for index in range(Numbers.length):
        mine = of_part(lines, index)
        texts = ["hello from {}", "to stderr {}", "logged {}", "warned {}", "C wrote {}", "no end {}"]
        for text in texts:
            assert any(line.endswith(text.format(index)) for line in mine), (text, lines)
        printed = [line for line in mine if re.match("hello|to std|logged|no end", line)]
        assert [line.split()[0] for line in printed] == ["hello", "to", "logged", "no"], "in the order of the part"
        assert f"[part {index}] hello from {index}" in agent.said(), "the log of the host has them too"


def test_control_sequences_do_not_reach_the_terminal(broker, agents, loud, shown):
    loud("hostile")
    serve(agents)
    assert Loud(engine=broker.engine()).map(FACTORY) == ANSWER
    lines = shown()
    assert len(lines) == Numbers.length
    for line in lines:
        assert line.isprintable()
        assert re.search(r"\\x07red \d", line), "its colours are left out"


def test_a_progress_bar_within_a_part_does_not_flood(broker, agents, loud, shown):
    loud("bar")
    serve(agents)
    assert Loud(engine=broker.engine()).map(FACTORY) == ANSWER
    for index, mine in enumerate([of_part(lines := shown(), 0), *(of_part(lines, index) for index in range(1, 4))]):
        assert mine[-2:] == ["100%|####|", f"after the bar {index}"]
        assert mine[0] == "0%|####|"
        assert len(mine) < 20, "500 states, in less than a second each"


def test_of_a_flood_each_line_is_shown_or_counted(broker, agents, loud, shown):
    loud("flood", lines=11_000)  # more than a part may print: its worker process drops and counts the others
    serve(agents)
    assert Loud(engine=broker.engine()).map(FACTORY) == ANSWER
    lines = shown()
    of_parts, number = shown_and_dropped(lines)
    assert BURST / 2 < len(of_parts) < BURST + 30 * LINES_A_SECOND
    assert len(of_parts) + number == Numbers.length * 11_000
    for index in range(Numbers.length):
        numbers = [int(line.split()[2]) for line in of_part(lines, index)]
        assert numbers == sorted(numbers), "the order of a process is kept"


def test_the_last_lines_before_a_failure_come_before_it(broker, agents, loud, shown, monkeypatch):
    loud("fails")
    monkeypatch.setattr(Numbers, "length", 1)
    serve(agents)
    with pytest.raises(PartFailed):
        Loud(engine=broker.engine()).map(FACTORY)
    wait_until_written()
    lines = shown()
    assert of_part(lines, 0)[-2:] == ["line 0 999", "about to fail"]


def test_the_last_lines_of_a_process_that_dies_come_before_the_loss(broker, agents, loud, capfd, monkeypatch):
    loud("dies")
    monkeypatch.setattr(Numbers, "length", 1)
    serve(agents)
    with pytest.raises(PartLost):
        Loud(engine=broker.engine()).map(FACTORY)
    mine = of_part(capfd.readouterr().err.splitlines(), 0)  # not a moment later
    assert "about to die" in mine
    assert "Fatal Python error: Segmentation fault" in mine
    assert any(line.endswith("in dies") for line in mine), "the traceback of faulthandler"


def test_lines_come_while_their_part_computes(broker, agents, loud, capfd, tmp_path):
    loud("waits")
    serve(agents)
    future = Loud(engine=broker.engine()).submit(FACTORY)
    seen = []

    def have_come():
        seen.extend(capfd.readouterr().err.splitlines())
        return sum("] waits " in line for line in seen) >= 2

    try:
        wait_until(have_come, "the lines of two parts")
        assert not future.done()
    finally:
        (tmp_path / "go").touch()
    assert future.result(30) == ANSWER


def test_a_flood_costs_the_broker_and_the_producer_few_messages(broker, agents, loud, monkeypatch):
    loud("flood", lines=500)
    monkeypatch.setattr(Numbers, "length", 100)
    monkeypatch.setattr(Loud, "WORKERS_NUMBER", 100)
    serve(agents)
    tap = Tap()
    began = time.monotonic()
    assert Loud(engine=broker.engine(link=tap)).map(FACTORY) == sum(range(100))
    most = BURST + LINES_A_SECOND * (time.monotonic() - began)
    received = [message_in(delivery.body) for delivery in tap.delivered]
    of_lines = [message for message in received if isinstance(message, protocol.Printed)]
    assert 0 < sum(len(message.lines) for message in of_lines) <= most
    results = [message for message in received if isinstance(message, protocol.Partial)]
    assert sum(len(message.results) for message in results) == 100
    end_all()


def test_who_does_not_want_lines_sees_none(broker, agents, loud, shown, monkeypatch):
    loud("hello")
    monkeypatch.setenv("PYMAR_OUTPUT", "0")
    serve(agents)
    assert Loud(engine=broker.engine()).map(FACTORY) == ANSWER
    assert not [line for line in shown() if HOST in line]


def test_while_the_broker_is_away_lines_are_dropped_and_counted(broker, agents, proxy, loud, shown, tmp_path):
    """The agent's link is cut: what it prints meanwhile is missing, and the number of that is right."""
    loud("waits_and_floods", lines=500)
    agent = serve(agents, url=f"amqp://127.0.0.1:{proxy.port}")
    future = Loud(engine=broker.engine()).submit(FACTORY)
    wait_until(lambda: len(list(tmp_path.glob("begun-*"))) >= 2, "two parts to begin")
    proxy.flowing.clear()  # it cannot connect again
    proxy.reset()
    wait_until(lambda: "connecting again" in agent.said(), "the agent to notice")
    (tmp_path / "flood").touch()
    wait_until(lambda: len(list(tmp_path.glob("flooded-*"))) >= 2, "them to print")
    proxy.flowing.set()
    (tmp_path / "go").touch()
    assert future.result(60) == ANSWER
    of_parts, number = shown_and_dropped(shown())
    assert len(of_parts) + number == Numbers.length * 500


def test_while_the_broker_is_blocked_lines_are_dropped_and_counted(broker, agents, loud, shown, tmp_path):
    loud("waits_and_floods", lines=500)
    agent = serve(agents)
    future = Loud(engine=broker.engine()).submit(FACTORY)
    wait_until(lambda: len(list(tmp_path.glob("begun-*"))) >= 2, "two parts to begin")
    broker.eval('rabbit_disk_monitor:set_disk_free_limit("1000000GB")')
    try:
        wait_until(lambda: "broker blocked" in agent.said(), "the agent to notice")
        (tmp_path / "flood").touch()
        wait_until(lambda: len(list(tmp_path.glob("flooded-*"))) >= 2, "them to print")
        (tmp_path / "go").touch()
    finally:
        broker.eval('rabbit_disk_monitor:set_disk_free_limit("1MB")')
    assert future.result(60) == ANSWER
    of_parts, number = shown_and_dropped(shown())
    assert len(of_parts) + number == Numbers.length * 500


def test_a_stranger_without_the_key_cannot_put_in_a_line(broker, agents, loud, capfd, tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text(new_key())
    path.chmod(0o600)
    monkeypatch.setenv("PYMAR_KEY_FILE", str(path))
    loud("waits")
    serve(agents)
    engine = broker.engine()
    future = Loud(engine=engine).submit(FACTORY)
    try:
        wait_until(lambda: "] waits " in capfd.readouterr().err, "a part to begin")
        queue = session(engine.address, engine.keys).queue
        agent = protocol.Agent(b"12345678", "evil 1", "queue", 1)
        others = Keys((new_key(),))
        with broker.channel() as channel:
            for keys in (Keys(), others):
                for job in (b"x" * 16, *(run for run in runs_of(broker))):
                    line = protocol.Printed(agent, job, 0, 1, [[0, "put in by a stranger"]])
                    channel.basic_publish("", queue, wire.encode(line, "Loud", keys, queue))
    finally:
        (tmp_path / "go").touch()
    assert future.result(30) == ANSWER
    end_all()
    wait_until_written()
    assert "stranger" not in capfd.readouterr().err


def runs_of(broker):
    """The ids of the jobs of this process: a stranger who reads the broker's queues knows them."""
    from pymar.amqp.producer.engine import _sessions

    return [run for session in _sessions.values() for run in session._runs]
