"""Lines for stderr or a log file, written by a thread of their own, so that no other thread waits for who reads them.

A paused terminal or pager reads nothing. The threads that carry parts and serve the connection to the broker go on
meanwhile; lines beyond MOST characters are dropped and counted.
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
from time import monotonic, strftime

from pymar.serialization.redaction import uncoloured
from pymar.slots.logfile import RotatedFile

#: Characters that may wait to be written.
MOST = 16 << 20
#: Seconds that `wait_until_written` waits at most; and that it does not wait at all, after a wait that ran out.
PATIENCE, REST = 1.0, 5.0
#: Characters written in one piece: what a pipe takes in one write.
_AT_ONCE = 4096


class Output:
    """The lines that wait for stderr, and the thread that writes them. Any thread may call it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._size = 0
        self._dropped = 0
        self._writer: threading.Thread | None = None
        #: True while lines wait or are being written.
        self._is_busy = False
        #: Before this time `wait_until_written` returns at once.
        self._wait_from = 0.0
        self._file: RotatedFile | None = None
        #: Lines that could not be written to the file, and why.
        self._unwritten, self._why = 0, ""

    def to_file(self, file: RotatedFile) -> None:
        """Write to this file from now on, with the time before each line, and without colours."""
        self._file = file

    def write_line(self, line: str) -> None:
        """Queue a line for the writing thread; drop it if too much waits already."""
        if self._file is not None:
            line = f"{strftime('%Y-%m-%d %H:%M:%S')} {uncoloured(line)}"
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

    def wait_until_written(self) -> None:
        """Wait until all queued lines are written, PATIENCE seconds at most."""
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
            if self._file is None:
                _written("\n".join([*piece, ""]))
            else:
                self._write_to(self._file, piece)
            with self._changed:
                self._size -= sum(map(len, piece))
                if self._dropped and not self._lines:
                    self._lines.append(f"[{self._dropped:,} lines were dropped here: nobody read them]")
                    self._size += len(self._lines[-1])
                    self._dropped = 0

    def _write_to(self, file: RotatedFile, piece: list[str]) -> None:
        if self._unwritten:
            note = f"{strftime('%Y-%m-%d %H:%M:%S')} [{self._unwritten:,} lines are missing here: {self._why}]"
            piece = [note, *piece]
        try:
            file.write("\n".join([*piece, ""]))
        except Exception as error:  # the disk is full, for example: the next line tries again
            self._unwritten += len(piece) - bool(self._unwritten)
            self._why = str(error)
        else:
            self._unwritten = 0

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
    with suppress(Exception):  # whatever sys.stderr is here, its errors must not end the thread
        if is_replaced:
            stream.write(text)
            stream.flush()
            return
        # Not through its buffer: a thread that blocks with the buffer's lock is a fatal error as the interpreter ends.
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
    """Writes log records as lines of this output. Any thread may call it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write_line(self.format(record))
        except Exception:  # as every handler of `logging`: a record that cannot be formatted must not raise
            self.handleError(record)


_output = Output()


def write_line(line: str) -> None:
    """Queue a line for stderr; return at once."""
    _output.write_line(line)


def wait_until_written() -> None:
    """Wait until all queued lines are written, PATIENCE seconds at most."""
    _output.wait_until_written()


def to_file(file: RotatedFile) -> None:
    """Write all lines to this file from now on, in place of stderr."""
    _output.to_file(file)


def _forget() -> None:
    """Begin anew in a forked process: the thread is the parent's."""
    global _output
    _output = Output()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(wait_until_written)
