"""An agent's consumers of its work queue: one a free slot, each holding at most one delivery.

So no part waits behind a busy slot. A delivery whose job is not known yet holds up nobody: it is parked, and another
consumer takes its place. One that takes long is acknowledged early, and its consumer rests until its slot is free.
"""

from __future__ import annotations

from collections.abc import Callable

from pymar.amqp.link import Delivery, Link

#: Deliveries that may be parked, a slot.
_PARKED_A_SLOT = 50


class Consumers:
    """One consumer a free slot. It owns which of them holds which delivery. Agent's thread only.

    Args:
        on_delivery: takes what was delivered.
    """

    def __init__(self, link: Link, slots: int, on_delivery: Callable[[Delivery], None]) -> None:
        self._link = link
        self._slots = self._limit = slots
        self._on_delivery = on_delivery
        self._queue = ""
        #: What each consumer holds.
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
        """Take nothing new until `serve`."""
        self._queue = ""
        self._balance()

    def limit(self, slots: int) -> None:
        """Take no more than so many at a time: as many as there are children."""
        if slots != self._limit:
            self._limit = slots
            self._balance()

    def leave(self) -> None:
        """Consume no more. What is held is still to be acknowledged."""
        self._queue = ""
        for consumer in self._holds:
            self._link.cancel(consumer)
        self._holds.clear()

    def forget(self) -> None:
        """The connection is gone, and the consumers with it."""
        self._holds.clear()
        self._parked.clear()

    def lost(self, consumer: str) -> None:
        """The broker has ended one."""
        self._holds.pop(consumer, None)

    def free(self, delivery: Delivery) -> None:
        """Acknowledge a delivery; its slot is free."""
        self._link.acknowledge(delivery)
        self._release(delivery)

    def hand_back(self, delivery: Delivery) -> None:
        """Hand a delivery back; its slot is free."""
        self._link.hand_back(delivery)
        self._release(delivery)

    def is_held(self, delivery: Delivery) -> bool:
        """True if a delivery is still to be acknowledged, by a consumer that lives."""
        return self._holds.get(delivery.consumer) is delivery

    def park(self, delivery: Delivery) -> None:
        """A delivery waits, and its slot is free."""
        if self.is_held(delivery) and len(self._parked) < _PARKED_A_SLOT * self._slots:
            self._parked.add(delivery)
            self._balance()

    def unpark(self, delivery: Delivery) -> None:
        """A parked delivery is being computed."""
        self._parked.discard(delivery)

    def acknowledge_early(self, delivery: Delivery) -> None:
        """Acknowledge a delivery whose slot is still busy: its consumer ends first."""
        if self.is_held(delivery):
            del self._holds[delivery.consumer]
            self._early.add(delivery)
            self._link.cancel(delivery.consumer)
        self._link.acknowledge(delivery)

    def free_slot(self, delivery: Delivery) -> None:
        """The slot of a delivery that was acknowledged early is free."""
        self._early.discard(delivery)
        self._balance()

    def _came(self, delivery: Delivery) -> None:
        if delivery.consumer not in self._holds:  # it was on its way when its consumer ended
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
            consumer = self._link.consume(self._queue, 1, self._came)
            if not consumer:
                return
            self._holds[consumer] = None
        for consumer, holds in list(self._holds.items()):
            if len(self._holds) <= wanted:
                return
            if holds is None:
                del self._holds[consumer]
                self._link.cancel(consumer)
