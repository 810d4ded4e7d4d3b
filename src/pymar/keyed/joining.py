"""Join: the records of two sides that have equal keys.

    left, right    mapped as for reduce by key, each key with its record; the right's parts are behind those of the left
    buckets        a run of them a part: the records of the smaller side in a dict, those of the other one by one
    broadcast      where the right side is small and its records alone are never in the result: no exchange of the left,
                   whose parts are joined where they are read

A key that is None, or a tuple with None in it, is equal to no other, as in SQL.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from pymar.datasource import DataSourceFactory
from pymar.exceptions import UsageError
from pymar.job.plan import Given
from pymar.keyed.aggregations import gather
from pymar.keyed.arrowjoin import ArrowSide
from pymar.keyed.batches import as_table, together
from pymar.keyed.exchange import BucketsWriter, Entry, Place, digest_of
from pymar.keyed.jobs import KeyedJob
from pymar.keyed.keys import BUCKETS, canonical, shown, subdivisions, unusable
from pymar.keyed.mapping import Mapper
from pymar.keyed.pairs import STEP, Batch, Changing, blocks, is_arrow
from pymar.keyed.reducing import LARGE, PAIRS_A_SEGMENT, Inputs, Lacking, Segment
from pymar.keyed.reduction import Chunk
from pymar.keyed.result import Records, SegmentRow
from pymar.keyed.spilling import Spill, SpillFile
from pymar.keyed.stages import FirstStage, SecondStage, entries_of
from pymar.parts import Part
from pymar.serialization import plain
from pymar.sinks.sink import Sink
from pymar.slots.task import Again

HOW = ("inner", "left", "right", "outer", "semi", "anti")
#: Bytes of a right side that is sent whole to each worker.
SMALL_SIDE = 8 << 20
#: Into how many a large bucket is divided, and how often again.
_DIVISIONS, _DEPTH = 16, 4
#: Bytes of one that goes with the job, where workers do not see the exchange.
_SENT = 64 << 10
#: The number of the right side's first part: above all that parts of the left have.
_FIRST = 1 << 40


class _Values:
    """What a Mapper needs to know: the values of a key stay as they are."""

    function = None
    aggregations: Sequence[Any] = ()
    columns = (None,)
    combines = False

    def new_states(self) -> list[dict[Any, Any]]:
        """Return no states."""
        return [{}]

    def split(self, values: Any) -> list[Any]:
        """Return the only column."""
        return [values]

    def reader(self) -> None:
        """Return None: values are not taken apart."""


class SideStage(FirstStage):
    """The first stage of a join: one of its sides, "left" or "right". It reports the columns of rows, in `extra`."""

    is_merging = True

    def __init__(self, exchange: dict[str, Any], side: str, on: list[str] | None) -> None:
        super().__init__(exchange)
        self.side: str = side
        self.on: list[str] | None = on

    @property
    def stage(self) -> str:  # type: ignore[override]
        return self.side

    def identity(self) -> Any:
        return [self.side, self.on]

    def _written(self, writer: BucketsWriter, records: Any, with_care: bool) -> Entry:
        rows = Rows(self._producer, self.side, self.on)
        Mapper(self._producer, _Values(), writer, self._codec).run(rows.pairs(rows.records(records)), with_care)
        return writer.close(extra=rows.names)


class Rows:
    """The records of a side of one part as pairs: with `on`, rows become a key and a tuple of all columns."""

    def __init__(self, producer: type[Any], side: str, on: Sequence[str] | None) -> None:
        self._side = side
        self._map_fn: Callable[[Any], Iterable[Any]] | None = getattr(producer, f"{side}_fn")
        self._on = on
        #: The columns of the rows, in their order; None if there are none, or if the records are pairs.
        self.names: tuple[str, ...] | None = None
        self._there: set[str] = set()

    def records(self, source: Any) -> Any:
        """Return what the side makes of its source; a single Arrow table in a list."""
        found = source if self._map_fn is None else self._map_fn(source)
        return [found] if is_arrow(found) else found

    def table(self, batch: Any) -> Any:
        """Return a record batch as a table, and note its columns.

        Raises:
            UsageError: it lacks a column of the key, or has other columns than those before.
        """
        self._note(dict.fromkeys(batch.schema.names))
        return as_table(batch)

    def pairs(self, records: Any) -> Iterator[Any]:
        """Yield (key, value).

        Raises:
            UsageError: a record is no row, or has other columns than those before.
        """
        if self._on is None:
            yield from records.items() if isinstance(records, Mapping) else records
            return
        key_of, values_of = itemgetter(*self._on), None
        for row in _each_row(records):
            if not isinstance(row, Mapping):
                raise UsageError(
                    f"the {self._side} side yields {row!r:.100}, and join(on={self._on!r}) takes rows: dicts, or Arrow "
                    "tables. Without on=, it takes pairs (key, value)"
                )
            if values_of is None or len(row) != len(self._there) or row.keys() != self._there:
                self._note(row)
                ordered = sorted(self._there)
                values_of = itemgetter(*ordered) if len(ordered) > 1 else _Only(ordered[0])
            yield key_of(row), values_of(row)

    def _note(self, row: Mapping[str, Any]) -> None:
        """Note the columns of a row, or compare them with those before.

        Raises:
            UsageError: a column of the key is missing; or they are others.
        """
        if self.names is None:
            self.names = tuple(row)
            self._there = set(self.names)
            if missing := [name for name in self._on or () if name not in row]:
                raise UsageError(
                    f"the {self._side} side has no column {missing[0]!r}, of join(on={self._on!r}): it has "
                    f"{self.names!r:.200}"
                )
        if len(row) != len(self._there) or row.keys() != self._there:
            raise UsageError(
                f"a row of the {self._side} side has the columns {tuple(row)!r:.200}, and those before it have "
                f"{self.names!r:.200}: give all rows the same, with None where there is nothing"
            )


class _Only:
    """Returns the only column of a row, as a tuple."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, row: Mapping[str, Any]) -> tuple[Any]:
        return (row[self._name],)


