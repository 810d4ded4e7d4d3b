"""`pymar inspect`: shows the parts of a source and its first records."""

from __future__ import annotations

import ast
import reprlib
from collections.abc import Iterator
from itertools import islice
from time import perf_counter
from typing import Any

from pymar.datasource import DataSource, DataSourceFactory
from pymar.exceptions import UsageError
from pymar.parts import DEFAULT_PARTS, cut
from pymar.serialization.jobfile import SOURCE, find_class, load, names_of
from pymar.serialization.settings import applied

#: Parts that are listed at the beginning and at the end; records that are shown of a part.
_LISTED, _RECORDS = 4, 3
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 160
_short.maxdict = _short.maxlist = _short.maxtuple = 20


def source_of(path: str, name: str) -> type[Any]:
    """Return the source of a job file with this name; without a name, its only one.

    Raises:
        UsageError: there is none, or several.
    """
    module = load(path)
    if not name:
        names = names_of(module, SOURCE)
        if len(names) != 1:
            raise UsageError(f"{path} has {', '.join(names) or 'none'}: choose one source with -s NAME")
        name = names[0]
    return find_class(module, name, SOURCE)


def settings_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of texts `NAME=VALUE`; a value that is no Python literal is text.

    Raises:
        UsageError: a text has no "=".
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise UsageError(f"--set {pair}: write NAME=VALUE")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def view(source: type[DataSource], count: int | None, settings: dict[str, Any]) -> Iterator[str]:
    """Yield lines to print: the length, the parts, the first records of the first and the last part, and seconds.

    Raises:
        UsageError: the source cannot be read.
    """
    began = perf_counter()
    factory = DataSourceFactory(source, **settings).for_a_job()
    length = factory.length()
    parts = list(cut(length, count or DEFAULT_PARTS))
    yield f"{source.__name__}: {length:,} {source.unit}, found in {perf_counter() - began:.3f} s"
    yield f"{len(parts):,} parts, of {length // max(1, len(parts)):,} {source.unit}"
    try:
        for number, (offset, limit) in enumerate(parts):
            if number < _LISTED or number >= len(parts) - _LISTED:
                yield f"  part {number}: offset {offset:,}, limit {limit:,}"
            elif number == _LISTED:
                yield "  ..."
        with applied(source, factory.prepared):
            for number in dict.fromkeys((0, len(parts) - 1)) if parts else ():
                yield from _read(source, number, *parts[number])
    finally:
        factory.release()


def _read(source: type[DataSource], number: int, offset: int, limit: int) -> Iterator[str]:
    began = perf_counter()
    records = iter(source(offset=offset, limit=limit))
    first = list(islice(records, _RECORDS))
    count = len(first) + sum(1 for _ in records)
    yield f"part {number}: {count:,} records in {perf_counter() - began:.3f} s"
    yield from (f"  {_short.repr(record)}" for record in first)
