"""A broker in memory, and the link to it: what `pymar.amqp.link.Link` promises, without RabbitMQ and without pika.

`tests/amqp/test_link.py` runs the same tests on this link and on the real one.
"""

from collections import deque
from dataclasses import dataclass, field
from itertools import count

from pymar.amqp.link import Delivery
from pymar.exceptions import BrokerRefused


@dataclass
class Queue:
    """Bodies that wait, each with whether it was delivered before; and who consumes them."""

    waiting: deque = field(default_factory=deque)
    consumers: deque = field(default_factory=deque)
    owner: object = None
    """The link that it is gone with, if it is exclusive."""


@dataclass
class Consumer:
    name: str
    queue: str
    link: object
    prefetch: int
    on_delivery: object
    unacknowledged: int = 0


class FakeBroker:
    """Used by the threads of several loops: each call ends before the next begins, since a lock of Python's is held."""

    def __init__(self):
        self.queues = {}
        self.exchanges = {}
        self.links = []
        self.numbers = count(1)

    def link(self, loop, address, listener):
        """Make a link, as `Session` and `WorkerAgent` do by their argument `link`."""
        one = FakeLink(self, loop, listener)
        self.links.append(one)
        return one

    def route(self, exchange, key, body):
        """True if a queue has taken it."""
        names = self.exchanges.get(exchange, ()) if exchange else [key]
        taken = [self.queues[name] for name in list(names) if name in self.queues]
        for queue in taken:
            queue.waiting.append((body, False))
            self.deliver(queue)
        return bool(taken)

    def deliver(self, queue):
        """Give what waits to consumers that have room, in turn."""
        for _ in range(len(queue.consumers) * max(1, len(queue.waiting))):
            if not queue.waiting or not queue.consumers:
                return
            consumer = queue.consumers[0]
            queue.consumers.rotate(-1)
            if consumer.unacknowledged < consumer.prefetch:
                consumer.unacknowledged += 1
                body, redelivered = queue.waiting.popleft()
                consumer.link.give(consumer, body, redelivered)

    def delete(self, name):
        """Delete a queue, as an administrator may."""
        queue = self.queues.pop(name, None)
        for consumer in queue.consumers if queue is not None else ():
            consumer.link.consumer_is_gone(consumer)

    def cut(self, again=True):
        """Break all connections; `again`: they are made anew at once."""
        for link in [one for one in self.links if one.is_up]:
            link.loop.call_soon(link.break_off, again)


