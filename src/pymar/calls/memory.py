"""A guard over the memory of this process: a result that grows over it ends with an error, and not by the kernel."""

from __future__ import annotations

import os
from time import monotonic

from pymar.exceptions import UsageError

#: The share of the memory that is free when a call begins which its results may take.
SHARE = 0.8
#: Seconds between two looks: one takes 10 us.
_EVERY = 0.1


class MemoryGuard:
    """Compares what this process has grown by, since the guard was made, with what was free then. Linux only.

    Raises:
        UsageError: from `check`: more than SHARE of it is taken.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self._what = what
        self._remedy = remedy
        self._next = 0.0
        self._before = resident()
        self._most = SHARE * available()

    def check(self, held: int) -> None:
        """Look at the memory, if that was some time ago; `held` is how many results there are."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        grown = resident() - self._before
        if grown > self._most:
            raise UsageError(
                f"{self._what} do not fit into memory: the first {held:,} take {grown / 1e9:.2g} GB, and "
                f"{self._most / SHARE / 1e9:.2g} GB were free on this host. {self._remedy}"
            )


def resident() -> int:
    """Return the bytes of resident memory of this process; 0 if that is not known."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def available() -> float:
    """Return the bytes that are free on this host, or in the control group of this process; inf if not known."""
    found = [float("inf")]
    try:
        with open("/proc/meminfo", "rb") as file:
            found += [int(line.split()[1]) * 1024.0 for line in file if line.startswith(b"MemAvailable")]
        with open("/sys/fs/cgroup/memory.max", "rb") as limit, open("/sys/fs/cgroup/memory.current", "rb") as current:
            found.append(float(int(limit.read()) - int(current.read())))
    except (OSError, ValueError):  # no Linux, another version of control groups, or "max"
        return min(found)
    return min(found)
