"""Compute a batch within a worker of a Dask or Ray cluster.

    producer.py   a batch of parts, a job package ----> a task of the cluster -> compute() -> pymar.slots.pool
                  reports, as bytes <-------------------'

The cluster's own process only waits: parts are computed in worker processes of Pymar's that it starts, as on the
producer's host. So strings hash and random numbers are drawn as everywhere, a part that dies or is stopped affects no
other, and threads share nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from math import inf
from sys import version_info
from time import monotonic, sleep
from typing import Any, NamedTuple, Protocol

from pymar.engines.cluster.package import JobPackage, opened
from pymar.exceptions import PymarError, UsageError
from pymar.parts import Done, Failed, Lost, Part, Refused, Report, Returned, Running, make
from pymar.serialization import codecache, loads
from pymar.serialization.archive import reference
from pymar.serialization.records import Encoded
from pymar.serialization.values import dumps
from pymar.slots.pool import OVERRUN, SlotPool, SlotRun
from pymar.slots.queue import Reports, Work
from pymar.version import __version__

#: Seconds between two checks if the task was stopped.
LOOK_EVERY = 0.25
#: True if the modules of the producer's own folders are used where these are here too: data may be beside them.
IN_PLACE = True
#: Seconds without work after which the worker processes are ended: the machine may be shared.
END_POOL_AFTER = 60.0


class Fetch(Protocol):
    """Fetches what a job needs from the cluster."""

    def __call__(self, archive: bool = False, /) -> bytes:
        """Return the job package; or the archive of the job's modules."""


class Batch(NamedTuple):
    """The parts that one task computes, with their limits. Immutable."""

    versions: dict[str, str]
    """Those of the producer."""
    digest: bytes
    """Of the job's package."""
    parts: list[tuple[Any, ...]]
    """Fields of Part, their data encoded."""
    part_timeout: float | None
    memory_limit: int | None
    batch_seconds: float


class Outcome(NamedTuple):
    """What the parts of a batch have come to. Immutable."""

    results: list[tuple[int, bytes, float]]
    """Fields of Done: a plain tuple costs a fraction of a report to pickle."""
    others: list[Report]
    """Failed, Lost, Returned; or Refused alone."""


@cache
def versions() -> dict[str, str]:
    """Return the versions that must be the same at the producer and its workers, which exchange pickles."""
    return {
        "Python": f"{version_info.major}.{version_info.minor}",
        "Pymar": __version__,
        "cloudpickle": version("cloudpickle"),
    }


def compute(fetch: Fetch, batch: bytes, where: str, slots: int, is_wanted: Callable[[], bool] = lambda: True) -> bytes:
    """Compute a batch; return its Outcome, encoded.

    Args:
        fetch: returns the encoded job package, or with True the archive of its modules; called if this process, or this
            host, does not have it.
        batch: an encoded Batch.
        where: the name of this worker in errors.
        slots: how many tasks this process computes at once.
        is_wanted: called four times a second; once it returns False, all parts of the batch are stopped.
    """
    wanted = Batch(*loads(batch))
    if wanted.versions != versions():
        others = ", ".join(f"{name} {value}" for name, value in versions().items())
        ours = ", ".join(f"{name} {value}" for name, value in wanted.versions.items())
        indices = tuple(fields[0] for fields in wanted.parts)
        refusal = Refused(indices, f"{where} has {others}, and the producer has {ours}: they have to be the same")
        return dumps(Outcome([], [refusal]))
    with _cluster_jobs.at_work() as pool:
        job = _cluster_jobs.package(pool, wanted.digest, fetch)
        try:
            code = _cluster_jobs.code(job, fetch)
        except UsageError as error:
            indices = tuple(fields[0] for fields in wanted.parts)
            return dumps(Outcome([], [Refused(indices, f"on {where}: {error}")]))
        work = Work(job.definition, wanted.part_timeout, wanted.memory_limit, wanted.batch_seconds, code=code)
        return dumps(_computed(pool, work, wanted, where, slots, is_wanted))


def _computed(
    pool: SlotPool, work: Work, batch: Batch, where: str, slots: int, is_wanted: Callable[[], bool]
) -> Outcome:
    run = pool.start(work, slots, 1, Reports())
    try:
        run.submit([_part(fields) for fields in batch.parts])
        return _outcome(run, batch, where, is_wanted)
    finally:
        run.close()


def _part(fields: tuple[Any, ...]) -> Part:
    part: Part = make(Part, fields)
    return part if part.data is None else part._replace(data=Encoded(part.data))


