"""The engine "amqp", and the sessions of this process: one for each broker, which its jobs there share."""

from __future__ import annotations

import os
import threading

from pymar.amqp import timing
from pymar.amqp.address import Address, parse
from pymar.amqp.keys import Keys, keys_of
from pymar.amqp.link import LinkFactory
from pymar.amqp.link.link import PikaLink
from pymar.amqp.producer.run import AmqpRun
from pymar.amqp.producer.session import Session
from pymar.parts import JobSpec

_sessions: dict[tuple[Address, Keys, LinkFactory], Session] = {}
_making = threading.Lock()


def session(address: Address, keys: Keys, *, link: LinkFactory = PikaLink) -> Session:
    """Return this process's session with this broker, connected; make it if there is none. Any thread.

    Args:
        is_unasked: the user has not named this broker: without a key it has to belong to a trusted user (owner.py).
        link: makes the link of a new session; `PikaLink` unless a test has another.

    Raises:
        BrokerRefused: the broker cannot be reached, or refuses the connection.
    """
    with _making:
        found = _sessions.get((address, keys, link))
        if found is not None and found.refusal is not None:
            found.shutdown()
        if found is None or not found.loop.is_running():
            found = Session(address, keys, link)
            found.wait()
            _sessions[address, keys, link] = found
        return found


def end_all() -> None:
    """Disconnect from all brokers now; the next job connects again. At exit this happens by itself. Any thread."""
    with _making:
        ended = list(_sessions.values())
        _sessions.clear()
    for one in ended:
        one.shutdown()


def _forget() -> None:
    """Forget the sessions, in a process that was forked: their connections belong to its parent."""
    global _making
    _sessions.clear()
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class AmqpEngine:
    """Computes jobs on the workers that serve the producer's pool at `amqp://user:password@host:port/vhost`.

    Args:
        keys: those of the environment, if None.
        is_unasked: the user has not named this broker: without a key it has to belong to a trusted user (owner.py).
        link: makes the link to the broker; `PikaLink` unless a test has another.
    """

    name = "amqp"
    batch_seconds: float = timing.BATCH_SECONDS

    def __init__(
        self,
        address: str = "",
        tls: bool = False,
        *,
        keys: Keys | None = None,
        is_unasked: bool = False,
        link: LinkFactory = PikaLink,
    ) -> None:
        text = address and (address if "://" in address else f"{'amqps' if tls else 'amqp'}://{address}")
        self.keys: Keys = keys_of() if keys is None else keys
        self.address: Address = parse(text)._replace(is_unasked=is_unasked and not self.keys)
        self.address.check(bool(self.keys))
        self._link = link

    @property
    def is_trusted(self) -> bool:
        """True if what comes from workers is signed, so that it may be unpickled."""
        return bool(self.keys)

    def start(self, job: JobSpec, /) -> AmqpRun:
        return AmqpRun(session(self.address, self.keys, link=self._link), job, self.address)


def tls_engine(address: str = "") -> AmqpEngine:
    """Return the engine of `amqps://...`, which connects with TLS."""
    return AmqpEngine(address, tls=True)