def peekable(records: Iterable[Any], wanted: Callable[[Any], bool]) -> tuple[Iterator[Any], Iterator[Any]]:
    """Return the records up to the first that is not wanted, and the rest, which may be asked for after those."""
    iterator = iter(records)
    rest: list[Any] = []

    def first() -> Iterator[Any]:
        for record in iterator:
            if not wanted(record):
                rest.append(record)
                return
            yield record

    return first(), chain(_popped(rest), iterator)


def _popped(rest: list[Any]) -> Iterator[Any]:
    while rest:
        yield rest.pop()


def _each_row(records: Iterable[Any]) -> Iterator[Any]:
    for record in records:
        if is_arrow(record):
            yield from record.to_pylist()
        else:
            yield record


class Joining:
    """How the records of two sides become those of the result.

    Args:
        on: the names of the key's columns; None for pairs.
        names: the columns of each side, as its rows have them.
    """

    def __init__(self, how: str, on: Sequence[str] | None, names: Sequence[Sequence[str]]) -> None:
        self.how: str = how
        self._on = on
        #: True if the key of a record is not in its value.
        self.shows_keys: bool = on is None
        left, right = names
        taken = set(left)
        self._left = list(left)
        #: Names in the order in which values are stored, and where each value of the right goes in the result.
        self._stored = sorted(left), sorted(right)
        keys = set(on or ())
        self._right = {name: f"{name}_right" if name in taken else name for name in right if name not in keys}
        result = [*left, *self._right.values()]
        if how not in ("semi", "anti") and (twice := [name for name in result if result.count(name) > 1]):
            raise UsageError(f"both sides of the join give a column {twice[0]!r}: rename one in left_fn or right_fn")

    def record(self, key: Any, left: Any, right: Any) -> Any:
        """Return the record of a pair of values; a side that is missing is _MISSING."""
        key = shown(key)
        if self._on is None:
            if self.how in ("semi", "anti"):
                return key, left
            return key, (None if left is _MISSING else left, None if right is _MISSING else right)
        row: dict[str, Any]
        if left is _MISSING:
            row = dict.fromkeys(self._left)
            row.update(zip(self._on, key if len(self._on) > 1 else (key,), strict=True))
        else:
            stored = dict(zip(self._stored[0], left, strict=True))
            row = {name: stored[name] for name in self._left}
        if self.how in ("semi", "anti"):
            return row
        stored = {} if right is _MISSING else dict(zip(self._stored[1], right, strict=True))
        for name, new in self._right.items():
            row[new] = stored.get(name)
        return row


