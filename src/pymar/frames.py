"""Frames: how a pool and its child processes talk over a pipe, and the drawing of what they say.

    pool -> child   ("hello", path, argv, cwd, environ)           how to find the user's modules; again when it changed
                    ("job", key, definition, over)                a JobSpec, encoded, before its first batch; and the
                                                                  keys of jobs that are over
                    ("batch", key, parts)                         Part tuples; data encoded
                    ("drop", key, indices)                        not yours any more, if you have not begun them
    child -> pool   ("ready",)                                    the interpreter is up
                    ("loading",), then ("loaded",)                around imports and setup_fn, which count for no part
                    ("done", key, [(index, value, seconds), ...], last)   once a millisecond, between parts; the last
                                                                  time when the batch is over
                    ("failed", key, index, failure)               the user's code raised
                    ("print", index, text)                        what the user's code printed; -1 outside a part

A frame is a tuple of plain values in `marshal`'s format (both ends are the same interpreter, and to read it executes
nothing), after its length as eight bytes.
"""

from __future__ import annotations

import marshal
import struct
from collections.abc import Iterator
from typing import Any

Frame = tuple[Any, ...]
#: Bytes asked for in a read.
READ_BYTES = 1 << 16
LENGTH = struct.Struct("<Q")


def pack(frame: Frame) -> bytes:
    """A frame's bytes."""
    body = marshal.dumps(frame)
    return LENGTH.pack(len(body)) + body


class Unpacker:
    """Frames out of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._need = LENGTH.size

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that are complete with this piece."""
        buffer = self._buffer
        buffer += piece
        while len(buffer) >= self._need:
            if self._need == LENGTH.size:
                self._need += LENGTH.unpack_from(buffer)[0]
                if len(buffer) < self._need:
                    return
            with memoryview(buffer) as view:
                frame = marshal.loads(view[LENGTH.size : self._need])
            del buffer[: self._need]
            self._need = LENGTH.size
            yield frame
