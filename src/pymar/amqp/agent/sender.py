"""Sender: messages of one agent to producers, encoded, signed if there is a key, and published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymar.amqp import protocol
from pymar.amqp.keys import Keys
from pymar.amqp.link import Link, Message
from pymar.amqp.wire import encode


class Sender:
    """Sends an agent's messages. It owns the agent's name and queue, which are in each of them. Agent's thread only."""

    def __init__(self, link: Link, me: protocol.Agent, pool: str, keys: Keys) -> None:
        self._link, self._me, self._pool, self._keys = link, me, pool, keys

    @property
    def me(self) -> protocol.Agent:
        """The agent, as it is named in its messages."""
        return self._me

    def listens_at(self, queue: str) -> None:
        """Name this queue for answers, from now on."""
        self._me = self._me._replace(queue=queue)

    def send(
        self, queue: str, message: Any, done: Callable[[bool], None] | None = None, lasting: bool | None = None
    ) -> None:
        """Publish a message to a producer.

        Args:
            done: called with True once the broker has confirmed it, or with False if the queue did not take it.
            lasting: True to keep the message until it is confirmed; by default, if there is a `done`.
        """
        body = encode(message, self._pool, self._keys, queue)
        self._link.publish(Message("", queue, body, done, done is not None if lasting is None else lasting))
