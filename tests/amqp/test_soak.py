"""Random faults, many of them, while a job runs: the answer is exact each time. `make soak` runs the long form."""

import os
import random
import signal
import time
from pathlib import Path

import amqp_jobs
import pytest
from amqp_jobs import Steps, Watched
from conftest import children_of
from proxy import ACK, DELIVER, DOWN, PUBLISH, UP, Proxy

from pymar.datasource import DataSourceFactory

pytestmark = pytest.mark.timeout(900)

FILE = Path(amqp_jobs.__file__)
PARTS, FAULTS = int(os.environ.get("PYMAR_PARTS", "150")), int(os.environ.get("PYMAR_FAULTS", "8"))
FIRST = int(os.environ.get("PYMAR_SEED", random.randrange(1 << 30)))
#: Faults, and how often each is drawn; the broker takes seconds to come back.
WEIGHTS = {
    "kill a worker process": 6,
    "kill an agent": 3,
    "stop an agent": 2,
    "ask an agent to stop": 2,
    "cut": 6,
    "reset": 3,
    "stall": 2,
    "purge": 2,
    "delete the work queue": 2,
    "delete the queue of results": 2,
    "close all connections": 1,
    "kill the broker": 1,
}


class Chaos:
    def __init__(self, broker, agents, proxy, rng):
        self.broker, self.started, self.proxy, self.rng = broker, agents, proxy, rng
        self.agents = [self.agent(), self.agent()]

    def agent(self):
        port = self.rng.choice((self.broker.port, self.proxy.port))
        return self.started.start(FILE, "-p", "Watched", "-w", "2", "--grace", "1", url=f"127.0.0.1:{port}", wait=False)

    def strike(self, fault):
        rng = self.rng
        agent = rng.choice(self.agents)
        match fault:
            case "kill a worker process":
                for pid in children_of(agent.pid)[:1]:
                    os.kill(int(pid), signal.SIGKILL)
            case "kill an agent" | "ask an agent to stop":
                self.agents.remove(agent)
                self.agents.append(self.agent())
                agent.kill() if fault == "kill an agent" else agent.signal(signal.SIGTERM)
            case "stop an agent":
                agent.signal(signal.SIGSTOP)
                time.sleep(rng.uniform(0.1, 2.0))  # how long it hangs
                agent.signal(signal.SIGCONT)
            case "cut":
                direction, method = rng.choice(((DOWN, DELIVER), (UP, PUBLISH), (DOWN, ACK), (UP, ACK)))
                self.proxy.cut_at(direction, method, rng.randrange(4), rng.random() < 0.5)
            case "reset":
                self.proxy.reset()
            case "stall":
                self.proxy.flowing.clear()
                time.sleep(rng.uniform(0.1, 1.0))  # how long nothing flows
                self.proxy.flowing.set()
            case "close all connections":
                self.broker.close_all_connections()
            case "kill the broker":
                self.broker.kill()
                self.broker.start()
            case _:
                self.on_queue(fault)

    def on_queue(self, fault):
        prefix = "pymar.job." if fault == "delete the queue of results" else "pymar.work.Watched"
        queues = self.broker.queues(prefix)
        with self.broker.channel() as channel:
            for queue in queues:
                channel.queue_purge(queue) if fault == "purge" else channel.queue_delete(queue)


@pytest.mark.parametrize("number", range(int(os.environ.get("PYMAR_SEEDS", "1"))))
def test_random_faults(broker, agents, monkeypatch, number):
    seed = FIRST + number
    print("seed", seed)
    rng = random.Random(seed)
    monkeypatch.setattr(Watched, "WORKERS_NUMBER", PARTS)
    monkeypatch.setattr(Watched, "seconds", 0.1)
    # Each fault may cost a part an attempt; what is tested is that none is lost or counted twice.
    monkeypatch.setattr(Watched, "ATTEMPTS", 40)
    proxy = Proxy(broker.port)
    try:
        chaos = Chaos(broker, agents, proxy, rng)
        port = rng.choice((broker.port, proxy.port))
        future = Watched(mq_server=f"127.0.0.1:{port}").submit(DataSourceFactory(Steps, length=PARTS * 3))
        faults = rng.choices(list(WEIGHTS), WEIGHTS.values(), k=FAULTS)
        for fault in faults:
            time.sleep(rng.uniform(0.1, 1.0))  # faults come at any time
            if future.done():
                break
            print(fault)
            chaos.strike(fault)
        assert future.result(300)[0] == sum(range(PARTS * 3))
    finally:
        proxy.stop()
