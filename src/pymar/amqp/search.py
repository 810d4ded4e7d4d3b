"""Search: a job looks for workers, and says what it waits for, and why it cannot use those that there are."""

from __future__ import annotations

import logging
from time import monotonic

from pymar.amqp import protocol
from pymar.amqp.protocol import python_version

log = logging.getLogger(__name__)

#: Seconds without a worker, after which the producer says what it waits for.
SAY_WAITING_AFTER = 1.0
#: Things that are said about workers, at most: whoever can send messages could fill a disk.
_MOST_SAID = 100


class Search:
    """Of one job: its name, pool, code, and the file that workers need, if they need one."""

    def __init__(self, name: str, pool: str, code: str, path: str, address: object) -> None:
        self._name = name
        self._pool, self._code, self._path = pool, code, path
        self._address = address
        #: Whether the question who serves the pool is asked again and again.
        self.is_on = False
        self._began = monotonic()
        self._has_said_waiting = False
        self._said: set[str] = set()

    def found(self, now: float) -> None:
        """Somebody has joined."""
        self._has_said_waiting, self._began = False, now

    def say_waiting(self, now: float) -> None:
        """Nobody has joined; say so once that has lasted."""
        if self._has_said_waiting or now - self._began <= SAY_WAITING_AFTER:
            return
        self._has_said_waiting = True
        start = f"-f {self._path}" if self._path else f"--pool {self._pool}"
        log.warning(
            "%s waits for workers of the pool %s (code %s) at %s. To start one: pymar worker %s -q %s",
            *(self._name, self._pool, self._code, self._address, start, self._address),
        )

    def met(self, stranger: protocol.Here) -> None:
        """A worker has said what it serves: perhaps our pool, with other code."""
        if stranger.pool == self._pool and stranger.code != self._code:
            there = f"{stranger.path or 'by value'} is {stranger.code} there"
            here = f"{self._path or 'by value'} is {self._code} here"
            self.say_once(
                f"the worker {stranger.agent.name} serves the pool {self._pool} with other code: {there}, {here} "
                f"(Python {stranger.python} there, {python_version()} here). Give it the same file"
            )
        elif stranger.pool == self._pool and stranger.trouble:
            self.say_once(f"the worker {stranger.agent.name} takes no parts at present: {stranger.trouble}")

    def say_once(self, text: str) -> None:
        """Say something about a worker that this job cannot use."""
        if text not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(text)
            log.warning("%s: %s", self._name, text)
            if len(self._said) == _MOST_SAID:
                log.warning("%s: there are more such workers, which are not named", self._name)
