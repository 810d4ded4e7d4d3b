"""The contract, over a real broker: on workers of a file without a key, and on a pool by value with one."""

import pytest
from broker import TESTING, Agents

from pymar.amqp.keys import new_key
from pymar.amqp.producer.engine import AmqpEngine
from pymar.testing import IsolatedContract


class WithWorkers:
    """The engine, with an agent for each pool that is asked for."""

    name = "amqp"
    batch_seconds = 0.002

    def __init__(self, agents):
        self.agents, self.engine, self.served = agents, agents.broker.engine(), set()

    def start(self, job):
        pool = job.producer.__name__
        if pool not in self.served:
            self.served.add(pool)
            self.agents.start(TESTING, "-p", pool, "-w", "2", times={})
        return self.engine.start(job)


@pytest.fixture(scope="module")
def by_name(broker, tmp_path_factory):
    agents = Agents(broker, tmp_path_factory.mktemp("by-name"))
    yield WithWorkers(agents)
    agents.stop()


@pytest.fixture(scope="module")
def by_value(broker, tmp_path_factory):
    key = new_key()
    agents = Agents(broker, tmp_path_factory.mktemp("by-value"))
    agents.start("--pool", "lab", "-w", "2", times={}, environ={"PYMAR_KEY": key})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYMAR_KEY", key)
        engine = AmqpEngine(f"127.0.0.1:{broker.port}?pool=lab")
    yield engine
    agents.stop()


class TestByName(IsolatedContract):
    @pytest.fixture(autouse=True)
    def _engine(self, by_name):
        self._it = by_name

    def engine(self):
        return self._it


class TestByValue(IsolatedContract):
    @pytest.fixture(autouse=True)
    def _engine(self, by_value):
        self._it = by_value

    def engine(self):
        return self._it
