"""What a link promises (pymar.amqp.link.Link): the same tests for the real one, on RabbitMQ, and for the fake."""

import os
import queue as queues

import pytest
from conftest import wait_until
from fake_broker import FakeBroker

from pymar.amqp.address import parse
from pymar.amqp.link import LinkListener, Message
from pymar.amqp.link.link import PikaLink
from pymar.slots.loop import Loop

#: Seconds that a queue without consumers lives.
EXPIRES = 60.0


class User(LinkListener):
    """Whoever uses a link: a loop of its own, and what happened. `do` runs something in the loop's thread."""

    def __init__(self, make):
        self.loop = Loop("a test's link")
        self.loop.start()
        self.events = []
        self.deliveries = queues.SimpleQueue()
        self.link = make(self.loop, self)
        self.link.start()
        wait_until(lambda: "up" in self.events, "the link")

    def link_is_up(self):
        self.events.append("up")

    def link_is_down(self, error):
        self.events.append("down")

    def consumer_was_cancelled(self, consumer):
        self.events.append(f"cancelled {consumer}")

    def do(self, action):
        done = queues.SimpleQueue()
        self.loop.call_soon(lambda: done.put(action(self.link)))
        return done.get(timeout=30)

    def declare(self, name, expires=EXPIRES):
        done = queues.SimpleQueue()
        self.do(lambda link: link.declare(name, expires, lambda: done.put(None)))
        done.get(timeout=30)

    def publish(self, key, body=b"body", exchange="", lasting=True):
        """Whether a queue has taken it."""
        done = queues.SimpleQueue()
        self.do(lambda link: link.publish(Message(exchange, key, body, done.put, lasting)))
        return done.get(timeout=30)

    def consume(self, name, prefetch=10):
        return self.do(lambda link: link.consume(name, prefetch, self.deliveries.put))

    def next(self):
        return self.deliveries.get(timeout=30)

    def acknowledge(self, delivery):
        self.do(lambda link: link.acknowledge(delivery))

    def end(self):
        gone = queues.SimpleQueue()
        self.link.stop(lambda: gone.put(None))
        gone.get(timeout=30)
        self.loop.stop(5)


@pytest.fixture(params=["fake", "real"])
def users(request):
    """Make users of links to one broker."""
    if request.param == "fake":
        broker = FakeBroker()
        make = lambda loop, user: broker.link(loop, None, user)  # noqa: E731
    else:
        address = parse(f"127.0.0.1:{request.getfixturevalue('broker').port}")
        make = lambda loop, user: PikaLink(loop, address, user)  # noqa: E731
    made = []

    def new():
        made.append(User(make))
        return made[-1]

    yield new
    for user in made:
        user.end()


@pytest.fixture
def name():
    return f"pymar.work.link.{os.urandom(6).hex()}"


def test_a_message_is_confirmed_and_delivered(users, name):
    user = users()
    user.declare(name)
    assert user.publish(name, b"one") is True
    assert user.consume(name)
    delivery = user.next()
    assert (delivery.body, delivery.redelivered, delivery.epoch) == (b"one", False, user.link.epoch)
    user.acknowledge(delivery)


def test_a_message_that_no_queue_takes_is_said_to_be_untaken(users, name):
    assert users().publish(name) is False


def test_messages_come_in_order(users, name):
    user = users()
    user.declare(name)
    for number in range(20):
        user.publish(name, b"%d" % number)
    user.consume(name, 20)
    assert [user.next().body for _ in range(20)] == [b"%d" % number for number in range(20)]


def test_no_more_come_than_may_be_unacknowledged(users, name):
    user = users()
    user.declare(name)
    for number in range(3):
        user.publish(name, b"%d" % number)
    user.consume(name, 1)
    first = user.next()
    user.publish(name, b"last")
    assert user.deliveries.empty()
    user.acknowledge(first)
    assert user.next().body == b"1"


