"""The two stages of a keyed job as sinks: what a worker does with the mapped records of a part, in place of reduce_fn.

They travel as plain data, so that a worker that is sent no code computes them too. Each looks at the exchange first: a
worker that does not see the folder sends what it would have written there with the report of its part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any

from pymar.exceptions import ExchangeError, ExchangeUnavailable
from pymar.keyed.columns import Codec, as_list
from pymar.keyed.exchange import (
    SMALL,
    VARIABLE,
    BucketsWriter,
    Damaged,
    Entry,
    Place,
    digest_of,
    seen,
    translated,
    write_all,
)
from pymar.keyed.mapping import Mapper
from pymar.keyed.pairs import Changing
from pymar.keyed.reducing import Inputs, Lacking, Reducer, Segment, segment_bytes
from pymar.keyed.reduction import Reduction, few_collections
from pymar.parts import Part
from pymar.serialization import plain
from pymar.sinks.sink import Sink
from pymar.slots.task import Again

#: Bytes of what one part may send to the producer, where workers see no common folder.
LARGEST_REPORT = 512 << 20


class Stage(Sink):
    """One stage: it knows the exchange, and in a worker the producer's class. One thread at a time."""

    stage = ""

    def __init__(self, exchange: dict[str, Any]) -> None:
        self.exchange: dict[str, Any] = exchange

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name[0] != "_"}

    def bind(self, producer: type[Any], dumps: Callable[[Any, str], bytes], loads: Callable[[bytes], Any]) -> None:
        self._producer = producer
        self._codec = Codec(dumps, loads, is_trusted=dumps is not plain.dumps)

    def identity(self) -> Any:
        return None

    def _place(self) -> Place | None:
        return seen(self.exchange, self._codec.is_trusted)


class FirstStage(Stage):
    """A first stage: what a part has becomes a file of the exchange.

    It reports an Entry as a tuple, and True if this worker sees the exchange.
    """

    #: The part that is mapped with care.
    _careful: int | None = None

    def write(self, part: Part, records: Iterable[Any]) -> Any:
        with_care = self._careful == part.index
        self._careful = None
        place = self._place()
        writer = self._writer(place, part.index)
        try:
            entry = self._written(writer, records, with_care)
        except Changing:
            writer.discard()
            self._careful = part.index
            raise Again from None
        except BaseException:  # nothing would remove it
            writer.discard()
            raise
        if entry.data is not None and len(entry.data) > LARGEST_REPORT:
            raise ExchangeError(
                f"part {part.index} gives {len(entry.data):,} bytes of pairs, and this worker sees no folder of the "
                f"producer's: set {VARIABLE} there to a folder that all workers share, or to an address such as "
                "s3://bucket/exchange"
            )
        return (*entry, place is not None)

    def _writer(self, place: Place | None, part: int) -> Any:
        """Return what writes the file."""
        return BucketsWriter(place, part, self.exchange["secret"])

    def _written(self, writer: Any, records: Any, with_care: bool) -> Entry:
        """Write the records of a part, and close the writer.

        Raises:
            Changing: the part has to be mapped again, with care.
        """
        raise NotImplementedError


class MapStage(FirstStage):
    """The first stage of reduce by key: the pairs of a part go to their buckets."""

    stage = "map"

    def _written(self, writer: BucketsWriter, records: Any, with_care: bool) -> Entry:
        mapper = Mapper(self._producer, Reduction(self._producer), writer, self._codec)
        hot = mapper.run(records, with_care)
        return writer.close([(repr(key)[:100], count) for key, count in hot])._replace(pairs=mapper.pairs)


