"""The link to the broker, as producers and agents use it: `Link` is the protocol, `link.PikaLink` the real one.

One message passes through these modules:

    link         publishes it at once, or keeps it until the broker is connected; makes broken connections again
    publishing   the outbox of messages that wait, and the messages that the broker has not confirmed
    pair         two connections: one publishes, one consumes
    client       the client library, pika, on this package's event loop; errors with a remedy

This module imports no client library, so that tests can use another link.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from pymar.amqp.address import Address
from pymar.exceptions import BrokerRefused
from pymar.slots.loop import Loop


class Message(NamedTuple):
    """A message to publish."""

    exchange: str
    key: str
    body: bytes
    done: Callable[[bool], None] | None = None
    """Called with True once the broker has confirmed it, or with False if no queue took it."""
    lasting: bool = True
    """True if it survives a restart of the broker, and is sent again after a reconnect."""


class Delivery(NamedTuple):
    """A message that was delivered; it can be acknowledged only on the connection of the same epoch."""

    epoch: int
    tag: int
    consumer: str
    redelivered: bool
    body: bytes


class LinkListener:
    """Receives the events of a link; each method here does nothing. The loop's thread calls them."""

    def link_is_up(self) -> None:
        """Both connections are open, for the first time or again: queues are to be declared, and consumed."""

    def link_is_down(self, error: BrokerRefused) -> None:
        """A connection is broken, or could not be opened; another attempt follows."""

    def publishers_are_blocked(self, reason: str) -> None:
        """The broker takes no messages, for this reason; or, if it is empty, it does again. Then what waits follows."""

    def consumer_was_cancelled(self, consumer: str) -> None:
        """The broker has cancelled a consumer, since its queue was deleted."""


class Link(Protocol):
    """A connection to the broker that is made again by itself.

    `start` and `stop` may be called from any thread, all else from the loop's thread only.
    """

    @property
    def epoch(self) -> int:
        """The number of the present connection: what an earlier one delivered can no longer be acknowledged."""

    @property
    def is_up(self) -> bool:
        """True while the link is connected."""

    @property
    def blocked(self) -> str:
        """Why the broker blocks publishers, while it does; else ""."""

    def start(self) -> None:
        """Connect, and stay connected."""

    def stop(self, then: Callable[[], None], now: bool = False) -> None:
        """Wait a moment for confirms (not with `now`), disconnect for good, and call `then`."""

    def publish(self, message: Message) -> None:
        """Send a message now, or once the broker is connected; one that is not lasting is sent now or never."""

    def declare(self, queue: str, expires: float | None, then: Callable[[], None] | None = None) -> None:
        """Make a queue if it does not exist, and call `then`.

        Args:
            expires: seconds without use after which the durable queue is deleted; None for a queue of this connection
                alone, deleted with it.
        """

    def count_consumers(self, queue: str, expires: float, then: Callable[[int], None]) -> None:
        """Make a durable queue if it does not exist, and call `then` with the number of its consumers."""

    def delete(self, queue: str) -> None:
        """Delete a queue, with the messages in it."""

    def open_exchange(self, exchange: str) -> None:
        """Make an exchange that copies each message to all queues that are bound to it, if it does not exist."""

    def listen(self, exchange: str, queue: str) -> None:
        """Make such an exchange, and bind a queue to it."""

    def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> str:
        """Consume a queue, at most `prefetch` messages unacknowledged; return the consumer's name, "" if down."""

    def cancel(self, consumer: str) -> None:
        """End a consumer. An acknowledgement after this call makes the broker deliver nothing more to it."""

    def purge(self, queue: str) -> None:
        """Drop the messages in a queue that are not delivered."""

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge a message. One of an earlier epoch is not acknowledged: it will be delivered again."""

    def hand_back(self, delivery: Delivery) -> None:
        """Return a message to its queue, for another consumer."""


#: Makes a link on this loop, to the broker at this address, whose events this listener receives.
LinkFactory = Callable[[Loop, Address, LinkListener], Link]
