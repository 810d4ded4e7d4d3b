"""Frames: how a pool and its child processes talk over a pipe, and the drawing of what they say.

    pool -> child   ("hello", path, argv, cwd, environ)           how to find the user's modules; again when it changed
                    ("preload", path, code)                       the job file that a worker serves, before any job
                    ("job", key, definition, over)                a JobSpec, encoded, before its first batch; and the
                                                                  keys of jobs that are over
                    ("batch", key, number, parts)                 Part tuples; data encoded
                    ("drop", number, indices)                     of this batch: not yours, if you have not begun them
                    ("end",)                                      exit, as a script does at its end
    child -> pool   ("ready",)                                    the interpreter is up
                    ("loading",), then ("loaded",)                around the job file, imports and setup_fn, which count
                                                                  for no part
                    ("done", key, [(index, value, seconds), ...], last)   once a millisecond, between parts; the last
                                                                  time when the batch is over
                    ("failed", key, index, failure)               the user's code raised
                    ("lost", key, index, text)                    the part's data cannot be reached now
                    ("refused", key, indices, text)               this child's code is not what the job was made with
                    ("interrupted", key, index, text)             KeyboardInterrupt in the user's code; the child ends
                    ("garbled", text)                             what came is no frame; the child ends
                    ("print", index, text)                        what the user's code printed; -1 outside a part

A frame is a tuple of plain values in `marshal`'s format (both ends are the same interpreter, and to read it executes
nothing), between a head (four bytes of our own, and its length) and four bytes more: whatever else user code writes to
the pipe, before a frame or into one, is noticed, and its length is never believed.
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
#: Bytes asked for in a read, if no large frame is on its way.
READ_BYTES = 1 << 16
#: The pipes' size where it can be set (Linux's limit for unprivileged users).
PIPE_BYTES = 1 << 20
#: Bytes of a frame that is believed; a batch with large data has many times LARGEST.
_LARGEST_BODY = 1 << 40
#: Pieces that one system call writes (POSIX promises 16).
_AT_ONCE = 16
#: The exit code of a child whose results pipe is closed.
NO_PIPE = 251
#: Begins with a byte that no text has.
_MARK = b"\xf5\x9dPm"
_HEAD = struct.Struct("<4sQ")
_TAIL = b"mP\x9d\xf5"


class Garbled(Exception):
    """What came through a pipe is no frame."""


def pack(frame: Frame) -> list[bytes]:
    """A frame's bytes, in three pieces: a large value need not be copied to be sent."""
    body = marshal.dumps(frame)
    return [_HEAD.pack(_MARK, len(body)), body, _TAIL]


class Sender:
    """Writes frames to a pipe, as much as it takes at a time."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._pieces: deque[bytes | memoryview] = deque()

    def put(self, frame: Frame) -> None:
        """A frame that goes with the next `flush`."""
        self._pieces += pack(frame)

    def flush(self) -> bool:
        """Write; whether all has gone. On a pipe that blocks, all has.

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
        """Forget what is left."""
        self._pieces.clear()


class Unpacker:
    """Frames out of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need = _HEAD.size

    def wanted(self) -> int:
        """How many bytes to ask for next: the rest of a large frame, as far as a pipe holds it."""
        return min(max(READ_BYTES, self._need - len(self._buffer)), PIPE_BYTES)

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that are complete with this piece.

        Raises:
            Garbled: something else than frames has come; nothing more can be read.
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