class SecondStage(Stage):
    """A second stage, which gives segments: it keeps them in the exchange, or writes them to a sink of the user's.

    It reports the number of its part, "reduced" with what it has kept, "written" with what the sink has noted, or
    "lacks" with the parts of the first stage whose files are missing or damaged.
    """

    is_merging = True

    def __init__(self, exchange: dict[str, Any], sink: Sink | None = None) -> None:
        super().__init__(exchange)
        self.sink: Sink | None = sink

    def bind(self, producer: type[Any], dumps: Callable[[Any, str], bytes], loads: Callable[[bytes], Any]) -> None:
        super().bind(producer, dumps, loads)
        if self.sink is not None:
            self.sink.bind(producer, dumps, loads)

    def identity(self) -> Any:
        return None if self.sink is None else [type(self.sink).__name__, self.sink.identity()]

    def write(self, part: Part, records: Iterable[Any]) -> Any:
        with few_collections():
            return self._written(part, self._place(), next(iter(records)))

    def _written(self, part: Part, place: Place | None, task: Sequence[Any]) -> Any:
        try:
            segments = self._segments(place, *task)
            if self.sink is None:
                return part.index, "reduced", self._kept(part, place, segments)
            return part.index, "written", self.sink.write(part, self._records(segments))
        except Lacking as lacking:
            return part.index, "lacks", dict(lacking.parts)

    def _segments(self, place: Place | None, *task: Any) -> Iterator[Segment]:
        """Yield the segments of a task.

        Raises:
            Lacking: what some parts have written is missing or damaged.
        """
        raise NotImplementedError

    def _records(self, segments: Iterable[Segment]) -> Iterator[Any]:
        """Yield what a sink is given."""
        return records_of(segments, self._producer)

    def _kept(self, part: Part, place: Place | None, segments: Iterable[Segment]) -> tuple[Any, ...]:
        """Write segments to a file of the exchange, or return them if they are few."""
        name = f"result-{part.index}-{token_hex(8)}"
        rows: list[tuple[int, int, int, int, bytes]] = []
        waiting: list[bytes] = []
        file: Any = None
        at = written = 0
        try:
            for segment in segments:
                data = segment_bytes(segment, self._codec)
                digest = digest_of(data, self.exchange["secret"])
                rows.append((segment.bucket, at, len(data), len(segment.keys), digest))
                waiting.append(data)
                at += len(data)
                if place is not None and at - written > SMALL:
                    if file is None:
                        file = place.create(name)
                    with translated(self.exchange["path"]):
                        write_all(file, b"".join(waiting))
                    waiting, written = [], at
            if file is not None:
                with translated(self.exchange["path"]):
                    write_all(file, b"".join(waiting))
                    file.close()
                return name, None, rows
        except BaseException:  # nothing would remove it
            if file is not None and place is not None:
                with suppress(Exception):  # the error matters more
                    file.close()
                    place.remove([name])
            raise
        return "", b"".join(waiting), rows


class ReduceStage(SecondStage):
    """The second stage of reduce by key: a run of buckets.

    A task is the first bucket, the one behind the last, and the entries of all parts; or, in their place, the name of a
    file of the exchange that has them, with its length and digest.
    """

    stage = "reduce"

    def _segments(self, place: Place | None, *task: Any) -> Iterator[Segment]:
        low, high, source = task
        inputs = Inputs(place, entries_of(source, place, self.exchange), self.exchange["secret"], low, high)
        return Reducer(Reduction(self._producer), self._codec).segments(inputs)


def entries_of(source: Any, place: Place | None, exchange: dict[str, Any]) -> list[Entry]:
    """Return the entries of a task: they came along, or are in a file of the exchange.

    Raises:
        ExchangeUnavailable: this worker does not see that.
        ExchangeError: it is damaged.
    """
    if type(source) is list:
        return [Entry(*one) for one in source]
    name, length, digest = source
    if place is None:
        raise ExchangeUnavailable(
            f"this worker does not see {exchange['path']}, where the others have left their pairs: set {VARIABLE} at "
            "the producer to a folder that all workers share"
        )
    try:
        data = place.read(name, 0, length)
    except Damaged as damage:
        raise ExchangeError(f"the exchange {exchange['path']} is damaged: {damage}") from damage
    if digest_of(data, exchange["secret"]) != digest:
        raise ExchangeError(f"the exchange {exchange['path']} is damaged: {name} is not what was written")
    return [Entry(*one) for one in plain.loads(data)]


def records_of(segments: Iterable[Segment], producer: type[Any]) -> Iterator[dict[str, Any]]:
    """Yield each key and value as a dict, whose fields have the names of KEY, or "key", and of values, or "value"."""
    names = producer.KEY
    for segment in segments:
        # As lists: sums come as an array, and a sink is given Python's ints.
        for key, value in zip(as_list(segment.keys), as_list(segment.values), strict=True):
            yield {**_key_fields(key, names), **(value if isinstance(value, dict) else {"value": value})}


def _key_fields(key: Any, names: Any) -> dict[str, Any]:
    from pymar.keyed.keys import shown

    key = shown(key)
    if names is None:
        return {"key": key}
    if isinstance(names, str):
        return {names: key}
    return dict(zip(names, key, strict=True))
