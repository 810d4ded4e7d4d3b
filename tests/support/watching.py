"""What the tests that break jobs over AMQP have in common: the job that they watch."""

from pathlib import Path

import amqp_jobs
from amqp_jobs import Steps, Watched, executions
from conftest import wait_until

from pymar.amqp.producer.engine import AmqpEngine
from pymar.datasource import DataSourceFactory

FILE = Path(amqp_jobs.__file__)
ANSWER = sum(range(Steps.length))
#: Seconds for an answer, with the times of FAST.
PATIENCE = 60
#: What an agent logs: tests that it logs this, and tests that it does not, both use these words.
RECONNECTS, PRODUCER_SILENT, PRODUCER_GONE = "connecting again", "received from its producer", "its producer has gone"


def submitted(broker, port=None, link=None):
    """Submit the job, to the broker at another port or through another link if these are given."""
    address = f"127.0.0.1:{port or broker.port}"
    producer = Watched(mq_server=address) if link is None else Watched(engine=AmqpEngine(address, link=link))
    return producer.submit(DataSourceFactory(Steps))


def answer(future):
    return future.result(PATIENCE)[0]


def begun(folder, count=1):
    return wait_until(lambda: len(executions(folder)) >= count, f"{count} parts to begin")


def serve(agents, *options, **settings):
    return agents.start(FILE, "-p", "Watched", "-w", "2", *options, **settings)
