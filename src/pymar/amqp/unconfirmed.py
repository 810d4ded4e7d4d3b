"""Unconfirmed: what was published on a connection, and the broker has not confirmed."""

from __future__ import annotations

from pymar.amqp.outbox import Message


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
