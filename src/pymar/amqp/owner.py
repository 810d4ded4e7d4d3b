"""The owner of a broker on this host: the users of the sockets at its port, as listed by proc(5) in net/tcp.

Any user of this host may listen at a free port, and read or answer the jobs that are sent there. So a broker that the
producer's user has not named has to belong to a trusted user.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from socket import socket
from typing import Any, NamedTuple

#: The user of the service in RabbitMQ's packages.
_SERVICE = "rabbitmq"
#: Files of the system that list the sockets of this host.
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTENING, _ESTABLISHED = "0A", "01"
#: A socket that listens at one of these is reached at 127.0.0.1.
_REACHED = frozenset({"0.0.0.0", "127.0.0.1", "::"})

#: Address and port.
End = tuple[str, int]


class Row(NamedTuple):
    """A socket of this host: its two ends, its state and its user."""

    here: End
    there: End
    state: str
    uid: int
    inode: int
    """0 as long as no process has accepted the connection: then the uid means nothing."""


def rows_of(table: str) -> Iterator[Row]:
    """Yield the sockets in the text of such a file."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9:
            yield Row(_end(fields[1]), _end(fields[2]), fields[3], int(fields[7]), int(fields[9]))


def _end(text: str) -> End:
    address, _, port = text.partition(":")
    words = [bytes.fromhex(address[start : start + 8]) for start in range(0, len(address), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return _as_v4(str(ipaddress.ip_address(packed))), int(port, 16)


def _as_v4(address: str) -> str:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def listeners(rows: Iterable[Row], port: int) -> set[int]:
    """Return the users of all sockets that a connection to 127.0.0.1 at this port may reach."""
    return {row.uid for row in rows if row.state == _LISTENING and row.here[1] == port and row.here[0] in _REACHED}


def listening(port: int) -> set[int]:
    """Return the inodes of all sockets of this host that listen at this port, at whatever address."""
    return {row.inode for row in _rows() if row.state == _LISTENING and row.here[1] == port}


def other_end(rows: Iterable[Row], here: End, there: End) -> set[int]:
    """Return the users of the other end of a connection within this host."""
    return {
        row.uid
        for row in rows
        if row.state == _ESTABLISHED and (row.here, row.there) == (there, here) and row.inode != 0
    }


def trusted() -> set[int]:
    """Return root, this user, and the user of the service."""
    import pwd

    uids = {0, os.getuid(), os.geteuid()}
    with suppress(KeyError):  # RabbitMQ is not installed here by a package
        uids.add(pwd.getpwnam(_SERVICE).pw_uid)
    return uids


def objection_at(port: int) -> str:
    """Return why the program that listens at this port of 127.0.0.1 is not trusted; "" if it is."""
    return objection_to(listeners(_rows(), port))


def objection_behind(connection: Any) -> str:
    """Return why the server of this connection of pika's is not trusted; "" if it is."""
    transport = getattr(getattr(connection, "_impl", connection), "_transport", None)
    ours = getattr(transport, "_sock", None)
    if not isinstance(ours, socket):
        return objection_to(set())
    here, there = ((_as_v4(end[0]), end[1]) for end in (ours.getsockname(), ours.getpeername()))
    return objection_to(other_end(_rows(), here, there))


def _rows() -> list[Row]:
    rows: list[Row] = []
    for path in TABLES:
        try:
            with open(path) as table:
                rows += rows_of(table.read())
        except OSError:
            continue  # a system without this file: no owner is found, and so none is trusted
    return rows


def objection_to(uids: set[int]) -> str:
    """Return why the owner is not trusted, given all users that it may be; "" if all of them are trusted."""
    if not uids:
        return "the system does not show which user it belongs to"
    others = sorted(uids - trusted())
    return f"it belongs to the user {', '.join(map(_user, others))}" if others else ""


def _user(uid: int) -> str:
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)
