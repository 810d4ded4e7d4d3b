"""The pool of this process: one for all its jobs, made when it is first needed."""

from __future__ import annotations

import os
import threading

from pymar.slots import SlotPool

_pool: SlotPool | None = None
_making = threading.Lock()


def pool() -> SlotPool:
    """The pool; a new one if that has ended."""
    global _pool
    with _making:
        if _pool is None or not _pool.loop.is_running():
            _pool = SlotPool()
        return _pool


def shutdown() -> None:
    """End the pool's children now; the next job starts new ones. At exit this happens by itself."""
    global _pool
    with _making:
        ended, _pool = _pool, None
    if ended is not None:
        ended.shutdown()


def _forget() -> None:
    """In a process that was forked from one with a pool: the children are the parent's, not ours."""
    global _pool, _making
    _pool, _making = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
