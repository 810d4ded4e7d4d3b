"""The archive of a job's modules: the files of codefiles.py as one value, which travels once to each host.

    "PMA1", zlib of: length of the head, head (JSON: roots, and [name, size] of each file), the files' bytes

The digest is that of what was compressed: equal files have one digest, wherever they are, and are sent and unpacked
once. An archive of unknown origin is never unpacked, and one that is damaged, or has a name that would lead out of its
folder, is refused.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from pymar.exceptions import UsageError
from pymar.serialization import codefiles
from pymar.serialization.codefiles import FoundFile, Root

_MAGIC = b"PMA1"
#: Bytes that an archive has unpacked, at most: its files, and a head that names them.
_LARGEST = codefiles.LARGEST + codefiles.MOST_FILES * 4_096
#: Characters of a file's name within an archive: what the systems of hosts take.
_LONGEST_NAME = 4_000


class Reference(NamedTuple):
    """What names an archive, and tells where its files are at the producer. It travels with each job. Immutable."""

    digest: str
    """Of the files, in hexadecimal digits."""
    size: int
    """Bytes of the archive."""
    check: bytes
    """The digest of these bytes (amqp.chunks)."""
    roots: tuple[tuple[str, bool], ...]
    """The fields of each Root, as they are at the producer."""

    def encoded(self) -> bytes:
        """Return it as bytes."""
        return json.dumps([self.digest, self.size, self.check.hex(), self.roots]).encode()


def reference(data: bytes) -> Reference:
    """Decode what `Reference.encoded` returns.

    Raises:
        ValueError: it is something else.
    """
    try:
        digest, size, check, roots = json.loads(data)
        found = Reference(digest, size, bytes.fromhex(check), tuple((str(one[0]), bool(one[1])) for one in roots))
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        raise ValueError("no reference to an archive") from error
    if (
        type(size) is not int
        or type(digest) is not str
        or len(digest) != 32
        or not set(digest) <= set("0123456789abcdef")
    ):
        raise ValueError("no reference to an archive")
    return found


class Archive(NamedTuple):
    """The modules of a job as they travel. Immutable."""

    digest: str
    data: bytes
    roots: tuple[Root, ...]
    paths: frozenset[str]
    """The files at the producer."""

    def has(self, path: str) -> bool:
        """True if this file is in it."""
        return os.path.abspath(path) in self.paths

    def reference(self, check: bytes = b"") -> Reference:
        """Return its name; `check` is a digest of its bytes."""
        return Reference(self.digest, len(self.data), check, tuple((root.folder, root.is_first) for root in self.roots))


#: The archives that were made last, by what they were made of: a loop that maps again and again reads no file.
_made: dict[tuple[Any, ...], Archive | None] = {}
_REMEMBERED = 4


def archive_of(modules: Mapping[str, str]) -> Archive | None:
    """Return the archive of the modules that travel with a job; None if there are none.

    Args:
        modules: the user's modules that the job reaches, and their files.

    Raises:
        UsageError: they are too many, or too large.
    """
    roots, files = codefiles.files_of(modules)
    key = tuple(roots), tuple(files)
    if key not in _made:
        made = _packed(roots, files)
        while len(_made) >= _REMEMBERED:
            del _made[next(iter(_made))]
        _made[key] = made
    return _made[key]


def _packed(roots: list[Root], files: list[FoundFile]) -> Archive | None:
    head, contents = [], []
    paths = set()
    for file in files:
        try:
            with open(file.path, "rb") as opened:
                content = opened.read(codefiles.LARGEST_FILE + 1)
        except OSError as error:
            codefiles.say(f"{file.path} cannot be read ({error.strerror}) and is not sent to workers")
            continue
        if len(content) <= codefiles.LARGEST_FILE:
            head.append([file.name, len(content)])
            contents.append(content)
            paths.add(file.path)
    if not head:
        return None
    payload = _payload([root.is_first for root in roots], head, contents)
    return Archive(digest_of(payload), _MAGIC + zlib.compress(payload, 1), tuple(roots), frozenset(paths))


def _payload(are_first: list[bool], head: list[list[Any]], contents: Iterable[bytes]) -> bytes:
    text = json.dumps({"roots": are_first, "files": head}, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(4, "big"), text, *contents])


def digest_of(payload: bytes) -> str:
    """Return the digest by which an archive is known."""
    return sha256(payload).hexdigest()[:32]


class Damaged(UsageError):
    """An archive is not what its sender has announced, or holds what none may hold."""


def opened(data: bytes, digest: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return what is in an archive: its head, as it was, and the name and the content of each file.

    Raises:
        Damaged: it has another digest; or a name in it leads out of its folder.
    """
    if data[: len(_MAGIC)] != _MAGIC:
        raise Damaged("the archive of the job's modules is damaged: it has no head")
    unpacking = zlib.decompressobj()
    try:
        payload = unpacking.decompress(data[len(_MAGIC) :], _LARGEST)
    except zlib.error as error:
        raise Damaged(f"the archive of the job's modules is damaged: {error}") from None
    if not unpacking.eof or digest_of(payload) != digest:
        raise Damaged("the archive of the job's modules is damaged: it is not the one that its sender has announced")
    head = payload[4 : 4 + int.from_bytes(payload[:4], "big")]
    files, start = [], 4 + len(head)
    for name, size in described(head):
        files.append((name, payload[start : start + size]))
        start += size
    if start != len(payload):
        raise Damaged("the archive of the job's modules is damaged: its files have another length")
    return head, files


def described(head: bytes) -> Iterator[tuple[str, int]]:
    """Yield name and size of each file that the head of an archive names.

    Raises:
        Damaged: it is no head, or a name in it leads out of its folder.
    """
    try:
        fields = json.loads(head)
        roots, rows = fields["roots"], [(name, size) for name, size in fields["files"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Damaged("the archive of the job's modules is damaged: its head cannot be read") from None
    names: set[str] = set()
    folders: set[str] = set()
    if type(roots) is not list or len(rows) > codefiles.MOST_FILES:
        raise Damaged("the archive of the job's modules is damaged: it has too many files")
    for name, size in rows:
        if type(name) is not str or type(size) is not int or size < 0 or not _is_name(name, len(roots)):
            raise Damaged(f"the archive of the job's modules holds a file of the name {name!r:.200}, which is refused")
        folders.update(_folders_above(name))
        if name in names:
            raise Damaged(f"the archive of the job's modules holds {name!r:.200} twice")
        names.add(name)
        yield name, size
    if names & folders:
        raise Damaged("the archive of the job's modules holds a file that is a folder too")


def _is_name(name: str, roots: int) -> bool:
    """True if a name is a path below the folder of a root, and nothing else."""
    number, *parts = name.split("/")
    if len(name) > _LONGEST_NAME or not parts or not number.isascii() or not number.isdecimal():
        return False
    if str(int(number)) != number or int(number) >= roots:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return all(part not in ("", ".", "..") and "\\" not in part and part.isprintable() for part in parts)


def _folders_above(name: str) -> Iterator[str]:
    while name := name.rpartition("/")[0]:
        yield name