def _outcome(run: SlotRun, batch: Batch, where: str, is_wanted: Callable[[], bool]) -> Outcome:
    missing = {fields[0] for fields in batch.parts}
    outcome = Outcome([], [])
    limit = OVERRUN * batch.batch_seconds
    recall_at, has_begun = monotonic() + limit if len(missing) > 1 else inf, False
    while missing and is_wanted():
        for report in run.next(max(0.0, min(LOOK_EVERY, recall_at - monotonic()))):
            if not has_begun and isinstance(report, Done):  # until then the process may be loading the job's modules
                has_begun, recall_at = True, monotonic() - report.seconds + limit
            match report:
                case Running():
                    continue
                case Done(index, value, seconds):
                    outcome.results.append((index, value, seconds))
                    missing.discard(index)
                case Failed(index):
                    outcome.others.append(report)
                    missing.discard(index)
                case Lost(index, cause):
                    outcome.others.append(report._replace(cause=cause._replace(text=f"on {where}: {cause.text}")))
                    missing.discard(index)
                case Returned(index):
                    outcome.others.append(report)
                    missing.discard(index)
                # Other workers may compute them; the job limits how often they are returned.
                case Refused(indices, _, True):
                    outcome.others.extend(Returned(index) for index in indices)
                    missing -= set(indices)
                    sleep(LOOK_EVERY)  # or the cluster would assign one batch after another to this worker
                case Refused(_, text):
                    return Outcome([], [report._replace(text=f"on {where}: {text}")])
        if len(missing) > 1 and monotonic() >= recall_at:
            # A slow part: return the parts behind it, since other workers may have a free slot.
            run.recall(0.0 if has_begun else limit)
            recall_at = inf if has_begun else monotonic() + limit
        elif len(missing) <= 1:
            recall_at = inf
    return outcome


class _ClusterJobs:
    """The job packages and the pool of a cluster's worker, ended when it has had no batch for long. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches = 0
        #: Not the pool of jobs that this process itself runs, which lives as long as the process.
        self._pool: SlotPool | None = None
        self._idle_since = 0.0
        self._ender: threading.Thread | None = None
        self._packages: dict[bytes, JobPackage] = {}
        #: Hashes of the modules that the worker processes may have loaded.
        self._loaded: dict[str, str] = {}
        #: Tasks that need the same modules at once unpack them once.
        self._unpacking = threading.Lock()

    @contextmanager
    def at_work(self) -> Iterator[SlotPool]:
        """Give the pool, which is not ended within the context."""
        with self._lock:
            self._batches += 1
            if self._pool is None or not self._pool.loop.is_running():
                self._pool = SlotPool()
            pool = self._pool
            if self._ender is None:
                self._ender = threading.Thread(target=self._end_pool_when_idle, name="pymar-cluster-jobs", daemon=True)
                self._ender.start()
        try:
            yield pool
        finally:
            with self._lock:
                self._batches -= 1
                self._idle_since = monotonic()

    def package(self, pool: SlotPool, digest: bytes, fetch: Fetch) -> JobPackage:
        """Return the job with this digest; renew worker processes that have loaded other versions of its modules."""
        job = self._packages.get(digest)
        if job is None:
            job = opened(fetch())
        with self._lock:
            while len(self._packages) >= 8 and digest not in self._packages:
                del self._packages[next(iter(self._packages))]
            self._packages[digest] = job
            if self._loaded and any(self._loaded.get(name) != hashed for name, hashed in job.modules.items()):
                # One has changed; or it is new here, and another module may have imported another version of it.
                self._loaded.clear()
                pool.loop.call_soon(pool.renew)
            self._loaded.update(job.modules)
        return job

    def code(self, job: JobPackage, fetch: Fetch) -> tuple[Any, ...]:
        """Return the modules that travel with a job, as they are on this host; () if there are none.

        Raises:
            UsageError: they cannot be unpacked here.
        """
        if not job.modules_sent:
            return ()
        wanted = reference(job.modules_sent)
        with self._unpacking:
            folder = codecache.known(wanted) or codecache.found(wanted)
            if folder is None:
                folder = codecache.unpacked(wanted, fetch(True))
        return folder, wanted.roots, IN_PLACE

    def _end_pool_when_idle(self) -> None:
        while True:
            threading.Event().wait(END_POOL_AFTER / 4)
            with self._lock:
                if not self._batches and monotonic() - self._idle_since > END_POOL_AFTER:
                    self._ender = None
                    self._loaded.clear()
                    self._packages.clear()
                    ended, self._pool = self._pool, None
                    break
        if ended is not None:
            ended.shutdown()


_cluster_jobs = _ClusterJobs()


def _forget() -> None:
    """Begin anew in a forked process: the worker processes are the parent's."""
    global _cluster_jobs
    _cluster_jobs = _ClusterJobs()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def read(data: bytes) -> Outcome:
    """Decode an outcome of `compute`.

    Raises:
        PymarError: it is something else.
    """
    outcome = loads(data)
    if not isinstance(outcome, Outcome):
        raise PymarError(f"a task of the cluster returned {outcome!r:.100}")
    return outcome
