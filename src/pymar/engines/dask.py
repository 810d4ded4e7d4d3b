"""The Dask engine: parts are computed on an existing Dask cluster, through `distributed.Client`."""

from __future__ import annotations

import os
import threading
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import CancelledError
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client, KilledWorker, get_worker

from pymar.engines.cluster.package import EncodedPackage, packaged
from pymar.engines.cluster.placement import Placement
from pymar.engines.cluster.producer import BATCH_SECONDS, ClusterRun, Ending
from pymar.engines.cluster.worker import compute
from pymar.exceptions import ClusterLost, ClusterRefused, UsageError
from pymar.parts import Cause, JobSpec
from pymar.serialization.redaction import redacted_address, without
from pymar.slots.queue import drained

#: Seconds to connect to a scheduler, to get the list of its workers, and for a lost scheduler to come back.
PATIENCE = 5.0
#: Seconds for the first answer of a scheduler.
FIRST_PATIENCE = 15.0
#: Archives of modules that are kept on a cluster, and the attribute of a client that holds them.
_KEPT, _MODULES = 4, "_pymar_modules"

# One client for each scheduler: connecting takes longer than a small job.
_clients: dict[tuple[int, str], Any] = {}
# Dask's settings are global: two threads that set and restore one at once would leave it set.
_setting = threading.Lock()
# Two threads that both need the first client have to share it.
_connecting = threading.Lock()


def _forget() -> None:
    """Replace the locks in a forked process: another thread may have held them."""
    global _setting, _connecting
    _setting, _connecting = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class DaskEngine:
    """`dask://scheduler:8786`; `dask://` uses the current client of this process, or the scheduler of Dask's settings.

    Raises:
        UsageError: the client is asynchronous.

    Any thread may call it.
    """

    name = "dask"
    batch_seconds = BATCH_SECONDS

    def __init__(self, address: str = "", client: Any = None) -> None:
        self._address = address
        self._client = None if client is None else _checked(client)

    def start(self, job: JobSpec, /) -> ClusterRun:
        package = packaged(job)
        client = _connected(self._address) if self._client is None else self._client
        return ClusterRun(DaskTasks(client, package, job.producer.__name__), job, package)


def _checked(client: Any) -> Any:
    if client.asynchronous:
        raise UsageError(f"engine={client!r}: this client is asynchronous; give a Client(asynchronous=False)")
    return client


def _connected(address: str) -> Any:
    """Return the client of this address; connect it if there is none."""
    if not address:
        try:
            return _checked(Client.current())
        except ValueError:
            address = dask.config.get("scheduler-address", "")
    if not address:
        raise UsageError(
            "engine 'dask://': this process has no dask.distributed.Client: give engine='dask://HOST:PORT'"
        )
    _check(address)
    key = os.getpid(), address  # a fork has the client, but not the thread in which it runs
    with _connecting:
        client = _clients.get(key)
        if client is None or client.status != "running":
            target = address if "://" in address else f"tcp://{address}"
            problem: Exception | None = None
            try:
                client = _clients[key] = Client(target, set_as_default=False, timeout=PATIENCE)
            except (OSError, ValueError) as error:
                problem = error
            if problem is not None:
                where, is_harmless = redacted_address(target), redacted_address(target) == target
                text = f"no Dask scheduler answers at {where}: {without(target, str(problem))}"
                raise ClusterRefused(text) from (problem if is_harmless else None)  # its text may hold a password
        return client


def _check(address: str) -> None:
    """Refuse an invalid address, which Dask would try to reach for a long time, without an error.

    Raises:
        UsageError: it is not the address of a Dask scheduler.
    """
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        is_good = parts.port is not None and parts.hostname is not None and "@" not in parts.netloc
    except ValueError:
        is_good = False
    if not is_good and not address.startswith("inproc://"):
        raise UsageError("engine 'dask://': give HOST:PORT of a Dask scheduler after it, without user and password")


