"""Outbox: messages that wait for the broker. Unconfirmed: messages that are sent, and that it has not confirmed."""

from __future__ import annotations

import io
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence

from pymar.amqp.link import Message

log: logging.Logger = logging.getLogger(__name__)

#: Bytes of waiting messages that are held in memory.
IN_MEMORY = 64 << 20


class Outbox:
    """Messages that wait for the broker, in order. It owns them, and a temporary file for bodies beyond IN_MEMORY.

    Keeping a message never fails: if the file cannot be written, the message stays in memory. One thread only.
    """

    def __init__(self) -> None:
        #: Messages; with start and size of their body, if that is in the file.
        self._waiting: deque[tuple[Message, tuple[int, int] | None]] = deque()
        self._held = 0
        self._file: io.FileIO | None = None
        #: How many have their body in the file, and where the next begins.
        self._spilled = self._end = 0
        self._has_warned = False

    def put(self, message: Message) -> None:
        """Keep a message, behind all others."""
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
                self._warn_once(error)
        self._held += size
        return message, None

    def take_all(self) -> Iterator[Message]:
        """Yield the messages, oldest first, and remove each.

        A message that cannot be read from the file is dropped: `done(False)` makes its sender send it again.
        """
        while self._waiting:
            message, stored = self._waiting.popleft()
            if stored is None:
                self._held -= len(message.body)
            else:
                try:
                    message = message._replace(body=self._fetch(*stored))
                except OSError as error:
                    log.warning("a message of %d bytes cannot be read from the temporary file: %s", stored[1], error)
                    if message.done is not None:
                        message.done(False)
                    continue
            yield message

    def clear(self) -> None:
        """Drop all messages."""
        self._waiting.clear()
        self._held = self._spilled = 0
        self._close()

    def _spill(self, body: bytes) -> int:
        if self._file is None:
            from tempfile import TemporaryFile

            # Unbuffered: a buffer would write what a full disk refused again with each later call.
            self._file = TemporaryFile(prefix="pymar-", buffering=0)  # noqa: SIM115 - open until the outbox is empty
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
            self._has_warned = False

    def _warn_once(self, error: OSError) -> None:
        """Log that messages stay in memory, once for each temporary file."""
        if self._has_warned:
            return
        self._has_warned = True
        from tempfile import tempdir

        log.warning(
            "messages that wait for the broker stay in memory, since a temporary file in %s cannot be written: %s. "
            "Make room there, or set TMPDIR to another folder",
            *(tempdir or os.environ.get("TMPDIR") or "/tmp", error),
        )


class Unconfirmed:
    """Messages that were published on the present connection and are not confirmed; it owns them.

    The broker confirms by a number, which counts the messages of one connection
    (https://www.rabbitmq.com/docs/confirms). One thread only.
    """

    def __init__(self) -> None:
        self._messages: dict[int, Message] = {}
        #: Numbers of those that the broker has returned, since no queue takes them: later it confirms these too.
        self._returned: set[int] = set()
        self._published = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, message: Message) -> str:
        """Keep a message that is published now; return its id, by which the broker returns it if no queue takes it."""
        self._published += 1
        self._messages[self._published] = message
        return str(self._published)

    def returned(self, message_id: str | None) -> None:
        """Note that the broker has returned a message, since no queue takes it."""
        if message_id is not None and message_id.isdecimal():
            self._returned.add(int(message_id))

    def confirmed(self, last: int, multiple: bool, was_taken: bool) -> list[Message]:
        """Call `done` of messages that the broker has confirmed; return those that it refused, to be sent again."""
        refused = []
        for number in [one for one in self._messages if one <= last] if multiple else [last]:
            message = self._messages.pop(number, None)
            if message is None:
                continue
            if not was_taken:
                refused.append(message)
                continue
            was_returned = number in self._returned
            self._returned.discard(number)
            if message.done is not None:
                message.done(not was_returned)
        return refused

    def take_all(self) -> list[Message]:
        """Remove and return the messages of a broken connection, oldest first; numbers begin again at 1."""
        messages = list(self._messages.values())
        self._messages.clear()
        self._returned.clear()
        self._published = 0
        return messages
