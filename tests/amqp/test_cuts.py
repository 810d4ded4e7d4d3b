"""Connections that are cut between any two steps, stall or are closed: the answer is exact and nothing hangs."""

import time

import pytest
from amqp_jobs import Steps, Watched
from conftest import wait_until
from proxy import ACK, CANCEL, DELIVER, DOWN, OPEN_OK, PUBLISH, START, TUNE, UP
from watching import ANSWER, RECONNECTS, answer, begun, serve, submitted

from pymar.datasource import DataSourceFactory

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("empty_queue", "log_of_the_producer")]

CUTS = [
    *((DOWN, DELIVER, after) for after in (0, 1, 3)),
    *((UP, PUBLISH, after) for after in (0, 1, 2, 5)),
    *((DOWN, ACK, after) for after in (0, 1)),  # several may be confirmed by one
    *((UP, ACK, after) for after in (0, 1, 3)),
]


@pytest.mark.parametrize("passes", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("direction", "method", "after"), CUTS)
def test_the_agents_connections_are_cut_between_two_steps(
    broker, agents, watched, settings, proxy, direction, method, after, passes
):
    settings(WORKERS_NUMBER=6, seconds=0.01)
    agent = serve(agents, url=f"amqp://127.0.0.1:{proxy.port}")
    proxy.cut_at(direction, method, after, passes)
    assert answer(submitted(broker)) == ANSWER
    assert proxy.cuts == 1
    assert agent.process.poll() is None


@pytest.mark.parametrize(("direction", "method"), [(UP, PUBLISH), (DOWN, ACK), (DOWN, DELIVER), (UP, ACK)])
def test_the_producers_connections_are_cut_between_two_steps(broker, agents, settings, proxy, direction, method):
    settings(WORKERS_NUMBER=6, seconds=0.01)
    serve(agents)
    warm = Watched(mq_server=f"127.0.0.1:{proxy.port}")
    assert warm.map(DataSourceFactory(Steps))[0] == ANSWER
    proxy.cut_at(direction, method)
    assert answer(warm.submit(DataSourceFactory(Steps))) == ANSWER
    wait_until(lambda: proxy.cuts == 1, "the cut")


@pytest.mark.parametrize("passes", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("direction", "method"), [(UP, CANCEL), (UP, ACK), (DOWN, ACK)])
def test_the_connections_are_cut_around_an_early_acknowledgement(
    broker, agents, watched, settings, proxy, direction, method, passes
):
    settings(WORKERS_NUMBER=2, seconds=1.5)
    serve(agents, "--lease-after", "0.3", url=f"amqp://127.0.0.1:{proxy.port}")
    future = submitted(broker)
    begun(watched)
    proxy.cut_at(direction, method, 0, passes)
    assert answer(future) == ANSWER
    assert proxy.cuts == 1


@pytest.mark.parametrize("method", [START, TUNE, OPEN_OK])
def test_connections_are_cut_while_they_are_opened_again(broker, agents, watched, settings, proxy, method):
    settings(seconds=0.1)
    agent = serve(agents, url=f"amqp://127.0.0.1:{proxy.port}")
    future = submitted(broker, proxy.port)
    begun(watched, 2)
    for _ in range(3):
        proxy.cut_at(DOWN, method, after=1)
        proxy.reset()
        wait_until(lambda: proxy.plan is None, "the cut")
    assert answer(future) == ANSWER
    assert agent.process.poll() is None


def test_connections_that_stall_and_are_reset(broker, agents, watched, settings, proxy):
    settings(seconds=0.1)
    serve(agents, url=f"amqp://127.0.0.1:{proxy.port}")
    future = submitted(broker)
    begun(watched, 2)
    proxy.flowing.clear()
    time.sleep(1.5)  # the stall itself, five of the producer's ticks long: nothing can be heard that would end it
    proxy.flowing.set()
    begun(watched, 6)
    proxy.reset()
    assert answer(future) == ANSWER


def test_every_connection_is_closed_by_the_broker(broker, agents, watched, settings):
    settings(seconds=0.3)
    agent = serve(agents)
    future = submitted(broker)
    begun(watched, 2)
    broker.close_all_connections()
    assert answer(future) == ANSWER
    assert RECONNECTS in agent.said()
