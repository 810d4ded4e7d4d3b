"""Outbox: messages that wait for the broker, in order; what is too much for memory waits in a temporary file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import IO, NamedTuple

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
    """Only one thread may use it."""

    def __init__(self) -> None:
        #: Messages; with the place of their body, if that is in the file.
        self._waiting: deque[tuple[Message, tuple[int, int] | None]] = deque()
        self._held = 0
        self._file: IO[bytes] | None = None

    def put(self, message: Message) -> None:
        """Keep a message."""
        self._waiting.append(self._kept(message))

    def put_first(self, messages: Sequence[Message]) -> None:
        """Keep messages, in their order, before all others."""
        self._waiting.extendleft([self._kept(message) for message in reversed(messages)])

    def _kept(self, message: Message) -> tuple[Message, tuple[int, int] | None]:
        size = len(message.body)
        if self._held + size <= IN_MEMORY:
            self._held += size
            return message, None
        return message._replace(body=b""), (self._spill(message.body), size)

    def take_all(self) -> Iterator[Message]:
        """The messages, oldest first, each gone once it was taken."""
        while self._waiting:
            message, place = self._waiting.popleft()
            if place is None:
                self._held -= len(message.body)
            else:
                message = message._replace(body=self._fetch(*place))
            yield message

    def clear(self) -> None:
        """Drop all."""
        self._waiting.clear()
        self._held = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self, body: bytes) -> int:
        if self._file is None:
            from tempfile import TemporaryFile

            self._file = TemporaryFile(prefix="pymar-")  # noqa: SIM115 - until it is empty
        start = self._file.seek(0, 2)
        self._file.write(body)
        return start

    def _fetch(self, start: int, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(start)
        body = self._file.read(size)
        if not any(place for _, place in self._waiting):
            self._file.close()
            self._file = None
        return body
