"""One rule for patterns, of local paths and of stores.

`*`, `?` and `[a-z]` stand for characters of one name, `**` for any folders, or none. A name that begins with a dot or
an underscore (`.crc`, `_SUCCESS`, `_metadata`) is no data, unless the pattern has that first character itself, or, of a
file that begins with an underscore, says how its name ends (`*.py` is `__init__.py` too); `_a=1` is data, since Hive's
folders are called after columns. A link to a file is a file; `**` does not follow a link to a folder,
so each file is met once, and no loop is followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import translate

_MAGIC = re.compile(r"[*?[]")
#: Any folders, or none.
DEEP = "**"


def is_pattern(path: str) -> bool:
    """True if a path has characters that stand for others."""
    return bool(_MAGIC.search(path))


def is_hidden(name: str) -> bool:
    """True if a name says that it is no data."""
    return name[:1] == "." or (name[:1] == "_" and "=" not in name)


def matches(pattern: Sequence[str], names: Sequence[str]) -> bool:
    """True if the names of a path, from a folder on, match a pattern, name by name."""
    if not pattern:
        return not names
    first, rest = pattern[0], pattern[1:]
    if first == DEEP:
        if not rest:
            return bool(names) and not any(map(is_hidden, names))
        if matches(rest, names):
            return True
        return bool(names) and not is_hidden(names[0]) and matches(pattern, names[1:])
    return bool(names) and _fits(first, names[0], is_last=not rest) and matches(rest, names[1:])


def _fits(pattern: str, name: str, is_last: bool) -> bool:
    if is_hidden(name) and pattern[:1] != name[:1] and not (is_last and name[:1] == "_" and _says_the_end(pattern)):
        return False
    return re.match(translate(pattern), name) is not None


def _says_the_end(pattern: str) -> bool:
    """True for a pattern such as `*.py`: it ends with an extension."""
    return not is_pattern(os.path.splitext(pattern)[1] or "*")


def split(path: str) -> tuple[str, list[str]]:
    """Return the folder that a pattern begins in, which has no pattern itself, and the names behind it."""
    names = path.split("/")
    first = next((number for number, name in enumerate(names) if is_pattern(name)), len(names))
    return "/".join(names[:first]), names[first:]


def local(folder: str, pattern: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield the local paths that match a pattern, from a folder on, and whether each is a folder."""
    first, rest = pattern[0], pattern[1:]
    if first == DEEP:
        if rest:
            yield from local(folder, rest)
        for entry in _entries(folder):
            if is_hidden(entry.name):
                continue
            if not rest and not _is_folder(entry):
                yield entry.path, False
            elif entry.is_dir(follow_symlinks=False):
                yield from local(entry.path, pattern)
        return
    if not is_pattern(first):
        path = os.path.join(folder, first)
        if rest and os.path.isdir(path):
            yield from local(path, rest)
        elif not rest and os.path.lexists(path):
            yield path, os.path.isdir(path)
        return
    for entry in _entries(folder):
        if _fits(first, entry.name, is_last=not rest):
            if not rest:
                yield entry.path, _is_folder(entry)
            elif _is_folder(entry):
                yield from local(entry.path, rest)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: to open it will say so
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (NotADirectoryError, FileNotFoundError):
        return []
