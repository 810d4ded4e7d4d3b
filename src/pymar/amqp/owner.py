"""Whose a broker on this host is: the users of the sockets of its port, where the system tells (proc(5), net/tcp).

Any user of a host may stand at a port that nobody has taken, and read or answer a job that was sent there unasked.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from socket import socket
from typing import Any, NamedTuple

#: The user that packages of RabbitMQ make for it.
_SERVICE = "rabbitmq"
#: Files of the system that list the sockets of this host.
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTENING, _ESTABLISHED = "0A", "01"
#: Who listens at one of these is reached at 127.0.0.1.
_REACHED = frozenset({"0.0.0.0", "127.0.0.1", "::"})

Place = tuple[str, int]


class Row(NamedTuple):
    """A socket."""

    here: Place
    there: Place
    state: str
    uid: int
    inode: int
    """0 as long as no process has it: then the uid tells nothing."""


def rows_of(table: str) -> Iterator[Row]:
    """The sockets in the text of a table."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9:
            yield Row(_place(fields[1]), _place(fields[2]), fields[3], int(fields[7]), int(fields[9]))


def _place(text: str) -> Place:
    address, _, port = text.partition(":")
    words = [bytes.fromhex(address[start : start + 8]) for start in range(0, len(address), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return _as_v4(str(ipaddress.ip_address(packed))), int(port, 16)


def _as_v4(address: str) -> str:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def listeners(rows: Iterable[Row], port: int) -> set[int]:
    """The users of all sockets that 127.0.0.1 at this port may lead to."""
    return {row.uid for row in rows if row.state == _LISTENING and row.here[1] == port and row.here[0] in _REACHED}


def other_end(rows: Iterable[Row], here: Place, there: Place) -> set[int]:
    """The users of the other end of a connection on this host."""
    return {
        row.uid
        for row in rows
        if row.state == _ESTABLISHED and (row.here, row.there) == (there, here) and row.inode != 0
    }


def trusted() -> set[int]:
    """Root, this user, and the user of the service."""
    import pwd

    uids = {0, os.getuid(), os.geteuid()}
    with suppress(KeyError):  # RabbitMQ is not installed here by a package
        uids.add(pwd.getpwnam(_SERVICE).pw_uid)
    return uids


def stranger_at(port: int) -> str:
    """Why what listens at this port of 127.0.0.1 is not to be trusted; "" if it is."""
    return objection_to(listeners(_rows(), port))


def stranger_behind(connection: Any) -> str:
    """Why the server of this connection of pika's is not to be trusted; "" if it is."""
    transport = getattr(getattr(connection, "_impl", connection), "_transport", None)
    ours = getattr(transport, "_sock", None)
    if not isinstance(ours, socket):
        return objection_to(set())
    here, there = ((_as_v4(place[0]), place[1]) for place in (ours.getsockname(), ours.getpeername()))
    return objection_to(other_end(_rows(), here, there))


def _rows() -> list[Row]:
    rows: list[Row] = []
    for path in TABLES:
        try:
            with open(path) as table:
                rows += rows_of(table.read())
        except OSError:
            continue  # there is no such table here: then nobody is found in it, and nobody trusted
    return rows


def objection_to(uids: set[int]) -> str:
    if not uids:
        return "the system does not tell whose it is"
    strangers = sorted(uids - trusted())
    return f"it belongs to the user {', '.join(map(_user, strangers))}" if strangers else ""


def _user(uid: int) -> str:
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)
