"""Lines for stderr, written by a thread of their own: nobody waits for ever for whoever should read them.

A terminal that is paused, or a pager, takes nothing. The threads that carry parts, and speak to the broker, go on;
lines that are too many by then are dropped, and counted.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import sys
import threading
from collections import deque
from contextlib import suppress
from time import monotonic

#: Characters that wait at most.
MOST = 16 << 20
#: Seconds that somebody waits until what was said is written; and, if that was in vain, until anybody waits again.
PATIENCE, REST = 1.0, 5.0
#: Characters that are written at a time: as many as a pipe takes whole.
_AT_ONCE = 4096


#: Lines and characters that are shown of one part, and of all parts of a job; the others are counted.
OF_A_PART, OF_A_JOB = (10_000, 1 << 20), (100_000, 10 << 20)


class Quota:
    """What is still shown, and how many lines were not."""

    def __init__(self, quota: tuple[int, int]) -> None:
        self._lines, self._characters = quota
        self.dropped: int = 0

    def has_room(self, line: str) -> bool:
        """Whether this line is shown; if not, it is counted, and so are all after it."""
        if self.dropped or not self._lines or len(line) > self._characters:
            self.dropped += 1
            return False
        self._lines -= 1
        self._characters -= len(line)
        return True

    def told(self) -> str:
        """How many lines were dropped; "" if none was."""
        return f"... and {self.dropped:,} more lines were dropped" if self.dropped else ""


class Output:
    """`say` and `settle` may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._size = 0
        self._dropped = 0
        self._writer: threading.Thread | None = None
        #: Whether lines wait, or are being written.
        self._is_busy = False
        #: When somebody may wait again.
        self._wait_from = 0.0

    def say(self, line: str) -> None:
        """Have a line written, soon; it is dropped if too much waits already."""
        with self._changed:
            if self._size + len(line) > MOST:
                self._dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)
            self._is_busy = True
            if self._writer is None:
                writer = threading.Thread(target=self._write, name="pymar-output", daemon=True)
                with suppress(RuntimeError):  # the system has no more threads: the next line tries again
                    writer.start()
                    self._writer = writer
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until what was said is written, but not for long."""
        if not self._is_busy or (now := monotonic()) < self._wait_from:
            return
        with self._changed:
            if not self._changed.wait_for(lambda: not self._is_busy, PATIENCE):
                self._wait_from = now + PATIENCE + REST

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._is_busy = False
                    self._changed.notify_all()
                    self._changed.wait()
                piece = self._next()
            _written("\n".join([*piece, ""]))
            with self._changed:
                self._size -= sum(map(len, piece))
                if self._dropped and not self._lines:
                    self._lines.append(f"[{self._dropped:,} lines were dropped here: nobody read them]")
                    self._size += len(self._lines[-1])
                    self._dropped = 0

    def _next(self) -> list[str]:
        piece, size = [self._lines.popleft()], 0
        while self._lines and (size := size + len(piece[-1]) + 1) + len(self._lines[0]) < _AT_ONCE:
            piece.append(self._lines.popleft())
        return piece


def _written(text: str) -> None:
    stream = sys.stderr
    if stream is None:
        return
    is_replaced = stream is not sys.__stderr__
    with suppress(Exception):  # Whatever stands for stderr here, it must not end the thread.
        if is_replaced:
            stream.write(text)
            stream.flush()
            return
        # Past its buffer: a thread that waits with the lock of that is an error when the interpreter ends.
        left = memoryview(text.encode(stream.encoding, "backslashreplace"))
        descriptor = stream.fileno()
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:
                _wait_for_room(descriptor)


def _wait_for_room(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


class OutputHandler(logging.Handler):
    """Log records as lines of this output."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self.format(record))
        except Exception:  # as each handler of logging does: a record that cannot be formatted ends nothing
            self.handleError(record)


_output = Output()


def say(line: str) -> None:
    """Have a line written to stderr, soon."""
    _output.say(line)


def settle() -> None:
    """Wait until what was said is written, but not for long."""
    _output.settle()


def _forget() -> None:
    """In a forked process: the thread is the parent's."""
    global _output
    _output = Output()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(settle)
