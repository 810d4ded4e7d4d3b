"""pika as we use it, on our loop, with our settings: only this file, pair.py and link.py know the client library."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorException

from pymar.amqp.address import Address
from pymar.amqp.owner import stranger_behind
from pymar.exceptions import BrokerRefused, UsageError
from pymar.loop import READ, WRITE, Loop, Timer
from pymar.masks import masked, printable

#: Seconds between heartbeats: https://www.rabbitmq.com/docs/heartbeats calls 5 to 20 the useful range.
HEARTBEAT = 10


def quiet() -> None:
    """Say ourselves what pika would say too, with its tracebacks, unless the user has asked it to."""
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def parameters(address: Address) -> pika.ConnectionParameters:
    """What pika wants to know."""
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        heartbeat=HEARTBEAT,
        socket_timeout=10,
        stack_timeout=15,
        connection_attempts=1,
        client_properties={"product": "Pymar"},
        ssl_options=_tls_options(address),
    )


def _tls_options(address: Address) -> pika.SSLOptions | None:
    if not address.tls:
        return None
    option = "cafile"
    try:
        context = ssl.create_default_context(cafile=address.cafile)
        option = "certfile or keyfile"
        if address.certfile is not None:
            context.load_cert_chain(address.certfile, address.keyfile)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the TLS file that {option} names in the address {address} cannot be used: {error}"
        ) from error
    return pika.SSLOptions(context, address.host)


def connected(address: Address) -> pika.BlockingConnection:
    """A connection for a few questions.

    Raises:
        BrokerRefused: there is none, and why.
    """
    quiet()
    settings = parameters(address)
    try:
        connection = pika.BlockingConnection(settings)
    except Exception as error:
        raise refusal(address, error) from error
    try:
        check_owner(address, connection)
    except BrokerRefused:
        connection.close()
        raise
    return connection


def check_owner(address: Address, connection: Any) -> None:
    """Refuse a broker that nobody has asked for, if it belongs to another user of this host.

    Raises:
        BrokerRefused: it does, or that cannot be told.
    """
    if address.is_unasked and (why := stranger_behind(connection)):
        told = f"{address} was not asked for, and {why}: if it may have your jobs, say mq_server={address.host!r}"
        raise BrokerRefused(told)


def refusal(address: Address, error: BaseException) -> BrokerRefused:
    """What a failed connection means, and what to do."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, BrokerRefused):
            return cause
        if isinstance(cause, UsageError):  # of a file that the address names
            return BrokerRefused(str(cause), is_final=True)
        if isinstance(cause, pika.exceptions.ProbableAuthenticationError):
            why = f"it refuses the user {address.user!r}: put user and password into the URL, or into PYMAR_URL"
            if address.user == "guest" and not address.is_loopback:
                why += ". RabbitMQ lets 'guest' in from its own host only"
            return BrokerRefused(f"{address}: {why}", is_final=True)
        if isinstance(cause, pika.exceptions.ProbableAccessDeniedError):
            return BrokerRefused(f"{address}: {address.user!r} may not use the virtual host {address.vhost!r}", True)
        if isinstance(cause, pika.exceptions.IncompatibleProtocolError | pika.exceptions.StreamLostError):
            return BrokerRefused(
                f"{address}: something else than AMQP answers, or TLS is wanted there: is it the right port, or amqps://?"
            )
        if isinstance(cause, ssl.SSLError):
            return BrokerRefused(f"{address}: TLS failed: {cause}")
    told = next((cause for cause in causes if isinstance(cause, OSError)), causes[-1])
    text = printable(masked(f"{type(told).__name__}: {told}" if str(told) else repr(told)))
    return BrokerRefused(f"{address} cannot be reached: {text}. Is a RabbitMQ server running there?")


def _causes(error: BaseException | None) -> Any:
    while error is not None:
        yield error
        if isinstance(error, AMQPConnectionWorkflowFailed):
            error = error.exceptions[-1]
        elif isinstance(error, AMQPConnectorException):
            error = getattr(error, "exception", None)
        else:
            error = next((inner for inner in error.args if isinstance(inner, BaseException)), error.__cause__)


class PikaLoop:
    """Our loop, with the methods that pika calls on one (pika.adapters.utils.selector_ioloop_adapter)."""

    READ, WRITE, ERROR = READ, WRITE, 4

    def __init__(self, loop: Loop, failed: Callable[[Exception], None]) -> None:
        self._loop = loop
        self._failed = failed
        self._handlers: dict[int, Callable[[int, int], None]] = {}

    def add_callback(self, callback: Callable[[], None]) -> None:
        self._loop.tell(self._called, callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self._loop.later(delay, self._called, callback)

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        self._handlers[fd] = handler
        self._loop.watch(fd, events & (READ | WRITE), partial(self._ready, fd))

    def update_handler(self, fd: int, events: int) -> None:
        self._loop.change(fd, events & (READ | WRITE))

    def remove_handler(self, fd: int) -> None:
        self._handlers.pop(fd, None)
        self._loop.unwatch(fd)

    def remove_timeout(self, timer: Timer) -> None:
        timer.cancel()

    def start(self) -> None:
        """It runs already."""

    def stop(self) -> None:
        """It is not pika's to stop."""

    close = stop

    def _ready(self, fd: int) -> None:
        if handler := self._handlers.get(fd):
            self._called(handler, fd, self._loop.ready)

    def _called(self, callback: Callable[..., None], *arguments: Any) -> None:
        """An error within pika, such as an assertion about a connection that closed early, ends no thread of ours."""
        try:
            callback(*arguments)
        except Exception as error:
            self._failed(error)
