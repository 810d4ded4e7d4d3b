"""The client library, pika: its settings, its errors as BrokerRefused with a remedy, and its event loop.

Only this module, pair.py and link.py use it for links; status.py and doctor.py ask brokers through `asking`.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorException

from pymar.amqp.address import Address
from pymar.amqp.owner import objection_behind
from pymar.exceptions import BrokerRefused, UsageError
from pymar.serialization.redaction import printable, redacted
from pymar.slots.loop import READ, WRITE, Loop, Timer

log: logging.Logger = logging.getLogger(__name__)

#: Seconds between heartbeats: https://www.rabbitmq.com/docs/heartbeats calls 5 to 20 the useful range.
HEARTBEAT = 10
#: Seconds that a connection for a few requests waits for a broker with an alarm: it does not even answer a close.
BLOCKED = 2


def quiet() -> None:
    """Turn off pika's log, unless the user has set its level: Pymar logs the same errors, without tracebacks."""
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def parameters(address: Address) -> pika.ConnectionParameters:
    """Return pika's parameters for this address."""
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
    for option in ("cafile", "certfile", "keyfile"):
        if path := getattr(address, option):
            _check_file(address, option, path)
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


def _check_file(address: Address, option: str, path: str) -> None:
    try:
        open(path, "rb").close()
    except OSError as error:
        shown = path.replace(address.password, "***")  # in case the password was pasted into the path
        raise UsageError(f"{option}={shown} of {address}: {error.strerror}") from None


def connected(address: Address) -> pika.BlockingConnection:
    """Return a new connection for a few requests.

    Raises:
        BrokerRefused: it cannot be made.
    """
    quiet()
    settings = parameters(address)
    settings.blocked_connection_timeout = BLOCKED
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
    """Refuse a broker that the user has not named, if it belongs to another user of this host.

    Raises:
        BrokerRefused: it does, or its owner is unknown.
    """
    if address.is_unasked and (why := objection_behind(connection)):
        raise BrokerRefused(
            f"{address} was found automatically, and {why}: if it may have jobs, name it: mq_server={address.host!r}"
        )


@contextmanager
def asking(address: Address) -> Iterator[pika.BlockingConnection]:
    """Yield a connection for a few requests, and close it at the end.

    Raises:
        BrokerRefused: it cannot be made, or the broker refuses a request.
    """
    connection = connected(address)
    try:
        yield connection
    except pika.exceptions.AMQPError as error:
        raise refusal(address, error) from error
    finally:
        _close(connection)


def _close(connection: pika.BlockingConnection) -> None:
    try:
        if connection.is_open:
            connection.close()
    except pika.exceptions.AMQPError as problem:
        log.debug("a connection was already being closed: %r", problem)


def refusal(address: Address, error: BaseException) -> BrokerRefused:
    """Return the error for a failed connection or a closed channel: what it means, and what to do."""
    if isinstance(error, UsageError):  # a file that the address names
        return BrokerRefused(str(error), is_final=True)
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, BrokerRefused):
            return cause
        if isinstance(cause, UsageError):
            return BrokerRefused(str(cause), is_final=True)
        if isinstance(cause, pika.exceptions.ChannelClosedByBroker):
            return _refusal_of_channel(address, cause.reply_code, printable(" ".join(cause.reply_text.split())))
        if isinstance(cause, pika.exceptions.ConnectionBlockedTimeout):
            return BrokerRefused(
                f"{address}: it takes no messages: free memory or disk on its host, or raise its limits"
            )
        code, words = _reason_of_close(cause)
        words = printable(words)
        if isinstance(cause, pika.exceptions.AuthenticationError) or (code == 403 and "Login" in words):
            return BrokerRefused(f"{address}: {_refused_user(address)}", is_final=True)
        if code in (403, 530):
            return BrokerRefused(
                f"{address}: {address.user!r} may not use the virtual host {address.vhost!r} ({words}): create it "
                f"(rabbitmqctl add_vhost {address.vhost}), grant it to the user (rabbitmqctl set_permissions -p "
                f"{address.vhost} {address.user} {_PERMISSIONS}), or give another in the URL",
                is_final=True,
            )
        if isinstance(cause, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError | _LOST) and not code:
            return BrokerRefused(
                f"{address}: the connection was closed while it was being opened. The server there is not an AMQP "
                "server, or requires TLS (amqps://), or the network is bad",
                is_cut=True,
            )
        if isinstance(cause, ssl.SSLError):
            return BrokerRefused(f"{address}: TLS failed: {cause}")
    shown = next((cause for cause in causes if isinstance(cause, OSError)), causes[-1])
    text = printable(redacted(f"{type(shown).__name__}: {shown}" if str(shown) else repr(shown)))
    return BrokerRefused(f"{address} cannot be reached: {text}. Is a RabbitMQ server running there?")


