"""Outbox: messages that wait for the broker, in order; what is too much for memory waits in a temporary file."""

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


class Unconfirmed:
    """Of one connection at a time: the broker counts what is published on it (https://www.rabbitmq.com/docs/confirms)."""

    def __init__(self) -> None:
        self._messages: dict[int, Message] = {}
        #: Numbers of those that no queue has taken: these too are confirmed, later.
        self._returned: set[int] = set()
        self._published = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, message: Message) -> str:
        """Keep a message that is published now; its id, by which the broker gives back what no queue takes."""
        self._published += 1
        self._messages[self._published] = message
        return str(self._published)

    def came_back(self, message_id: str | None) -> None:
        """No queue has taken a message."""
        if message_id is not None and message_id.isdecimal():
            self._returned.add(int(message_id))

    def confirmed(self, last: int, multiple: bool, was_taken: bool) -> list[Message]:
        """Tell the senders of what the broker has dealt with; what it could not take is returned, to be sent again."""
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
        """The messages of a connection that has broken, oldest first; the next one counts anew."""
        messages = list(self._messages.values())
        self._messages.clear()
        self._returned.clear()
        self._published = 0
        return messages