def test_what_is_handed_back_goes_to_another(users, name):
    one, other = users(), users()
    one.declare(name)
    one.publish(name)
    consumer = one.consume(name, 1)
    delivery = one.next()
    one.do(lambda link: link.cancel(consumer))
    one.do(lambda link: link.hand_back(delivery))
    other.consume(name, 1)
    assert other.next().redelivered


def test_what_was_not_acknowledged_goes_to_another_when_its_link_ends(users, name):
    one, other = users(), users()
    one.declare(name)
    one.publish(name)
    one.consume(name, 1)
    one.next()
    other.consume(name, 1)
    one.end()
    one.end = lambda: None
    assert other.next().redelivered


def test_a_cancelled_consumer_gets_nothing_and_may_still_acknowledge(users, name):
    user = users()
    user.declare(name)
    user.publish(name, b"held")
    consumer = user.consume(name, 1)
    held = user.next()
    user.do(lambda link: link.cancel(consumer))
    user.acknowledge(held)
    user.publish(name, b"later")
    assert user.deliveries.empty()
    user.consume(name, 1)
    later = user.next()
    assert (later.body, later.redelivered) == (b"later", False)


def test_an_exchange_copies_to_all_queues_that_listen(users, name):
    one, other = users(), users()
    for number, user in enumerate((one, other)):
        user.declare(f"{name}.{number}", None)
        user.do(lambda link, number=number: link.listen("pymar.control", f"{name}.{number}"))
        user.declare(f"{name}.{number}", None)  # answered after the above
        user.consume(f"{name}.{number}")
    assert one.publish("", b"to all", exchange="pymar.control") is True
    assert {one.next().body, other.next().body} == {b"to all"}


def test_a_queue_of_one_link_alone_is_gone_with_it(users, name):
    one, other = users(), users()
    one.declare(name, None)
    assert other.publish(name) is True
    one.end()
    one.end = lambda: None
    wait_until(lambda: other.publish(name) is False, "the end of the queue")


def test_consumers_are_counted(users, name):
    user, found = users(), queues.SimpleQueue()
    user.declare(name)
    user.consume(name)
    user.do(lambda link: link.count_consumers(name, EXPIRES, found.put))
    assert found.get(timeout=30) == 1


def test_a_purged_queue_is_empty(users, name):
    user = users()
    user.declare(name)
    user.publish(name, b"dropped")
    user.do(lambda link: link.purge(name))
    user.publish(name, b"kept")
    user.consume(name)
    assert user.next().body == b"kept"


def test_a_consumer_whose_queue_is_deleted_is_told(users, name):
    one, other = users(), users()
    one.declare(name)
    consumer = one.consume(name)
    one.declare(name)  # answered after the above
    other.do(lambda link: link.delete(name))
    wait_until(lambda: f"cancelled {consumer}" in one.events, "the end of the consumer")
    assert one.publish(name) is False


def test_what_was_published_before_the_link_stood_goes_out_then(users, name):
    user = users()
    user.declare(name)
    user.consume(name)
    done = queues.SimpleQueue()

    def publish_while_it_is_down(link):
        link.broken(ConnectionResetError()) if isinstance(link, PikaLink) else link.break_off(again=True)
        link.publish(Message("", name, b"kept", done.put, True))
        link.publish(Message("", name, b"dropped", done.put, False))

    user.do(publish_while_it_is_down)
    wait_until(lambda: user.events.count("up") == 2, "the link to come back")
    assert done.get(timeout=30) is True
    user.consume(name)
    assert user.next().body == b"kept"
    assert done.empty()


def test_what_was_delivered_before_a_cut_comes_again_and_is_acknowledged_only_then(users, name):
    user = users()
    user.declare(name)
    user.publish(name)
    user.consume(name)
    old = user.next()
    user.do(lambda link: link.broken(ConnectionResetError()) if isinstance(link, PikaLink) else link.break_off())
    wait_until(lambda: user.events.count("up") == 2, "the link to come back")
    assert user.events == ["up", "down", "up"]
    user.acknowledge(old)
    user.consume(name)
    again = user.next()
    assert again.redelivered
    assert again.epoch > old.epoch
    user.acknowledge(again)
