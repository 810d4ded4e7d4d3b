"""Pair: a connection that publishes and one that consumes, with a channel each. If one breaks, both are dropped.

There are two, since a broker that is short of memory or disk stops reading from connections that publish, and
acknowledgements must still reach it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pika

from pymar.amqp.address import Address
from pymar.amqp.link.client import PikaLoop, check_owner, parameters
from pymar.exceptions import BrokerRefused
from pymar.serialization.redaction import printable

log: logging.Logger = logging.getLogger(__name__)


class PairListener:
    """Receives the events of a pair until it is given up; a method here does nothing. The loop's thread calls them."""

    def opened(self) -> None:
        """Both channels are open."""

    def broken(self, error: BaseException) -> None:
        """A connection or a channel could not be opened, or has closed."""

    def confirmed(self, number: int, multiple: bool, was_taken: bool) -> None:
        """The broker has taken or refused the message of this number, or all up to it if `multiple`."""

    def returned(self, message_id: str | None) -> None:
        """The broker has returned a message, since no queue takes it."""

    def was_cancelled(self, consumer: str) -> None:
        """The broker has cancelled a consumer."""

    def was_blocked(self, reason: str) -> None:
        """The broker blocks publishers, for this reason; or, if it is empty, no longer does."""


class Pair:
    """Two connections to the broker, with a channel each, which it owns: `open` once, and `give_up`.

    The loop's thread only.
    """

    def __init__(self, address: Address, adapter: PikaLoop, listener: PairListener) -> None:
        self._address = address
        self._adapter = adapter
        self._listener = listener
        self._connections: list[Any] = []
        #: Channels, once they are open.
        self.publishing: Any = None
        self.consuming: Any = None
        self._is_over = False

    def open(self) -> None:
        """Connect; the listener is called with the outcome, maybe before this returns."""
        try:
            settings = parameters(self._address)
            for then in (self._can_publish, self._can_consume):
                self._connections.append(
                    pika.SelectConnection(
                        settings,
                        on_open_callback=partial(self._opened, then),
                        on_open_error_callback=self._closed,
                        on_close_callback=self._closed,
                        custom_ioloop=self._adapter,
                    )
                )
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Report to the listener that the pair does not work."""
        self._listener.broken(error)

    def give_up(self, for_good: bool = False) -> None:
        """Disconnect; the listener is not called any more. `for_good`: also connections that are still being opened."""
        self._is_over = True
        self._listener = PairListener()  # whose methods do nothing
        self.publishing = self.consuming = None
        for connection in self._connections:
            # One that is being opened is closed once it is open: pika may fail if that is interrupted.
            if connection.is_open or (for_good and not connection.is_closing and not connection.is_closed):
                _close(connection)

    @property
    def is_closed(self) -> bool:
        """True if both connections are closed."""
        return all(connection.is_closed for connection in self._connections)

    def _opened(self, then: Callable[[Any], None], connection: Any) -> None:
        if self._is_over:
            _close(connection)
            return
        try:
            check_owner(self._address, connection)
        except BrokerRefused as refused:
            log.warning("%s", refused)
            self.fail(refused)
            return
        connection.add_on_connection_blocked_callback(self._was_blocked)
        connection.add_on_connection_unblocked_callback(self._was_unblocked)
        connection.channel(on_open_callback=partial(self._channel_opened, then))

    def _channel_opened(self, then: Callable[[Any], None], channel: Any) -> None:
        if self._is_over:
            return
        channel.add_on_close_callback(self._closed)
        then(channel)
        if self.publishing is not None and self.consuming is not None:
            self._listener.opened()

    def _can_publish(self, channel: Any) -> None:
        self.publishing = channel
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed)

    def _can_consume(self, channel: Any) -> None:
        self.consuming = channel
        channel.add_on_cancel_callback(self._was_cancelled)

    # Callbacks for pika.

    def _closed(self, what: Any, error: BaseException) -> None:
        self.fail(error)

    def _confirmed(self, frame: Any) -> None:
        confirm = frame.method
        self._listener.confirmed(confirm.delivery_tag, confirm.multiple, isinstance(confirm, pika.spec.Basic.Ack))

    def _returned(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._listener.returned(properties.message_id)

    def _was_cancelled(self, frame: Any) -> None:
        self._listener.was_cancelled(frame.method.consumer_tag)

    def _was_blocked(self, connection: Any, frame: Any) -> None:
        self._listener.was_blocked(printable(str(frame.method.reason)) or "no reason given")

    def _was_unblocked(self, connection: Any, frame: Any) -> None:
        self._listener.was_blocked("")


def _close(connection: Any) -> None:
    try:
        connection.close()
    except Exception as problem:
        log.debug("a connection is closed already, or not open yet: %r", problem)
