"""Waiting: what a job without workers waits for, and why workers that exist cannot compute it, in the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic

from pymar.amqp import protocol
from pymar.amqp.protocol import python_version
from pymar.amqp.why import Cause, Facts, causes, left_out

log: logging.Logger = logging.getLogger(__name__)

#: Seconds without a worker, after which the producer logs what it waits for.
LOG_WAITING_AFTER = 1.0
#: Warnings of one job, at most: else anybody who can send messages could fill a disk with the log.
_MOST_WARNINGS = 100
#: How often other questions are sent, which tell apart why consumers do not answer.
_PROBES = 2


class Waiting:
    """What is known about workers for one job, and what was logged about them. It owns both. One thread only.

    Args:
        name: of the producer, for the log.
        path: the file that workers need; empty if the code is sent with the job.
        has_key: True if this process has a key.
        junk: how often answers were refused, by the reason.
        blocked: returns why the broker takes no messages.
    """

    def __init__(
        self,
        name: str,
        pool: str,
        code: str,
        path: str,
        address: object,
        has_key: bool = False,
        junk: Mapping[str, int] | None = None,
        blocked: Callable[[], str] = str,
    ) -> None:
        self._name = name
        self._pool, self._code, self._path = pool, code, path
        self._address = address
        self._has_key, self._junk, self._blocked = has_key, {} if junk is None else junk, blocked
        self._junk_before = Counter(self._junk)
        self._began = monotonic()
        self._has_logged_waiting = False
        self._warnings: set[str] = set()
        #: Answers of workers of the pool, whatever code they have; and workers that refuse the job or are refused, and
        #: why.
        self._answers: dict[bytes, protocol.Here] = {}
        self._refusals: dict[bytes, tuple[str, str]] = {}
        #: The last two counts of consumers of the queue.
        self._consumers = (0, 0)
        self._probes = 0

    def found(self, now: float) -> None:
        """Note that a worker computes, so that the next wait is logged again."""
        self._has_logged_waiting, self._began = False, now
        self._answers.clear()

    def log_waiting(self, now: float) -> None:
        """Log what the job waits for, once no worker has computed for LOG_WAITING_AFTER."""
        if now - self._began <= LOG_WAITING_AFTER:
            return
        for cause in self.causes():
            if cause.kind in ("key", "keyed") and self._probes < _PROBES and not cause.text.startswith("the worker"):
                continue  # the answers to other questions may say more
            if cause.kind != "none":
                self.warn_once(str(cause), _what_stays(cause))
            elif not self._has_logged_waiting:
                self._has_logged_waiting = True
                log.warning("%s waits: %s", self._name, cause)

    def causes(self) -> list[Cause]:
        """Return why no worker computes the job."""
        junk = [reason for reason, count in self._junk.items() if count > self._junk_before[reason]]
        refusals = [(agent, *name_and_text) for agent, name_and_text in self._refusals.items()]
        return causes(
            Facts(
                self._name,
                self._pool,
                self._code,
                self._path,
                str(self._address),
                python_version(),
                self._has_key,
                list(self._answers.values()),
                refusals,
                min(self._consumers),
                junk,
                self._blocked(),
            )
        )

    def why(self) -> str:
        """Return what the job waits for, in one line."""
        return "; ".join(map(str, self.causes()))

    def probes(self) -> bool:
        """True if consumers are there and none answers: then questions are to be sent that others can read."""
        is_unheard = min(self._consumers) > 0 and not self._refusals
        if not is_unheard or any(here.code == self._code for here in self._answers.values()):
            return False
        self._probes += 1
        return self._probes <= _PROBES

    def counted(self, consumers: int) -> None:
        """Note the number of consumers of the work queue."""
        self._consumers = (self._consumers[-1], consumers)

    def met(self, worker: protocol.Here) -> None:
        """Take a worker's answer to the question who serves the pool: it may have other code."""
        if worker.pool != self._pool:
            return
        self._answers[worker.agent.id] = worker
        # At once, since others may compute the job; a worker that has the file asks what the job is, and is refused.
        if not self._path and (cause := left_out(worker, python_version())):
            self.warn_once(str(cause))

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


def _what_stays(cause: Cause) -> str:
    """Return what makes a cause the same as one that was logged, though seconds in it differ."""
    return cause.kind if cause.kind == "busy" else str(cause)
