"""Why no worker computes a job: what is known of it and of the workers goes in, causes with their remedies come out.

The producer logs them while its job waits (producer/waiting.py), and `pymar doctor FILE` shows them from outside. It
reads files of this host to compare them, and does no other I/O.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from os.path import basename
from typing import NamedTuple

from pymar.amqp.protocol import Here, held_text
from pymar.serialization.composed import POOL
from pymar.serialization.jobfile import code_of_source
from pymar.version import __version__

#: Bytes of a line's digest, and lines that are described. Only with a key: else anybody could guess at lines by them.
_LINE, _MOST_LINES = 4, 5_000
#: Why answers are refused, by how the reasons of wire.Reader begin.
_JUNK = {
    "its version of Pymar's protocol": "version",
    "it is not signed, and this side has a key": "unsigned",
}


class Cause(NamedTuple):
    """Why workers do not compute a job, and what to do."""

    kind: str
    """"blocked", "busy", "paused", "refused", "idle", "code", "python", "version", "key", "keyless", "keyed" or
    "none"."""
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}. {self.remedy}" if self.remedy else self.text


class Facts(NamedTuple):
    """What is known of a job that waits, and of the workers."""

    name: str
    """Of the producer."""
    pool: str
    code: str
    path: str
    """Of the job file; "" if the code is sent with the job."""
    address: str
    python: str
    """The minor version here."""
    has_key: bool
    answers: Sequence[Here]
    """Of workers that serve the pool, whatever code they have."""
    refusals: Sequence[tuple[bytes, str, str]] = ()
    """Workers that cannot compute the job or must not: their id and name, and why."""
    consumers: int = 0
    """How many consumers the job's work queue has."""
    junk: Iterable[str] = ()
    """The reasons for which answers were refused."""
    blocked: str = ""
    """Why the broker takes no messages."""


def causes(facts: Facts) -> list[Cause]:
    """Return why no worker computes the job: one at least."""
    found = []
    if facts.blocked:
        remedy = "Free memory or disk on its host, or raise its limits (rabbitmqctl status)"
        found.append(Cause("blocked", f"the broker takes no messages: {facts.blocked}", remedy))
    refusing = {agent for agent, _, _ in facts.refusals}
    same = [here for here in facts.answers if here.code == facts.code and here.agent.id not in refusing]
    others = [here for here in facts.answers if here.code != facts.code and _is_meant(facts, here)]
    found += [_other_code(facts, here) for here in others]
    if facts.refusals:
        head = "some workers cannot" if same else f"no worker of the pool {facts.pool} can"
        why = "; ".join(f"{name}: {text}" for _, name, text in sorted(facts.refusals))
        found.append(Cause("refused", f"{head} compute it. {len(facts.refusals)} refused: {why}", ""))
    for here in same:
        if here.trouble:
            text = f"the worker {here.agent.name} takes no parts at present: {here.trouble}"
            found.append(Cause("paused", text, "It tries again by itself"))
    able = [here for here in same if not here.trouble]
    if able:
        found.append(_of_able(able, facts))
    elif not same and facts.consumers and not facts.refusals:
        found.append(_of_unheard(facts))
    return found or [_none(facts)]


def _is_meant(facts: Facts, here: Here) -> bool:
    """True if a worker of this pool might have been meant for the job: all files of calls share one pool."""
    return facts.pool != POOL or basename(here.path) == basename(facts.path)


