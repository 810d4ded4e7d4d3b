"""A job on a Dask or Ray cluster, at the producer; worker.py is the half that runs in the cluster's workers."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pickle import UnpicklingError
from time import monotonic
from typing import Protocol

from pymar.engines.cluster.package import EncodedPackage
from pymar.engines.cluster.worker import Batch, Outcome, read, versions
from pymar.exceptions import ClusterRefused
from pymar.parts import Cause, Done, Failed, JobSpec, Joined, Left, Lost, Part, Refused, Report, Returned, make
from pymar.serialization.records import encode, fields, is_raw
from pymar.serialization.values import dumps

log: logging.Logger = logging.getLogger(__name__)

#: Seconds of work that a batch is sized for: a task costs Dask's scheduler and Ray about a millisecond, and its result
#: arrives after five to ten.
BATCH_SECONDS = 0.1
#: Seconds between two requests for the list of workers.
LOOK_EVERY = 1.0
#: Seconds without a worker, after which a warning is logged.
WARN_WAITING_AFTER = 5.0

#: How a task ended: with the bytes that it returned; with the Cause of a worker's death; with None, since the cluster
#: has lost it; or with an error that is not of the user's code.
Ending = bytes | Cause | BaseException | None

#: Errors that workers raise that lack Pymar, or have another version.
_NOT_ALIKE = (ImportError, AttributeError, UnpicklingError, RuntimeError)


class Cluster(Protocol):
    """The tasks of one job on a cluster: all that differs between Dask and Ray. Thread of the job only."""

    name: str
    """The name of the cluster in messages."""

    def send(self, batch: bytes, /) -> Hashable:
        """Submit a task that calls `worker.compute` with this batch; return its handle at once."""

    def arrived(self, timeout: float, /) -> list[tuple[Hashable, Ending]]:
        """Return the tasks that have ended, and how; wait `timeout` seconds if there are none.

        Raises:
            ClusterLost: the cluster has gone.
        """

    def stop(self, tasks: Sequence[Hashable], /) -> None:
        """Stop these tasks, running or waiting. `arrived` does not return them."""

    def workers(self) -> Mapping[str, int]:
        """Return the present workers, and how many tasks each runs at once."""


class ClusterRun:
    """One job on a cluster: a `Run`. It owns which task has which parts. Thread of the job only."""

    def __init__(self, cluster: Cluster, spec: JobSpec, job: EncodedPackage) -> None:
        self._cluster = cluster
        self._dumps = job.dumps
        self._empty_batch = Batch(versions(), job.digest, [], spec.part_timeout, spec.memory_limit, BATCH_SECONDS)
        self._out: dict[Hashable, list[int]] = {}
        self._news: list[Report] = []
        self._workers: dict[str, int] = {}
        self._next_look = 0.0
        self._warn_at = monotonic() + WARN_WAITING_AFTER

    def submit(self, parts: Sequence[Part], /) -> None:
        if is_raw(parts):
            parts, failed = encode(parts, self._dumps)
            self._news += failed
        if parts:
            batch = self._empty_batch._replace(parts=[fields(part) for part in parts])
            task = self._cluster.send(dumps(batch))
            self._out[task] = [part.index for part in parts]

    def next(self, timeout: float, /) -> list[Report]:
        news, self._news = self._news, []
        self._look(news)
        for task, ending in self._cluster.arrived(0.0 if news else timeout):
            indices = self._out.pop(task, None)
            if indices is not None:
                news += self._reports(indices, ending)
        return news

    def cancel(self, index: int, /) -> None:
        alone = [task for task, indices in self._out.items() if indices == [index]]
        self._stop(alone)

    def close(self) -> None:
        self._stop(list(self._out))

    def _stop(self, tasks: list[Hashable]) -> None:
        for task in tasks:
            del self._out[task]
        if tasks:
            self._cluster.stop(tasks)

    def _reports(self, indices: list[int], ending: Ending) -> list[Report]:
        match ending:
            case bytes():
                outcome = self._read(ending)
            case Cause() if len(indices) == 1:
                return [Lost(indices[0], ending)]
            case Cause() | None:  # it is unknown which of several parts killed the worker
                return [Returned(index) for index in indices]
            case _:
                ours = ", ".join(f"{name} {value}" for name, value in versions().items())
                hint = f". Its workers need what is here: {ours}" if isinstance(ending, _NOT_ALIKE) else ""
                cause = ending if isinstance(ending, BaseException) else None
                raise ClusterRefused(f"{self._cluster.name} cannot compute parts: {ending!r:.1000}{hint}") from cause
        for report in outcome.others:
            if isinstance(report, Refused):
                raise ClusterRefused(f"{self._cluster.name}: {report.text}")
            if not isinstance(report, Failed | Lost | Returned):  # no other report ends a part
                raise ClusterRefused(f"{self._cluster.name} has reported what no job understands: {report!r:.500}")
        reports = [*(make(Done, fields) for fields in outcome.results), *outcome.others]
        reported = {report[0] for report in reports}
        # A task that stopped itself by mistake reports nothing of the parts that it had not begun.
        return [*reports, *(Returned(index, alone=False) for index in indices if index not in reported)]

    def _read(self, outcome: bytes) -> Outcome:
        try:
            return read(outcome)
        except Exception as error:  # of another version of Pymar, or of something that is no worker of ours
            raise ClusterRefused(f"{self._cluster.name} has returned what cannot be read here: {error!r}") from error

    def _look(self, news: list[Report]) -> None:
        now = monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY
        there = dict(self._cluster.workers())
        news += [Left(worker) for worker in self._workers if worker not in there]
        news += [Joined(worker, slots) for worker, slots in there.items() if self._workers.get(worker) != slots]
        self._workers = there
        if there:
            self._warn_at = now + WARN_WAITING_AFTER
        elif now >= self._warn_at:
            self._warn_at = now + 6 * WARN_WAITING_AFTER
            log.warning("%s has no workers: the job waits until there are some", self._cluster.name)
