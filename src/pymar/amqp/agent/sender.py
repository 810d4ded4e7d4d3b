"""The sender: messages of one agent to producers, encoded, signed if there is a key, and published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymar.amqp import protocol
from pymar.amqp.keys import Keys
from pymar.amqp.link import Link, Message
from pymar.amqp.wire import encode


class Sender:
    """It owns the agent's name and address, which stand in every message. Agent's thread only."""

    def __init__(self, link: Link, me: protocol.Agent, pool: str, keys: Keys) -> None:
        self._link, self._me, self._pool, self._keys = link, me, pool, keys

    @property
    def me(self) -> protocol.Agent:
        """The agent, as it stands in its messages."""
        return self._me

    def listens_at(self, queue: str) -> None:
        """Answers come to this queue from now on."""
        self._me = self._me._replace(queue=queue)

    def send(
        self, queue: str, message: Any, done: Callable[[bool], None] | None = None, lasting: bool | None = None
    ) -> None:
        """Publish a message to a producer.

        Args:
            done: is told whether the queue took it, once the broker has dealt with it.
            lasting: keep the message until it is confirmed; by default, if there is a `done`.
        """
        body = encode(message, self._pool, self._keys, queue)
        self._link.publish(Message("", queue, body, done, done is not None if lasting is None else lasting))
