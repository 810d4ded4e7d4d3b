"""WorkerDiscovery: a job looks for workers, and says what it waits for, and why it cannot use those that there are."""

from __future__ import annotations

import logging
from time import monotonic

from pymar.amqp import protocol
from pymar.amqp.protocol import python_version

log: logging.Logger = logging.getLogger(__name__)

#: Seconds without a worker, after which the producer says what it waits for.
SAY_WAITING_AFTER = 1.0
#: Things that are said about workers, at most: whoever can send messages could fill a disk.
_MOST_SAID = 100


class WorkerDiscovery:
    """Of one job: its name, pool, code, and the file that workers need, if they need one."""

    def __init__(self, name: str, pool: str, code: str, path: str, address: object) -> None:
        self._name = name
        self._pool, self._code, self._path = pool, code, path
        self._address = address
        self._began = monotonic()
        self._has_said_waiting = False
        self._said: set[str] = set()
        #: What workers of our pool and code have answered; who refuses the job, or is refused, and why.
        self._answers: dict[bytes, protocol.Here] = {}
        self._refusals: dict[bytes, tuple[str, str]] = {}
        #: How many consumed the queue when that was asked last, and before.
        self._consumers = (0, 0)

    def found(self, now: float) -> None:
        """Somebody computes."""
        self._has_said_waiting, self._began = False, now
        self._answers.clear()

    def say_waiting(self, now: float) -> None:
        """Nobody computes; say what is waited for once that has lasted."""
        if now - self._began <= SAY_WAITING_AFTER:
            return
        if behind := self._behind():
            self.say_once(f"waits behind the parts of other producers: {behind}")
        elif self._refusals:
            said = "; ".join(f"{name}: {text}" for name, text in sorted(self._refusals.values()))
            self.say_once(f"no worker of the pool {self._pool} can take part. {len(self._refusals)} refused: {said}")
        elif not self._answers and min(self._consumers) > 0:
            self.say_once(
                f"{self._consumers[-1]} consumers take parts from this queue (pool {self._pool}, code {self._code}) at "
                f"{self._address} and none answers: they have another key or none, or another version of Pymar. Their "
                "logs say which; `pymar doctor` shows the name of a host's key"
            )
        elif self._answers:
            names = ", ".join(sorted(here.agent.name for here in self._answers.values()))
            self.say_once(f"workers serve its file, and compute nothing of it now: {names}. Their logs say why")
        elif not self._has_said_waiting:
            self._has_said_waiting = True
            start = f"-f {self._path}" if self._path else f"--pool {self._pool}"
            log.warning(
                "%s waits for workers of the pool %s (code %s) at %s. To start one: pymar worker %s -q %s",
                *(self._name, self._pool, self._code, self._address, start, self._address),
            )

    def _behind(self) -> str:
        """Whose parts have the slots of the workers that could compute ours."""
        busy = [here for here in self._answers.values() if here.running and here.agent.id not in self._refusals]
        return "; ".join(f"{', '.join(here.jobs)} on the worker {here.agent.name}" for here in busy)

    def counted(self, consumers: int) -> None:
        """So many take parts from the queue now."""
        self._consumers = (self._consumers[-1], consumers)

    def met(self, stranger: protocol.Here) -> None:
        """A worker has said what it serves: perhaps our pool, with other code."""
        if stranger.pool != self._pool:
            return
        if stranger.code == self._code:
            self._answers[stranger.agent.id] = stranger
            if stranger.trouble:
                self.say_once(f"the worker {stranger.agent.name} takes no parts at present: {stranger.trouble}")
            return
        there = f"{stranger.path or 'by value'} is {stranger.code} there"
        here = f"{self._path or 'by value'} is {self._code} here"
        self.say_once(
            f"the worker {stranger.agent.name} serves the pool {self._pool} with other code: {there}, {here} "
            f"(Python {stranger.python} there, {python_version()} here). Give it the same file"
        )

    def is_willing(self, agent: protocol.Agent) -> None:
        """A worker takes part, whatever it has said before."""
        self._refusals.pop(agent.id, None)

    def refused(self, agent: protocol.Agent, text: str) -> None:
        """A worker cannot take part, or must not."""
        self._refusals[agent.id] = agent.name, text
        self.say_once(f"the worker {agent.name} cannot take part: {text}")

    def say_once(self, text: str) -> None:
        """Say something that a user can change."""
        if text not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(text)
            log.warning("%s: %s", self._name, text)
            if len(self._said) == _MOST_SAID:
                log.warning("%s: there are more such workers, which are not named", self._name)
