"""A job that writes to a sink: two stages, of which the second merges what the first one wrote; then the commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from pymar.datasource import DataSourceFactory
from pymar.exceptions import UsageError
from pymar.job.checkpoint import note_published
from pymar.sinks.sink import Sink, Written

#: Runs one stage: the data, the sink and the checkpoint in; what `write` returned for each part out, as parts finish.
Stage = Callable[[DataSourceFactory, Sink, Any], Iterator[Any]]


def check_sink(sink: Any) -> None:
    """Refuse what is no sink.

    Raises:
        UsageError: it is something else, such as the class of one.
    """
    if isinstance(sink, type) and issubclass(sink, Sink):
        raise UsageError(f"got the class {sink.__name__}: give write() a sink, such as {sink.__name__}('results/')")
    if not isinstance(sink, Sink):
        raise UsageError(f"got {sink!r:.200}: give write() a sink of pymar.sinks, such as ParquetSink('results/')")


def stages(sink: Sink, stage: Stage, factory: DataSourceFactory, checkpoint: Any) -> Written:
    """Run the stages of a job whose sink has begun; return what it has written.

    Raises:
        Whatever a stage raises: the sink has aborted then, and its target is as before.
    """
    try:
        wrote = []
        for one in stage(factory, sink, checkpoint):
            sink.arrived(one)
            wrote.append(one)
        merged = []
        if groups := sink.merges(wrote):
            merging = copy(sink)
            merging.is_merging = True
            merged = list(stage(DataSourceFactory(groups), merging, None))
    except BaseException:  # an interrupt too: nobody else removes what was written
        sink.abort()
        raise
    # The source is released: it may hold a lock on the very table that the sink replaces now.
    written = sink.commit(wrote, merged)
    if checkpoint is not None:
        note_published(checkpoint, written)
    return written
