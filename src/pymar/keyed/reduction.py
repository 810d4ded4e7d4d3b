"""What a keyed producer does with the values of a key, compiled from its reduce_fn; and pairs as chunks of columns.

A chunk has pairs as they came (raw), or keys with the states of their aggregations.
"""

from __future__ import annotations

import gc
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter, itemgetter
from threading import Lock
from typing import Any, NamedTuple

from pymar.exceptions import UsageError
from pymar.keyed import vectors
from pymar.keyed.aggregations import Aggregation, ByFunction, Count, CountDistinct, gather
from pymar.keyed.columns import HEAD as COLUMN
from pymar.keyed.columns import Codec, as_list, decoded, encoded
from pymar.keyed.keys import canonical

_HEAD = struct.Struct("<?IB")


class Chunk(NamedTuple):
    """Some keys, with columns of values or of states."""

    is_raw: bool
    keys: Sequence[Any]
    columns: Sequence[Sequence[Any]]


class Reduction:
    """What becomes of the values of each key. One for a task of a keyed job; one thread at a time.

    Args:
        producer: the class, of which reduce_fn, finish_fn and COMBINE are read.
    """

    def __init__(self, producer: type[Any]) -> None:
        reduce_fn = producer.reduce_fn
        self.name: str = f"{producer.__name__}.reduce_fn"
        #: The names of the results, if there are several.
        self.fields: list[str] | None = None
        self.aggregations: list[Any]
        if isinstance(reduce_fn, Several):
            self.fields = list(reduce_fn.aggregations)
            self.aggregations = list(reduce_fn.aggregations.values())
        elif isinstance(reduce_fn, Aggregation):
            self.aggregations = [reduce_fn]
        else:
            self.aggregations = [ByFunction(reduce_fn, bool(producer.COMBINE))]
        #: The plain function, if it is one.
        self.function: ByFunction | None = (
            self.aggregations[0] if isinstance(self.aggregations[0], ByFunction) else None
        )
        self.combines: bool = bool(producer.COMBINE) and all(one.combines for one in self.aggregations)
        #: True if states grow with their values.
        self.grows: bool = any(isinstance(one, CountDistinct) for one in self.aggregations)
        finish = producer.finish_fn
        self.finish: Callable[[Any, Any], Any] | None = finish
        #: The columns of values that the aggregations read, each once; None is the value itself.
        self.columns: list[Any] = list(
            dict.fromkeys(one.column for one in self.aggregations if one.column is not None or not _counts_all(one))
        )
        places = {column: place for place, column in enumerate(self.columns)}
        self._places = [places.get(one.column) for one in self.aggregations]

    @property
    def names_columns(self) -> bool:
        """True if the aggregations read columns or fields of the values, by name."""
        return any(column is not None for column in self.columns)

    def new_states(self) -> list[dict[Any, Any]]:
        """Return no states yet, for each aggregation."""
        return [defaultdict(list) if self.function else {} for _ in self.aggregations]

    def combine(self, states: list[dict[Any, Any]], keys: Sequence[Any], columns: Sequence[Sequence[Any]]) -> None:
        """Add raw values of a block to the states of their keys."""
        with without_collector():
            for one, place, mine in zip(self.aggregations, self._places, states, strict=True):
                values: Sequence[Any] = keys if place is None else columns[place]
                with told(one, values):
                    one._take(mine, keys, values, place is not None and _may_be_none(values))

    def add(self, states: list[dict[Any, Any]], chunk: Chunk) -> None:
        """Add a chunk, where pairs are reduced."""
        if self.function is not None:
            gather(states[0], chunk.keys, chunk.columns[0])
        elif chunk.is_raw:
            for one, place, mine in zip(self.aggregations, self._places, states, strict=True):
                values: Sequence[Any] = chunk.keys if place is None else chunk.columns[place]
                with told(one, values):
                    one._take(mine, chunk.keys, values, place is not None and _may_be_none(values))
        else:
            for one, mine, others in zip(self.aggregations, states, chunk.columns, strict=True):
                one._join(mine, chunk.keys, others)

    def reduced(self, chunks: Sequence[Chunk]) -> tuple[Any, Any]:
        """Return all keys of some chunks, in the order in which they come, and their values: lists, or arrays."""
        found = vectors.summed(self, chunks)
        if found is not None:
            keys, values = found
            return keys, values if self.finish is None else self.finish_all(as_list(keys), values.tolist())
        states = self.new_states()
        with without_collector():
            for chunk in chunks:
                self.add(states, chunk)
        return self.finished(states)

    def finished(self, states: list[dict[Any, Any]]) -> tuple[list[Any], list[Any]]:
        """Return all keys, in the order in which they came, and their values."""
        keys = list(states[0])
        found = [one._finished(mine) for one, mine in zip(self.aggregations, states, strict=True)]
        values = found[0]
        if self.fields is not None:
            fields = self.fields
            values = [dict(zip(fields, row, strict=True)) for row in zip(*found, strict=True)]
        return keys, self.finish_all(keys, values)

    def finish_all(self, keys: Sequence[Any], values: list[Any]) -> list[Any]:
        """Return what finish_fn makes of values; they themselves if there is none."""
        if self.finish is None:
            return values
        found: list[Any] = []
        try:
            found += map(self.finish, keys, values)
        except Exception as error:  # those before it are there
            error.add_note(f"finish_fn was called with the key {keys[len(found)]!r:.100}")
            raise
        return found

    def split(self, values: Any) -> list[Any]:
        """Return the columns of raw values, as `reader` has made them."""
        if not self.names_columns:
            return [values] if self.columns else []
        return [values] if len(self.columns) == 1 else [list(column) for column in zip(*values, strict=True)]

    def reader(self) -> Callable[[Any], Any] | None:
        """Return a function that takes the columns that are needed out of a value; None if it is used whole."""
        if not self.names_columns:
            return None
        wanted = self.columns
        name = self.name

        if None in wanted:
            getters = [_getter(one) for one in wanted]
            return lambda value: tuple([get(value) for get in getters])
        of_mapping = itemgetter(*wanted)
        of_object = attrgetter(*wanted) if all(isinstance(one, str) for one in wanted) else None

        def read(value: Any) -> Any:
            try:
                if of_object is None or isinstance(value, Mapping):
                    return of_mapping(value)
                return of_object(value)
            except (KeyError, IndexError, AttributeError, TypeError) as error:
                raise no_column(name, wanted, value) from error

        return read


