"""The engine of jobs on workers that are found through a broker."""

from __future__ import annotations

import os
import threading

from pymar.amqp import timing
from pymar.amqp.address import Address, parse
from pymar.amqp.keys import Keys, keys_of
from pymar.amqp.producer.run import AmqpRun
from pymar.amqp.producer.session import Session
from pymar.parts import JobSpec

_sessions: dict[tuple[Address, Keys], Session] = {}
_making = threading.Lock()


def session(address: Address, keys: Keys) -> Session:
    """The session of this process with this broker, connected.

    Raises:
        BrokerRefused: the broker cannot be reached, or refuses us.
    """
    with _making:
        found = _sessions.get((address, keys))
        if found is not None and found.refusal is not None:
            found.shutdown()
        if found is None or not found.loop.is_running():
            found = Session(address, keys)
            found.wait()
            _sessions[address, keys] = found
        return found


def end_all() -> None:
    """Say goodbye to all brokers now; the next job connects again. At exit this happens by itself."""
    with _making:
        ended = list(_sessions.values())
        _sessions.clear()
    for one in ended:
        one.shutdown()


def _forget() -> None:
    """In a process that was forked: the connections are the parent's, not ours."""
    global _making
    _sessions.clear()
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class AmqpEngine:
    """`amqp://user:password@host:port/vhost`: workers are whoever serves the producer's pool there."""

    name = "amqp"
    batch_seconds: float = timing.BATCH_SECONDS

    def __init__(self, address: str = "", tls: bool = False) -> None:
        text = address and f"{'amqps' if tls else 'amqp'}://{address}"
        self.address: Address = parse(text)
        self.keys: Keys = keys_of()
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
