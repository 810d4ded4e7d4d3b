"""Columns in the names of folders, as Hive and Spark lay files out: `year=2013/month=1/part-0.parquet`.

Pure functions on paths, for any source over files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources import patterns

#: What Hive and Spark write where the value is NULL.
NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)

Texts = Mapping[str, "str | None"]


def texts_of(path: str, root: str) -> dict[str, str | None]:
    """Return {name: text} of the folders `name=text` between `root` and the file `path`, percent-decoded; NULL is None.

    Raises:
        SourceError: a name occurs twice with two values, or what is percent-encoded is not UTF-8.
    """
    found: dict[str, str | None] = {}
    below = _bare(path).removeprefix(root.rstrip("/") if "://" in path else _bare(root)).strip("/")
    for folder in below.split("/")[:-1]:
        name, sign, text = folder.partition("=")
        if not sign or not name:
            continue
        try:
            name, text = unquote(name, errors="strict"), unquote(text, errors="strict")
        except UnicodeDecodeError as error:
            raise SourceError(f"{redacted(path)}: the name of the folder {folder!r} is not UTF-8: rename it") from error
        value = None if text == NULL else text
        if found.setdefault(name, value) != value:
            raise SourceError(f"{redacted(path)}: its folders say {name}={found[name]} and {name}={value}: rename one")
    return found


def texts_of_files(given: Any, files: Sequence[str], is_wanted: bool | None) -> tuple[list[dict[str, str | None]], str]:
    """Return {name: text} for each file that a setting `path` has led to, and a folder that was left out, or "".

    The folders are those below `path`: below a folder, or below that in which a pattern begins. Of a path that is a
    file, with `is_wanted=True`, they are all folders of it.

    Args:
        given: the setting `path`.
        files: the paths of the files.
        is_wanted: True, False, or None: below paths that are folders, not below patterns.

    Raises:
        SourceError: two files have other names of columns; or `is_wanted=True`, and there are none.
    """
    none: list[dict[str, str | None]] = [{} for _ in files]
    if is_wanted is False:
        return none, ""
    roots = sorted(_roots(given), key=lambda root: len(root[0]))
    found, left_out = [], ""
    for path in files:
        root, is_pattern = next((one for one in roots if _is_below(path, one[0])), (_top(path), False))
        texts = texts_of(path, root) if is_wanted or root != _top(path) else {}
        if is_wanted is None and is_pattern:
            left_out = left_out or next((f"{name}={text}" for name, text in texts.items()), "")
            texts = {}
        found.append(texts)
    for path, texts in zip(files, found, strict=True):
        if texts.keys() != found[0].keys():
            raise SourceError(
                f"the folders of {redacted(files[0])} give the columns {', '.join(found[0]) or 'none'}, those of "
                f"{redacted(path)} {', '.join(texts) or 'none'}: choose files of one depth, or set hive=False"
            )
    if is_wanted and not any(found):
        raise SourceError(
            f"hive=True, and no folder of {redacted(files[0])} below path= has a name such as year=2013: give the "
            "folder above these as path="
        )
    return found, left_out


def kind_of(texts: Iterable[str | None]) -> str:
    """Return "int64" if all are integers of 64 bits that are written in the one way without leading zeros; "string"."""
    known = [text for text in texts if text is not None]
    if known and all(_INTEGER.fullmatch(text) and -(2**63) <= int(text) < 2**63 for text in known):
        return "int64"
    return "string"


def _roots(given: Any) -> list[tuple[str, bool]]:
    """Return the folder of each path, below which the names of folders count, and whether it was given by a pattern."""
    paths = [given] if isinstance(given, str | os.PathLike) else given
    roots = []
    for path in map(_bare, map(os.fspath, paths)):
        folder = patterns.split(path)[0] if patterns.is_pattern(path) else path
        roots.append((folder, folder != path))
    return roots


def _top(path: str) -> str:
    """Return where the folders of a path begin: behind its host or bucket; "" for a local path."""
    return _bare(path).partition("/")[0]


def _is_below(path: str, root: str) -> bool:
    return _bare(path).startswith(root.rstrip("/") + "/")


def _bare(path: str) -> str:
    """Return a path without its scheme; a local one absolute."""
    scheme, sign, rest = path.partition("://")
    if sign and scheme not in ("file", "local"):
        return rest.strip("/")
    return os.path.abspath(os.path.expanduser(rest if sign else path))
