"""Is the broker fit for us, and the key for it? One line a check, and what to change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from pymar.amqp import protocol, times
from pymar.amqp.address import parse
from pymar.amqp.client import connected
from pymar.amqp.keys import Keys, keys_of
from pymar.amqp.status import Status, status_of
from pymar.exceptions import PymarError
from pymar.masks import printable

#: Seconds that the broker has to take a message.
PATIENCE = 5.0
#: Seconds that two clocks may differ before messages that expire are refused too soon.
SKEW = times.FRESH / 5


def examined(server: str, insecure: bool) -> bool:
    """Print what was found; whether all is well."""
    console = Console(highlight=False, soft_wrap=True)
    well = True
    for is_well, text in _findings(server, insecure):
        well = well and is_well
        console.print(Text.assemble(("ok   ", "green") if is_well else ("wrong", "red"), " ", printable(text)))
    return well


def _findings(server: str, insecure: bool) -> Iterator[tuple[bool, str]]:
    keys: Keys | None = None
    try:
        keys = keys_of()
        yield True, f"key {keys.name}: its name; equal on all hosts" if keys else "no key: plain data only"
        address = parse(server)
        address = address._replace(insecure=True) if insecure else address
        address.check(bool(keys))
        connection = connected(address)
    except PymarError as error:
        yield False, str(error)
        return
    try:
        yield True, f"{address} lets {address.user!r} in{' over TLS' if address.tls else ', without TLS'}"
        yield from _of_broker(connection)
    finally:
        if connection.is_open:
            connection.close()
    if keys is not None:
        yield from _of_agents(status_of(address, keys))


def _of_broker(connection: Any) -> Iterator[tuple[bool, str]]:
    about = connection._impl.server_properties
    product, version = (str(about.get(name, "?")) for name in ("product", "version"))
    yield True, f"it is {product} {version}"
    has_confirms = bool(about.get("capabilities", {}).get("publisher_confirms"))
    yield has_confirms, "it confirms what it takes" if has_confirms else "it has no publisher confirms: use RabbitMQ"
    blocked: list[str] = []
    connection.add_on_connection_blocked_callback(lambda _, frame: blocked.append(str(frame.method.reason)))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, b"\0" * protocol.CHUNK)
    deadline = time.monotonic() + PATIENCE
    taken = None
    while taken is None and not blocked and time.monotonic() < deadline:
        connection.process_data_events(0.05)
        if not blocked:
            taken = channel.basic_get(queue, auto_ack=True)[2]
    if blocked:
        yield False, f"it takes nothing: {blocked[0]}. Free memory or disk on its host, or raise its limits"
    elif taken is None:
        yield False, f"it did not take a message of {protocol.CHUNK >> 20} MiB within {PATIENCE:g} s: is it overloaded?"
    else:
        yield True, f"it takes messages of {protocol.CHUNK >> 20} MiB, the largest that we send"
    limits = connection._impl.params
    yield limits.channel_max == 0 or limits.channel_max >= 2, "it allows channels enough"


def _of_agents(found: Status) -> Iterator[tuple[bool, str]]:
    for reason in found.refused:
        yield False, f"a worker's answer was dropped: {reason}"
    now = time.time()
    for here in found.agents:
        skew = here.clock - now
        if abs(skew) > SKEW:
            yield False, f"the clock of {here.agent.name} is {skew:+.0f} s from ours: set both by NTP"
    taking = [here for here in found.agents if here.consumers]
    slots = sum(here.agent.slots for here in taking)
    yield bool(taking), f"{len(taking)} workers with {slots} slots" if taking else "no worker takes parts: pymar worker"
