"""Compute parts on a Ray cluster that is there already, through `ray.remote`."""

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

from pymar.engines.cluster.package import packaged
from pymar.engines.cluster.producer import BATCH_SECONDS, ClusterRun, Ending
from pymar.engines.cluster.worker import compute
from pymar.exceptions import ClusterLost, ClusterRefused, UsageError
from pymar.parts import Cause, JobSpec
from pymar.serialization.redaction import redacted_address, without

#: Seconds between two looks of a task at whether it is still wanted; and where in Ray's own store it looks.
ASK_EVERY, NAMESPACE = 1.0, b"pymar"
#: Seconds for the head of a cluster to take a connection.
PATIENCE = 5.0
#: What Ray raises when a connection is lost.
_GONE = (ConnectionError, grpc.RpcError)

# The address that this module has connected to, if any.
_connected_to: str | None = None
# Ray bears no second thread that connects, and no fork.
_connecting = threading.Lock()
_is_fork = False


def _forget() -> None:
    """In a fork: another thread may have held the lock."""
    global _connecting, _is_fork
    _connecting, _is_fork = threading.Lock(), ray.is_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class RayEngine:
    """`ray://head:10001`; `ray://` for the cluster that this process is connected to, or that runs on this host."""

    name = "ray"
    batch_seconds = BATCH_SECONDS

    def __init__(self, address: str = "") -> None:
        self._address = address

    def start(self, job: JobSpec, /) -> ClusterRun:
        package = packaged(job)
        with _connecting:
            _connect(self._address)
        return ClusterRun(RayTasks(package.data, job.producer.__name__), job, package)


def _connect(address: str) -> None:
    """Connect this process, if it is not: it can be with one cluster at a time."""
    global _connected_to
    if _is_fork and ray.is_initialized():
        raise UsageError(
            "this process is a fork of one that is connected to a Ray cluster, and Ray bears no forks: start it by "
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
    except Exception as error:  # Ray raises many things, also of its own asserting
        problem = error
    if problem is not None:
        where = f"ray://{redacted_address(address)}" if address else "ray:// (a cluster on this host)"
        how = "`ray start --head` starts one"
        if not os.environ.get("RAY_AUTH_MODE"):
            how += "; if it asks for a token, set RAY_AUTH_MODE=token and have the token here"
        is_harmless = redacted_address(address) == address
        told = f"no Ray cluster answers at {where}: {without(address, str(problem))}. {how}"
        raise ClusterRefused(told) from (problem if is_harmless else None)  # whose text may hold a password


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"ray://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or "@" in address:
        raise UsageError(
            "engine 'ray://': after it comes HOST:PORT of a Ray head, without user and password, or nothing"
        )
    return host, port


@contextmanager
def _there() -> Iterator[None]:
    """Calls to a cluster.

    Raises:
        ClusterLost: it has gone.
    """
    try:
        yield
    except Exception as error:
        # Its client raises many things while it gives up to connect again, and a plain Exception from then on.
        if ray.is_initialized() and not isinstance(error, _GONE):
            raise
        what = str(error.details() if isinstance(error, grpc.RpcError) else error).rstrip(".")
        raise ClusterLost(
            f"the Ray cluster has gone: {what}. With checkpoint= the same call later computes only what is missing"
        ) from error


class RayTasks:
    """One job's tasks."""

    name = "the Ray cluster"

    def __init__(self, data: bytes, job: str) -> None:
        with _there():
            self._package = ray.put(data)
        self._function = _task().options(name=job)
        self._tasks: dict[Any, bytes] = {}
        self._run = os.urandom(16)
        self._stopped = b""

    def send(self, batch: bytes, /) -> Hashable:
        name = os.urandom(16)
        with _there():
            # The package in a list, so that a worker asks for it only if it does not know it.
            task: Hashable = self._function.remote([self._package], batch, self._run, name)
            self._tasks[task] = name  # its client waits here for the task's id
        return task

    def arrived(self, timeout: float, /) -> list[tuple[Hashable, Ending]]:
        if not self._tasks:
            sleep(timeout)  # nobody can report anything
            return []
        with _there():
            ended, waiting = ray.wait([*self._tasks], timeout=timeout)
            if ended and waiting:
                ended, _ = ray.wait([*self._tasks], num_returns=len(self._tasks), timeout=0)
            for task in ended:
                del self._tasks[task]
            return [(task, _ending(task)) for task in ended]

    def stop(self, tasks: Sequence[Hashable], /) -> None:
        # Not by ray.cancel: a task that was being handed to a worker then ended this whole process (2.60: "Tried to
        # complete task that was not pending"). So tasks look for themselves.
        self._stopped += b"".join(self._tasks.pop(task, b"") for task in tasks)
        if _is_fork:
            return  # an iterator that a fork has inherited: the job is its parent's
        with suppress(ClusterLost), _there():  # then nothing of ours runs there any more
            _internal_kv_put(self._run, self._stopped, namespace=NAMESPACE)

    def workers(self) -> Mapping[str, int]:
        with _there():
            nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        return {_name(node["NodeManagerAddress"], node["NodeID"]): int(node["Resources"]["CPU"]) for node in nodes}


def _name(address: str, node: str) -> str:
    """What a worker's node is called: one host may run several."""
    return f"node {address} ({node[:8]})"


def _ending(task: Any) -> Ending:
    try:
        value: bytes = ray.get(task)
    except RayTaskError as error:  # first: it is of its cause's class too, an error of the worker's
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
    """`_compute` as a task. One for all jobs: workers load each anew."""
    return ray.remote(max_retries=0)(_compute)


def _compute(packages: list[Any], batch: bytes, run: bytes, name: bytes) -> bytes:
    """The task, on a worker."""
    asked_at = -inf

    def is_wanted() -> bool:
        nonlocal asked_at
        if monotonic() - asked_at < ASK_EVERY:
            return True
        asked_at = monotonic()
        try:
            return name not in (_internal_kv_get(run, namespace=NAMESPACE) or b"")
        except Exception:  # Ray's store may be starting again: the next look will tell
            return True

    where = _name(ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id())
    return compute(lambda: ray.get(packages[0]), batch, where, slots=1, is_wanted=is_wanted)
