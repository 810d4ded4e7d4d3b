"""Parts computed as a guest: by the slots of a process that belongs to somebody else's cluster (Dask's, Ray's).

    hosted.py   a batch of parts, a package -----> a task of that cluster -> compute() -> ownpool.py, slots.py
                reports, as bytes <----------------------------------------'

The cluster's own process only waits: the parts run in children of it, as on the producer's host. So strings hash and
random numbers are drawn as everywhere, a part that dies or is stopped takes nobody with it, and threads share nothing.
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
from typing import Any, NamedTuple

from pymar.engines.cluster.package import JobPackage, opened
from pymar.exceptions import PymarError
from pymar.parts import Done, Failed, Lost, Part, Refused, Report, Returned, Running, make
from pymar.serialization import loads
from pymar.serialization.records import Encoded
from pymar.serialization.values import dumps
from pymar.slots.pool import OVERRUN, SlotPool, SlotRun
from pymar.slots.queue import Reports, Work
from pymar.version import __version__

#: Seconds between two looks at whether anybody still wants the parts.
LOOK_EVERY = 0.25
#: Seconds without work after which the children of a worker are ended: the machine belongs to others too.
LEAVE_AFTER = 60.0


class Batch(NamedTuple):
    """Parts that one task computes."""

    versions: dict[str, str]
    """Of the producer."""
    digest: bytes
    """Of the job's package."""
    parts: list[tuple[Any, ...]]
    """As they go in a frame; data encoded."""
    part_timeout: float | None
    memory_limit: int | None
    batch_seconds: float


class Outcome(NamedTuple):
    """What became of a batch's parts."""

    results: list[tuple[int, bytes, float]]
    """The fields of Done; a plain tuple costs a fraction of a report to send."""
    others: list[Report]
    """Failed, Lost, Returned; or Refused alone."""


@cache
def versions() -> dict[str, str]:
    """What must be the same at the producer and its workers: their bytes are understood nowhere else."""
    return {
        "Python": f"{version_info.major}.{version_info.minor}",
        "Pymar": __version__,
        "cloudpickle": version("cloudpickle"),
    }


def compute(
    fetch: Callable[[], bytes], batch: bytes, where: str, slots: int, is_wanted: Callable[[], bool] = lambda: True
) -> bytes:
    """The outcome of a batch, encoded.

    Args:
        fetch: gives the job's package; called if this process does not know it.
        batch: encoded.
        where: what this worker is called in errors.
        slots: how many tasks this process computes at once.
        is_wanted: asked four times a second; once it says no, everything is stopped.
    """
    wanted = Batch(*loads(batch))
    if wanted.versions != versions():
        others = ", ".join(f"{name} {value}" for name, value in versions().items())
        ours = ", ".join(f"{name} {value}" for name, value in wanted.versions.items())
        indices = tuple(fields[0] for fields in wanted.parts)
        refusal = Refused(indices, f"{where} has {others}, and the producer has {ours}: they have to be the same")
        return dumps(Outcome([], [refusal]))
    with _cluster_jobs.at_work() as host:
        job = _cluster_jobs.package(host, wanted.digest, fetch)
        return dumps(_computed(host, job, wanted, where, slots, is_wanted))


def _computed(
    host: SlotPool, job: JobPackage, batch: Batch, where: str, slots: int, is_wanted: Callable[[], bool]
) -> Outcome:
    work = Work(job.definition, batch.part_timeout, batch.memory_limit, batch.batch_seconds)
    run = host.start(work, slots, 1, Reports())
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
            if not has_begun and isinstance(report, Done):  # until then the child may be loading the job's modules
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
                case Refused(indices, _, True):  # others may compute them; if nobody does, that comes to an end
                    outcome.others.extend(Returned(index) for index in indices)
                    missing -= set(indices)
                    sleep(LOOK_EVERY)  # or the cluster would give this worker one batch after the other
                case Refused(_, text):
                    return Outcome([], [report._replace(text=f"on {where}: {text}")])
        if len(missing) > 1 and monotonic() >= recall_at:
            # A dear part: nothing is begun behind it here, others may have a slot that is free.
            run.recall(0.0 if has_begun else limit)
            recall_at = inf if has_begun else monotonic() + limit
        elif len(missing) <= 1:
            recall_at = inf
    return outcome


class _ClusterJobs:
    """The jobs of this process, and how long it has had none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches = 0
        #: Not the one of this process's own jobs, which live as long as it does.
        self._pool: SlotPool | None = None
        self._idle_since = 0.0
        self._leaver: threading.Thread | None = None
        self._packages: dict[bytes, JobPackage] = {}
        #: Hashes of the modules that the children may have loaded.
        self._loaded: dict[str, str] = {}

    @contextmanager
    def at_work(self) -> Iterator[SlotPool]:
        """This process's pool, which is not ended meanwhile."""
        with self._lock:
            self._batches += 1
            if self._pool is None or not self._pool.loop.is_running():
                self._pool = SlotPool()
            host = self._pool
            if self._leaver is None:
                self._leaver = threading.Thread(target=self._leave, name="pymar-guests", daemon=True)
                self._leaver.start()
        try:
            yield host
        finally:
            with self._lock:
                self._batches -= 1
                self._idle_since = monotonic()

    def package(self, host: SlotPool, digest: bytes, fetch: Callable[[], bytes]) -> JobPackage:
        """The job of this digest; the children that compute it have not loaded other versions of its modules."""
        job = self._packages.get(digest)
        if job is None:
            job = opened(fetch())
        with self._lock:
            while len(self._packages) >= 8 and digest not in self._packages:
                del self._packages[next(iter(self._packages))]
            self._packages[digest] = job
            if self._loaded and any(self._loaded.get(name) != hashed for name, hashed in job.modules.items()):
                # One has changed; or is new here, and who knows which version of it another module has imported.
                self._loaded.clear()
                host.loop.call_soon(host.renew)
            self._loaded.update(job.modules)
        return job

    def _leave(self) -> None:
        while True:
            threading.Event().wait(LEAVE_AFTER / 4)
            with self._lock:
                if not self._batches and monotonic() - self._idle_since > LEAVE_AFTER:
                    self._leaver = None
                    self._loaded.clear()
                    self._packages.clear()
                    ended, self._pool = self._pool, None
                    break
        if ended is not None:
            ended.shutdown()


_cluster_jobs = _ClusterJobs()


def _forget() -> None:
    """In a fork of a worker's process: the children are its, not ours."""
    global _cluster_jobs
    _cluster_jobs = _ClusterJobs()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def read(data: bytes) -> Outcome:
    """An outcome that `compute` encoded.

    Raises:
        PymarError: it is none.
    """
    outcome = loads(data)
    if not isinstance(outcome, Outcome):
        raise PymarError(f"a task of the cluster returned {outcome!r:.100}")
    return outcome
