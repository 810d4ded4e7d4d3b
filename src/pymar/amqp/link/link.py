"""PikaLink: the link to the broker. Broken connections are made again, and unconfirmed messages sent again."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import pika
from pika.exchange_type import ExchangeType

from pymar.amqp import timing
from pymar.amqp.address import Address
from pymar.amqp.link import Delivery, LinkListener, Message
from pymar.amqp.link.client import PikaLoop, quiet, refusal
from pymar.amqp.link.pair import Pair, PairListener
from pymar.amqp.link.publishing import Outbox, Unconfirmed
from pymar.serialization.redaction import printable
from pymar.slots.loop import Loop, Timer

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between two attempts to connect: the first pause, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
#: Seconds for the broker to answer when connections are closed.
_CLOSING = 0.3


class PikaLink(PairListener):
    """A pair of connections to the broker, made again whenever it breaks, after a pause that grows.

    It owns the pair, the messages that wait for the broker, and those that it has not confirmed. The loop's thread
    only, except `start` and `stop`, which any thread may call. The methods of `Link` are described there.
    """

    def __init__(self, loop: Loop, address: Address, listener: LinkListener) -> None:
        self._loop = loop
        self._address = address
        self._listener = listener
        self._adapter: Any = PikaLoop(loop, self._failed)
        self._pair = Pair(address, self._adapter, self)
        self._outbox = Outbox()
        self._unconfirmed = Unconfirmed()
        self._pause = FIRST_PAUSE
        self._over = False
        self.epoch: int = 0
        self.is_up: bool = False
        self.blocked: str = ""
        self._retry: Timer | None = None
        #: Queues for which the broker has refused a message: each is logged once.
        self._refusing: set[str] = set()
        quiet()

    def start(self) -> None:
        self._loop.call_soon(self._connect)

    def stop(self, then: Callable[[], None], now: bool = False) -> None:
        self._loop.call_soon(self._stop, then, 0.0 if now else 2.0)

    # Publishing.

    def publish(self, message: Message) -> None:
        if self.is_up and (not self.blocked or not message.lasting):
            self._send(message)
        elif message.lasting:
            self._outbox.put(message)

    def _send(self, message: Message) -> None:
        properties = pika.BasicProperties(
            delivery_mode=2 if message.lasting else 1, message_id=self._unconfirmed.add(message), app_id="pymar"
        )
        exchange, key, body = message[:3]
        self._try(
            self._pair.publishing,
            lambda channel: channel.basic_publish(exchange, key, body, properties, mandatory=True),
        )

    # Consuming.

    def declare(self, queue: str, expires: float | None, then: Callable[[], None] | None = None) -> None:
        arguments = None if expires is None else {"x-expires": int(expires * 1_000)}
        declared = None if then is None else self._while_connected(then)
        self._try(
            self._pair.consuming,
            lambda channel: channel.queue_declare(
                queue,
                durable=expires is not None,
                exclusive=expires is None,
                arguments=arguments,
                callback=declared or (lambda frame: None),
            ),
        )

    def count_consumers(self, queue: str, expires: float, then: Callable[[int], None]) -> None:
        epoch = self.epoch

        def counted(frame: Any) -> None:
            if epoch == self.epoch and self.is_up:
                then(frame.method.consumer_count)

        arguments = {"x-expires": int(expires * 1_000)}
        self._try(
            self._pair.consuming,
            lambda channel: channel.queue_declare(queue, durable=True, arguments=arguments, callback=counted),
        )

    def delete(self, queue: str) -> None:
        self._try(self._pair.consuming, lambda channel: channel.queue_delete(queue))

    def open_exchange(self, exchange: str) -> None:
        self._try(
            self._pair.consuming, lambda channel: channel.exchange_declare(exchange, ExchangeType.fanout, durable=True)
        )

    def listen(self, exchange: str, queue: str) -> None:
        self.open_exchange(exchange)
        self._try(self._pair.consuming, lambda channel: channel.queue_bind(queue, exchange))

    def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> str:
        self._try(self._pair.consuming, lambda channel: channel.basic_qos(prefetch_count=prefetch))

        def delivered(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            if epoch == self.epoch:
                on_delivery(Delivery(epoch, method.delivery_tag, method.consumer_tag, method.redelivered, body))

        epoch = self.epoch
        return str(self._try(self._pair.consuming, lambda channel: channel.basic_consume(queue, delivered)) or "")

    def cancel(self, consumer: str) -> None:
        # Without a callback pika requests no answer, and sends this at once, not after answers that it still expects:
        # so the broker reads it before later acknowledgements.
        self._try(self._pair.consuming, lambda channel: channel.basic_cancel(consumer))

    def purge(self, queue: str) -> None:
        self._try(self._pair.consuming, lambda channel: channel.queue_purge(queue))

    def acknowledge(self, delivery: Delivery) -> None:
        if delivery.epoch == self.epoch and self.is_up:
            self._try(self._pair.consuming, lambda channel: channel.basic_ack(delivery.tag))

    def hand_back(self, delivery: Delivery) -> None:
        if delivery.epoch == self.epoch and self.is_up:
            self._try(self._pair.consuming, lambda channel: channel.basic_reject(delivery.tag, requeue=True))

    def _while_connected(self, then: Callable[[], None]) -> Callable[[Any], None]:
        """Return a callback that calls `then`, unless the connection of now is gone by then."""
        epoch = self.epoch
        return lambda frame: then() if epoch == self.epoch and self.is_up else None

    def _try(self, channel: Any, action: Callable[[Any], Any]) -> Any:
        """Do something on a channel; return None if there is none. If it has just closed, the pair is broken."""
        if channel is None:
            return None
        try:
            return action(channel)
        except pika.exceptions.AMQPError as error:
            self._loop.call_soon(self._pair.fail, error)
            return None

    # Events of the pair.

    def opened(self) -> None:
        self.is_up = True
        self._pause = FIRST_PAUSE
        self._listener.link_is_up()
        self._flush()

    def broken(self, error: BaseException) -> None:
        if self._over:
            return
        was_up, self.is_up = self.is_up, False
        try:
            self._forget_pair()
            self._outbox.put_first([message for message in self._unconfirmed.take_all() if message.lasting])
            refused = refusal(self._address, error)
            if was_up and not refused.is_final:  # else the listener logs it, with more detail
                log.warning("the connection to %s is lost (%s): connecting again", self._address, printable(str(error)))
            self._listener.link_is_down(refused)
        finally:  # another attempt follows, also if the listener raises
            if not self._over:
                self._retry = self._loop.call_later(self._pause * random.uniform(0.8, 1.2), self._connect)
                self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def confirmed(self, number: int, multiple: bool, was_taken: bool) -> None:
        for message in self._unconfirmed.confirmed(number, multiple, was_taken):
            if message.key not in self._refusing:
                self._refusing.add(message.key)
                log.warning(
                    "the broker refuses messages for %s: is the length of its queue limited by a policy? They are sent "
                    "again every %g s",
                    *(message.key, timing.AGAIN_AFTER),
                )
            self._loop.call_later(timing.AGAIN_AFTER, self.publish, message)

    def returned(self, message_id: str | None) -> None:
        self._unconfirmed.returned(message_id)

    def was_cancelled(self, consumer: str) -> None:
        self._listener.consumer_was_cancelled(consumer)

    def was_blocked(self, reason: str) -> None:
        self.blocked = reason
        if reason:
            log.warning(
                "broker blocked: %s. It takes no messages until this is over; results are kept until then", reason
            )
            self._listener.publishers_are_blocked(reason)
        else:
            log.warning("broker no longer blocked")
            self._listener.publishers_are_blocked("")
            self._flush()

    def _connect(self) -> None:
        self._retry = None
        if not self._over:
            self._pair = Pair(self._address, self._adapter, self)
            self._pair.open()

    def _flush(self) -> None:
        for message in self._outbox.take_all():
            self._send(message)

    def _failed(self, error: Exception) -> None:
        """Drop the connections after an error within pika: their state is unknown."""
        log.debug("the client library has failed", exc_info=error)
        self._pair.fail(error)

    def _forget_pair(self, for_good: bool = False) -> None:
        self.epoch += 1
        self.blocked = ""
        self._pair.give_up(for_good)

    def _stop(self, then: Callable[[], None], patience: float) -> None:
        if self._unconfirmed and self.is_up and not self.blocked and patience > 0:
            self._loop.call_later(0.01, self._stop, then, patience - 0.01)
            return
        self._over = True
        if self._retry is not None:
            self._retry.cancel()
        self._forget_pair(for_good=True)
        self.is_up = False
        self._outbox.clear()
        self._unconfirmed.take_all()
        self._call_once_closed(then, _CLOSING)

    def _call_once_closed(self, then: Callable[[], None], patience: float) -> None:
        """Call `then` once the connections are closed, or after `patience` seconds."""
        if self._pair.is_closed or patience <= 0:
            self._loop.call_later(0.01, then)  # the loop closes the sockets before that
        else:
            self._loop.call_later(0.01, self._call_once_closed, then, patience - 0.01)
