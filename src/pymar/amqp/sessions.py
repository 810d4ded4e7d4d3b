"""The sessions of this process, one a broker and key: made when they are first needed, kept for the next job."""

from __future__ import annotations

import os
import threading

from pymar.amqp.address import Address
from pymar.amqp.keys import Keys
from pymar.amqp.session import Session

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