#: Stands for the value of a side that has none.
_MISSING: Any = object()


def joined(joining: Joining, sides: Sequence[Iterable[Chunk]], holds_right: bool) -> Iterator[tuple[Any, Any]]:
    """Yield the keys and records of two sides: in the order of the one that is not held, then the rest of the other."""
    left, right = sides
    how, held = joining.how, held_of(right if holds_right else left)
    #: The keys as the left has them.
    keys = {key: key for key in held} if not holds_right and joining.shows_keys else None
    matched: set[Any] = set()
    record = joining.record
    keeps_streamed = how in ("left", "outer", "anti") if holds_right else how in ("right", "outer")
    keeps_held = how in ("right", "outer") if holds_right else how in ("left", "outer")
    for chunk in left if holds_right else right:
        for key, value in zip(chunk.keys, chunk.columns[0], strict=True):
            others = None if is_null(key) else held.get(key)
            if others is None:
                if keeps_streamed:
                    yield key, record(key, value, _MISSING) if holds_right else record(key, _MISSING, value)
                continue
            if keeps_held or how in ("semi", "anti"):
                matched.add(key)
            if how == "semi":
                if holds_right:
                    yield key, record(key, value, _MISSING)
            elif how != "anti":
                key = key if keys is None else keys[key]
                for other in others:
                    yield key, record(key, value, other) if holds_right else record(key, other, value)
    if keeps_held or (not holds_right and how in ("semi", "anti")):
        for key, values in held.items():
            if (key in matched) == (how == "semi"):
                for value in values:
                    yield key, record(key, _MISSING, value) if holds_right else record(key, value, _MISSING)


def held_of(chunks: Iterable[Chunk]) -> dict[Any, list[Any]]:
    """Return the values of each key."""
    held: dict[Any, list[Any]] = defaultdict(list)
    for chunk in chunks:
        gather(held, chunk.keys, chunk.columns[0])
    return held


def is_null(key: Any) -> bool:
    """True for a key that is equal to no other: None, or a tuple with None in it."""
    return key is None or (type(key) is tuple and any(map(is_null, key)))


class JoinStage(SecondStage):
    """The second stage of a join: a run of buckets of both sides.

    A task is the first bucket, the one behind the last, and the entries, as for ReduceStage.
    """

    stage = "join"

    def __init__(self, exchange: dict[str, Any], sink: Sink | None, how: str, options: dict[str, Any]) -> None:
        super().__init__(exchange, sink)
        self.how: str = how
        #: "on", the names of the key's columns; "names", the columns of both sides; "holds_right".
        self.options: dict[str, Any] = options

    def identity(self) -> Any:
        return [self.how, self.options["on"], self.options.get("right"), super().identity()]

    def _segments(self, place: Place | None, *task: Any) -> Iterator[Segment]:
        low, high, source = task
        entries = entries_of(source, place, self.exchange)
        secret = self.exchange["secret"]
        sides = [
            Inputs(place, [entry for entry in entries if (entry.part >= _FIRST) == is_right], secret, low, high)
            for is_right in (False, True)
        ]
        joining = Joining(self.how, self.options["on"], self.options["names"])
        return segments_of(self._records_in(joining, sides, low, high))

    def _records_in(self, joining: Joining, sides: Sequence[Inputs], low: int, high: int) -> Iterator[Any]:
        holds_right = self.options["holds_right"]
        for bucket in range(low, high):
            sizes = [side.size_of(bucket) for side in sides]
            chunks = [side.chunks(bucket, self._codec) for side in sides]
            if sizes[holds_right] <= LARGE:
                yield from joined(joining, chunks, holds_right)
            else:
                with Spill(self._codec) as spill:
                    yield from self._divided(joining, chunks, spill, 0)

    def _divided(
        self, joining: Joining, chunks: Sequence[Iterable[Chunk]], spill: Spill, depth: int
    ) -> Iterator[tuple[Any, Any]]:
        """Join a bucket that memory does not hold: both sides are divided by another hash, and joined by divisions."""
        divided = [[spill.new() for _ in range(_DIVISIONS)] for _ in chunks]
        for side, files in zip(chunks, divided, strict=True):
            for chunk in side:
                where = subdivisions(chunk.keys, depth, _DIVISIONS)
                for number, file in enumerate(files):
                    if places := [place for place, division in enumerate(where) if division == number]:
                        keys = [chunk.keys[place] for place in places]
                        file.write(
                            True, places, keys, [[column[place] for place in places] for column in chunk.columns]
                        )
        holds_right = self.options["holds_right"]
        for both in zip(*divided, strict=True):
            files = list(both)
            read = [_chunks_of(file) for file in files]
            if files[holds_right].size > LARGE and depth + 1 < _DEPTH:
                yield from self._divided(joining, read, spill, depth + 1)
            else:
                yield from joined(joining, read, holds_right)
            for file in files:
                file.close()


