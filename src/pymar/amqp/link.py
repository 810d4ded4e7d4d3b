"""Link: two connections to the broker that come back for ever, on one loop; what was not confirmed is sent again.

One connection publishes and one consumes, since a broker that is short of memory or disk stops reading from those that
publish, and an acknowledgement must still get through. If one of them breaks, both are made anew.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pika
from pika.exchange_type import ExchangeType

from pymar.amqp.address import Address
from pymar.amqp.client import PikaLoop, parameters, quiet, refusal
from pymar.amqp.outbox import Message, Outbox
from pymar.exceptions import BrokerRefused
from pymar.loop import Loop, Timer

log = logging.getLogger(__name__)

#: Seconds between two attempts to connect: the first pause, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
#: Seconds after which a message that the broker could not take is sent again.
AGAIN_AFTER = 1.0


class Delivery(NamedTuple):
    """A message that has come, to be acknowledged on the connection that it came by."""

    epoch: int
    tag: int
    consumer: str
    redelivered: bool
    body: bytes


class Owner:
    """What a link tells whoever made it; all in the loop's thread."""

    def link_is_up(self) -> None:
        """Both connections stand: declare and consume, as if never before."""

    def link_is_down(self, error: BrokerRefused) -> None:
        """They are broken, or could not be made; another attempt follows."""

    def consumer_was_cancelled(self, consumer: str) -> None:
        """The broker has ended a consumer: its queue was deleted."""