class FakeLink:
    """All of it in its loop's thread, but for `start` and `stop`."""

    def __init__(self, broker, loop, listener):
        self.broker, self.loop, self.listener = broker, loop, listener
        self.epoch = 0
        self.is_up = False
        self.blocked = ""
        self.outbox = deque()
        self.unconfirmed = {}
        self.consumers = {}
        #: Deliveries of this connection: consumer and body, by tag.
        self.unacknowledged = {}
        self.is_over = False

    def start(self):
        self.loop.call_soon(self.connect)

    def stop(self, then, now=False):
        self.loop.call_soon(self.end, then)

    def connect(self):
        if self.is_over:
            return
        self.is_up = True
        self.listener.link_is_up()
        while self.outbox:
            self.send(self.outbox.popleft())

    def break_off(self, again=True):
        """The connection is gone; the broker delivers again what was not acknowledged."""
        if not self.is_up:
            return
        self.forget()
        lasting = [message for message in self.unconfirmed.values() if message.lasting]
        self.unconfirmed.clear()
        self.outbox.extendleft(reversed(lasting))
        self.listener.link_is_down(BrokerRefused("cut"))
        if again:
            self.loop.call_soon(self.connect)

    def forget(self):
        self.is_up = False
        self.epoch += 1
        for consumer in self.consumers.values():
            queue = self.broker.queues.get(consumer.queue)
            if queue is not None and consumer in queue.consumers:
                queue.consumers.remove(consumer)
        self.consumers.clear()
        for _, (consumer, body) in sorted(self.unacknowledged.items(), reverse=True):
            self.requeue(consumer, body)
        self.unacknowledged.clear()
        for name in [name for name, queue in self.broker.queues.items() if queue.owner is self]:
            self.broker.delete(name)

    def end(self, then):
        self.is_over = True
        if self.is_up:
            self.forget()
        self.outbox.clear()
        self.unconfirmed.clear()
        self.loop.call_soon(then)

    # Publishing.

    def publish(self, message):
        if self.is_up and (not self.blocked or not message.lasting):
            self.send(message)
        elif message.lasting:
            self.outbox.append(message)

    def send(self, message):
        number = next(self.broker.numbers)
        self.unconfirmed[number] = message
        was_taken = self.broker.route(message.exchange, message.key, message.body)
        self.loop.call_soon(self.confirm, number, was_taken)

    def confirm(self, number, was_taken):
        message = self.unconfirmed.pop(number, None)
        if message is not None and message.done is not None:
            message.done(was_taken)

    # Queues.

    def declare(self, queue, expires, then=None):
        if queue not in self.broker.queues:
            self.broker.queues[queue] = Queue(owner=self if expires is None else None)
        if then is not None:
            self.soon(then)

    def count_consumers(self, queue, expires, then):
        self.declare(queue, expires)
        number = len(self.broker.queues[queue].consumers)
        self.soon(then, number)

    def soon(self, then, *arguments):
        epoch = self.epoch
        self.loop.call_soon(lambda: then(*arguments) if epoch == self.epoch and self.is_up else None)

    def delete(self, queue):
        self.broker.delete(queue)

    def open_exchange(self, exchange):
        self.broker.exchanges.setdefault(exchange, set())

    def listen(self, exchange, queue):
        self.open_exchange(exchange)
        self.broker.exchanges[exchange].add(queue)

    def purge(self, queue):
        if queue in self.broker.queues:
            self.broker.queues[queue].waiting.clear()

    # Consuming.

    def consume(self, queue, prefetch, on_delivery):
        if not self.is_up or queue not in self.broker.queues:
            return ""
        consumer = Consumer(f"consumer {next(self.broker.numbers)}", queue, self, prefetch, on_delivery)
        self.consumers[consumer.name] = consumer
        self.broker.queues[queue].consumers.append(consumer)
        self.broker.deliver(self.broker.queues[queue])
        return consumer.name

    def give(self, consumer, body, redelivered):
        tag = next(self.broker.numbers)
        self.unacknowledged[tag] = consumer, body
        delivery = Delivery(self.epoch, tag, consumer.name, redelivered, body)
        self.loop.call_soon(self.arrive, consumer, delivery)

    def arrive(self, consumer, delivery):
        if delivery.epoch == self.epoch and self.is_up:
            consumer.on_delivery(delivery)

    def cancel(self, consumer):
        found = self.consumers.pop(consumer, None)
        queue = self.broker.queues.get(found.queue) if found is not None else None
        if queue is not None and found in queue.consumers:
            queue.consumers.remove(found)

    def consumer_is_gone(self, consumer):
        self.consumers.pop(consumer.name, None)
        if self.is_up:
            self.loop.call_soon(self.listener.consumer_was_cancelled, consumer.name)

    def acknowledge(self, delivery):
        self.settle(delivery)

    def hand_back(self, delivery):
        if (found := self.settle(delivery)) is not None:
            self.requeue(*found)

    def settle(self, delivery):
        if delivery.epoch != self.epoch or not self.is_up:
            return None
        consumer, body = self.unacknowledged.pop(delivery.tag)
        consumer.unacknowledged -= 1
        if consumer.queue in self.broker.queues:
            self.broker.deliver(self.broker.queues[consumer.queue])
        return consumer, body

    def requeue(self, consumer, body):
        queue = self.broker.queues.get(consumer.queue)
        if queue is not None:
            queue.waiting.appendleft((body, True))
            self.broker.deliver(queue)
