"""The environment of worker processes: import path, arguments, folder, variables and share of the cores."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any


def usable_cores() -> int:
    """Return the cores of this process's affinity mask, or of its container's quota if that is less; at least 1.

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

#: Variables that no worker process receives: secrets, the paths of their files, and what may hold a password.
_SECRETS = ("PYMAR_KEY", "PYMAR_KEY_FILE", "PYMAR_URL", "PYMAR_ENGINE")

#: Set in worker processes and in what they start: a job there runs in its own process, whatever engine it asks for.
IN_SLOT = "PYMAR_SLOT"

Where = tuple[list[str], list[str], str | None, dict[str, str]]


class Environment:
    """What worker processes receive of this process's environment.

    `where` is a new object whenever something has changed. Pool thread only.
    """

    def __init__(self) -> None:
        self.where: Where = ([], [], None, {})
        self._seen: tuple[Any, ...] = ()
        self._cores = usable_cores()

    def look(self, slots: int) -> None:
        """Update `where` if the user has changed something; `slots` share the cores."""
        # Encoded as the system has it, the environment is copied in a tenth of the time.
        environ = dict(getattr(os.environ, "_data", os.environ))
        seen = (list(sys.path), list(sys.argv), folder(), environ, slots)
        if seen != self._seen:
            self._seen = seen
            path, argv = ([entry for entry in entries if isinstance(entry, str)] for entries in seen[:2])
            self.where = (path, argv, seen[2], _process_environ(max(1, self._cores // slots)))


def _process_environ(share: int) -> dict[str, str]:
    """Return this process's environment for a worker process that may use `share` cores.

    Strings hash the same in every worker process, so sets iterate alike; numerical libraries use that share of the
    cores, unless the user has set their variables.
    """
    given = without_secrets(os.environ)
    return {**dict.fromkeys(_THREADS, str(share)), **given, "PYTHONHASHSEED": "0", IN_SLOT: "1"}


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for processes that run the user's code, without keys and passwords.

    PYMAR_ENGINE is serial there: a job within a job runs in its own process, whatever engine the outer one has.
    """
    given = {name: value for name, value in environ.items() if name not in _SECRETS}
    return {**given, "PYMAR_ENGINE": "serial"}


def folder() -> str | None:
    """Return the folder of this process; None if it has been deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None  # it has been deleted; worker processes stay in theirs


# The environment that was set last, also encoded as the system has it: so it is compared in a tenth of the time.
_latest: tuple[Mapping[str, str], dict[bytes, bytes]] = ({}, {})


def set_environ(environ: Mapping[str, str]) -> None:
    """Replace the environment variables of this process."""
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
