"""Processes of a cluster on this host that live on when `pymar up` has ended: a module of Pymar's each, detached.

They are found again by their arguments, `python -m MODULE POOL ...`: a pool's name is random, so it needs no file with
a number in it, which a crash could leave behind and another process could have by then.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from pymar.exceptions import UsageError

#: Seconds that a process has to end after SIGTERM, and after SIGKILL.
_ENDS, _DIES = 5.0, 5.0
#: Seconds between two looks.
_PAUSE = 0.05


def start(module: str, pool: str, arguments: Sequence[str], folder: Path, output: IO[str]) -> subprocess.Popen[bytes]:
    """Start a module for the cluster of this pool, in this folder; what it prints goes to `output`."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("PYMAR_")
    }  # no secret of theirs
    if path := environ.get("PYTHONPATH"):
        environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
    process = subprocess.Popen(
        [sys.executable, "-m", module, pool, *arguments],
        stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, env=environ, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + _ENDS
    # Its arguments can be read a moment later only: who looks for it at once has to find it.
    while process.pid not in found(module, pool) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(_PAUSE / 10)  # nothing tells when a process can be found
    return process


def found(module: str, pool: str) -> dict[int, str]:
    """Return the processes of this user that run a module for this pool, each with its command line."""
    mine, wanted = os.geteuid(), f" -m {module} {pool} "
    return {pid: command for uid, pid, command in _listed() if uid == mine and wanted in f"{command} "}


def _listed() -> Iterator[tuple[int, int, str]]:
    """Yield user, number and command line of each process."""
    if os.path.exists("/proc/self/cmdline"):  # a small system may have no ps
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:  # else it has just ended
                    command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
                    yield os.fstat(file.fileno()).st_uid, int(name), command
        return
    # -ww: else COLUMNS in the environment would cut the lines.
    done = subprocess.run(["ps", "-ewwo", "uid=,pid=,args="], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        uid, pid, command = [*line.split(None, 2), "", "", ""][:3]
        yield int(uid), int(pid), command


def end(module: str, pool: str, which: Callable[[str], bool] = lambda command: True) -> None:
    """End the processes that run a module for this pool, or those whose command line is chosen, and wait for that.

    Raises:
        UsageError: one of them does not end.
    """
    began = time.monotonic()
    while chosen := {pid for pid, command in found(module, pool).items() if which(command)}:
        waited = time.monotonic() - began
        if waited > _ENDS + _DIES:
            raise UsageError(f"process {min(chosen)} ({module}) does not end: is this host stuck?")
        _signal(chosen, signal.SIGKILL if waited > _ENDS else signal.SIGTERM, module, pool)


def _signal(pids: set[int], number: signal.Signals, module: str, pool: str) -> None:
    """Send a signal to processes that are still what they were, and wait until they have ended, a while at most."""
    if not hasattr(os, "pidfd_open"):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(_PAUSE)  # the caller looks again; without a handle nothing tells of their end
        return
    with ExitStack() as stack:
        handles = {}
        for pid in pids:
            with suppress(OSError):
                handles[pid] = os.pidfd_open(pid)
                stack.callback(os.close, handles[pid])
        still = handles.keys() & found(module, pool).keys()  # its number was not given away meanwhile
        for pid in still:
            with suppress(OSError):
                signal.pidfd_send_signal(handles[pid], number)
        wait([handles[pid] for pid in still], _ENDS)


def wait(handles: Iterable[int], seconds: float) -> None:
    """Wait until the processes of these handles (pidfd) have ended with all their threads, for so long at most."""
    waiting, left = select.poll(), 0
    for handle in handles:
        waiting.register(handle, select.POLLIN)
        left += 1
    deadline = time.monotonic() + seconds
    while left and (ended := waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)):
        for handle, _ in ended:
            waiting.unregister(handle)
        left -= len(ended)
