"""Links to the broker that record, lose, double or shuffle what passes through them: for a producer's session."""

from pymar.amqp import protocol
from pymar.amqp.keys import Keys
from pymar.amqp.link.link import PikaLink
from pymar.amqp.wire import Reader

KINDS = {**protocol.TO_AGENT, **protocol.TO_PRODUCER}


def message_in(body):
    """Return the message that these bytes are; only without a key."""
    return Reader(KINDS, Keys()).read(body)[0]


class Tap:
    """Makes links, records what they publish and what is delivered to them, and lets all of it pass.

    A subclass decides what becomes of a message: `publish` and `deliver` send it on, never, once or several times.
    """

    def __init__(self):
        self.links = []
        self.published = []
        self.delivered = []

    def __call__(self, loop, address, listener):
        self.links.append(TappedLink(loop, address, listener, self))
        return self.links[-1]

    def on_publish(self, message, publish):
        publish(message)

    def on_delivery(self, delivery, deliver):
        deliver(delivery)

    def published_to(self, queue):
        """Return the messages that were published to a queue; only without a key."""
        return [message_in(message.body) for message in [*self.published] if message.key == queue]


class TappedLink(PikaLink):
    """A real link, whose messages a tap sees first. A delivery is acknowledged once, however often it is delivered."""

    def __init__(self, loop, address, listener, tap):
        super().__init__(loop, address, listener)
        self.tap = tap
        self.acknowledged = set()

    def publish(self, message):
        self.tap.published.append(message)
        self.tap.on_publish(message, super().publish)

    def consume(self, queue, prefetch, on_delivery):
        def delivered(delivery):
            self.tap.delivered.append(delivery)
            self.tap.on_delivery(delivery, on_delivery)

        return super().consume(queue, prefetch, delivered)

    def acknowledge(self, delivery):
        if (delivery.epoch, delivery.tag) not in self.acknowledged:
            self.acknowledged.add((delivery.epoch, delivery.tag))
            super().acknowledge(delivery)
