"""The link to the broker: what the producer's and the agent's halves ask of it.

    link         a pair of connections that comes back for ever; what was not confirmed is sent again
    pair         a connection that publishes and one that consumes
    publishing   messages that wait for the broker, and those that it has not confirmed
    client       the client library, pika, on our loop

What is here imports no client library, so a fake may stand in for the link.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from pymar.amqp.address import Address
from pymar.exceptions import BrokerRefused
from pymar.slots.loop import Loop


class Message(NamedTuple):
    """A message on its way, and who is told what became of it."""

    exchange: str
    key: str
    body: bytes
    done: Callable[[bool], None] | None = None
    """Called once the broker has it: True, or False if no queue takes it."""
    lasting: bool = True
    """Whether it survives the broker's restart, and is sent again after a reconnect."""


class Delivery(NamedTuple):
    """A message that has come, to be acknowledged on the connection that it came by."""

    epoch: int
    tag: int
    consumer: str
    redelivered: bool
    body: bytes


class LinkListener:
    """Takes what happens to a link, in the loop's thread. This one does nothing."""

    def link_is_up(self) -> None:
        """Both connections stand: declare and consume, as if never before."""

    def link_is_down(self, error: BrokerRefused) -> None:
        """They are broken, or could not be made; another attempt follows."""

    def consumer_was_cancelled(self, consumer: str) -> None:
        """The broker has ended a consumer: its queue was deleted."""


class Link(Protocol):
    """A link to the broker that comes back by itself. `start` and `stop` from any thread, all else from the loop's."""

    @property
    def epoch(self) -> int:
        """Counts connections: an acknowledgement is good only on the one that it belongs to."""

    @property
    def is_up(self) -> bool:
        """True while the connection stands."""

    @property
    def blocked(self) -> str:
        """Why the broker takes nothing, while it does not; else ""."""

    def start(self) -> None:
        """Connect, and stay connected."""

    def stop(self, then: Callable[[], None], now: bool = False) -> None:
        """Let what was published go out (not with `now`), disconnect, connect no more, and call `then`."""

    def publish(self, message: Message) -> None:
        """Send a message now, or when the broker is there; one that is not lasting only now."""

    def declare(self, queue: str, expires: float | None, then: Callable[[], None] | None = None) -> None:
        """Make a queue: durable, gone after `expires` seconds without use; or, with None, ours and gone with us."""

    def count_consumers(self, queue: str, expires: float, then: Callable[[int], None]) -> None:
        """Call `then` with the number of consumers of such a queue."""

    def delete(self, queue: str) -> None:
        """Drop a queue, and what is in it."""

    def open_exchange(self, exchange: str) -> None:
        """Make an exchange that copies each message to all queues that listen to it."""

    def listen(self, exchange: str, queue: str) -> None:
        """Have what is sent to an exchange come to this queue too."""

    def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> str:
        """Take messages of a queue, at most `prefetch` unacknowledged; return the consumer's name, or ""."""

    def cancel(self, consumer: str) -> None:
        """Take no more. What is acknowledged after this call makes room for nothing."""

    def purge(self, queue: str) -> None:
        """Drop what is in a queue and was not delivered."""

    def acknowledge(self, delivery: Delivery) -> None:
        """Have the broker forget a message. Too late for one of an earlier connection: that will come again."""

    def hand_back(self, delivery: Delivery) -> None:
        """Have the broker deliver a message to somebody else."""


#: Makes a link on this loop, to the broker at this address, whose events this listener receives.
LinkFactory = Callable[[Loop, Address, LinkListener], Link]
