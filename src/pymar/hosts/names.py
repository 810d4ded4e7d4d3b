"""What users write for hosts, and the hosts that it names.

    node1                       a name as ssh takes it: of DNS, or of a `Host` in ~/.ssh/config
    ada@node1:2222/8            as the user ada, on port 2222, eight slots
    node1/8                     eight slots
    node[01-16]                 node01 to node16, as Slurm writes it; node[1,3,07-12]-ib, rack[1-2]node[1-4]
    node1,node2,gpu[1-4]/2      a list: commas outside of brackets
    ::1, [::1]:2222/4           IPv6, in brackets where a port follows
    hosts.txt                   a file: one of these a line, `slots=8` behind it as in MPI's, `#` begins a comment

`node1:8` means eight slots for Slurm and MPICH, and port 8 for ssh: it is refused. A port stands alone only where it
cannot be a number of slots: 22, or 1024 and above.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from itertools import product
from math import prod
from typing import NamedTuple
from urllib.parse import quote

from pymar.exceptions import UsageError

#: Hosts in all arguments together, at most: more is a mistake in a range.
MOST_HOSTS = 10_000
#: Slots of a host, at most: more is a port behind the wrong sign.
MOST_SLOTS = 10_000
#: Bytes of a file of hosts, at most.
MOST_BYTES = 10_000_000
#: The lowest number that stands alone as a port, besides 22.
LOWEST_PORT = 1024

_FORM = "a host is written node1, user@node1:2222/8 for port 2222 and eight slots, or node[01-16] for sixteen"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,252}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\\@$-]*")
_FILES = (".txt", ".hosts", ".list", ".conf")
#: Numbers within brackets, and how many digits each has at least.
_Numbers = list[tuple[range, int]]


class Host(NamedTuple):
    """A host as it was named."""

    name: str
    "What ssh looks up: a name, or an address without brackets."
    user: str = ""
    "Empty: as ssh decides."
    port: int = 0
    "0: as ssh decides."
    slots: int = 0
    "0: as many as it has cores."

    @property
    def destination(self) -> str:
        """What `ssh` takes as its destination, the port included."""
        if self.port:
            name = f"[{self.name}]" if ":" in self.name else self.name
            user = quote(self.user, safe="") + "@" if self.user else ""
            return f"ssh://{user}{name}:{self.port}"
        return f"{self.user}@{self.name}" if self.user else self.name


def hosts_of(arguments: Sequence[str]) -> list[Host]:
    """Return the hosts that arguments name, in their order. Raise UsageError: none, one twice, or what is no host."""
    found: list[Host] = []
    places: dict[tuple[str, int], str] = {}
    for argument in arguments:
        for where, text, slots in _entries(argument):
            for host in _parsed(text, slots, where, MOST_HOSTS - len(found)):
                identity = _identity(host)
                if identity in places:
                    first = places[identity]
                    raise UsageError(
                        f"{where}: {host.name} is named twice{'' if first == where else f', first in {first}'}: "
                        f"name it once, with {host.name}/8 for eight slots"
                    )
                places[identity] = where
                found.append(host)
    if not found:
        raise UsageError(f"no host is named: {_FORM}; or give a file with one a line")
    return found


def _identity(host: Host) -> tuple[str, int]:
    """Return what is equal for two names of one host, as far as the names tell."""
    name = str(IPv6Address(host.name)) if ":" in host.name else host.name.lower().rstrip(".")
    return name, host.port or 22


def _entries(argument: str) -> Iterator[tuple[str, str, int]]:
    """Yield where a text stands, the text, and the slots that a file says for it; 0 if it says none."""
    path = os.path.expanduser(argument)
    if os.path.isdir(path) and "/" in argument:
        raise UsageError(f"{argument!r} is a folder: give a file with one host a line")
    if not os.path.exists(path) or os.path.isdir(path):
        yield _shown(argument), argument, 0
        return
    for number, line in enumerate(_read(path).splitlines(), 1):
        if words := line.partition("#")[0].split():
            where = f"{argument}, line {number}"
            yield where, words[0], _slots_of(words[1:], where)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"the file of hosts {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text: a file of hosts has one host a line") from error
    if len(data) > MOST_BYTES or "\0" in text:
        raise UsageError(f"{path} is no file of hosts: that has one host a line")
    return text


def _shown(text: str) -> str:
    """Return a text for messages: quoted, shortened, without what may be a password."""
    text = re.sub(r":[^@,]*@", ":***@", text)
    return repr(text if len(text) <= 80 else text[:60] + "..." + text[-17:])


def _slots_of(words: list[str], where: str) -> int:
    """Return N of the words `slots=N` behind a host; 0 if there are none."""
    if not words:
        return 0
    if len(words) > 1 or not words[0].startswith("slots="):
        raise UsageError(
            f"{where}: {_shown(' '.join(words))} is not understood: a line has one host, and may have slots=8 behind it"
        )
    return _slots(words[0].removeprefix("slots="), where)


def _slots(text: str, where: str) -> int:
    slots = _number(text)
    if slots is None or not 1 <= slots <= MOST_SLOTS:
        raise UsageError(
            f"{where}: a host has 1 to {MOST_SLOTS:,} slots, not {_shown(text)}: node1/8, or slots=8 in a file"
        )
    return slots


def _number(text: str) -> int | None:
    """Return a number of at most nine digits; None for any other text."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _parsed(text: str, slots: int, where: str, most: int) -> Iterator[Host]:
    """Yield the hosts of a list, up to `most`."""
    if any(char.isspace() or not char.isprintable() for char in text):
        raise UsageError(
            f"{where}: a space or a control character: hosts are parted by commas alone, as in node1,node2"
        )
    for item in _items(text, where):
        template, name = _template(item, slots, where)
        pieces = [name] if ":" in name else _pieces(name, item, where)
        most -= prod(sum(len(numbers) for numbers, _ in piece) for piece in pieces if not isinstance(piece, str))
        if most < 0:
            raise UsageError(
                f"{where}: these are more than {MOST_HOSTS:,} hosts: is a range in {_shown(item)} too long?"
            )
        for words in product(*map(_texts, pieces)):
            yield template._replace(name=_checked("".join(words), item, where))