#: What pika raises when a connection is lost. It guesses the cause from the moment of the loss, which is often wrong.
_LOST = (
    pika.exceptions.StreamLostError
    | pika.exceptions.IncompatibleProtocolError
    | pika.exceptions.ProbableAuthenticationError
    | pika.exceptions.ProbableAccessDeniedError
)
#: The permissions that Pymar needs: to configure, to write and to read.
_PERMISSIONS = r"'^pymar\.' '^(pymar\.|amq\.default$)' '^pymar\.'"
_CLOSED = re.compile(r"ConnectionClosedByBroker: \((\d+)\) (.*)", re.DOTALL)
_NAMED = re.compile(r"(queue|exchange) '([^']*)'")


def _reason_of_close(cause: BaseException) -> tuple[int, str]:
    """Return the code and the text with which a broker closed a connection; (0, "") if it gave none."""
    if isinstance(cause, pika.exceptions.ConnectionClosedByBroker):
        return cause.reply_code, cause.reply_text
    # While a connection is being opened, pika puts them into the text of another error.
    found = _CLOSED.search(str(cause.args[0])) if isinstance(cause, _LOST) and cause.args else None
    return (int(found[1]), found[2].strip("'\"")) if found else (0, "")


def _refused_user(address: Address) -> str:
    if address.is_password_given:
        why = (
            f"it refuses the user {address.user!r} with the password that was given: check both (rabbitmqctl "
            f"authenticate_user {address.user})"
        )
    else:
        why = (
            f"it refuses the user {address.user!r}, and no password was given: put user and password into the URL, or "
            "into PYMAR_URL (amqp://user:password@host)"
        )
    if address.user == "guest" and not address.is_loopback:
        why += ". RabbitMQ accepts 'guest' from its own host only"
    return why


def _refusal_of_channel(address: Address, code: int, words: str) -> BrokerRefused:
    """Return the error for a channel that the broker has closed."""
    found = _NAMED.search(words)
    kind, name = (found[1], found[2]) if found else ("", "")
    what, vhost = f"the {kind} {name!r}", address.vhost
    if code == 403 and "refused for user" in words:
        text = (
            f"the user {address.user!r} may not use {what} of the virtual host {vhost!r}: it lacks the permission to "
            f"configure, write or read it ({words}). To give it: rabbitmqctl set_permissions -p {vhost} "
            f"{address.user} {_PERMISSIONS}"
        )
    elif code == 406 and "inequivalent arg" in words:
        how = f"rabbitmqctl delete_queue -p {vhost} {name}" if kind == "queue" else f"delete exchange name={name}"
        how = how if kind == "queue" else f"rabbitmqadmin -V {vhost} {how}, or RabbitMQ's management page"
        text = f"{what} exists already, with other properties ({words}). Delete it, and it is made again: {how}"
    elif code == 405 or (code == 403 and "exclusive" in words):
        text = f"{what} belongs to another connection ({words}): end that connection, or delete it"
    elif code == 406 and "larger than configured max size" in words:
        text = (
            f"it refuses messages as large as Pymar's ({words}): set max_message_size = {16 << 20} in its rabbitmq.conf"
        )
    else:
        return BrokerRefused(f"{address} has closed a channel: {words}")
    return BrokerRefused(f"{address}: {text}", is_final=True, about=name or "a message")


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
    """Pymar's event loop, with the methods that pika calls (pika.adapters.utils.selector_ioloop_adapter).

    It owns the handlers of pika's sockets. An error within pika is passed to `failed`. The loop's thread only.
    """

    READ, WRITE, ERROR = READ, WRITE, 4

    def __init__(self, loop: Loop, failed: Callable[[Exception], None]) -> None:
        self._loop = loop
        self._failed = failed
        self._handlers: dict[int, Callable[[int, int], None]] = {}

    def add_callback(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(self._called, callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(delay, self._called, callback)

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
        """Do nothing: the loop runs already."""

    def stop(self) -> None:
        """Do nothing: Pymar stops the loop."""

    close = stop

    def _ready(self, fd: int) -> None:
        if handler := self._handlers.get(fd):
            self._called(handler, fd, self._loop.ready)

    def _called(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call; an error within pika, as an assertion about a connection that closed early, must not end the thread."""
        try:
            callback(*arguments)
        except Exception as error:
            self._failed(error)