class Link:
    """Belongs to the loop's thread; `start` and `stop` may be called from any."""

    def __init__(self, loop: Loop, address: Address, owner: Owner) -> None:
        self._loop = loop
        self._address = address
        self._owner = owner
        self._adapter: Any = PikaLoop(loop, self._failed)
        self._connections: list[Any] = []
        self._out: Any = None
        self._in: Any = None
        self._outbox = Outbox()
        self._unconfirmed: dict[int, Message] = {}
        self._returned: set[int] = set()
        self._published = 0
        self._pause = FIRST_PAUSE
        self._over = False
        #: Counts connections: an acknowledgement is good only on the one that it belongs to.
        self.epoch = 0
        self.is_up = False
        #: Why the broker takes nothing, while it does not.
        self.blocked = ""
        self._retry: Timer | None = None
        quiet()

    def start(self) -> None:
        """Connect, and stay connected."""
        self._loop.tell(self._connect)

    def stop(self, then: Callable[[], None], now: bool = False) -> None:
        """Let what was published go out (or not, if it has to be now), disconnect, and connect no more."""
        self._loop.tell(self._stop, then, 0.0 if now else 2.0)

    # Publishing.

    def publish(self, message: Message) -> None:
        """Send a message now, or when the broker is there; one that is not lasting only now."""
        if self.is_up and (not self.blocked or not message.lasting):
            self._send(message)
        elif message.lasting:
            self._outbox.put(message)

    def _send(self, message: Message) -> None:
        self._published += 1
        self._unconfirmed[self._published] = message
        properties = pika.BasicProperties(
            delivery_mode=2 if message.lasting else 1, message_id=str(self._published), app_id="pymar"
        )
        self._try(self._out, "basic_publish", message.exchange, message.key, message.body, properties, mandatory=True)

    def _confirmed(self, epoch: int, frame: Any) -> None:
        if epoch != self.epoch:
            return
        told = frame.method
        last = told.delivery_tag
        tags = [tag for tag in self._unconfirmed if tag <= last] if told.multiple else [last]
        for tag in tags:
            message = self._unconfirmed.pop(tag, None)
            if message is None:
                continue
            if isinstance(told, pika.spec.Basic.Nack):
                self._loop.later(AGAIN_AFTER, self.publish, message)
                continue
            was_returned = tag in self._returned
            self._returned.discard(tag)
            if message.done is not None:
                message.done(not was_returned)

    def _was_returned(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if channel is self._out and (properties.message_id or "").isdecimal():
            self._returned.add(int(properties.message_id))

    # Consuming.

    def declare(self, queue: str, expires: float | None, then: Callable[[], None] | None = None) -> None:
        """A queue: durable, and gone when unused for `expires` seconds; or, with None, ours alone and gone with us."""
        arguments = None if expires is None else {"x-expires": int(expires * 1_000)}
        made = None if then is None else self._now(then)
        self._try(
            self._in,
            "queue_declare",
            queue,
            durable=expires is not None,
            exclusive=expires is None,
            arguments=arguments,
            callback=made or (lambda frame: None),
        )

    def delete(self, queue: str) -> None:
        """Drop a queue, and what is in it."""
        self._try(self._in, "queue_delete", queue)

    def open_exchange(self, exchange: str) -> None:
        """An exchange that says everything to everybody who listens."""
        self._try(self._in, "exchange_declare", exchange, ExchangeType.fanout, durable=True)

    def listen(self, exchange: str, queue: str) -> None:
        """What is said to an exchange comes to this queue too."""
        self.open_exchange(exchange)
        self._try(self._in, "queue_bind", queue, exchange)

    def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> str:
        """Take messages of a queue, so many at a time unacknowledged; the consumer's name."""
        self._try(self._in, "basic_qos", prefetch_count=prefetch)

        def delivered(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            if epoch == self.epoch:
                on_delivery(Delivery(epoch, method.delivery_tag, method.consumer_tag, method.redelivered, body))

        epoch = self.epoch
        return str(self._try(self._in, "basic_consume", queue, delivered) or "")

    def cancel(self, consumer: str) -> None:
        """Take no more. What is acknowledged after this call makes room for nothing: the broker reads them in order."""
        # Without a callback pika asks for no answer, and so sends it at once: others would wait for answers to come.
        self._try(self._in, "basic_cancel", consumer)

    def purge(self, queue: str) -> None:
        """Drop what is in a queue and was not delivered."""
        self._try(self._in, "queue_purge", queue)

    def acknowledge(self, delivery: Delivery) -> None:
        """Have the broker forget a message. Too late for one of an earlier connection: that will come again."""
        if delivery.epoch == self.epoch and self.is_up:
            self._try(self._in, "basic_ack", delivery.tag)

    def hand_back(self, delivery: Delivery) -> None:
        """Have the broker deliver a message to somebody else."""
        if delivery.epoch == self.epoch and self.is_up:
            self._try(self._in, "basic_reject", delivery.tag, requeue=True)

    def _now(self, then: Callable[[], None]) -> Callable[[Any], None]:
        epoch = self.epoch
        return lambda frame: then() if epoch == self.epoch and self.is_up else None

    def _try(self, channel: Any, method: str, *arguments: Any, **options: Any) -> Any:
        """Do something on a channel. If that has just closed, whoever waits for it will hear that the link is down."""
        if channel is None:
            return None
        try:
            return getattr(channel, method)(*arguments, **options)
        except pika.exceptions.AMQPError as error:
            self._loop.tell(self._broken, self.epoch, error)
            return None

    # Connecting.

    def _connect(self) -> None:
        self._retry = None
        if self._over:
            return
        self.epoch += 1
        epoch = self.epoch
        try:
            settings = parameters(self._address)
            for number in range(2):
                self._connections.append(
                    pika.SelectConnection(
                        settings,
                        on_open_callback=partial(self._opened, epoch, number),
                        on_open_error_callback=lambda _, error: self._broken(epoch, error),
                        on_close_callback=lambda _, error: self._broken(epoch, error),
                        custom_ioloop=self._adapter,
                    )
                )
        except Exception as error:
            self._broken(epoch, error)

    def _opened(self, epoch: int, number: int, connection: Any) -> None:
        if epoch != self.epoch:
            self._closed(connection)
            return
        if number == 0:
            connection.add_on_connection_blocked_callback(partial(self._was_blocked, epoch))
            connection.add_on_connection_unblocked_callback(partial(self._was_unblocked, epoch))
        connection.channel(on_open_callback=partial(self._channel_opened, epoch, number))

    def _channel_opened(self, epoch: int, number: int, channel: Any) -> None:
        if epoch != self.epoch:
            return
        channel.add_on_close_callback(lambda _, error: self._broken(epoch, error))
        if number == 0:
            self._out = channel
            channel.add_on_return_callback(self._was_returned)
            channel.confirm_delivery(partial(self._confirmed, epoch))
        else:
            self._in = channel
            channel.add_on_cancel_callback(
                lambda frame: (
                    self._owner.consumer_was_cancelled(frame.method.consumer_tag) if epoch == self.epoch else None
                )
            )
        if self._out is not None and self._in is not None:
            self._stand()

    def _stand(self) -> None:
        self.is_up = True
        self._pause = FIRST_PAUSE
        self._published = 0
        self._owner.link_is_up()
        self._flush()

    def _flush(self) -> None:
        for message in self._outbox.take_all():
            self._send(message)

    def _broken(self, epoch: int, error: BaseException) -> None:
        if epoch != self.epoch or self._over:
            return
        self._forget_connections()
        self._keep_unconfirmed()
        told = refusal(self._address, error)
        was_up, self.is_up = self.is_up, False
        if was_up:
            log.warning("the connection to %s is lost (%s): connecting again", self._address, error)
        self._owner.link_is_down(told)
        if not self._over:
            self._retry = self._loop.later(self._pause * random.uniform(0.8, 1.2), self._connect)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _failed(self, error: Exception) -> None:
        """Something in pika has raised: what stands of our connections is not to be relied on."""
        log.debug("the client library has failed", exc_info=error)
        if self._connections:
            self._broken(self.epoch, error)

    def _forget_connections(self) -> None:
        self.epoch += 1  # what still comes from them is not meant for us
        connections, self._connections = self._connections, []
        self._out = self._in = None
        self.blocked = ""
        for connection in connections:
            if connection.is_open:  # one that is still opening is closed when it is open: pika asserts that nobody does
                self._closed(connection)

    def _closed(self, connection: Any) -> None:
        try:
            connection.close()
        except pika.exceptions.AMQPError as problem:
            log.debug("closing a connection that is closed already: %r", problem)

    def _keep_unconfirmed(self) -> None:
        self._outbox.put_first([message for message in self._unconfirmed.values() if message.lasting])
        self._unconfirmed.clear()
        self._returned.clear()

    def _was_blocked(self, epoch: int, connection: Any, frame: Any) -> None:
        if epoch == self.epoch:
            self.blocked = str(frame.method.reason)
            log.warning(
                "broker blocked: %s. It takes nothing until that is over; what is computed is kept", self.blocked
            )

    def _was_unblocked(self, epoch: int, connection: Any, frame: Any) -> None:
        if epoch == self.epoch:
            log.warning("broker no longer blocked")
            self.blocked = ""
            self._flush()

    def _stop(self, then: Callable[[], None], patience: float) -> None:
        if self._unconfirmed and self.is_up and not self.blocked and patience > 0:
            self._loop.later(0.01, self._stop, then, patience - 0.01)
            return
        self._over = True
        if self._retry is not None:
            self._retry.cancel()
        self._forget_connections()
        self.is_up = False
        self._outbox.clear()
        self._unconfirmed.clear()
        # pika says goodbye to the broker within a round or two of the loop; nobody has to wait for the answer.
        self._loop.later(0.02, then)