class BroadcastStage(JoinStage):
    """The only stage of the left side of a join whose right side is small: that is held whole.

    The options have "source", the entries of the right side, and "right", a digest of what is in them.
    """

    _careful: int | None = None
    #: The right side, once a part has read it: the same for all parts.
    _right: dict[Any, list[Any]] | None = None
    _by_arrow: ArrowSide | None = None

    def write(self, part: Part, records: Iterable[Any]) -> Any:
        with_care = self._careful == part.index
        self._careful = None
        place = self._place()
        try:
            segments = self._joined_segments(records, self._held(place), with_care)
            return part.index, "reduced", self._kept(part, place, segments)
        except Changing:
            self._careful = part.index
            raise Again from None
        except Lacking as lacking:
            return part.index, "lacks", dict(lacking.parts)

    def _held(self, place: Place | None) -> dict[Any, list[Any]]:
        if self._right is not None:
            return self._right
        entries = entries_of(self.options["source"], place, self.exchange)
        inputs = Inputs(place, entries, self.exchange["secret"], 0, BUCKETS)
        self._right = held_of(chunk for bucket in inputs.buckets() for chunk in inputs.chunks(bucket, self._codec))
        return self._right

    def _joined_segments(self, source: Any, held: dict[Any, list[Any]], with_care: bool) -> Iterator[Segment]:
        rows = Rows(self._producer, "left", self.options["on"])
        records = rows.records(source)
        if self.options["on"] is None:
            yield from segments_of(self._joined(rows.pairs(records), rows, held, with_care))
            return
        tables, others = peekable(records, is_arrow)
        for table in together(map(rows.table, tables)):
            Joining(self.how, self.options["on"], (rows.names or (), self.options["names"][1]))  # refuses equal names
            if self._by_arrow is None:
                names = self.options["names"][1] or self.options["on"]
                self._by_arrow = ArrowSide(held, names, self.options["on"])
            found = self._by_arrow.joined(table, self.how)
            if found is not None:
                if len(found):
                    yield Segment(0, found, None)
            else:
                yield from segments_of(self._joined(rows.pairs([table]), rows, held, with_care))
        yield from segments_of(self._joined(rows.pairs(others), rows, held, with_care))

    def _joined(
        self, pairs: Iterator[Any], rows: Rows, held: dict[Any, list[Any]], with_care: bool
    ) -> Iterator[tuple[Any, Any]]:
        how = self.how
        keeps, wants_all = how in ("left", "anti"), how not in ("semi", "anti")
        joining: Joining | None = None
        for block in blocks(pairs, f"{self._producer.__name__}.left_fn", lambda: STEP, with_care):
            if isinstance(block, Batch):
                raise UsageError("join() takes pairs one by one: yield rows, with on=, or pairs, not arrays")
            if joining is None:
                joining = Joining(how, self.options["on"], (rows.names or (), self.options["names"][1]))
            record = joining.record
            for key, value in zip(canonical(block.keys, block.key_kinds), block.values, strict=True):
                try:
                    others = None if is_null(key) else held.get(key)
                except TypeError as error:
                    raise unusable(key) from error
                if others is None:
                    if keeps:
                        yield key, record(key, value, _MISSING)
                elif wants_all:
                    for other in others:
                        yield key, record(key, value, other)
                elif how == "semi":
                    yield key, record(key, value, _MISSING)


def _chunks_of(file: SpillFile) -> Iterator[Chunk]:
    return (chunk for _, chunk in file.chunks()) if file.size else iter(())


def segments_of(pairs: Iterable[tuple[Any, Any]]) -> Iterator[Segment]:
    """Yield records, without their keys, in segments."""
    several: list[Any] = []
    for _, record in pairs:
        several.append(record)
        if len(several) == PAIRS_A_SEGMENT:
            yield Segment(0, several, None)
            several = []
    if several:
        yield Segment(0, several, None)


