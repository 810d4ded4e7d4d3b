"""The short forms: join, sort, distinct. Each makes a producer of the functions that it is given, and runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike
from typing import Any, ClassVar, Literal

from pymar.datasource import DataSourceFactory
from pymar.exceptions import UsageError
from pymar.keyed.aggregations import Count
from pymar.keyed.producer import KeyedProducer
from pymar.keyed.result import Records, Result
from pymar.producer import OnMismatch
from pymar.serialization.composed import composed

__all__ = ["distinct", "join", "sort"]


class Sorting(KeyedProducer):
    """The producer of `sort`: its records go on as they are."""

    #: Returns what a record is ordered by; None: the record itself.
    key_fn: ClassVar[Callable[[Any], Any] | None] = None


class Distinct(KeyedProducer):
    """The producer of `distinct`: its records are the keys."""

    reduce_fn: ClassVar[Any] = Count()
    records_fn: ClassVar[Callable[[Any], Iterable[Any]] | None] = None

    @classmethod
    def map_fn(cls, data_source: Any, /) -> Iterable[Any]:
        records = data_source if cls.records_fn is None else cls.records_fn(data_source)
        return ((record, None) for record in records)


class Joining(KeyedProducer):
    """The producer of `join`: what each side makes of its source; None: the records go on as they are."""

    left_fn: ClassVar[Callable[[Any], Iterable[Any]] | None] = None
    right_fn: ClassVar[Callable[[Any], Iterable[Any]] | None] = None


def factory_of(data: Any) -> DataSourceFactory:
    """Return a factory of some data; of a factory, itself."""
    return data if isinstance(data, DataSourceFactory) else DataSourceFactory(data)


def derived(
    base: type[KeyedProducer], parts: int | None, **functions: Callable[..., Any] | None
) -> type[KeyedProducer]:
    """Return a subclass with these static functions.

    Raises:
        UsageError: one of them cannot be called.
    """
    return composed(base, base.__name__, functions, {} if parts is None else {"WORKERS_NUMBER": parts})


def sort(
    data: Any,
    key: Callable[[Any], Any] | None = None,
    *,
    reverse: bool = False,
    map_fn: Callable[[Any], Iterable[Any]] | None = None,
    parts: int | None = None,
    engine: Any = None,
    timeout: float = 0,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
    on_mismatch: OnMismatch = "refuse",
) -> Records:
    """Return the records of some data in their order, however many there are. Equal ones stay in the order of the data.

    Args:
        data: a DataSourceFactory; or what one is made of: a list, a result.
        key: returns what a record is ordered by, as for `sorted`; the record itself by default. NaN comes behind all
            numbers, and None behind everything.
        reverse: the greatest first.
        map_fn: yields the records of a part, out of what the source yields.
        parts, engine, timeout, checkpoint, progress, on_mismatch: as WORKERS_NUMBER of a Producer, as of Producer and
            its `map`.

    Raises:
        UsageError: two records cannot be compared.
        Errors that `KeyedProducer.map` raises: likewise.
    """
    from pymar.keyed.sorting import SortJob

    producer = derived(Sorting, parts, key_fn=key, map_fn=map_fn)(engine=engine)
    options = (timeout, "local_mode", checkpoint, progress, on_mismatch)
    found: Any = SortJob(producer, factory_of(data), *options, reverse=reverse).mapped(None)
    records: Records = found
    return records


def join(
    left: Any,
    right: Any,
    *,
    on: str | tuple[str, ...] | None = None,
    how: Literal["inner", "left", "right", "outer", "semi", "anti"] = "inner",
    left_fn: Callable[[Any], Iterable[Any]] | None = None,
    right_fn: Callable[[Any], Iterable[Any]] | None = None,
    parts: int | None = None,
    engine: Any = None,
    timeout: float = 0,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
    on_mismatch: OnMismatch = "refuse",
) -> Records:
    """Return the records of two sides that have equal keys, joined.

    Without `on`, both sides are pairs, and each record of the result is (key, (value of the left, value of the right));
    a side that has none is None. With `on`, both are rows (dicts, or Arrow tables), and each record is a dict of all
    columns of the left, then those of the right without the key; one whose name the left has gets "_right" behind it.
    A key that is None is equal to no other. "semi" gives the records of the left that have a match, "anti" those that
    have none. The order is the same for any number of workers, and where the right side is small, that of the left (if
    workers see no common folder, only where it has less than 64 KB).

    Args:
        left, right: each a DataSourceFactory; or what one is made of: a list, a result.
        on: the name of the key's column, or a tuple of names, if the records are rows.
        left_fn, right_fn: yield the pairs or rows of a part, out of what the source yields.
        parts: how many parts each side has.
        engine, timeout, checkpoint, progress, on_mismatch: as of `sort`.

    Raises:
        UsageError: a record is neither a pair nor a row, or rows lack a column.
        Errors that `KeyedProducer.map` raises: likewise.
    """
    from pymar.keyed.joining import HOW, JoinJob

    if how not in HOW:
        raise UsageError(f"how={how!r:.100}: it is one of {', '.join(map(repr, HOW))}")
    names = (on,) if isinstance(on, str) else on
    if names is not None and not (isinstance(names, tuple) and names and all(isinstance(one, str) for one in names)):
        raise UsageError(f"on={on!r:.100}: give the name of a column, or a tuple of names")
    producer = derived(Joining, parts, left_fn=left_fn, right_fn=right_fn)(engine=engine)
    options = (timeout, "local_mode", checkpoint, progress, on_mismatch)
    found: Any = JoinJob(producer, factory_of(left), factory_of(right), how, names, *options).mapped(None)
    records: Records = found
    return records


def distinct(
    data: Any,
    *,
    map_fn: Callable[[Any], Iterable[Any]] | None = None,
    parts: int | None = None,
    engine: Any = None,
    timeout: float = 0,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
    on_mismatch: OnMismatch = "refuse",
) -> Result:
    """Return the different records of some data: the keys of the result; its values are how often each came.

    Args:
        data, map_fn, parts, engine, timeout, checkpoint, progress, on_mismatch: as of `sort`.

    Raises:
        Errors that `KeyedProducer.map` raises.
    """
    producer = derived(Distinct, parts, records_fn=map_fn)(engine=engine)
    return producer.map(factory_of(data), timeout, checkpoint=checkpoint, progress=progress, on_mismatch=on_mismatch)
