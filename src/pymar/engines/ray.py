"""The Ray engine: parts are computed on an existing Ray cluster, through `ray.remote`."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from math import inf
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import grpc
import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from pymar.engines.cluster.package import EncodedPackage, packaged
from pymar.engines.cluster.producer import BATCH_SECONDS, ClusterRun, Ending
from pymar.engines.cluster.worker import compute
from pymar.exceptions import ClusterLost, ClusterRefused, UsageError
from pymar.parts import Cause, JobSpec
from pymar.serialization.archive import Archive
from pymar.serialization.redaction import redacted_address, without

#: Seconds between two checks of a task if it was stopped; and the namespace in Ray's key-value store where it checks.
ASK_EVERY, NAMESPACE = 1.0, b"pymar"
#: Seconds for the head of a cluster to accept a connection.
PATIENCE = 5.0
#: The errors that Ray raises when a connection is lost.
_GONE = (ConnectionError, grpc.RpcError)

# The address to which this module has connected, if any.
_connected_to: str | None = None
# Ray supports neither two threads that connect at once nor forks.
_connecting = threading.Lock()
_is_fork = False


def _forget() -> None:
    """Replace the lock in a forked process, another thread may have held it; and note that this is a fork."""
    global _connecting, _is_fork
    _connecting, _is_fork = threading.Lock(), ray.is_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class RayEngine:
    """`ray://head:10001`; `ray://` uses the cluster to which this process is connected, or one on this host.

    Any thread may call it.
    """

    name = "ray"
    batch_seconds = BATCH_SECONDS

    def __init__(self, address: str = "") -> None:
        self._address = address

    def start(self, job: JobSpec, /) -> ClusterRun:
        package = packaged(job)
        with _connecting:
            _connect(self._address)
        return ClusterRun(RayTasks(package, job.producer.__name__), job, package)


def _connect(address: str) -> None:
    """Connect this process, unless it is connected already. Ray allows one cluster at a time."""
    global _connected_to
    if _is_fork and ray.is_initialized():
        raise UsageError(
            "this process is a fork of one that is connected to a Ray cluster, which Ray does not support: start it in "
            "another way (multiprocessing.set_start_method('spawn')), or before the first job on Ray"
        )
    if ray.is_initialized():
        if address and _connected_to not in (None, address):
            raise UsageError(
                f"engine 'ray://{redacted_address(address)}': this process is connected to "
                f"ray://{redacted_address(str(_connected_to))}, and Ray allows one "
                "cluster at a time: call ray.shutdown() first"
            )
        return
    _connected_to = address or None
    problem: Exception | None = None
    try:
        if address:
            socket.create_connection(_host_and_port(address), PATIENCE).close()  # Ray would try for half a minute
        ray.init(f"ray://{address}" if address else "auto", logging_level=logging.WARNING)
    except UsageError:
        raise
    except Exception as error:  # Ray raises many kinds, AssertionError among them
        problem = error
    if problem is not None:
        where = f"ray://{redacted_address(address)}" if address else "ray:// (a cluster on this host)"
        how = "`ray start --head` starts one"
        if not os.environ.get("RAY_AUTH_MODE"):
            how += "; if it needs a token, set RAY_AUTH_MODE=token and provide the token here"
        is_harmless = redacted_address(address) == address
        text = f"no Ray cluster answers at {where}: {without(address, str(problem))}. {how}"
        raise ClusterRefused(text) from (problem if is_harmless else None)  # its text may hold a password


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"ray://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or "@" in address:
        raise UsageError(
            "engine 'ray://': give HOST:PORT of a Ray head after it, without user and password, or nothing"
        )
    return host, port


@contextmanager
def _there() -> Iterator[None]:
    """Translate errors of calls to a cluster that has gone.

    Raises:
        ClusterLost: the cluster has gone.
    """
    try:
        yield
    except Exception as error:
        # Its client raises many kinds of errors while it tries to reconnect, and a plain Exception after that.
        if ray.is_initialized() and not isinstance(error, _GONE):
            raise
        what = str(error.details() if isinstance(error, grpc.RpcError) else error).rstrip(".")
        raise ClusterLost(
            f"the Ray cluster has gone: {what}. With checkpoint= the same call later computes only what is missing"
        ) from error


class RayTasks:
    """The tasks of one job on a Ray cluster: a `Cluster`. Thread of the job only."""

    name = "the Ray cluster"

    def __init__(self, package: EncodedPackage, job: str) -> None:
        with _there():
            self._package = ray.put(package.data)
            self._archive = None if package.archive is None else _put(package.archive)
        self._function = _task().options(name=job)
        self._tasks: dict[Any, bytes] = {}
        self._run = os.urandom(16)
        self._stopped = b""

    def send(self, batch: bytes, /) -> Hashable:
        name = os.urandom(16)
        with _there():
            # In a list, so that a worker fetches them only if it does not have them.
            task: Hashable = self._function.remote([self._package, self._archive], batch, self._run, name)
            self._tasks[task] = name  # hashing a task makes Ray's client wait for its id
        return task

    def arrived(self, timeout: float, /) -> list[tuple[Hashable, Ending]]:
        if not self._tasks:
            sleep(timeout)  # there is nothing to wait for
            return []
        with _there():
            ended, waiting = ray.wait([*self._tasks], timeout=timeout)
            if ended and waiting:
                ended, _ = ray.wait([*self._tasks], num_returns=len(self._tasks), timeout=0)
            for task in ended:
                del self._tasks[task]
            return [(task, _ending(task)) for task in ended]

    def stop(self, tasks: Sequence[Hashable], /) -> None:
        # Not by ray.cancel: if a task was just being sent to a worker, that ended this whole process (2.60: "Tried to
        # complete task that was not pending"). So tasks check themselves.
        self._stopped += b"".join(self._tasks.pop(task, b"") for task in tasks)
        if _is_fork:
            return  # an iterator that a fork has inherited: the job is its parent's
        with suppress(ClusterLost), _there():  # if the cluster has gone, none of our tasks runs
            _internal_kv_put(self._run, self._stopped, namespace=NAMESPACE)

    def workers(self) -> Mapping[str, int]:
        with _there():
            nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        return {_name(node["NodeManagerAddress"], node["NodeID"]): int(node["Resources"]["CPU"]) for node in nodes}


#: The archive of modules that was put into the cluster last: its digest, the connection, and the reference there.
_latest: tuple[str, Any, Any] | None = None


def _put(archive: Archive) -> Any:
    """Return the reference to an archive in the cluster, one for all jobs of this process with the same modules."""
    global _latest
    # The id of Ray's job is not enough: each cluster counts its own from 1, and a reference to another's is none here.
    client, context = ray.util.client.ray, ray.get_runtime_context()
    is_client = client.is_connected()
    here = client.get_context().client_worker if is_client else (context.get_job_id(), context.get_node_id())
    if _latest is None or _latest[:2] != (archive.digest, here):
        _latest = archive.digest, here, ray.put(archive.data)
    return _latest[2]


def _name(address: str, node: str) -> str:
    """Return the name of a node in messages, with its id: one host may run several."""
    return f"node {address} ({node[:8]})"


def _ending(task: Any) -> Ending:
    try:
        value: bytes = ray.get(task)
    except RayTaskError as error:  # first: Ray makes it an instance of its cause's class too
        failed: BaseException = error
        return failed
    except (WorkerCrashedError, NodeDiedError) as error:
        return Cause("died", f"a worker of Ray died: {str(error).partition('.')[0]}")
    except OutOfMemoryError as error:
        return Cause("memory", f"Ray's memory monitor stopped a worker: {error}")
    except ObjectLostError:
        return None
    except Exception as error:
        if isinstance(error, _GONE) or not ray.is_initialized():
            raise
        return error
    return value


@cache
def _task() -> Any:
    """Return `_compute` as a remote function. One for all jobs: workers load each such function anew."""
    return ray.remote(max_retries=0)(_compute)


def _compute(packages: list[Any], batch: bytes, run: bytes, name: bytes) -> bytes:
    """Compute a batch, on a worker."""
    asked_at = -inf

    def is_wanted() -> bool:
        nonlocal asked_at
        if monotonic() - asked_at < ASK_EVERY:
            return True
        asked_at = monotonic()
        try:
            return name not in (_internal_kv_get(run, namespace=NAMESPACE) or b"")
        except Exception:  # Ray's store may be restarting: the next check finds out
            return True

    where = _name(ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id())
    return compute(lambda of_modules=False: ray.get(packages[of_modules]), batch, where, slots=1, is_wanted=is_wanted)
