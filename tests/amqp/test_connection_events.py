"""A job's listeners and log know when the broker is away or blocked, and when a worker has come, gone or is lost."""

import logging
import re

import pytest
from amqp_jobs import Steps, Watched
from conftest import wait_until
from watching import ANSWER, answer, begun, serve

from pymar.amqp.producer.engine import AmqpEngine
from pymar.datasource import DataSourceFactory
from pymar.events.progress import ProgressBar
from pymar.parts import Connection, Running

pytestmark = pytest.mark.usefixtures("log_of_the_producer")


@pytest.fixture
def submitted():
    """Submit the job to a broker's port; its events are in the list."""

    def submit(port):
        events = []
        producer = Watched(engine=AmqpEngine(f"127.0.0.1:{port}"), listeners=[events.append])
        return producer.submit(DataSourceFactory(Steps)), events

    return submit


def troubles(events):
    return [event.trouble for event in events if isinstance(event, Connection)]


def lines(caplog, *nouns):
    return [record for record in caplog.records if all(noun in record.getMessage() for noun in nouns)]


def test_a_broker_that_is_away_is_an_event_and_two_lines(broker, agents, watched, settings, proxy, submitted, caplog):
    settings(seconds=0.15)
    serve(agents)
    future, events = submitted(proxy.port)
    begun(watched, 2)
    proxy.flowing.clear()  # nobody can connect again
    proxy.reset()
    wait_until(lambda: troubles(events), "the event")
    proxy.flowing.set()
    assert answer(future) == ANSWER
    assert troubles(events) == ["the broker is away", ""]
    assert len(lines(caplog, "is lost", "connecting again")) == 1
    assert len(lines(caplog, "connected to", "again")) == 1


def test_a_broker_that_is_blocked_is_an_event(broker, agents, watched, settings, submitted):
    settings(seconds=0.15)
    serve(agents)
    future, events = submitted(broker.port)
    begun(watched, 2)
    broker.eval('rabbit_disk_monitor:set_disk_free_limit("1000000GB")')
    try:
        wait_until(lambda: troubles(events), "the event")
        assert not future.done()
    finally:
        broker.eval('rabbit_disk_monitor:set_disk_free_limit("1MB")')
    assert answer(future) == ANSWER
    first, last = troubles(events)
    assert "short of memory or disk" in first
    assert last == ""


def test_the_bar_says_for_how_long_the_broker_is_away(broker, agents, watched, settings, proxy, capfd):
    settings(seconds=0.15)
    serve(agents)
    bar = ProgressBar()
    shown = []

    def shows(event):
        bar(event)
        shown.append(bar._bar.tasks[0].fields["status"] if bar._bar.tasks else "")

    future = Watched(engine=AmqpEngine(f"127.0.0.1:{proxy.port}"), listeners=[shows]).submit(DataSourceFactory(Steps))
    begun(watched, 2)
    proxy.flowing.clear()
    proxy.reset()
    wait_until(lambda: re.search(r"the broker is away for [1-9]\d* s, parts go on", shown[-1]), "the bar to say so")
    proxy.flowing.set()
    assert answer(future) == ANSWER
    assert "away" not in shown[-1]


def test_a_worker_that_joins_leaves_or_is_lost_is_one_line(broker, agents, watched, settings, submitted, caplog):
    settings(seconds=0.3)
    first = serve(agents)
    future, events = submitted(broker.port)
    wait_until(lambda: any(isinstance(event, Running) for event in events), "a heartbeat with a part")
    first.kill()
    second = serve(agents)
    wait_until(lambda: lines(caplog, f" {first.pid} is lost"), "the loss")
    wait_until(lambda: lines(caplog, f" {second.pid} has joined"), "the other to join")
    assert second.stop() == 0
    wait_until(lambda: lines(caplog, f" {second.pid} has left"), "it to leave")
    serve(agents)
    assert answer(future) == ANSWER
    assert len(lines(caplog, f" {first.pid} has joined, with 2 slots")) == 1
    # A heartbeat that was on its way may come after the farewell.
    assert len(lines(caplog, f" {second.pid} has joined, with 2 slots")) in (1, 2)
    [lost] = lines(caplog, f" {first.pid} is lost")
    assert lost.levelno == logging.WARNING
