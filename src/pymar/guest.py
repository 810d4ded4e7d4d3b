"""Parts computed as a guest: by the slots of a process that belongs to somebody else's cluster (Dask's, Ray's).

    hosted.py   a lot of parts, a bundle -----> a task of that cluster -> compute() -> ownpool.py, slots.py
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

from pymar import __version__
from pymar.bundle import Bundle, opened
from pymar.encoded import Encoded
from pymar.exceptions import PymarError
from pymar.parts import Done, Failed, Lost, Part, Refused, Report, Returned, Running, make
from pymar.reports import Reports
from pymar.slotrun import SlotRun, Work
from pymar.slots import OVERRUN, SlotPool
from pymar.values import dumps, loads

#: Seconds between two looks at whether anybody still wants the parts.
LOOK_EVERY = 0.25
#: Seconds without work after which the children of a worker are ended: the machine belongs to others too.
LEAVE_AFTER = 60.0


class Lot(NamedTuple):
    """Parts that one task computes."""

    versions: dict[str, str]
    """Of the producer."""
    digest: bytes
    """Of the job's bundle."""
    parts: list[tuple[Any, ...]]
    """As they go in a frame; data encoded."""
    part_timeout: float | None
    memory_limit: int | None
    batch_seconds: float


class Outcome(NamedTuple):
    """What became of a lot's parts."""

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
    fetch: Callable[[], bytes], lot: bytes, where: str, slots: int, is_wanted: Callable[[], bool] = lambda: True
) -> bytes:
    """The outcome of a lot, encoded.

    Args:
        fetch: gives the job's bundle; called if this process does not know it.
        lot: encoded.
        where: what this worker is called in errors.
        slots: how many tasks this process computes at once.
        is_wanted: asked four times a second; once it says no, everything is stopped.
    """
    wanted = Lot(*loads(lot))
    if wanted.versions != versions():
        others = ", ".join(f"{name} {value}" for name, value in versions().items())
        ours = ", ".join(f"{name} {value}" for name, value in wanted.versions.items())
        indices = tuple(fields[0] for fields in wanted.parts)
        refusal = Refused(indices, f"{where} has {others}, and the producer has {ours}: they have to be the same")
        return dumps(Outcome([], [refusal]))
    with _guests.at_work() as host:
        job = _guests.bundle(host, wanted.digest, fetch)
        return dumps(_computed(host, job, wanted, where, slots, is_wanted))


def _computed(host: SlotPool, job: Bundle, lot: Lot, where: str, slots: int, is_wanted: Callable[[], bool]) -> Outcome:
    work = Work(job.definition, lot.part_timeout, lot.memory_limit, lot.batch_seconds)
    run = host.start(work, slots, 1, Reports())
    try:
        run.submit([_part(fields) for fields in lot.parts])
        return _outcome(run, lot, where, is_wanted)
    finally:
        run.close()


def _part(fields: tuple[Any, ...]) -> Part:
    part: Part = make(Part, fields)
    return part if part.data is None else part._replace(data=Encoded(part.data))


def _outcome(run: SlotRun, lot: Lot, where: str, is_wanted: Callable[[], bool]) -> Outcome:
    missing = {fields[0] for fields in lot.parts}
    outcome = Outcome([], [])
    limit = OVERRUN * lot.batch_seconds
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
                case Failed(index, worker):
                    outcome.others.append(report._replace(worker=f"{where}, {worker}"))
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
                    sleep(LOOK_EVERY)  # or the cluster would give this worker one lot after the other
                case Refused(_, text):
                    return Outcome([], [report._replace(text=f"on {where}: {text}")])
        if len(missing) > 1 and monotonic() >= recall_at:
            # A dear part: nothing is begun behind it here, others may have a slot that is free.
            run.recall(0.0 if has_begun else limit)
            recall_at = inf if has_begun else monotonic() + limit
        elif len(missing) <= 1:
            recall_at = inf
    return outcome


class _Guests:
    """The jobs of this process, and how long it has had none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lots = 0
        #: Not the one of this process's own jobs, which live as long as it does.
        self._pool: SlotPool | None = None
        self._idle_since = 0.0
        self._leaver: threading.Thread | None = None
        self._bundles: dict[bytes, Bundle] = {}
        #: Hashes of the modules that the children may have loaded.
        self._loaded: dict[str, str] = {}

    @contextmanager
    def at_work(self) -> Iterator[SlotPool]:
        """This process's pool, which is not ended meanwhile."""
        with self._lock:
            self._lots += 1
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
                self._lots -= 1
                self._idle_since = monotonic()

    def bundle(self, host: SlotPool, digest: bytes, fetch: Callable[[], bytes]) -> Bundle:
        """The job of this digest; the children that compute it have not loaded other versions of its modules."""
        job = self._bundles.get(digest)
        if job is None:
            job = opened(fetch())
        with self._lock:
            while len(self._bundles) >= 8 and digest not in self._bundles:
                del self._bundles[next(iter(self._bundles))]
            self._bundles[digest] = job
            if self._loaded and any(self._loaded.get(name) != hashed for name, hashed in job.modules.items()):
                # One has changed; or is new here, and who knows which version of it another module has imported.
                self._loaded.clear()
                host.loop.tell(host.children.renew)
            self._loaded.update(job.modules)
        return job

    def _leave(self) -> None:
        while True:
            threading.Event().wait(LEAVE_AFTER / 4)
            with self._lock:
                if not self._lots and monotonic() - self._idle_since > LEAVE_AFTER:
                    self._leaver = None
                    self._loaded.clear()
                    self._bundles.clear()
                    ended, self._pool = self._pool, None
                    break
        if ended is not None:
            ended.shutdown()


_guests = _Guests()


def _forget() -> None:
    """In a fork of a worker's process: the children are its, not ours."""
    global _guests
    _guests = _Guests()


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
