"""Compute parts on a Dask cluster that is there already, through `distributed.Client`."""

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

from pymar.engines.cluster.package import packaged
from pymar.engines.cluster.placement import Placement
from pymar.engines.cluster.producer import BATCH_SECONDS, ClusterRun, Ending
from pymar.engines.cluster.worker import compute
from pymar.exceptions import ClusterLost, ClusterRefused, UsageError
from pymar.parts import Cause, JobSpec
from pymar.serialization.redaction import redacted_address, without
from pymar.slots.queue import drained

#: Seconds to reach a scheduler, to be told its workers, and for one that has gone to come back.
PATIENCE = 5.0
#: Seconds for the first answer.
FIRST_PATIENCE = 15.0

# One client for each scheduler: to connect takes longer than a small job.
_clients: dict[tuple[int, str], Any] = {}
# Dask's settings belong to the process: two threads that set one and put it back would leave it set.
_setting = threading.Lock()
# Two threads that need the first client need the same.
_connecting = threading.Lock()


def _forget() -> None:
    """In a fork: another thread may have held the locks."""
    global _setting, _connecting
    _setting, _connecting = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class DaskEngine:
    """`dask://scheduler:8786`; `dask://` for the client that this process has, or the scheduler of Dask's own settings.

    Raises:
        UsageError: the client is asynchronous.
    """

    name = "dask"
    batch_seconds = BATCH_SECONDS

    def __init__(self, address: str = "", client: Any = None) -> None:
        self._address = address
        self._client = None if client is None else _checked(client)

    def start(self, job: JobSpec, /) -> ClusterRun:
        package = packaged(job)
        client = _connected(self._address) if self._client is None else self._client
        return ClusterRun(DaskTasks(client, package.data, job.producer.__name__), job, package)


def _checked(client: Any) -> Any:
    if client.asynchronous:
        raise UsageError(f"engine={client!r}: this client is asynchronous; give a Client(asynchronous=False)")
    return client


def _connected(address: str) -> Any:
    """The client of this address, connected when it is first asked for."""
    if not address:
        try:
            return _checked(Client.current())
        except ValueError:
            address = dask.config.get("scheduler-address", "")
    if not address:
        raise UsageError("engine 'dask://': this process has no dask.distributed.Client; say dask://HOST:PORT")
    _check(address)
    key = os.getpid(), address  # a fork has the client, but not the thread that it lives in
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
                told = f"no Dask scheduler answers at {where}: {without(target, str(problem))}"
                raise ClusterRefused(told) from (problem if is_harmless else None)  # whose text may hold a password
        return client


def _check(address: str) -> None:
    """Refuse what Dask would look for, for a long time, without a word.

    Raises:
        UsageError: it is no address of a Dask scheduler.
    """
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        is_good = parts.port is not None and parts.hostname is not None and "@" not in parts.netloc
    except ValueError:
        is_good = False
    if not is_good and not address.startswith("inproc://"):
        raise UsageError("engine 'dask://': after it comes HOST:PORT of a Dask scheduler, without user and password")


class DaskTasks:
    """One job's tasks. Dask gives them to workers as they come; so they are held back until a worker is free."""

    def __init__(self, client: Any, data: bytes, job: str) -> None:
        self.name = "the Dask cluster"
        self._client = client
        self._job = job
        self._data = data
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
        # Dask warns of large arguments; records of the producer may be large, and that is how the user wants it.
        with _setting, dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
            if self._package is None or self._package.status not in ("pending", "finished"):
                # A task, since Dask computes those again where they are lost; it moves once to each worker.
                self._package = self._client.submit(_package, self._data, pure=False)
            key = f"{self._job}-{os.urandom(16).hex()}"  # Dask's own pages call a task by what stands before this
            arguments = self._package, self._batches[task]
            future = self._client.submit(
                _compute, *arguments, key=key, pure=False, retries=0, workers=[worker], allow_other_workers=True
            )
        self._futures[task] = future
        self._client.loop.add_callback(self._await, task, future)

    async def _await(self, task: str, future: Any) -> None:
        """In Dask's thread: hear how a task ends."""
        ending: Ending
        try:
            ending = await future
        except KilledWorker as error:
            ending = Cause("died", str(error))
        except CancelledError:
            ending = None  # by us; or the scheduler has forgotten it
        except OSError as error:
            ending = error if future.status == "error" else None  # raised by the task; or the scheduler went away
        except BaseException as error:
            ending = error
        self._ended.put((task, future, ending))

    def arrived(self, timeout: float, /) -> list[tuple[Hashable, Ending]]:
        found = self._drained(0.0)  # before tasks are placed: what has ended must not be taken elsewhere
        self._place()
        if not found:
            found = self._drained(timeout)
            self._place()
        return found

    def _drained(self, timeout: float) -> list[tuple[Hashable, Ending]]:
        found: list[tuple[Hashable, Ending]] = []
        for task, future, ending in drained(self._ended, timeout):
            if self._futures.get(task) is future:  # or it was taken from one worker to another
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
        """In Dask's thread, which nobody waits for: at the end of a script it may be gone."""
        if futures:
            self._client.loop.add_callback(partial(self._client.cancel, futures, asynchronous=True))

    def workers(self) -> Mapping[str, int]:
        if self._client.status == "running":
            patience = PATIENCE if self._has_answered else FIRST_PATIENCE
            try:
                self._workers = self._client.sync(self._client.scheduler.ncores, callback_timeout=patience)
            except (OSError, TimeoutError) as error:
                if self._has_answered:
                    return self._workers  # as they were: if the scheduler has gone, the client will say so
                raise ClusterRefused(
                    f"{self.name} does not answer within {patience:g} s. If this process is a fork of the one that "
                    "made the client, that is of no use here: give the address, engine='dask://HOST:PORT'"
                ) from error
            self._has_answered = True
            self._placement.there_are(self._workers)
        return self._workers


def _package(data: bytes) -> bytes:
    return data


def _compute(data: bytes, batch: bytes) -> bytes:
    """The task, on a worker. Dask cannot stop one that runs: it looks for itself whether it is still wanted."""
    worker = get_worker()
    tasks, key = worker.state.tasks, worker.get_current_task()

    def is_wanted() -> bool:
        task = tasks.get(key)
        return task is not None and task.state != "cancelled"

    return compute(lambda: data, batch, worker.address, worker.state.nthreads, is_wanted)
