"""Checks of the key, of the broker, and of why a job is not computed: one line for each, with what to change.

`pymar doctor` shows them. What is asked of a job here, its producer asks too, and why.py judges it in both places.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from pymar.amqp import protocol, timing
from pymar.amqp.address import Address
from pymar.amqp.jobs import Job, jobs_of, named
from pymar.amqp.keys import Keys
from pymar.amqp.link.client import asking
from pymar.amqp.protocol import by_value_code, python_version
from pymar.amqp.status import Status, consumers_of, own_queue, served_by, status_of
from pymar.amqp.why import Facts, causes, is_of_cluster, left_out
from pymar.exceptions import PymarError, UsageError
from pymar.serialization.composed import POOL
from pymar.serialization.jobfile import classes_of
from pymar.serialization.redaction import printable
from pymar.slots.environment import without_secrets

#: Seconds that the broker has to deliver a message.
PATIENCE = 5.0
#: Seconds that the clocks of two hosts may differ; with more, messages may expire too soon.
SKEW = timing.FRESH / 5


class Target(NamedTuple):
    """What is to be looked at besides the broker: a job file or a job, or a pool that gets its code with each job."""

    text: str = ""
    """The path of a file, or the start of a job's id."""
    producer: str = ""
    """The only producer of the file that is looked at."""
    pool: str = ""


def examined(broker: Callable[[], tuple[Address, Keys]], target: Target) -> bool:
    """Print the result of each check; return True if none failed.

    Args:
        broker: returns the address of the broker and the keys of this process, or raises what is wrong with them.
        target: what is to be looked at besides the broker.
    """
    console = Console(highlight=False, soft_wrap=True)
    well = True
    for is_well, text in _findings(broker, target):
        well = well and is_well
        console.print(Text.assemble(("ok   ", "green") if is_well else ("wrong", "red"), " ", printable(text)))
    return well


def _findings(broker: Callable[[], tuple[Address, Keys]], target: Target) -> Iterator[tuple[bool, str]]:
    try:
        address, keys = broker()
        yield True, f"key {keys.name}: its name; equal on all hosts" if keys else "no key: plain data only"
        with asking(address) as connection:
            yield True, f"{address} accepts {address.user!r}{' over TLS' if address.tls else ', without TLS'}"
            yield from _of_names(connection, address)
            yield from _of_broker(connection)
        found = status_of(address, keys)
        is_about_a_job = bool(target.text or target.pool)
        how = "pymar add HOST" if is_of_cluster(address.pool or "") else "pymar worker"
        yield from _of_agents(found, not is_about_a_job, how)
        if is_about_a_job:
            yield from _of_job(address, keys, target)
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
    own = own_queue(channel)
    for exchange in (protocol.CONTROL, protocol.PRODUCERS):
        channel.exchange_declare(exchange, "fanout", durable=True)
        channel.queue_bind(own, exchange)
    for prefix in ("pymar.work", "pymar.job"):
        queue = f"{prefix}.doctor.{os.urandom(8).hex()}"
        channel.queue_declare(queue, durable=True, arguments={"x-expires": 10_000})
        channel.basic_publish("", queue, b"")
        channel.basic_get(queue, auto_ack=True)
        channel.queue_delete(queue)
    yield True, f"{address.user!r} may use the exchanges and the queues of Pymar"


def _of_job(address: Address, keys: Keys, target: Target) -> Iterator[tuple[bool, str]]:
    is_file = os.path.isfile(target.text) or os.sep in target.text or target.text.endswith(".py")
    # The address of a cluster, or of `?pool=`, has the pool to which jobs go by value.
    if pool := target.pool or (address.pool if is_file else ""):
        name, code = target.text or pool, by_value_code(keys.name)
        facts = Facts(name, pool, code, "", str(address), python_version(), bool(keys), ())
        yield from _of_facts(address, keys, facts)
    elif is_file:
        yield from _of_file(address, keys, target)
    else:
        yield _of_running_job(named(jobs_of(address, keys).jobs, target.text))


def _of_file(address: Address, keys: Keys, target: Target) -> Iterator[tuple[bool, str]]:
    """Say of each producer of a file if workers would compute its jobs. It is loaded as workers load it."""
    path = os.path.abspath(target.text)
    found = classes_of(path, without_secrets(os.environ))
    pools: dict[str, str] = found["producers"]
    if target.producer and target.producer not in {*pools, POOL}:
        there = ", ".join(pools) or "none"
        raise UsageError(f"{path} has no producer {target.producer!r} at its top level; it has {there}")
    if target.producer:
        pools = {target.producer: pools.get(target.producer, POOL)}
    for name, pool in (pools or {POOL: POOL}).items():
        facts = Facts(name, pool, found["code"], path, str(address), python_version(), bool(keys), ())
        yield from _of_facts(address, keys, facts)


def _of_facts(address: Address, keys: Keys, facts: Facts) -> Iterator[tuple[bool, str]]:
    """Say if workers would compute a job; else why not."""
    consumers = consumers_of(address, protocol.work_queue(facts.pool, facts.code))
    answers, junk = served_by(address, keys, facts.pool, facts.code, has_consumers=consumers > 0)
    facts = facts._replace(answers=answers, consumers=consumers, junk=junk)
    able = [here for here in answers if here.code == facts.code and here.consumers and not here.running]
    other = [cause for here in able if (cause := left_out(here, facts.python))]
    for cause in other:
        yield False, f"{facts.name}: {cause}"
    if able and len(other) < len(able):
        slots = sum(here.agent.slots for here in able)
        yield True, f"{facts.name}: {len(able)} workers with {slots} slots serve its pool and wait for parts"
    elif not able:
        for cause in causes(facts):
            yield False, f"{facts.name}: {cause}"


def _of_running_job(job: Job) -> tuple[bool, str]:
    if job.state == "waits":
        return False, f"{job} waits: {job.waits}"
    if job.state == "silent":
        return False, (
            f"{job}: its producer does not answer; workers have heard nothing of it for {job.unheard:.0f} s. If it has "
            f"died, this drops its parts: pymar cancel {job.short}"
        )
    return True, f"{job} runs: {job.running:,} parts on {len(job.workers)} workers, {job.rate:.3g} parts a second"


def _of_agents(found: Status, needs_any: bool, how: str) -> Iterator[tuple[bool, str]]:
    for reason in found.refused:
        yield False, f"a worker's answer was refused: {reason}"
    now = time.time()
    for here in found.agents:
        skew = here.clock - now
        if abs(skew) > SKEW:
            yield False, f"the clock of {here.agent.name} differs by {skew:+.0f} s from this host's: set both by NTP"
    taking = [here for here in found.agents if here.consumers]
    slots = sum(here.agent.slots for here in taking)
    if taking or needs_any:
        yield (
            bool(taking),
            f"{len(taking)} workers with {slots} slots" if taking else f"no worker takes parts: {how}",
        )
