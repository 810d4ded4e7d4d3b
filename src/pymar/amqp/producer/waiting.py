"""Waiting: what a job without workers waits for, and why workers that exist cannot compute it, in the log."""

from __future__ import annotations

import logging
from os.path import basename
from time import monotonic

from pymar.amqp import protocol
from pymar.amqp.protocol import held_text, python_version
from pymar.serialization.composed import POOL

log: logging.Logger = logging.getLogger(__name__)

#: Seconds without a worker, after which the producer logs what it waits for.
LOG_WAITING_AFTER = 1.0
#: Warnings of one job, at most: else anybody who can send messages could fill a disk with the log.
_MOST_WARNINGS = 100


class Waiting:
    """What is known about workers for one job, and what was logged about them. It owns both. One thread only.

    Args:
        name: of the producer, for the log.
        path: the file that workers need; empty if the code is sent with the job.
    """

    def __init__(self, name: str, pool: str, code: str, path: str, address: object) -> None:
        self._name = name
        self._pool, self._code, self._path = pool, code, path
        self._address = address
        self._began = monotonic()
        self._has_logged_waiting = False
        self._warnings: set[str] = set()
        #: Answers of workers with this pool and code; and workers that refuse the job or are refused, and why.
        self._answers: dict[bytes, protocol.Here] = {}
        self._refusals: dict[bytes, tuple[str, str]] = {}
        #: The last two counts of consumers of the queue.
        self._consumers = (0, 0)

    def found(self, now: float) -> None:
        """Note that a worker computes, so that the next wait is logged again."""
        self._has_logged_waiting, self._began = False, now
        self._answers.clear()

    def log_waiting(self, now: float) -> None:
        """Log what the job waits for, once no worker has computed for LOG_WAITING_AFTER."""
        if now - self._began <= LOG_WAITING_AFTER:
            return
        if behind := self._behind():
            self.warn_once(behind, "behind")
        elif self._refusals:
            why = "; ".join(f"{name}: {text}" for name, text in sorted(self._refusals.values()))
            self.warn_once(f"no worker of the pool {self._pool} can compute it. {len(self._refusals)} refused: {why}")
        elif not self._answers and min(self._consumers) > 0:
            self.warn_once(
                f"{self._consumers[-1]} consumers take parts from this queue (pool {self._pool}, code {self._code}) at "
                f"{self._address} and none answers: they have another key or none, or another version of Pymar. Their "
                "logs contain the reason; `pymar doctor` shows the name of a host's key"
            )
        elif self._answers:
            names = ", ".join(sorted(here.agent.name for here in self._answers.values()))
            self.warn_once(f"workers serve its file, but compute nothing of it: {names}. Their logs contain the reason")
        elif not self._has_logged_waiting:
            self._has_logged_waiting = True
            of_calls = f" -p {POOL}" if self._pool == POOL else ""
            start = f"-f {self._path}{of_calls}" if self._path else f"--pool {self._pool}"
            log.warning(
                "%s waits for workers of the pool %s (code %s) at %s. To start one: pymar worker %s -q %s",
                *(self._name, self._pool, self._code, self._address, start, self._address),
            )

    def why(self, now: float) -> str:
        """Return what the job waits for, in one line."""
        return self._behind() or "no worker"

    def _behind(self) -> str:
        """Return whose jobs occupy the workers which could compute this one, for people; "" if there are none."""
        willing = [here for here in self._answers.values() if here.agent.id not in self._refusals]
        busy = [here for here in willing if here.running]
        if not busy or len(busy) < len(willing):
            return ""
        jobs = dict.fromkeys(held_text(row) for here in busy for row in here.holds if row[3])
        return (
            f"all slots are busy with {'; '.join(jobs)}, on the workers {', '.join(here.agent.name for here in busy)}"
        )

    def counted(self, consumers: int) -> None:
        """Note the number of consumers of the work queue."""
        self._consumers = (self._consumers[-1], consumers)

    def met(self, worker: protocol.Here) -> None:
        """Take a worker's answer to the question who serves the pool: it may have other code."""
        if worker.pool != self._pool:
            return
        if worker.code == self._code:
            self._answers[worker.agent.id] = worker
            if worker.trouble:
                self.warn_once(f"the worker {worker.agent.name} takes no parts at present: {worker.trouble}")
            return
        if self._pool == POOL and basename(worker.path) != basename(self._path):
            return  # all files share this pool, and that one is another
        there = f"{worker.path or 'by value'} is {worker.code} there"
        here = f"{self._path or 'by value'} is {self._code} here"
        self.warn_once(
            f"the worker {worker.agent.name} serves the pool {self._pool} with other code: {there}, {here} "
            f"(Python {worker.python} there, {python_version()} here). Give it the same file"
        )

    def is_willing(self, agent: protocol.Agent) -> None:
        """Forget the refusal of a worker, since it takes part now."""
        self._refusals.pop(agent.id, None)

    def refused(self, agent: protocol.Agent, text: str) -> None:
        """Keep and log why a worker cannot compute the job, or must not."""
        self._refusals[agent.id] = agent.name, text
        self.warn_once(f"the worker {agent.name} cannot compute it: {text}")

    def warn_once(self, text: str, about: str = "") -> None:
        """Log a text once, as a warning: something that the user can change.

        Args:
            about: what makes it the same text, if numbers in it change.
        """
        about = about or text
        if about not in self._warnings and len(self._warnings) < _MOST_WARNINGS:
            self._warnings.add(about)
            log.warning("%s: %s", self._name, text)
            if len(self._warnings) == _MOST_WARNINGS:
                log.warning("%s: there are more such workers, which are not named", self._name)
