"""The second stage of a keyed job, in a worker: a run of neighbouring buckets, read from all parts, in their order.

    Inputs      the chunks of one bucket after the other, out of files or out of what came with the part
    Reducer     a bucket reduced: in memory, or if it is large, divided further by another hash, and put in order again
    results     keys and values as segments: what the mapping at the producer reads

The order within a bucket is that in which keys first come, however a bucket is divided.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from pymar.keyed.columns import Codec, as_list
from pymar.keyed.exchange import Damaged, Entry, Place, Row, checked, rows_of
from pymar.keyed.keys import buckets_of, subdivisions
from pymar.keyed.reduction import Chunk, Reduction, chunk_bytes, chunks_in
from pymar.keyed.spilling import Spill

#: Bytes of input that are read at once for several buckets.
READ_AT_ONCE = 32 << 20
#: Bytes of a run of buckets that are reduced together, so that small chunks cost less.
TOGETHER = 2 << 20
#: Bytes of a bucket that is reduced in memory; Python objects take about eight times as much.
LARGE = 16 << 20
#: Into how many a large bucket is divided, and how often again.
_DIVISIONS, _DEPTH = 16, 4
#: Pairs of a segment of a result.
PAIRS_A_SEGMENT = 1 << 16


class Inputs:
    """What all parts have written into the buckets from `low` to `high`: read when asked for. One thread at a time.

    Args:
        entries: of all parts, in part order; those with data have what came with this part.
        indices: the index of each, as bytes, where it came along; else it is read.

    Raises:
        Lacking: what some parts have written is missing or damaged.
    """

    def __init__(self, place: Place | None, entries: Sequence[Entry], secret: bytes, low: int, high: int) -> None:
        self._place = place
        self._secret = secret
        self._entries = entries
        lacking: dict[int, str] = {}
        #: For each bucket, in part order: the entry and the rows of its runs; likewise those of several buckets.
        self._rows: dict[int, list[tuple[Entry, Row]]] = {}
        self._spans: list[tuple[Entry, Row]] = []
        #: Pairs of those, by their buckets, once they are read.
        self._parted: dict[int, list[tuple[int, Chunk]]] | None = None
        self.range: range = range(low, high)
        self.total: int = 0
        for entry in entries:
            try:
                index = self._read(entry, entry.base + entry.index_at, entry.index_length)
                for row in rows_of(entry, bytes(index), secret):
                    if row.span > 1:
                        if row.bucket < high and low < row.bucket + row.span:
                            self._spans.append((entry, row))
                            self.total += row.length
                    elif low <= row.bucket < high:
                        self._rows.setdefault(row.bucket, []).append((entry, row))
                        self.total += row.length
            except Damaged as damage:
                lacking[entry.part] = str(damage)
        if lacking:
            raise Lacking(lacking)
        self._all: dict[tuple[int, int], bytes | memoryview] = {}
        if self.total <= READ_AT_ONCE:
            self._read_all()

    def _read(self, entry: Entry, at: int, length: int) -> bytes | memoryview:
        if entry.data is not None:
            return memoryview(entry.data)[at : at + length]
        if self._place is None:
            raise Damaged(f"{entry.name} cannot be reached")
        return self._place.read(entry.name, at, length)

    def _read_all(self) -> None:
        """Read neighbouring buckets of a run at once."""
        by_entry: dict[int, tuple[Entry, list[Row]]] = {}
        for several in (*self._rows.values(), self._spans):
            for entry, row in several:
                by_entry.setdefault(id(entry), (entry, []))[1].append(row)
        lacking: dict[int, str] = {}
        for entry, rows in by_entry.values():
            rows.sort(key=attrgetter("at"))
            start = 0
            try:
                while start < len(rows):
                    end, stop = start + 1, rows[start].at + rows[start].length
                    while end < len(rows) and rows[end].at == stop:
                        stop += rows[end].length
                        end += 1
                    found = memoryview(self._read(entry, rows[start].at, stop - rows[start].at))
                    for row in rows[start:end]:
                        at = row.at - rows[start].at
                        data = found[at : at + row.length]
                        self._all[id(entry), row.at] = checked(data, row, self._secret, entry.name)
                    start = end
            except Damaged as damage:
                lacking[entry.part] = str(damage)
        if lacking:
            raise Lacking(lacking)

    def buckets(self) -> Iterable[int]:
        """Return the buckets that may have pairs, in order."""
        return self.range if self._spans else sorted(self._rows)

    def size_of(self, bucket: int) -> int:
        """Return the bytes of a bucket, about."""
        spans = sum(row.length // row.span for _, row in self._spans if row.bucket <= bucket < row.bucket + row.span)
        return spans + sum(row.length for _, row in self._rows.get(bucket, ()))

    def all_chunks(self, codec: Codec) -> Iterator[Chunk]:
        """Yield the chunks of all buckets, in part order; rows of several buckets may have others too.

        Raises:
            Lacking: what some part has written is damaged.
        """
        rows = [found for several in (*self._rows.values(), self._spans) for found in several]
        rows.sort(key=lambda found: (found[0].part, found[1].at))
        for entry, row in rows:
            yield from chunks_in(self._data(entry, row), codec)

    def chunks(self, bucket: int, codec: Codec) -> Iterator[Chunk]:
        """Yield the chunks of a bucket, in part order.

        Raises:
            Lacking: what some part has written is damaged.
        """
        if self._spans and self._parted is None:
            self._parted = self._part_spans(codec)
        parted = iter(() if self._parted is None else self._parted.pop(bucket, ()))
        # A part has either rows of one bucket or rows of several.
        waiting = next(parted, None)
        for entry, row in self._rows.get(bucket, ()):
            while waiting is not None and waiting[0] < entry.part:
                yield waiting[1]
                waiting = next(parted, None)
            yield from chunks_in(self._data(entry, row), codec)
        if waiting is not None:
            yield waiting[1]
            yield from (chunk for _, chunk in parted)

    def _data(self, entry: Entry, row: Row) -> bytes | memoryview:
        data = self._all.get((id(entry), row.at))
        try:
            return (
                checked(self._read(entry, row.at, row.length), row, self._secret, entry.name) if data is None else data
            )
        except Damaged as damage:
            raise Lacking({entry.part: str(damage)}) from damage

    def _part_spans(self, codec: Codec) -> dict[int, list[tuple[int, Chunk]]]:
        """Return the pairs of rows of several buckets, by their buckets, each with the number of its part."""
        parted: dict[int, list[tuple[int, Chunk]]] = {}
        for entry, row in self._spans:
            for chunk in chunks_in(self._data(entry, row), codec):
                places: dict[int, list[int]] = {}
                for place, bucket in enumerate(buckets_of(chunk.keys)):
                    places.setdefault(bucket, []).append(place)
                for bucket, mine in places.items():
                    if bucket in self.range:
                        keys = [chunk.keys[place] for place in mine]
                        columns = [[column[place] for place in mine] for column in chunk.columns]
                        parted.setdefault(bucket, []).append((entry.part, Chunk(chunk.is_raw, keys, columns)))
        return parted


class Lacking(Exception):
    """Raised if what some parts have written is missing or damaged: they have to be mapped again."""

    def __init__(self, parts: dict[int, str]) -> None:
        super().__init__(parts)
        self.parts: dict[int, str] = parts


class Segment(NamedTuple):
    """Some keys of a bucket with their values."""

    bucket: int
    keys: Any
    values: Any
    """None if there are keys only."""


class Reducer:
    """Reduces buckets. One thread at a time."""

    def __init__(self, reduction: Reduction, codec: Codec) -> None:
        self._reduction = reduction
        self._codec = codec

    def segments(self, inputs: Inputs) -> Iterator[Segment]:
        """Yield what all keys were reduced to: bucket by bucket, in each in the order in which keys first came."""
        if inputs.total <= min(TOGETHER, LARGE):
            yield from self._together(inputs)
            return
        for bucket in inputs.buckets():
            if inputs.size_of(bucket) <= LARGE:
                keys, values = self._reduction.reduced(list(inputs.chunks(bucket, self._codec)))
                for start in range(0, len(keys), PAIRS_A_SEGMENT):
                    end = start + PAIRS_A_SEGMENT
                    yield Segment(bucket, keys[start:end], values[start:end])
            else:
                pairs = self._large(bucket, inputs.chunks(bucket, self._codec))
                for several in _in_lists(pairs):
                    yield Segment(bucket, [key for key, _ in several], [value for _, value in several])

    def _together(self, inputs: Inputs) -> Iterator[Segment]:
        """Reduce all buckets in one dict; they are told apart afterwards."""
        reduced, values = self._reduction.reduced(list(inputs.all_chunks(self._codec)))
        keys = as_list(reduced)
        found: dict[int, tuple[list[Any], list[Any]]] = {}
        for bucket, key, value in zip(buckets_of(keys), keys, as_list(values), strict=True):
            if bucket in inputs.range:
                mine = found.setdefault(bucket, ([], []))
                mine[0].append(key)
                mine[1].append(value)
        for bucket in sorted(found):
            yield Segment(bucket, *found[bucket])

    def _large(self, bucket: int, chunks: Iterable[Chunk]) -> Iterator[tuple[Any, Any]]:
        """Yield the keys and values of a bucket that memory may not hold."""
        with Spill(self._codec) as spill:
            for _, key, value in self._divided(_numbered(chunks), spill, 0):
                yield key, value

    def _divided(
        self, chunks: Iterable[tuple[Sequence[int], Chunk]], spill: Spill, depth: int
    ) -> Iterator[tuple[int, Any, Any]]:
        """Yield (number of the first pair, key, value), in the order of the numbers.

        The chunks are divided by another hash into files; each is reduced, and what they give is merged by number.
        """
        files = [spill.new() for _ in range(_DIVISIONS)]
        for numbers, chunk in chunks:
            where = subdivisions(chunk.keys, depth, _DIVISIONS)
            for one, file in enumerate(files):
                if places := [place for place, division in enumerate(where) if division == one]:
                    file.write(
                        chunk.is_raw,
                        [numbers[place] for place in places],
                        [chunk.keys[place] for place in places],
                        [[column[place] for place in places] for column in chunk.columns],
                    )
        reduced = []
        for file in files:
            if not file.size:
                continue
            found = spill.new()
            self._reduce_file(file, found, spill, depth)
            reduced.append(found)
            file.close()
        yield from heapq.merge(*(one.rows() for one in reduced), key=itemgetter(0))

    def _reduce_file(self, file: Any, found: Any, spill: Spill, depth: int) -> None:
        """Reduce the pairs in a file, and write (number, key, value) of each key into another."""
        if file.size <= LARGE:
            states, firsts = self._reduction.new_states(), dict[Any, int]()
            for numbers, chunk in file.chunks():
                for number, key in zip(numbers, chunk.keys, strict=True):
                    firsts.setdefault(key, number)
                self._reduction.add(states, chunk)
            keys, values = self._reduction.finished(states)
            found.write_rows([firsts[key] for key in keys], keys, values)
        elif depth + 1 < _DEPTH:
            for several in _in_lists(self._divided(file.chunks(), spill, depth + 1)):
                found.write_rows(*map(list, zip(*several, strict=True)))
        else:
            self._reduce_hot(file, found)

    def _reduce_hot(self, file: Any, found: Any) -> None:
        """Reduce a file that no hash divides: few keys, with more values than memory may hold."""
        function = self._reduction.function
        firsts: dict[Any, int] = {}
        for numbers, chunk in file.chunks():
            for number, key in zip(numbers, chunk.keys, strict=True):
                firsts.setdefault(key, number)
        for key, first in firsts.items():
            if function is not None and not function.combines:
                values = self._reduction.finish_all([key], function._finished({key: _values_of(file, key)}))
            else:
                states = self._reduction.new_states()
                for _, chunk in file.chunks():
                    places = [place for place, one in enumerate(chunk.keys) if _same(one, key)]
                    columns = [[column[place] for place in places] for column in chunk.columns]
                    self._reduction.add(states, Chunk(chunk.is_raw, [key] * len(places), columns))
                _, values = self._reduction.finished(states)
            found.write_rows([first], [key], values)


def _same(one: Any, other: Any) -> bool:
    return bool(one is other or one == other)


def _values_of(file: Any, key: Any) -> Iterator[Any]:
    for _, chunk in file.chunks():
        for one, value in zip(chunk.keys, chunk.columns[0], strict=True):
            if _same(one, key):
                yield value


def _numbered(chunks: Iterable[Chunk]) -> Iterator[tuple[range, Chunk]]:
    start = 0
    for chunk in chunks:
        yield range(start, start + len(chunk.keys)), chunk
        start += len(chunk.keys)


def _in_lists(rows: Iterable[Any]) -> Iterator[list[Any]]:
    for _, several in groupby(enumerate(rows), lambda pair: pair[0] // PAIRS_A_SEGMENT):
        yield [row for _, row in several]


def segment_bytes(segment: Segment, codec: Codec) -> bytes:
    """Return a segment as bytes."""
    return chunk_bytes(False, segment.keys, [] if segment.values is None else [segment.values], codec)
