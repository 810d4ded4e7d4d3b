"""Sort: records in the order of a key, however many there are. Two stages over ranges of keys.

    first stage     each part: sorted runs, in blocks of BLOCK records, whose first and last keys are in the report
    producer        cuts the keys into ranges of about the same size, at those first keys: exact, nothing is sampled
    second stage    each range: its blocks of all runs, in part order, merged; equal keys keep the order of the data

The order is Python's; NaN comes behind all numbers, and None behind everything, within tuples too.
"""

from __future__ import annotations

import heapq
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise, repeat
from operator import itemgetter
from typing import Any, NamedTuple

from pymar.datasource import DataSourceFactory
from pymar.exceptions import ExchangeError, ExchangeUnavailable, UsageError
from pymar.keyed.batches import as_array
from pymar.keyed.columns import as_list
from pymar.keyed.exchange import Damaged, Entry, FileWriter, Place, digest_of
from pymar.keyed.jobs import BYTES_A_PARTITION, ExchangeJob, KeyedJob
from pymar.keyed.keys import canonical, rank
from pymar.keyed.pairs import STEP, Batch, blocks
from pymar.keyed.reducing import LARGE, PAIRS_A_SEGMENT, Lacking, Segment
from pymar.keyed.reduction import chunk_bytes, chunks_in, few_collections
from pymar.keyed.result import Records, SegmentRow, codec_of
from pymar.keyed.stages import FirstStage, SecondStage
from pymar.keyed.vectors import numpy_if_there

#: Records of a block: what is read, or not, as a whole; and bytes of a run, about, which is sorted in memory.
BLOCK = 4_096
RUN = 32 << 20
#: Bytes that a value in a list takes, about.
_LISTED = 64

_PLAIN_ORDER = frozenset({int, bool, str, bytes})


class Piece(NamedTuple):
    """A block of a sorted run, or a part of it that has some range."""

    part: int
    run: int
    name: str
    at: int
    length: int
    digest: bytes
    data: bytes | None


def ordered(keys: Sequence[Any]) -> Sequence[Any]:
    """Return what orders these keys among each other: they themselves, if they have neither NaN nor None."""
    if isinstance(keys, array):
        return keys if keys.typecode == "q" or (total := sum(keys)) == total else list(map(rank, keys))
    kinds = set(map(type, keys))
    if len(kinds) == 1 and (kinds <= _PLAIN_ORDER or (kinds == {float} and (total := sum(keys)) == total)):
        return keys
    return list(map(rank, keys))


def order(keys: Sequence[Any], reverse: bool) -> Any:
    """Return the places of keys in their order, a list or an array; equal ones stay in the order of their places.

    Raises:
        UsageError: two of them cannot be compared.
    """
    comparable = ordered(keys)
    numpy = numpy_if_there()
    if numpy is not None and isinstance(comparable, array):
        values = numpy.frombuffer(comparable, "int64" if comparable.typecode == "q" else "float64")
        if not reverse:
            return numpy.argsort(values, kind="stable")
        return (len(values) - 1 - numpy.argsort(values[::-1], kind="stable"))[::-1]
    try:
        return sorted(range(len(keys)), key=comparable.__getitem__, reverse=reverse)
    except TypeError as error:
        raise _incomparable(keys, error) from error


def _incomparable(keys: Iterable[Any], error: Exception) -> UsageError:
    kinds: dict[type, Any] = {}
    for key in keys:
        kinds.setdefault(type(key), key)
    shown = " and ".join(f"{key!r:.60} ({kind.__name__})" for kind, key in list(kinds.items())[:2])
    return UsageError(f"the keys {shown} cannot be put in order: {error}. Give a key of one type, or a tuple")


def _taken(column: Any, places: Any) -> Any:
    """Return values of a column at some places."""
    numpy = numpy_if_there()
    if isinstance(column, array) and numpy is not None:
        values = numpy.frombuffer(column, "int64" if column.typecode == "q" else "float64")
        taken = array(column.typecode)
        taken.frombytes(values[places].tobytes())
        return taken
    if not isinstance(places, list):
        places = places.tolist()
    if isinstance(column, array):
        return array(column.typecode, map(column.__getitem__, places))
    if len(places) < 2:
        return [column[place] for place in places]
    return list(itemgetter(*places)(column))


