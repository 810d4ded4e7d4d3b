"""The environment of worker processes: import path, arguments, folder, variables and cores, as they are now."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any


def usable_cores() -> int:
    """Cores of this process's affinity mask, or of its container's quota if that is less; at least 1.

    The quota is that of control groups: `cpu.max`, https://docs.kernel.org/admin-guide/cgroup-v2.html, or version 1's
    `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _quota("/sys/fs/cgroup")))


def _quota(root: str) -> int:
    quota = _words(f"{root}/cpu.max") or _words(f"{root}/cpu/cpu.cfs_quota_us") + _words(
        f"{root}/cpu/cpu.cfs_period_us"
    )
    if len(quota) != 2 or quota[0] in ("max", "-1"):
        return 1 << 30
    return -(-int(quota[0]) // int(quota[1]))


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


#: What OpenMP and the BLAS libraries read when they are loaded.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

#: What no child is given: secrets, where they lie, and what may hold a password.
_SECRETS = ("PYMAR_KEY", "PYMAR_KEY_FILE", "PYMAR_URL", "PYMAR_ENGINE")

#: Set in worker processes and in what they start: a job there does not start others, whatever its engine is to be.
IN_SLOT = "PYMAR_SLOT"

Where = tuple[list[str], list[str], str | None, dict[str, str]]


class Environment:
    """`where` is a new object whenever something has changed."""

    def __init__(self) -> None:
        self.where: Where = ([], [], None, {})
        self._seen: tuple[Any, ...] = ()
        self._cores = usable_cores()

    def look(self, slots: int) -> None:
        """Notice what the user has changed; for a pool of so many children."""
        # The environment as the system encodes it is copied in a tenth of the time.
        environ = dict(getattr(os.environ, "_data", os.environ))
        seen = (list(sys.path), list(sys.argv), folder(), environ, slots)
        if seen != self._seen:
            self._seen = seen
            path, argv = ([entry for entry in entries if isinstance(entry, str)] for entries in seen[:2])
            self.where = (path, argv, seen[2], _child_environ(max(1, self._cores // slots)))


def _child_environ(share: int) -> dict[str, str]:
    """This process's environment for a child that may use `share` cores.

    Strings hash the same in every child, so sets iterate alike; numerical libraries get a child's share of the cores
    unless the user has said otherwise.
    """
    given = without_secrets(os.environ)
    return {**dict.fromkeys(_THREADS, str(share)), **given, "PYTHONHASHSEED": "0", IN_SLOT: "1"}


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for processes that run the user's code: keys and passwords are none of its business.

    A job within a job runs in its own process, whatever engine the outer one has.
    """
    given = {name: value for name, value in environ.items() if name not in _SECRETS}
    return {**given, "PYMAR_ENGINE": "serial"}


def folder() -> str | None:
    """Return the folder of this process; None if it has been deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None  # It has been deleted; children stay where they are.


# The environment that was set last, as the system encodes it: it is compared in a tenth of the time.
_latest: tuple[Mapping[str, str], dict[bytes, bytes]] = ({}, {})


def set_environ(environ: Mapping[str, str]) -> None:
    """Make the environment of this process this one."""
    global _latest
    if _latest[0] is not environ:
        _latest = environ, {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    if getattr(os.environ, "_data", None) == _latest[1]:
        return
    zone = os.environ.get("TZ")
    os.environ.clear()
    os.environ.update(environ)
    if zone != environ.get("TZ") and hasattr(time, "tzset"):
        time.tzset()
