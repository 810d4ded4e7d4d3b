"""check_sink: tests that a sink reads back what was written to it, whatever happens to parts. For authors of sinks."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError
from pymar.parts import Part, cut
from pymar.sinks.sink import Sink, Written
from pymar.sources.check import alike


class _Interrupted(Exception):
    """Stands for the end of a worker within a part."""


def check_sink(
    sink: Sink,
    factory: DataSourceFactory,
    records: Sequence[Any],
    *,
    parts: int = 7,
    joined: Callable[[list[Any]], Any] = list,
) -> Written:
    """Write records as a job would, with parts that fail, are repeated or computed twice; read them back and compare.

    Args:
        sink: with a target that has no data yet.
        factory: reads what the sink writes.
        records: to write.
        parts: in how many parts.
        joined: is applied to the records before they are compared: `numpy.concatenate` for blocks of arrays, `sorted`
            where order may differ.

    Returns:
        What the sink says of it.

    Raises:
        AssertionError: other records were read than written; or a job that was aborted has left records.
    """
    aborted = sink.for_a_job()
    aborted.begin(None)
    _wrote(aborted, records, parts)
    aborted.abort()
    assert not _readable(factory), f"{type(sink).__name__}: records can be read after abort()"

    mine = sink.for_a_job()
    mine.begin(None)
    wrote = _wrote(mine, records, parts)
    assert not _readable(factory), f"{type(sink).__name__}: records can be read before commit()"
    merged = []
    if groups := mine.merges(wrote):
        merging = copy(mine)
        merging.is_merging = True
        merged = [_travelled(merging).write(Part(number, 0, number, 1), [group]) for number, group in enumerate(groups)]
    found = mine.commit(wrote, merged)
    there = list(_again(factory).build_data_source())
    expected, read = joined(list(records)), joined(there)
    assert len(read) == len(expected), f"{len(read)} records were read, and {len(expected)} written"
    for number, (one, other) in enumerate(zip(expected, read, strict=True)):
        assert alike(one, other), f"record {number} was written as {one!r:.500} and read as {other!r:.500}"
    return found


def _wrote(sink: Sink, records: Sequence[Any], parts: int) -> list[Any]:
    wrote = []
    for number, (offset, limit) in enumerate(cut(len(records), parts)):
        some = records[offset : offset + limit]
        try:
            _travelled(sink).write(Part(number, 0, offset, limit), _interrupted(some))
        except _Interrupted:
            one = _travelled(sink).write(Part(number, 1, offset, limit), iter(some))
        _travelled(sink).write(Part(number, 1, offset, limit), iter(some))  # at the same time as another: not counted
        sink.arrived(one)
        wrote.append(one)
    return wrote


def _interrupted(records: Sequence[Any]) -> Iterator[Any]:
    yield from records
    raise _Interrupted


def _travelled(sink: Sink) -> Sink:
    """Return the sink as a worker has it."""
    found: Sink = pickle.loads(pickle.dumps(sink))
    return found


def _again(factory: DataSourceFactory) -> DataSourceFactory:
    """Return a factory that looks at the data anew."""
    source: Any = factory.source
    return DataSourceFactory(source, **factory.settings)


def _readable(factory: DataSourceFactory) -> bool:
    """True if there are records; an error says that there are none."""
    try:
        return any(True for _ in _again(factory).build_data_source())
    except SourceError:
        return False
