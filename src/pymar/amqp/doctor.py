"""Checks of the key and of the broker, for `pymar doctor`: one line for each, with what to change if it fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from pymar.amqp import protocol, timing
from pymar.amqp.address import Address
from pymar.amqp.keys import Keys
from pymar.amqp.link.client import asking
from pymar.amqp.status import Status, own_queue, status_of
from pymar.exceptions import PymarError
from pymar.serialization.redaction import printable

#: Seconds that the broker has to deliver a message.
PATIENCE = 5.0
#: Seconds that the clocks of two hosts may differ; with more, messages may expire too soon.
SKEW = timing.FRESH / 5


def examined(broker: Callable[[], tuple[Address, Keys]]) -> bool:
    """Print the result of each check; return True if none failed.

    Args:
        broker: returns the address of the broker and the keys of this process, or raises what is wrong with them.
    """
    console = Console(highlight=False, soft_wrap=True)
    well = True
    for is_well, text in _findings(broker):
        well = well and is_well
        console.print(Text.assemble(("ok   ", "green") if is_well else ("wrong", "red"), " ", printable(text)))
    return well


def _findings(broker: Callable[[], tuple[Address, Keys]]) -> Iterator[tuple[bool, str]]:
    try:
        address, keys = broker()
        yield True, f"key {keys.name}: its name; equal on all hosts" if keys else "no key: plain data only"
        with asking(address) as connection:
            yield True, f"{address} accepts {address.user!r}{' over TLS' if address.tls else ', without TLS'}"
            yield from _of_names(connection, address)
            yield from _of_broker(connection)
        yield from _of_agents(status_of(address, keys))
    except PymarError as error:
        yield False, str(error)


def _of_broker(connection: Any) -> Iterator[tuple[bool, str]]:
    about = connection._impl.server_properties
    product, version = (str(about.get(name, "?")) for name in ("product", "version"))
    yield True, f"it is {product} {version}"
    has_confirms = bool(about.get("capabilities", {}).get("publisher_confirms"))
    yield has_confirms, "it has publisher confirms" if has_confirms else "it has no publisher confirms: use RabbitMQ"
    blocked: list[str] = []
    connection.add_on_connection_blocked_callback(lambda _, frame: blocked.append(str(frame.method.reason)))
    channel = connection.channel()
    queue = own_queue(channel)
    channel.basic_publish("", queue, b"\0" * protocol.CHUNK)
    deadline = time.monotonic() + PATIENCE
    taken = None
    while taken is None and not blocked and time.monotonic() < deadline:
        connection.process_data_events(0.05)
        if not blocked:
            taken = channel.basic_get(queue, auto_ack=True)[2]
    if blocked:
        yield False, f"it blocks publishers: {blocked[0]}. Free memory or disk on its host, or raise its limits"
    elif taken is None:
        yield False, f"it did not take a message of {protocol.CHUNK >> 20} MiB within {PATIENCE:g} s: is it overloaded?"
    else:
        yield True, f"it takes messages of {protocol.CHUNK >> 20} MiB, the largest that Pymar sends"
    limits = connection._impl.params
    yield limits.channel_max == 0 or limits.channel_max >= 2, "it allows enough channels (2)"


def _of_names(connection: Any, address: Address) -> Iterator[tuple[bool, str]]:
    """Do once what producers and workers do with the exchange and the queues; a missing permission makes it fail."""
    channel = connection.channel()
    channel.exchange_declare(protocol.CONTROL, "fanout", durable=True)
    own = own_queue(channel)
    channel.queue_bind(own, protocol.CONTROL)
    for prefix in ("pymar.work", "pymar.job"):
        queue = f"{prefix}.doctor.{os.urandom(8).hex()}"
        channel.queue_declare(queue, durable=True, arguments={"x-expires": 10_000})
        channel.basic_publish("", queue, b"")
        channel.basic_get(queue, auto_ack=True)
        channel.queue_delete(queue)
    yield True, f"{address.user!r} may use the exchange and the queues of Pymar"


def _of_agents(found: Status) -> Iterator[tuple[bool, str]]:
    for reason in found.refused:
        yield False, f"a worker's answer was refused: {reason}"
    now = time.time()
    for here in found.agents:
        skew = here.clock - now
        if abs(skew) > SKEW:
            yield False, f"the clock of {here.agent.name} differs by {skew:+.0f} s from this host's: set both by NTP"
    taking = [here for here in found.agents if here.consumers]
    slots = sum(here.agent.slots for here in taking)
    yield bool(taking), f"{len(taking)} workers with {slots} slots" if taking else "no worker takes parts: pymar worker"
