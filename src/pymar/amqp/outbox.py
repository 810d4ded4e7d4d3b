"""Outbox: messages that wait for the broker, in order; what is too much for memory waits in a temporary file."""

from __future__ import annotations

import io
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

log = logging.getLogger(__name__)

#: Bytes of waiting messages that are held in memory.
IN_MEMORY = 64 << 20


class Message(NamedTuple):
    """A message on its way, and who is told what became of it."""

    exchange: str
    key: str
    body: bytes
    done: Callable[[bool], None] | None = None
    """Called once the broker has it: True, or False if no queue takes it."""
    lasting: bool = True
    """Whether it survives the broker's restart, and is sent again after a reconnect."""


class Outbox:
    """Only one thread may use it. Keeping a message never fails: where the file takes no more, it stays in memory."""

    def __init__(self) -> None:
        #: Messages; with the place of their body, if that is in the file.
        self._waiting: deque[tuple[Message, tuple[int, int] | None]] = deque()
        self._held = 0
        self._file: io.FileIO | None = None
        #: How many have their body in the file, and where the next goes.
        self._spilled = self._end = 0
        self._has_complained = False

    def put(self, message: Message) -> None:
        """Keep a message."""
        self._waiting.append(self._kept(message))

    def put_first(self, messages: Sequence[Message]) -> None:
        """Keep messages, in their order, before all others."""
        self._waiting.extendleft([self._kept(message) for message in reversed(messages)])

    def _kept(self, message: Message) -> tuple[Message, tuple[int, int] | None]:
        size = len(message.body)
        if self._held + size > IN_MEMORY:
            try:
                return message._replace(body=b""), (self._spill(message.body), size)
            except OSError as error:
                self._complain(error)
        self._held += size
        return message, None

    def take_all(self) -> Iterator[Message]:
        """The messages, oldest first, each gone once it was taken.

        What the file does not give back is not among them: its sender is told that nobody took it, and sends it again.
        """
        while self._waiting:
            message, place = self._waiting.popleft()
            if place is None:
                self._held -= len(message.body)
            else:
                try:
                    message = message._replace(body=self._fetch(*place))
                except OSError as error:
                    log.warning("a message of %d bytes is lost with the temporary file: %s", place[1], error)
                    if message.done is not None:
                        message.done(False)
                    continue
            yield message

    def clear(self) -> None:
        """Drop all."""
        self._waiting.clear()
        self._held = self._spilled = 0
        self._close()

    def _spill(self, body: bytes) -> int:
        if self._file is None:
            from tempfile import TemporaryFile

            # Unbuffered: what a full disk did not take would be tried again with whatever is done next.
            self._file = TemporaryFile(prefix="pymar-", buffering=0)  # noqa: SIM115 - until it is empty
            self._end = 0
        assert self._file is not None
        start, left = self._end, memoryview(body)
        self._file.seek(start)
        while left:
            left = left[self._file.write(left) :]
        self._end += len(body)
        self._spilled += 1
        return start

    def _fetch(self, start: int, size: int) -> bytes:
        assert self._file is not None
        self._spilled -= 1
        try:
            self._file.seek(start)
            pieces, left = [], size
            while left:
                piece = self._file.read(left)
                if not piece:
                    raise OSError(f"the file ends {left:,} bytes too early")
                pieces.append(piece)
                left -= len(piece)
            return b"".join(pieces)
        finally:
            if not self._spilled:
                self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._has_complained = False

    def _complain(self, error: OSError) -> None:
        """Say it once for each life of the file."""
        if self._has_complained:
            return
        self._has_complained = True
        from tempfile import tempdir

        log.warning(
            "messages for the broker that should wait in a temporary file in %s stay in memory: %s. "
            "Make room there, or set TMPDIR to another folder",
            *(tempdir or os.environ.get("TMPDIR") or "/tmp", error),
        )