class RunStage(FirstStage):
    """The first stage of a sort: sorted runs of a part."""

    stage = "sort"

    def __init__(self, exchange: dict[str, Any], reverse: bool, has_pairs: bool) -> None:
        super().__init__(exchange)
        self.reverse: bool = reverse
        #: What tells the result whose pairs are sorted, only at the producer: another has other segments.
        self._of = ""
        #: True if the records are pairs, in the order of their keys; false if `key_fn` of the producer gives the key.
        self.has_pairs: bool = has_pairs
        #: The source's records are taken as they are.
        self.is_merging = has_pairs

    def identity(self) -> Any:
        return [self.reverse, self.has_pairs, self._of]

    def _writer(self, place: Place | None, part: int) -> Any:
        return FileWriter(place, part, self.exchange["secret"])

    def _written(self, writer: FileWriter, records: Any, with_care: bool) -> Entry:
        with few_collections():
            runs = self._runs(records, with_care, writer)
        return writer.close(extra=self._codec.dumps(runs, "the keys of a sort"))

    def _runs(self, records: Any, with_care: bool, writer: FileWriter) -> list[list[Any]]:
        """Write sorted runs; return the blocks of each: where, how long, first and last key."""
        key_fn = None if self.has_pairs else self._producer.key_fn
        pairs: Any
        if self.has_pairs:
            pairs = records
        elif key_fn is None:
            pairs = zip(records, repeat(None))
        else:
            pairs = ((key_fn(record), record) for record in records)
        has_values = self.has_pairs or key_fn is not None
        are_fresh = not self.has_pairs and self._producer._are_fresh()
        waiting: list[tuple[Any, Any]] = []
        runs: list[list[Any]] = []
        size = at = 0
        for block in blocks(pairs, f"{self._producer.__name__}.map_fn", lambda: STEP, with_care, are_fresh):
            if isinstance(block, Batch):
                raise UsageError("sort() takes records one by one: yield rows, not tables or arrays")
            waiting.append((block.keys, block.values if has_values else []))
            size += block.size + len(block.keys) * (8 if isinstance(block.keys, array) else _LISTED)
            size += len(waiting[-1][1]) * (8 if isinstance(block.values, array) else _LISTED)
            if size >= RUN:
                at = self._write_run(waiting, has_values, writer, runs, at)
                waiting, size = [], 0
        if waiting:
            self._write_run(waiting, has_values, writer, runs, at)
        return runs

    def _write_run(
        self, waiting: list[tuple[Any, Any]], has_values: bool, writer: FileWriter, runs: list[list[Any]], at: int
    ) -> int:
        keys = joined([keys for keys, _ in waiting])
        values = joined([values for _, values in waiting]) if has_values else None
        places = order(keys if isinstance(keys, array) else canonical(keys), self.reverse)
        keys = _taken(keys, places)
        values = None if values is None else _taken(values, places)
        run = []
        for start in range(0, len(keys), BLOCK):
            some = keys[start : start + BLOCK]
            columns = [] if values is None else [values[start : start + BLOCK]]
            data = chunk_bytes(True, as_array(some), [as_array(column) for column in columns], self._codec)
            writer.write([(0, 1, data, len(some))])
            run.append((at, len(data), digest_of(data, self.exchange["secret"]), some[0], some[-1]))
            at += len(data)
        runs.append(run)
        return at


def joined(columns: Sequence[Any]) -> Any:
    """Return columns one behind the other: an array if all are of one type."""
    codes = {getattr(column, "typecode", "") for column in columns if len(column)}
    if len(codes) == 1 and "" not in codes:
        whole: Any = array(codes.pop())
        for column in columns:
            if len(column):
                whole += column
        return whole
    return [value for column in columns for value in column]


