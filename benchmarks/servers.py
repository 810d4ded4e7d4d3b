"""RabbitMQ and Redis servers for the benchmarks only, on free ports of this host."""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parent.parent / "tests" / name) for name in ("", "support")]
from broker import Broker  # - the path above leads to it
from conftest import free_port, wait_until


@contextlib.contextmanager
def a_broker():
    """Start a RabbitMQ node, and give its `Broker` (tests/support/broker.py)."""
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        try:
            yield broker
        finally:
            broker.stop()


@contextlib.contextmanager
def rabbitmq():
    """Start a RabbitMQ node, and give its port."""
    with a_broker() as broker:
        yield broker.port


@contextlib.contextmanager
def redis():
    """Start a Redis server, and give its port."""
    port = free_port()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(["redis-server", "--port", str(port), "--save", ""], stdout=log) as server,
    ):
        try:
            wait_until(lambda: answers(port), "redis-server")
            yield port
        finally:
            server.terminate()


def answers(port):
    import socket

    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
