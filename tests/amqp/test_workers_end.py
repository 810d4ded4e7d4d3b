"""Workers that end by themselves: --idle and --away, with real agents."""

import pytest
from watching import ANSWER, answer, serve, submitted

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("empty_queue")]


def test_an_idle_worker_ends_by_itself_and_not_while_it_has_a_job(broker, agents, watched, settings):
    settings(folder=str(watched), seconds=0.2, WORKERS_NUMBER=20)
    agent = serve(agents, "--idle", "1.5")
    assert answer(submitted(broker)) == ANSWER
    assert agent.process.wait(30) == 0
    assert "no part and no job for 1.5 s (--idle)" in agent.said()


def test_a_worker_whose_broker_is_away_ends_by_itself(broker, agents, proxy):
    agent = serve(agents, "--away", "2", url=f"amqp://127.0.0.1:{proxy.port}")
    proxy.stop()
    assert agent.process.wait(30) == 0
    assert "the broker was out of reach for 2 s (--away)" in agent.said()
