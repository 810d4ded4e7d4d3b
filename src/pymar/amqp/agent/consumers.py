"""Consumers: an agent's consumers of its work queue, one for each slot, each with at most one delivery.

So no part waits behind a busy slot. A delivery whose job is not known yet occupies no slot: it is parked, and another
consumer is started. One that takes long is acknowledged early: its consumer ends, until its slot is free.
"""

from __future__ import annotations

from collections.abc import Callable

from pymar.amqp.link import Delivery, Link

#: Deliveries that may be parked, for each slot.
_PARKED_A_SLOT = 50


class Consumers:
    """The consumers of one agent. It owns them, and knows the delivery of each. Agent's thread only.

    Args:
        on_delivery: called with each delivery.
    """

    def __init__(self, link: Link, slots: int, on_delivery: Callable[[Delivery], None]) -> None:
        self._link = link
        self._slots = self._limit = slots
        self._on_delivery = on_delivery
        self._queue = ""
        #: The delivery of each consumer.
        self._holds: dict[str, Delivery | None] = {}
        self._parked: set[Delivery] = set()
        #: Deliveries that were acknowledged early, and whose slots are not free yet.
        self._early: set[Delivery] = set()

    def __contains__(self, consumer: str) -> bool:
        return consumer in self._holds

    def __len__(self) -> int:
        return len(self._holds)

    def serve(self, queue: str) -> None:
        """Consume this queue."""
        self._queue = queue
        self._balance()

    def pause(self) -> None:
        """Take no new deliveries until `serve` is called."""
        self._queue = ""
        self._balance()

    def limit(self, slots: int) -> None:
        """Have at most this many consumers: as many as there are worker processes."""
        if slots != self._limit:
            self._limit = slots
            self._balance()

    def leave(self) -> None:
        """End all consumers. Their deliveries are still to be acknowledged."""
        self._queue = ""
        for consumer in self._holds:
            self._link.cancel(consumer)
        self._holds.clear()

    def forget(self) -> None:
        """Forget all consumers, which have ended with the connection."""
        self._holds.clear()
        self._parked.clear()

    def lost(self, consumer: str) -> None:
        """Forget a consumer that the broker has cancelled."""
        self._holds.pop(consumer, None)

    def free(self, delivery: Delivery) -> None:
        """Acknowledge a delivery, and free its slot."""
        self._link.acknowledge(delivery)
        self._release(delivery)

    def hand_back(self, delivery: Delivery) -> None:
        """Hand a delivery back to the broker, and free its slot."""
        self._link.hand_back(delivery)
        self._release(delivery)

    def is_held(self, delivery: Delivery) -> bool:
        """True if a delivery is unacknowledged, and its consumer still exists."""
        return self._holds.get(delivery.consumer) is delivery

    def park(self, delivery: Delivery) -> None:
        """Free the slot of a delivery that waits, unless too many are parked."""
        if self.is_held(delivery) and len(self._parked) < _PARKED_A_SLOT * self._slots:
            self._parked.add(delivery)
            self._balance()

    def unpark(self, delivery: Delivery) -> None:
        """Give a parked delivery a slot again, since it is being computed."""
        self._parked.discard(delivery)

    def acknowledge_early(self, delivery: Delivery) -> None:
        """Acknowledge a delivery whose slot is still busy, after its consumer has ended: so no other is delivered."""
        if self.is_held(delivery):
            del self._holds[delivery.consumer]
            self._early.add(delivery)
            self._link.cancel(delivery.consumer)
        self._link.acknowledge(delivery)

    def free_slot(self, delivery: Delivery) -> None:
        """Free the slot of a delivery that was acknowledged early."""
        self._early.discard(delivery)
        self._balance()

    def _received(self, delivery: Delivery) -> None:
        if delivery.consumer not in self._holds:  # the broker sent it before it received the end of this consumer
            self._link.hand_back(delivery)
            return
        self._holds[delivery.consumer] = delivery
        self._on_delivery(delivery)

    def _release(self, delivery: Delivery) -> None:
        self._parked.discard(delivery)
        if self.is_held(delivery):
            self._holds[delivery.consumer] = None
            self._balance()

    def _balance(self) -> None:
        wanted = min(self._slots, self._limit) + len(self._parked) - len(self._early) if self._queue else 0
        while self._link.is_up and len(self._holds) < wanted:
            consumer = self._link.consume(self._queue, 1, self._received)
            if not consumer:
                return
            self._holds[consumer] = None
        for consumer, holds in list(self._holds.items()):
            if len(self._holds) <= wanted:
                return
            if holds is None:
                del self._holds[consumer]
                self._link.cancel(consumer)