class Several(Aggregation):
    """Several aggregations at once, by name: the value of a key is a dict. Made of a dict of them."""

    def __init__(self, aggregations: Mapping[str, Aggregation]) -> None:
        super().__init__()
        self.aggregations: dict[str, Aggregation] = dict(aggregations)

    def __call__(self, key: Any, values: Any) -> dict[str, Any]:
        several = list(values)
        return {
            name: one(key, several if one.column is None else map(_getter(one.column), several))
            for name, one in self.aggregations.items()
        }


def no_column(name: str, wanted: Sequence[Any], value: Any) -> UsageError:
    """Return the error about a value that lacks a column."""
    if not isinstance(value, Mapping) and isinstance(value, str | int | float | None):
        return UsageError(
            f"{name} reads the column {wanted[0]!r} of values, and map_fn yields values such as {value!r:.60}: yield "
            "mappings as values, or, if map_fn yields rows, name the columns of the key: KEY = 'name'"
        )
    if isinstance(value, Mapping):
        there = f"it has {', '.join(map(repr, value))}"
        missing = next((one for one in wanted if one not in value), wanted[0])
        from difflib import get_close_matches

        close = get_close_matches(str(missing), list(map(str, value)), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
    else:
        missing, hint = next((one for one in wanted if not hasattr(value, str(one))), wanted[0]), ""
        there = f"it is a {type(value).__name__}: yield a mapping, or an object with such an attribute"
    return UsageError(f"{name} reads the column {missing!r}, and a value does not have it: {there}{hint}")


def _getter(column: Any) -> Callable[[Any], Any]:
    def get(value: Any) -> Any:
        if column is None:
            return value
        if isinstance(value, Mapping) or not isinstance(column, str):
            return value[column]
        return getattr(value, column)

    return get


def _counts_all(aggregation: Any) -> bool:
    return type(aggregation) is Count


def _may_be_none(values: Sequence[Any]) -> bool:
    return type(values) is list


@contextmanager
def told(aggregation: Any, values: Sequence[Any]) -> Iterator[None]:
    """Add to an error which aggregation it is of, and a value."""
    try:
        yield
    except Exception as error:
        if isinstance(aggregation, Aggregation) and len(values):
            column = "" if aggregation.column is None else f" of the column {aggregation.column!r}"
            hint = ": name the column, as in Sum('amount')" if isinstance(values[0], Mapping) else ""
            error.add_note(f"{type(aggregation).__name__}{column} got values such as {values[0]!r:.100}{hint}")
        raise


#: The threads that are within `few_collections`, and the threshold before the first of them.
_few = 0
_threshold: tuple[int, int, int] = (0, 0, 0)
_counting = Lock()


@contextmanager
def few_collections() -> Iterator[None]:
    """Look for cycles a hundred times less often: pairs are many small objects that soon go."""
    global _few, _threshold
    with _counting:
        if not _few:
            _threshold = gc.get_threshold()
            gc.set_threshold(_threshold[0] and _threshold[0] * 100, *_threshold[1:])
        _few += 1
    try:
        yield
    finally:
        with _counting:
            _few -= 1
            if not _few:
                gc.set_threshold(*_threshold)


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep the collector of cycles away from many new lists: it costs half as much again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def chunk_bytes(is_raw: bool, keys: Sequence[Any], columns: Sequence[Sequence[Any]], codec: Codec) -> bytes:
    """Return a chunk as bytes."""
    parts = [_HEAD.pack(is_raw, len(keys), 1 + len(columns))]
    for column in (keys, *columns):
        kind, data = encoded(column, codec)
        parts += (COLUMN.pack(kind.encode(), len(data)), data)
    return b"".join(parts)


def chunks_in(data: bytes | memoryview, codec: Codec, has_keys: bool = True) -> Iterator[Chunk]:
    """Yield the chunks that stand one behind the other.

    Args:
        has_keys: false if what stands in the place of keys are records, which stay as they are.

    Raises:
        ValueError: they are no chunks.
    """
    view = memoryview(data)
    at = 0
    while at < len(view):
        is_raw, count, width = _HEAD.unpack_from(view, at)
        at += _HEAD.size
        columns: list[Any] = []
        for number in range(width):
            kind, length = COLUMN.unpack_from(view, at)
            at += COLUMN.size
            column = decoded(kind.decode(), view[at : at + length], codec)
            if len(column) != count:
                raise ValueError(f"a column has {len(column)} values in place of {count}")
            columns.append(canonical(column) if has_keys and number == 0 and kind not in (b"s", b"a") else column)
            at += length
        yield Chunk(is_raw, columns[0], columns[1:])