def is_of_cluster(pool: str) -> bool:
    """True if a pool has a name as `pymar up` gives it: that of the cluster, and eight random digits."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,40}-[0-9a-f]{8}", pool) is not None


def missing_module(text: str, pool: str) -> str:
    """Return what to add to the text of an error of a worker, if that has not the module of a package; else ""."""
    found = re.search(r"No module named '([\w.]+)'", text[:1_000])
    if found is None or "pymar up" in text:
        return ""
    if is_of_cluster(pool):
        return (
            f". The workers have no {found[1]}: pymar down, and pymar up with --requirements FILE, or with --freeze "
            "for all packages that are here"
        )
    return f". The workers have no {found[1]}: install it on their hosts"


def _of_able(able: Sequence[Here], facts: Facts) -> Cause:
    names = ", ".join(sorted(here.agent.name for here in able))
    if all(here.running for here in able):
        jobs = dict.fromkeys(held_text(row) for here in able for row in here.holds if row[3])
        adds = "pymar add HOST" if is_of_cluster(facts.pool) else "pymar worker"
        remedy = f"It begins when one is free; `pymar cancel` ends a job, `{adds}` adds slots"
        return Cause("busy", f"all slots are busy with {'; '.join(jobs)}, on the workers {names}", remedy)
    text = f"workers serve its file, but compute nothing of it: {names}"
    return Cause("idle", text, "If that lasts, their logs contain the reason")


def _of_unheard(facts: Facts) -> Cause:
    """Return why consumers are there and none answers."""
    junk = {kind for start, kind in _JUNK.items() if any(reason.startswith(start) for reason in facts.junk)}
    who = (
        f"{facts.consumers} consumers take parts from this queue (pool {facts.pool}, code {facts.code}) at "
        f"{facts.address} and none answers"
    )
    if "version" in junk:
        return Cause("version", f"{who}: they have another version of Pymar", f"Install {__version__} on all hosts")
    if facts.has_key and "unsigned" in junk:
        remedy = "Set PYMAR_KEY_FILE for them too, to a copy of this process's key"
        return Cause("keyless", f"{who}: they have no key, and this process has one", remedy)
    if facts.has_key:
        remedy = "Their logs contain the reason; `pymar doctor` shows the name of a host's key"
        return Cause("key", f"{who}: they have another key, or are stopped", remedy)
    remedy = "Set PYMAR_KEY_FILE here, to a copy of their key; `pymar doctor` shows the name of a host's key"
    return Cause("keyed", f"{who}: they have another key than this process, which has none; or are stopped", remedy)


def _none(facts: Facts) -> Cause:
    of_calls = f" -p {POOL}" if facts.pool == POOL else ""
    start = f"-f {facts.path}{of_calls}" if facts.path else f"--pool {facts.pool}"
    text = f"there is no worker of the pool {facts.pool} (code {facts.code}) at {facts.address}"
    if not facts.path and is_of_cluster(facts.pool):
        return Cause("none", text, "`pymar status` shows the hosts of the cluster; `pymar add HOST` starts a worker")
    return Cause("none", text, f"To start one: pymar worker {start} -q {facts.address}")


def _other_code(facts: Facts, here: Here) -> Cause:
    who = f"the worker {here.agent.name} serves the pool {facts.pool} with other code"
    if not facts.path and not here.path:
        return _other_by_value(facts, here, who)
    there = f"{here.path or 'by value'} is {here.code} there"
    mine = f"{facts.path or 'by value'} is {facts.code} here"
    where = _first_difference(facts.path, here)
    pythons = f"Python {here.python} there, {facts.python} here"
    return Cause("code", f"{who}: {there}, {mine} ({where}{pythons})", "Give it the same file")


def _other_by_value(facts: Facts, here: Here, who: str) -> Cause:
    """Return how the code of a worker of a pool differs: `protocol.by_value_code` makes it of three things."""
    if here.python != facts.python:
        text = f"the worker {here.agent.name} has Python {here.python}, and this process {facts.python}"
        return Cause(
            "python", f"{text}: it is left out", "Use one minor version, since another sums floats in another way"
        )
    _, _, theirs = here.code.partition("-")
    version, _, key = theirs.rpartition("-")
    if version != __version__:
        text = f"the worker {here.agent.name} has Pymar {version}, and this process {__version__}: it is left out"
        return Cause("version", text, f"Install {__version__} on all hosts")
    remedy = "List the keys in the same order on all hosts: the first one names the pool's queue"
    return Cause("key", f"{who}: its first key is {key}", remedy)


def left_out(here: Here, python: str) -> Cause | None:
    """Return why a worker is left out by a job of this minor version of Python; None if it has the same."""
    if here.python == python:
        return None
    text = f"the worker {here.agent.name} has Python {here.python}, and this process {python}: it is left out"
    return Cause("python", text, "Use one minor version, since another sums floats and pickles values in another way")


def _first_difference(path: str, here: Here) -> str:
    """Return in which line the worker's file differs first from this one; "" if both cannot be compared."""
    lines = _lines_of(path)
    if lines is None:
        return ""
    theirs = _lines_of(here.path, here.code)
    if theirs is not None:
        digests = [digest_of_line(line) for line in theirs]
    elif here.lines:
        digests = [here.lines[at : at + _LINE] for at in range(0, len(here.lines), _LINE)]
    else:
        return ""
    for number, line in enumerate(lines[: max(len(digests), 1)]):
        if number >= len(digests) or digests[number] != digest_of_line(line):
            return f"line {number + 1} differs first; "
    if len(lines) == len(digests):
        return ""  # what differs is behind the lines that are described
    return f"line {min(len(lines), len(digests)) + 1} differs first; " if len(digests) < _MOST_LINES else ""


def _lines_of(path: str, code: str = "") -> list[bytes] | None:
    """Return the lines of a file; None if it cannot be read, or has not this hash."""
    try:
        if not path or not os.path.isfile(path):
            return None
        with open(path, "rb") as file:
            source = file.read()
    except OSError:
        return None
    return None if code and code_of_source(source) != code else source.splitlines()


def digest_of_line(line: bytes) -> bytes:
    """Return a few bytes that differ for lines that differ."""
    return blake2b(line, digest_size=_LINE).digest()


def lines_of(path: str, code: str) -> bytes:
    """Return the digests of the lines of a job file; b"" if it is not this version of it, or cannot be read."""
    lines = _lines_of(path, code)
    return b"".join(digest_of_line(line) for line in (lines or [])[:_MOST_LINES])