class MergeStage(SecondStage):
    """The second stage of a sort: one range of keys.

    A task is the range (its first key and the one behind its last, each in a list, empty if there is none), and the
    pieces that have keys of it, as tuples.
    """

    stage = "merge"

    def __init__(self, exchange: dict[str, Any], sink: Any, reverse: bool, has_pairs: bool) -> None:
        super().__init__(exchange, sink)
        self.reverse: bool = reverse
        self.has_pairs: bool = has_pairs

    def _segments(self, place: Place | None, *task: Any) -> Iterator[Segment]:
        low, high, found = task
        pieces = [Piece(*one) for one in found]
        if sum(piece.length for piece in pieces) <= LARGE:
            read = [self._within(piece, place, low, high) for piece in pieces]
            keys = joined([keys for keys, _ in read])
            values = joined([values for _, values in read])
            places = order(keys, self.reverse)
            keys, values = _taken(keys, places), _taken(values, places) if len(values) else values
            for start in range(0, len(keys), PAIRS_A_SEGMENT):
                end = start + PAIRS_A_SEGMENT
                yield self._segment(keys[start:end], values[start:end])
        else:
            yield from self._merged(pieces, place, low, high)

    def _merged(self, pieces: Sequence[Piece], place: Place | None, low: Any, high: Any) -> Iterator[Segment]:
        """Merge what memory may not hold: of each run, a block at a time."""

        def rows(run: Sequence[Piece]) -> Iterator[tuple[Any, Any]]:
            for piece in run:
                keys, values = self._within(piece, place, low, high)
                yield from zip(keys, values if len(values) else repeat(None), strict=False)

        runs = [rows(list(run)) for _, run in groupby(pieces, lambda piece: (piece.part, piece.run))]
        merged = heapq.merge(*runs, key=lambda pair: rank(pair[0]), reverse=self.reverse)
        for _, several in groupby(enumerate(merged), lambda numbered: numbered[0] // PAIRS_A_SEGMENT):
            pairs = [pair for _, pair in several]
            yield self._segment([key for key, _ in pairs], [value for _, value in pairs])

    def _segment(self, keys: Any, values: Any) -> Segment:
        """Return pairs as a segment; where the records are wanted, those alone."""
        if self.has_pairs:
            return Segment(0, keys, values)
        return Segment(0, keys if self._producer.key_fn is None else values, None)

    def _within(self, piece: Piece, place: Place | None, low: Any, high: Any) -> tuple[Any, Any]:
        """Return the keys and values of a piece that are in the range."""
        data: Any = piece.data
        if data is None:
            if place is None:
                raise ExchangeUnavailable(f"this worker does not see {self.exchange['path']}")
            try:
                data = place.read(piece.name, piece.at, piece.length)
            except Damaged as damage:
                raise Lacking({piece.part: str(damage)}) from damage
        if digest_of(data, self.exchange["secret"]) != piece.digest:
            raise Lacking({piece.part: f"a block of {piece.name or 'a part'} is damaged"})
        (chunk,) = chunks_in(data, self._codec, has_keys=self.has_pairs)
        keys, values = chunk.keys, chunk.columns[0] if chunk.columns else []
        start, end = 0, len(keys)
        if self.reverse:
            backwards = keys[::-1]
            if high:
                start = end - bisect_left(backwards, rank(high[0]), key=rank)
            if low:
                end -= bisect_left(backwards, rank(low[0]), key=rank)
        else:
            if low:
                start = bisect_left(keys, rank(low[0]), key=rank)
            if high:
                end = bisect_left(keys, rank(high[0]), key=rank)
        return keys[start:end], values[start:end]

    def _records(self, segments: Iterable[Segment]) -> Iterator[Any]:
        if self.has_pairs:
            yield from super()._records(segments)
            return
        for segment in segments:
            yield from as_list(segment.keys)


class SortJob(ExchangeJob):
    """One sort: its entries have, in `extra`, the blocks of their runs."""

    def __init__(self, *arguments: Any, reverse: bool = False, has_pairs: bool = False, of: str = "") -> None:
        super().__init__(*arguments)
        self._reverse = reverse
        self._has_pairs = has_pairs
        self._of = of

    def _map_stage(self) -> Any:
        stage = RunStage(self._exchange.state(), self._reverse, self._has_pairs)
        stage._of = self._of
        return stage

    def _second_stage(self, sink: Any) -> Any:
        return MergeStage(self._exchange.state(), sink, self._reverse, self._has_pairs)

    def _tasks(self) -> list[tuple[Any, Any]]:
        """Return ranges of keys, of about the same size, in the order of the result."""
        firsts: list[tuple[Any, int, Any]] = []
        total = 0
        for part in sorted(self._entries):
            for run in self._runs_of(part):
                for _, length, _, first, last in run:
                    least = last if self._reverse else first
                    firsts.append((rank(least), length, least))
                    total += length
        try:
            firsts.sort(key=itemgetter(0))
        except TypeError as error:
            raise _incomparable([key for _, _, key in firsts], error) from error
        wanted = self._cls.PARTITIONS or max(1, -(-total // BYTES_A_PARTITION))
        cuts: list[Any] = []
        ranks: list[Any] = []
        done = 0
        for found, length, key in firsts:
            if done * wanted >= total * (len(cuts) + 1) and (not ranks or ranks[-1] < found) and firsts[0][0] < found:
                cuts.append(key)
                ranks.append(found)
            done += length
        bounds = [[], *([cut] for cut in cuts), []]
        tasks = list(pairwise(bounds)) if firsts else []
        if self._reverse:
            tasks.reverse()
        self._report([total // max(1, len(tasks))] * len(tasks))
        return tasks

    def _runs_of(self, part: int) -> list[list[Any]]:
        found: list[list[Any]] = codec_of(self._is_trusted).loads(self._entries[part].extra)
        return found

    def _task_data(self) -> Callable[[Any], tuple[Any, ...]]:
        keeps_data = not self._is_seen or self._all_are_held
        pieces: list[tuple[Any, Any, Piece]] = []
        for part in sorted(self._entries):
            entry = self._entries[part]
            for number, run in enumerate(self._runs_of(part)):
                for at, length, digest, first, last in run:
                    low, high = (rank(last), rank(first)) if self._reverse else (rank(first), rank(last))
                    pieces.append((low, high, Piece(part, number, entry.name, entry.base + at, length, digest, None)))

        def data(low: Any, high: Any) -> list[tuple[Any, ...]]:
            least, behind = [rank(key) for key in low], [rank(key) for key in high]
            found = [
                piece
                for first, last, piece in pieces
                if not (least and last < least[0]) and not (behind and not first < behind[0])
            ]
            return [tuple(self._with_data(piece) if keeps_data else piece) for piece in found]

        return lambda task: (*task, data(*task))

    def _with_data(self, piece: Piece) -> Piece:
        held = self._entries[piece.part].data
        if held is not None:
            return piece._replace(data=held[piece.at : piece.at + piece.length])
        try:
            return piece._replace(data=self._exchange.place.read(piece.name, piece.at, piece.length))
        except Damaged as damage:
            raise ExchangeError(f"{self._exchange.path} is damaged: {damage}. Repeat the call") from damage

    def _segments(self, index: int, name: str, data: bytes | None, rows: Sequence[Any]) -> Iterator[SegmentRow]:
        for number, row in enumerate(super()._segments(index, name, data, rows)):
            yield row._replace(bucket=(index << 32) + number)  # its place in the result

    def _result(self, rows: list[SegmentRow], exchange: Any) -> Any:
        if not self._has_pairs:
            return Records(rows, exchange, self._exchange.state(), self._is_seen, self._is_trusted)
        found = super()._result(rows, exchange)
        found._is_sorted = True
        return found


def sorted_by_key(job: KeyedJob) -> SortJob:
    """Run a job that reduces by key; return the job that sorts its result."""
    result = job.mapped(None)
    checkpoint = None if job.checkpoint is None else f"{os.fspath(job.checkpoint)}.sorted"
    options = (job.left(), job.on_timeout, checkpoint, job.progress, job.on_mismatch)
    return SortJob(job.producer, DataSourceFactory(result), *options, has_pairs=True, of=result._fingerprint())
