"""Frames: the messages between a pool and its worker processes, over pipes.

    pool -> process ("hello", path, argv, cwd, environ)           its environment; sent again when it has changed
                    ("preload", path, code)                       load the job file that an agent serves, before any job
                    ("job", key, definition, over)                an encoded JobSpec, before its first batch; and the
                                                                  keys of jobs that are over
                    ("batch", key, number, parts)                 Part tuples; data encoded
                    ("drop", number, indices)                     skip these parts of a batch, if they were not begun
                    ("end",)                                      exit, as a script does at its end
    process -> pool ("ready",)                                    the interpreter is up
                    ("loading",), then ("loaded",)                around the job file, imports and setup_fn, whose time
                                                                  counts for no part
                    ("done", key, [(index, value, seconds), ...], last)   at most once a millisecond, between parts;
                                                                  `last` when the batch is over
                    ("failed", key, index, failure)               the user's code raised
                    ("lost", key, index, text)                    the part's data cannot be reached now
                    ("refused", key, indices, text)               its code is not what the job was made with
                    ("interrupted", key, index, text)             KeyboardInterrupt in the user's code; the process ends
                    ("garbled", text)                             what it read is no frame; it ends
                    ("print", index, text)                        what the user's code printed; -1 outside a part
                    ("dropped", index, lines)                     how many lines of the part were too many

A frame is a tuple of plain values in `marshal`'s format (both ends are the same interpreter, and reading it executes
nothing), between a head (a mark of four bytes, and the length) and a tail of four bytes: so anything else that user
code writes to the pipe, before a frame or into one, is detected before a length in it is used.
"""

from __future__ import annotations

import marshal
import os
import struct
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

Frame = tuple[Any, ...]
#: Bytes of a read, unless the rest of a large frame is expected.
READ_BYTES = 1 << 16
#: The pipes' size where it can be set (Linux's limit for unprivileged users).
PIPE_BYTES = 1 << 20
#: Bytes of the largest body that a head may announce; a batch may have many values of records.LARGEST bytes.
_LARGEST_BODY = 1 << 40
#: Pieces that one system call writes (POSIX guarantees 16).
_AT_ONCE = 16
#: The exit code of a worker process whose results pipe is closed.
NO_PIPE = 251
#: Begins with a byte that no text has.
_MARK = b"\xf5\x9dPm"
_HEAD = struct.Struct("<4sQ")
_TAIL = b"mP\x9d\xf5"


class Garbled(Exception):
    """What arrived through a pipe is no frame."""


def pack(frame: Frame) -> list[bytes]:
    """Return a frame's bytes in three pieces, so that a large value is not copied once more."""
    body = marshal.dumps(frame)
    return [_HEAD.pack(_MARK, len(body)), body, _TAIL]


class Sender:
    """The frames that wait to be written to a pipe. One thread at a time."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._pieces: deque[bytes | memoryview] = deque()

    def put(self, frame: Frame) -> None:
        """Add a frame, to be written by the next `flush`."""
        self._pieces += pack(frame)

    def flush(self) -> bool:
        """Write what the pipe takes; return True if nothing is left. A blocking pipe takes everything.

        Raises:
            BrokenPipeError: nobody reads the other end.
        """
        pieces = self._pieces
        while pieces:
            try:
                written = os.writev(self._pipe, list(islice(pieces, _AT_ONCE)))
            except BlockingIOError:
                return False
            while pieces and written >= len(pieces[0]):
                written -= len(pieces.popleft())
            if written:
                pieces[0] = memoryview(pieces[0])[written:]
        return True

    def drop(self) -> None:
        """Drop what is left."""
        self._pieces.clear()


class Unpacker:
    """Takes frames out of a stream that arrives in pieces. One thread at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need = _HEAD.size

    def wanted(self) -> int:
        """Return how many bytes to read next: more than usual for the rest of a large frame, up to a pipe's size."""
        return min(max(READ_BYTES, self._need - len(self._buffer)), PIPE_BYTES)

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with this piece.

        Raises:
            Garbled: something other than frames has arrived; nothing more can be read.
        """
        buffer = self._buffer
        buffer += piece
        while len(buffer) >= self._need:
            if self._need == _HEAD.size:
                mark, length = _HEAD.unpack_from(buffer)
                if mark != _MARK or length > _LARGEST_BODY:
                    raise Garbled(f"{bytes(buffer[:16])!r} is no frame")
                self._need += length + len(_TAIL)
                if len(buffer) < self._need:
                    return
            end = self._need - len(_TAIL)
            if not buffer.startswith(_TAIL, end):
                raise Garbled("a frame does not end where it should")
            with memoryview(buffer) as view:
                frame = _loaded(view[_HEAD.size : end])
            del buffer[: self._need]
            self._need = _HEAD.size
            yield frame


def _loaded(body: memoryview) -> Frame:
    try:
        frame = marshal.loads(body)
    except (EOFError, ValueError, TypeError) as problem:
        raise Garbled(f"a frame cannot be read: {problem}") from None
    if type(frame) is not tuple:
        raise Garbled("a frame is no tuple")
    return frame