def _side_of(part: int) -> str:
    return "right" if part >= _FIRST else "left"


class JoinJob(KeyedJob):
    """One join: the entries of the left side, then those of the right."""

    def __init__(self, producer: Any, left: Any, right: Any, how: str, on: Sequence[str] | None, *options: Any) -> None:
        super().__init__(producer, left, *options)
        self._right: DataSourceFactory = right
        self._how = how
        self._on = None if on is None else list(on)
        self._names: list[tuple[str, ...]] = [(), ()]
        self._named_by = [1 << 62, 1 << 62]
        self._pairs_of = [0, 0]
        self._mapped: set[str] = set()

    def _map(self, only: dict[int, str] | None) -> None:
        before = {} if only is None else {part: self._entries.pop(part) for part in only}
        for side in ("right", "left"):
            start = _FIRST if side == "right" else 0
            wanted = None if only is None else {part: why for part, why in only.items() if _side_of(part) == side}
            if wanted is None and side in self._mapped:
                continue
            if wanted is None or wanted:
                journal = self.checkpoint
                if journal is not None and side == "right":
                    journal = f"{os.fspath(journal)}.right"
                factory = self._right if side == "right" else self._factory
                self._map_side(factory, SideStage(self._exchange.state(), side, self._on), start, wanted, journal)
                self._mapped.add(side)
        self._compare(before)

    def _stages(self, sink: Sink | None) -> Iterator[tuple[int, Any]]:
        if self._how in ("inner", "left", "semi", "anti"):
            self._mapped.add("left")
            self._map(None)
            self._mapped.remove("left")
            if sum(self._sizes) <= SMALL_SIDE and (self._is_seen or sum(self._sizes) <= _SENT):
                yield from self._completed(lambda wanted: self._broadcast(sink, wanted))
                return
        yield from super()._stages(sink)

    def _broadcast(self, sink: Sink | None, wanted: Sequence[int] | None) -> Iterator[tuple[int, str, Any]]:
        """Join the left side where it is read, all its parts or some: the right side is sent whole."""
        self._list_entries()
        names = [list(names) for names in self._names]
        right = plain.dumps([(part, self._entries[part].digest) for part in sorted(self._entries)])
        options = {
            "on": self._on,
            "names": names,
            "source": self._source_of_all(),
            "right": digest_of(right, self._exchange.secret).hex(),
        }
        stage = BroadcastStage(self._exchange.state(), sink, self._how, options)
        given = None
        if wanted is not None:
            given = Given(len(wanted), lambda parts: (part for part in parts if part.index in wanted))
        return self._run(self._factory, stage, given, self.checkpoint if wanted is None else None)

    def _arrived(self, entry: Entry, is_seen: bool, is_new: bool) -> None:
        side = int(_side_of(entry.part) == "right")
        if is_new:
            self._pairs_of[side] += entry.pairs
        if entry.extra is not None:
            if self._names[side] and set(self._names[side]) != set(entry.extra):
                raise UsageError(
                    f"rows of the {_side_of(entry.part)} side have the columns {entry.extra!r:.200} in one part, and "
                    f"{self._names[side]!r:.200} in another: give all rows the same"
                )
            if entry.part <= self._named_by[side]:  # the order of columns is that of the first part
                self._names[side], self._named_by[side] = tuple(entry.extra), entry.part
        super()._arrived(entry._replace(extra=None), is_seen, is_new)

    def _second_stage(self, sink: Sink | None) -> Any:
        options = {
            "on": self._on,
            "names": [list(names) for names in self._names],
            "holds_right": self._pairs_of[1] <= self._pairs_of[0],
        }
        return JoinStage(self._exchange.state(), sink, self._how, options)

    def _segments(self, index: int, name: str, data: bytes | None, rows: Sequence[Any]) -> Iterator[SegmentRow]:
        for number, row in enumerate(super()._segments(index, name, data, rows)):
            yield row._replace(bucket=(index << 32) + number)  # its place in the result

    def _result(self, rows: list[SegmentRow], exchange: Any) -> Any:
        return Records(rows, exchange, self._exchange.state(), self._is_seen, self._is_trusted)
