"""The engine of jobs on workers that are found through a broker."""

from __future__ import annotations

from pymar.amqp import times
from pymar.amqp.address import parse
from pymar.amqp.keys import keys_of
from pymar.amqp.run import AmqpRun
from pymar.amqp.sessions import session
from pymar.parts import JobSpec


class AmqpEngine:
    """`amqp://user:password@host:port/vhost`: workers are whoever serves the producer's pool there."""

    name = "amqp"
    batch_seconds = times.BATCH_SECONDS

    def __init__(self, address: str = "", tls: bool = False) -> None:
        text = address and f"{'amqps' if tls else 'amqp'}://{address}"
        self.address = parse(text)
        self.keys = keys_of()
        self.address.check(bool(self.keys))

    def start(self, job: JobSpec, /) -> AmqpRun:
        return AmqpRun(session(self.address, self.keys), job, self.address)


def unasked_engine(address: str) -> AmqpEngine:
    """The engine of a broker on this host that nobody has asked for; without a key it has to be ours (owner.py)."""
    engine = AmqpEngine(address)
    engine.address = engine.address._replace(is_unasked=not engine.keys)
    return engine


def tls_engine(address: str = "") -> AmqpEngine:
    """`amqps://...`: the same, with TLS."""
    return AmqpEngine(address, tls=True)
