"""What the tests that break jobs over AMQP have in common: the job that they watch."""

from pathlib import Path

import amqp_jobs
from amqp_jobs import Steps, Watched, executions
from conftest import wait_until

from pymar.datasource import DataSourceFactory

FILE = Path(amqp_jobs.__file__)
ANSWER = sum(range(Steps.length))
#: Seconds for an answer, with the times of FAST.
PATIENCE = 60


def submitted(broker, port=None):
    producer = Watched(mq_server=f"127.0.0.1:{port or broker.port}")
    return producer.submit(DataSourceFactory(Steps))


def answer(future):
    return future.result(PATIENCE)[0]


def begun(folder, count=1):
    return wait_until(lambda: len(executions(folder)) >= count, f"{count} parts to begin")


def serve(agents, *options, **settings):
    return agents.start(FILE, "-p", "Watched", "-w", "2", *options, **settings)
