"""How many cores this process may use."""

from __future__ import annotations

import os


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