class DaskTasks:
    """The tasks of one job on a Dask cluster: a `Cluster`. It owns their futures and the job package there.

    Dask assigns tasks to workers as soon as they are submitted, so they are held back until a worker has a free slot.
    `_await` runs in Dask's thread, everything else in the thread of the job.
    """

    def __init__(self, client: Any, package: EncodedPackage, job: str) -> None:
        self.name = "the Dask cluster"
        self._client = client
        self._job = job
        self._data, self._archive = package.data, package.archive
        self._package: Any = None
        self._placement = Placement()
        self._batches: dict[str, bytes] = {}
        self._futures: dict[str, Any] = {}
        self._ended: SimpleQueue[tuple[str, Any, Ending]] = SimpleQueue()
        self._workers: dict[str, int] = {}
        self._gone_since: float | None = None
        self._has_answered = False

    def send(self, batch: bytes, /) -> str:
        task = os.urandom(16).hex()
        self._batches[task] = batch
        self._placement.add(task)
        return task

    def _place(self) -> None:
        for task, worker in self._placement.moves(monotonic()):
            if (elsewhere := self._futures.pop(task, None)) is not None:
                self._cancel([elsewhere])
            self._submit(task, worker)

    def _submit(self, task: str, worker: str) -> None:
        # Dask warns of large arguments; records of the producer may be large, which is the user's choice.
        with _setting, dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
            if self._package is None or self._package.status not in ("pending", "finished"):
                # As a task, which Dask computes again if its result is lost; the result travels once to each worker.
                self._package = self._client.submit(_package, self._data, pure=False)
            key = f"{self._job}-{os.urandom(16).hex()}"  # Dask's dashboard names a task by what stands before this
            arguments = self._package, self._batches[task], self._modules()
            future = self._client.submit(
                _compute, *arguments, key=key, pure=False, retries=0, workers=[worker], allow_other_workers=True
            )
        self._futures[task] = future
        self._client.loop.add_callback(self._await, task, future)

    def _modules(self) -> Any:
        """Return the result of the task that is the archive of the job's modules: one for all jobs that have them."""
        if self._archive is None:
            return b""
        kept: dict[str, Any] = vars(self._client).setdefault(_MODULES, {})
        future = kept.pop(self._archive.digest, None)
        if future is None or future.status not in ("pending", "finished"):
            future = self._client.submit(_package, self._archive.data, pure=False)
        kept[self._archive.digest] = future
        while len(kept) > _KEPT:
            del kept[next(iter(kept))]
        return future

    async def _await(self, task: str, future: Any) -> None:
        """Wait for the end of a task and queue it. In Dask's thread."""
        ending: Ending
        try:
            ending = await future
        except KilledWorker as error:
            ending = Cause("died", str(error))
        except CancelledError:
            ending = None  # by us; or the scheduler has lost it
        except OSError as error:
            ending = error if future.status == "error" else None  # raised by the task; or the scheduler went away
        except BaseException as error:
            ending = error
        self._ended.put((task, future, ending))

    def arrived(self, timeout: float, /) -> list[tuple[Hashable, Ending]]:
        found = self._drained(0.0)  # before tasks are placed: a task that has ended must not be moved
        self._place()
        if not found:
            found = self._drained(timeout)
            self._place()
        return found

    def _drained(self, timeout: float) -> list[tuple[Hashable, Ending]]:
        found: list[tuple[Hashable, Ending]] = []
        for task, future, ending in drained(self._ended, timeout):
            if self._futures.get(task) is future:  # else it was moved to another worker
                self._forget(task)
                found.append((task, ending))
        self._check()
        return found

    def _check(self) -> None:
        if self._client.status == "running":
            self._gone_since = None
            return
        self._gone_since = self._gone_since or monotonic()
        if self._client.status in ("closing", "closed") or monotonic() - self._gone_since > PATIENCE:
            raise ClusterLost(
                f"{self.name} has gone, or its client was closed. With checkpoint= the same call later computes only "
                "what is missing"
            )

    def _forget(self, task: str) -> Any:
        self._placement.ended(task, monotonic())
        del self._batches[task]
        return self._futures.pop(task, None)

    def stop(self, tasks: Sequence[Hashable], /) -> None:
        futures = [self._forget(task) for task in map(str, tasks) if task in self._batches]
        if self._client.status == "running":
            self._cancel([future for future in futures if future is not None])

    def _cancel(self, futures: list[Any]) -> None:
        """Cancel futures, in Dask's thread; do not wait for it: at the end of a script it may have ended."""
        if futures:
            self._client.loop.add_callback(partial(self._client.cancel, futures, asynchronous=True))

    def workers(self) -> Mapping[str, int]:
        if self._client.status == "running":
            patience = PATIENCE if self._has_answered else FIRST_PATIENCE
            try:
                self._workers = self._client.sync(self._client.scheduler.ncores, callback_timeout=patience)
            except (OSError, TimeoutError) as error:
                if self._has_answered:
                    return self._workers  # as they were: if the scheduler has gone, the client's status will change
                raise ClusterRefused(
                    f"{self.name} does not answer within {patience:g} s. If this process is a fork of the one that "
                    "made the client, the client does not work here: give the address, engine='dask://HOST:PORT'"
                ) from error
            self._has_answered = True
            self._placement.there_are(self._workers)
        return self._workers


def _package(data: bytes) -> bytes:
    return data


def _compute(data: bytes, batch: bytes, archive: bytes) -> bytes:
    """Compute a batch, on a worker. Dask cannot stop a running task, so the task checks itself if it was cancelled."""
    worker = get_worker()
    tasks, key = worker.state.tasks, worker.get_current_task()

    def is_wanted() -> bool:
        task = tasks.get(key)
        return task is not None and task.state != "cancelled"

    return compute(
        lambda of_modules=False: archive if of_modules else data,
        batch,
        worker.address,
        worker.state.nthreads,
        is_wanted,
    )
