"""A worker process as the operating system sees it: its pipes, its memory, its signals and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

from pymar.exceptions import UsageError
from pymar.slots.frames import NO_PIPE, PIPE_BYTES, READ_BYTES, Frame, Sender, Unpacker

#: Last lines of a process's output that are kept, to explain how it ended.
LINES_KEPT = 20

#: Reads from one process before it is the turn of the next. At its end it is read twice: a whole pipe, that is.
_READS_AT_ONCE = 8

_START = "import sys; sys.path.insert(0, sys.argv[1]); from pymar.slots.child import main; main()"
#: The folder that holds the package `pymar`, three levels above this file.
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def check_interpreter() -> None:
    """Refuse to start worker processes if `sys.executable` is no Python: each would be this whole program again.

    Raises:
        UsageError: it is no Python interpreter; the message says what it is.
    """
    program = sys.executable or ""
    if getattr(sys, "frozen", False):
        what = f"this is a frozen program ({program})"
    elif not program or not os.access(program, os.X_OK):
        what = f"sys.executable is {program!r}, which cannot be run"
    elif "py" not in os.path.basename(program).casefold():
        what = f"sys.executable is {program!r}, which does not look like one"
    else:
        return
    raise UsageError(
        f"worker processes need a Python interpreter, and {what}: use engine='serial'; or set sys.executable to "
        f"the Python {sys.version_info.major}.{sys.version_info.minor} that has the same packages, before the first job"
    )


class WorkerProcess:
    """A new interpreter that runs `child.main`: its pipes (tasks, results, stderr, lifeline), its memory and its end.

    The process holds the lifeline's reading end, and ends itself when this process, which holds the other, has ended.

    Pool thread only.
    """

    def __init__(self, number: int, environ: dict[str, str]) -> None:
        with ExitStack() as ends:  # closes what was opened, if anything fails
            self.tasks: int
            self.results: int
            self.lifeline: int
            self.stderr: int
            tasks, self.tasks = _pipe(ends)
            self.results, results = _pipe(ends)
            lifeline, self.lifeline = _pipe(ends)
            self.stderr, stderr = _pipe(ends)
            self.process: subprocess.Popen[bytes] = _started((tasks, results, lifeline), stderr, environ)
            #: A descriptor that is readable once the process has ended; None where the system has none.
            self.ended: int | None = None
            if hasattr(os, "pidfd_open"):
                ends.callback(self.process.wait)
                ends.callback(self.process.kill)
                self.ended = os.pidfd_open(self.process.pid)
            ends.pop_all()
        for end in (tasks, results, lifeline, stderr):
            os.close(end)
        for end in (self.tasks, self.results, self.stderr):
            os.set_blocking(end, False)
        _widen(self.tasks)
        _widen(self.results)
        #: Our ends of the pipes, and `ended`.
        self.watched: set[int] = {self.tasks, self.results, self.stderr, *([] if self.ended is None else [self.ended])}
        self.number = number
        self.pid: int = self.process.pid
        self.name: str = f"slot {number} (pid {self.pid})"
        #: Its name in reports: the slot, with its host.
        self.worker: str = f"{self.name} on {os.uname().nodename}"
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._unpacker = Unpacker()
        self._sender = Sender(self.tasks)
        self._partial_line = b""
        #: True once the process has closed its results pipe.
        self.hung_up: bool = False
        #: True once its stderr has ended.
        self.is_silent: bool = False

    def put(self, *frame: Any) -> None:
        """Add a frame, to be sent by the next `flush`."""
        self._sender.put(frame)

    def flush(self) -> bool:
        """Send what the pipe takes; return True if nothing is left."""
        try:
            return self._sender.flush()
        except BrokenPipeError:
            self._sender.drop()  # it has died; `wait` returns how
            return True

    def keep_line(self, line: str) -> None:
        """Keep a line of its output, to explain how it ended."""
        self.lines.append(line)

    def forget_lines(self) -> None:
        """Drop the lines that were kept: the next ones are of another job."""
        self.lines.clear()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that have arrived, of a limited number of reads: other processes have their turn.

        Raises:
            Garbled: something other than frames has arrived.
        """
        for _ in range(_READS_AT_ONCE):
            size = self._unpacker.wanted()
            piece = _read(self.results, size)
            if piece is None:
                return
            yield from self._unpacker.feed(piece)
            self.hung_up = not piece
            if len(piece) < size:
                return

    def printed(self) -> list[str]:
        """Return lines that C code or a dying interpreter has written to stderr since the last call."""
        piece = _read(self.stderr, READ_BYTES)
        if piece is None:
            return []
        self.is_silent = not piece
        *lines, self._partial_line = (self._partial_line + piece).split(b"\n")
        if self._partial_line and (self.is_silent or len(self._partial_line) > READ_BYTES):
            lines.append(self._partial_line)
            self._partial_line = b""
        return [line.decode(errors="replace") for line in lines]

    def memory(self) -> int:
        """Return its resident bytes now; 0 where this cannot be read (on systems other than Linux)."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            return 0

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the user's code."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill the process. What it has started is ended by `LeftoverGroup`."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.process.returncode is None:  # else its pid may be somebody else's
            # It may have ended already, and `wait` returns how; or it runs as another user by now.
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    def wait(self, block: bool = False) -> str | None:
        """Return how it ended, with its peak memory; None while it runs."""
        if self.process.returncode is not None:
            return f"exit code {self.process.returncode}"
        try:
            pid, status, usage = os.wait4(self.pid, 0 if block else os.WNOHANG)
        except ChildProcessError:
            self.process.returncode = 0
            return (
                f"{self.name} ended; how is not known, since this process ignores SIGCHLD or waits for all its children"
            )
        if pid == 0:
            return None
        self.process.returncode = code = os.waitstatus_to_exitcode(status)
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        if code == NO_PIPE:
            how += ", since it had closed its results pipe"
        if code == -signal.SIGIO:
            how += ", since something has written into its lifeline, a pipe of this process"
        unit = 1 if sys.platform == "darwin" else 1024
        return f"{self.name} ended: {how}, peak memory {usage.ru_maxrss * unit >> 20} MiB"

    def close(self) -> None:
        """Close our ends of its pipes. The process must have ended."""
        for end in (*self.watched, self.lifeline):
            with suppress(OSError):  # other code in this process has closed it by mistake
                os.close(end)
        self.watched.clear()

    def disown(self, end: int) -> None:
        """Never close this end: other code has closed it already, and its number may become that of another file."""
        self.watched.discard(end)


class LeftoverGroup:
    """The process group of a worker process that has ended: what that had started and still runs.

    It receives SIGTERM, and SIGKILL at `kill_at`. Python's resource trackers ignore SIGTERM: they remove shared memory
    and semaphores and end by themselves, once the processes that they serve have ended.

    Pool thread only.
    """

    def __init__(self, group: int, kill_at: float) -> None:
        self._group = group
        self._kill_at = kill_at
        self._is_asked = self._signal(signal.SIGTERM)

    def is_over(self, now: float) -> bool:
        """True if nothing of the group runs, or it has been killed because its time is up."""
        if self._is_asked and _runs(self._group):
            if now < self._kill_at:
                return False
            self._signal(signal.SIGKILL)
        return True

    def _signal(self, number: int) -> bool:
        try:
            os.killpg(self._group, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # all of it runs as another user (sudo), which we may not end
            return False
        return True


def _runs(group: int) -> bool:
    """True if a process group has a process that is no zombie: in a container, zombies may stay for ever."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    if sys.platform != "linux":
        return True
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                state, _, of = stat.read().rpartition(b")")[2].split()[:3]
                if int(of) == group and state not in b"ZX":
                    return True
    return False


def _pipe(ends: ExitStack) -> tuple[int, int]:
    pair = os.pipe()
    for end in pair:
        ends.callback(os.close, end)
    return pair


def _started(given: tuple[int, ...], output: int, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    ends = [str(end) for end in (*given, os.getpid())]
    return subprocess.Popen(
        [sys.executable, *flags, "-P", "-c", _START, _PACKAGE_PARENT, *ends],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=given,
        env=environ,
        process_group=0,
        bufsize=0,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have numbers only
        return f"signal {number}"


def _read(descriptor: int, size: int) -> bytes | None:
    """Return the bytes that are there: None if there are none yet, b"" at the end."""
    try:
        return os.read(descriptor, size)
    except BlockingIOError:
        return None


def _widen(pipe: int) -> None:
    if sys.platform == "linux":
        import fcntl

        # If the user's quota of pipe memory is used up: 64 KiB work too, with more context switches.
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