def _items(text: str, where: str) -> list[str]:
    """Part a list at its commas outside of brackets."""
    items, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if not 0 <= depth <= 1:
            break
        if char == "," and not depth:
            items.append("")
        else:
            items[-1] += char
    if depth:
        raise UsageError(f"{where}: the brackets do not match: a range is written node[01-16], or node[1,3,07-12]")
    if not all(items):
        what = "a comma without a host beside it" if len(items) > 1 else "an empty name"
        raise UsageError(f"{where}: {what}: {_FORM}")
    return items


def _template(item: str, slots: int, where: str) -> tuple[Host, str]:
    """Return the host that an item describes, without its name; and the name, with the ranges in it."""
    if "://" in item:
        raise UsageError(f"{where}: no address of the web is needed: {_FORM}")
    user, at, rest = item.rpartition("@")
    if ":" in user:  # not shown: it may be a password
        raise UsageError(f"{where}: ssh takes no password here: write user@node1, and let ssh use a key")
    if at and not _USER.fullmatch(user):
        raise UsageError(f"{where}: {_shown(user)} is no name of a user: {_FORM}")
    if given := re.fullmatch(r"(.*?)/([^\]]*)", rest):
        rest, count = given.groups()
        if not re.fullmatch(r"-?[0-9]+", count):
            raise UsageError(_no_file(item, where))
        if slots:
            raise UsageError(f"{where}: slots are given twice, as /{count} and as slots={slots}: keep one of them")
        slots = _slots(count, where)
    name, port = _port_of(rest, item, bool(given), where)
    return Host("", user, port, slots), name


def _no_file(item: str, where: str) -> str:
    return f"{where}: there is no file {_shown(item)}: give the path of one that exists, or a host, as in node1/8"


def _port_of(text: str, item: str, has_slots: bool, where: str) -> tuple[str, int]:
    """Return a name without its port, and the port."""
    if inner := re.fullmatch(r"\[([^\]]*:[^\]]*)\](?:(:)(.*))?", text):
        name, colon, port = inner.groups()
    elif text.count(":") > 1:
        name, colon, port = text, None, ""
    else:
        name, colon, port = text.partition(":")
    if ":" in name:
        try:
            scope = IPv6Address(name).scope_id
        except ValueError as error:
            raise UsageError(f"{where}: {_shown(name)} is no IPv6 address; with a port, [::1]:2222") from error
        if scope is not None and not _NAME.fullmatch(scope):
            raise UsageError(f"{where}: {_shown(name)} does not end in the name of an interface, as fe80::1%eth0 does")
    if not colon:
        return name, 0
    number = _number(port)
    if number is None or not 1 <= number <= 65_535:
        raise UsageError(f"{where}: a port is 1 to 65,535, not {_shown(port)}: {_FORM}")
    if number != 22 and number < LOWEST_PORT and not has_slots:
        raise UsageError(
            f"{where}: {number} in {_shown(item)} could be slots or a port: write {name}/{number} for slots; "
            f"a port below {LOWEST_PORT} belongs into ~/.ssh/config"
        )
    return name, number


def _pieces(name: str, item: str, where: str) -> list[str | _Numbers]:
    """Part a name into what is outside of brackets, and the numbers that stand within."""
    return [
        [_span(part, item, where) for part in text.split(",")] if place % 2 else text
        for place, text in enumerate(re.split(r"[\[\]]", name))
    ]


def _span(text: str, item: str, where: str) -> tuple[range, int]:
    """Return the numbers of `7`, `07` or `07-12`, and how many digits they have at least."""
    first, dash, last = text.partition("-")
    last = last if dash else first
    low, high = _number(first), _number(last)
    if low is None or high is None:
        raise UsageError(f"{where}: {_shown(f'[{text}]')} is no range: that is node[01-16], or node[1,3,07-12]")
    if high < low:
        raise UsageError(f"{where}: the range {text} in {_shown(item)} is reversed: write [{last}-{first}]")
    if len(last) < len(first) or (len(last) > len(first) and last != str(high)):
        digits = max(len(first), len(last))
        raise UsageError(
            f"{where}: the zeros of {text} in {_shown(item)} do not match: write [{low:0{digits}}-{high:0{digits}}]"
        )
    return range(low, high + 1), len(first)


def _texts(piece: str | _Numbers) -> Iterator[str]:
    if isinstance(piece, str):
        yield piece
    else:
        yield from (f"{number:0{digits}}" for numbers, digits in piece for number in numbers)


def _checked(name: str, item: str, where: str) -> str:
    """Return a name; raise if ssh would take it for something else, or cannot look it up."""
    if ":" in name:
        return name
    if name.lower().endswith(_FILES):
        raise UsageError(_no_file(item, where))
    if name.startswith("-"):
        raise UsageError(f"{where}: {_shown(name)} begins with '-', and ssh would take it for an option: {_FORM}")
    if name.isdigit():
        raise UsageError(f"{where}: {_shown(name)} is a number, not the name of a host: {_FORM}")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{where}: {_shown(name)} is no name of a host, which has letters, digits, '.', '-', '_': {_FORM}"
        )
    return name
