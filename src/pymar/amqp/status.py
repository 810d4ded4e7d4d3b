"""Status of a broker: which agents serve what, and how many messages wait. Used by `pymar status` and `doctor`."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pika

from pymar.amqp import protocol
from pymar.amqp.address import Address
from pymar.amqp.keys import Keys
from pymar.amqp.link.client import asking
from pymar.amqp.wire import Reader, encode, probes
from pymar.serialization.redaction import printable

#: Seconds that agents have to answer.
PATIENCE = 1.0
#: The broker's reply code for a queue that does not exist.
_NOT_FOUND = 404


class Status(NamedTuple):
    """Agents that have answered, the messages that wait in each of their work queues, and what was refused."""

    agents: list[protocol.Here]
    queued: dict[str, int]
    refused: list[str]
    """The reasons for which answers were refused."""


def utc(seconds: float | None) -> str | None:
    """Return a time in seconds since 1970 in ISO 8601; None if it is unknown, or none that a calendar has."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):  # what a message says may be any number
        return None


def as_json(found: Status) -> dict[str, Any]:
    """Return a status as plain data whose names stay as they are."""
    workers = [
        {
            "name": here.agent.name,
            "pool": here.pool,
            "code": here.code,
            "file": here.path or None,
            "python": here.python,
            "slots": here.agent.slots,
            "running": here.running,
            "takes_parts": bool(here.consumers),
            "trouble": here.trouble or None,
            "clock": utc(here.clock),
            "clock_seconds": here.clock,
            "jobs": [
                {
                    "id": job.hex(),
                    "name": name,
                    **protocol.whose(queue)._asdict(),
                    "running": running,
                    "waiting_messages": waiting,
                    "producer_unheard_seconds": unheard,
                }
                for job, name, queue, running, waiting, unheard in here.holds
            ],
        }
        for here in sorted(found.agents, key=lambda here: here.agent.name)
    ]
    return {"workers": workers, "queued_messages": found.queued, "refused": found.refused}


def shown(found: Status, address: Address) -> None:
    """Print a line for each pool and for each worker."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)

    def line(*pieces: str | tuple[str, str]) -> None:
        console.print(Text.assemble(*pieces))  # a Text: no markup in a worker's name is interpreted

    if not found.agents:
        line(f"no worker answers at {address}")
    for pool, code in sorted({(here.pool, here.code) for here in found.agents}):
        agents = [here for here in found.agents if (here.pool, here.code) == (pool, code)]
        slots, running = sum(here.agent.slots for here in agents), sum(here.running for here in agents)
        jobs = len({row[0] for here in agents for row in here.holds})
        queued = found.queued[protocol.work_queue(pool, code)]
        line(
            (printable(pool), "bold"),
            f" (code {code}): {len(agents)} workers, {slots} slots, {queued} messages queued, {running} parts running, "
            f"{jobs} jobs",
        )
        for here in sorted(agents, key=lambda here: here.agent.name):
            takes = "" if here.consumers else ", takes nothing new"
            why = f" ({here.trouble})" if here.trouble and not here.consumers else ""
            whose = f" ({', '.join(map(protocol.held_text, here.holds))})" if here.holds else ""
            line(
                f"    {here.agent.name}: {here.agent.slots} slots, {here.running} running{whose}",
                (takes, "red"),
                f"{why}, Python {here.python}, {here.path or 'by value'}",
            )
    for reason in found.refused:
        line(f"an answer was refused: {reason}")


def consumers_of(address: Address, queue: str) -> int:
    """Return the number of consumers of a queue; 0 if it does not exist.

    Raises:
        BrokerRefused: the broker cannot be reached.
    """
    with asking(address) as connection:
        found = _declared(connection, queue)
        return 0 if found is None else int(found.consumer_count)


def _declared(connection: pika.BlockingConnection, queue: str) -> Any:
    """Return the broker's description of a queue; None if it does not exist."""
    try:
        return connection.channel().queue_declare(queue, passive=True).method
    except pika.exceptions.ShortStringTooLong:  # longer than the name of any queue
        return None
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        return None


def _messages_in(connection: pika.BlockingConnection, queue: str) -> int:
    found = _declared(connection, queue)
    return 0 if found is None else int(found.message_count)


def own_queue(channel: Any) -> str:
    """Make a queue that only this connection uses, and return its name, which permissions for Pymar's queues allow."""
    name: str = channel.queue_declare(f"pymar.asking.{os.urandom(8).hex()}", exclusive=True).method.queue
    return name


def status_of(address: Address, keys: Keys, patience: float = PATIENCE) -> Status:
    """Ask all agents, wait `patience` seconds for their answers, and return them.

    Raises:
        BrokerRefused: the broker cannot be reached.
    """
    with asking(address) as connection:
        agents, read = _asked(connection, keys, protocol.Hello("", "", ""), patience)
        queues = {protocol.work_queue(here.pool, here.code) for here in agents}
        queued = {queue: _messages_in(connection, queue) for queue in queues}
        return Status(agents, queued, list(read.junk))


def served_by(
    address: Address, keys: Keys, pool: str, code: str, has_consumers: bool, patience: float = PATIENCE
) -> tuple[list[protocol.Here], list[str]]:
    """Return the agents that serve a pool, whatever code they have, and why answers were refused.

    Args:
        has_consumers: the job's work queue has consumers: if none answers, others are asked in other ways, so that the
            reasons tell what differs.

    Raises:
        BrokerRefused: the broker cannot be reached.
    """
    with asking(address) as connection:
        hello = protocol.Hello(pool, code, "")
        agents, read = _asked(connection, keys, hello, patience)
        if has_consumers and not any(here.code == code for here in agents):
            _, read = _asked(connection, keys, hello, patience, probing=True)
        return agents, list(read.junk)


def _asked(
    connection: pika.BlockingConnection, keys: Keys, hello: protocol.Hello, patience: float, probing: bool = False
) -> tuple[list[protocol.Here], Reader]:
    """Ask agents; return those that answer, and the reader of their answers."""
    channel = connection.channel()
    mine = own_queue(channel)
    hello = hello._replace(reply=mine)
    channel.exchange_declare(protocol.CONTROL, "fanout", durable=True)
    for body in probes(hello, keys) if probing else [encode(hello, hello.pool, keys, protocol.CONTROL)]:
        channel.basic_publish(protocol.CONTROL, "", body)
    read = Reader(protocol.TO_ASKER, keys)
    agents: dict[bytes, protocol.Here] = {}
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > 0:
        _, _, body = next(channel.consume(mine, auto_ack=True, inactivity_timeout=left))
        answer = None if body is None else read(body, mine)
        if answer is not None and isinstance(answer[0], protocol.Here):
            agents[answer[0].agent.id] = answer[0]
    channel.cancel()
    return list(agents.values()), read
