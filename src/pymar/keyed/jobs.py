"""A keyed job: two ordinary jobs and the exchange between them, driven in the producer's thread.

    map stage      one part of the source each: its pairs to 256 buckets, its report an Entry
    reduce stage   one run of neighbouring buckets each, read out of all files, in part order
    Result         a mapping over what the second stage has left; or a sink, committed once

A part of the second stage that finds a file missing or damaged says so in place of a result: the part that wrote it is
mapped again, and what it writes has to be the same.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from secrets import token_bytes, token_hex
from time import monotonic
from typing import Any

from pymar.datasource import DataSourceFactory
from pymar.events import Event, Exchanged, notify
from pymar.events.progress import on_terminal
from pymar.exceptions import ExchangeError, JobError, JobTimeout, PartFailed, PartLost, PartsFailed
from pymar.job import automatic
from pymar.job.checkpoint import check_unpublished
from pymar.job.checks import check_call
from pymar.job.interrupt import one_line_on_interrupt
from pymar.job.plan import Given
from pymar.job.writing import check_sink, stages
from pymar.keyed.checkpoints import journal_of, of_checkpoint
from pymar.keyed.exchange import (
    VARIABLE,
    Damaged,
    Entry,
    Exchange,
    checked,
    digest_of,
    row_bytes,
    rows_of,
    translated,
    write_all,
)
from pymar.keyed.keys import BUCKETS
from pymar.keyed.reduction import Several
from pymar.keyed.result import Result, SegmentRow
from pymar.keyed.stages import MapStage, ReduceStage
from pymar.parts import Part
from pymar.serialization import plain
from pymar.serialization.jobfile import stop_if_loading
from pymar.serialization.redaction import printable
from pymar.sinks.sink import Sink, Written

log: logging.Logger = logging.getLogger(__name__)

#: Bytes of the exchange for one part of the second stage, about: enough that 1 ms for a part does not matter.
BYTES_A_PARTITION = 4 << 20
#: Bytes of small entries that the producer holds before it writes them to the exchange.
HELD = 8 << 20
#: Bytes that each of them takes besides: of 100,000 in lists that go to workers, the producer would need 300 MB.
_ENTRY = 500
#: Bytes that may go through the producer, where workers see no common folder.
THROUGH = 1 << 30
#: How often parts are mapped again because what they wrote was missing or damaged.
_ROUNDS = 3
#: A key with more than this share of all pairs is reported.
_HOT = 0.1
#: Pairs that a key has at least before it is reported.
_FEW = 100_000


class ExchangeJob:
    """Two stages over an exchange, which it owns until a result has it. Subclasses say what the stages are.

    Thread of the job only.
    """

    def __init__(
        self,
        producer: Any,
        factory: DataSourceFactory,
        timeout: float,
        on_timeout: Any,
        checkpoint: Any,
        progress: bool | None,
        on_mismatch: Any = "refuse",
    ) -> None:
        stop_if_loading(type(producer), factory)
        self.producer: Any = producer
        self._cls = type(producer)
        self._factory = factory
        self._timeout = timeout
        self.on_timeout: Any = on_timeout
        self.checkpoint: Any = checkpoint
        self.progress: bool | None = progress
        self.on_mismatch: Any = on_mismatch
        self._began = monotonic()
        #: What each part has written, by its number; the bytes of the small ones, and of those that came this way.
        self._entries: dict[int, Entry] = {}
        self._held = self._through = 0
        #: Of all of them: how many pairs, the bytes of each bucket, and how many pairs hot keys have, as texts.
        self._pairs = 0
        self._sizes = array("Q", bytes(8 * BUCKETS))
        self._hot: Counter[str] = Counter()
        #: True as long as all workers see the exchange.
        self._is_seen = True
        self._exchange: Exchange
        #: All entries as bytes, and their digest: a journal of the second stage holds for these only.
        self._listed = self._digest = b""

    def mapped(self, keep: Any) -> Result:
        """Run both stages; return the result."""
        with one_line_on_interrupt(self._cls.__name__):
            check_call(self.checkpoint, self.progress, self.on_mismatch)
            if self.checkpoint is None:
                self.checkpoint = automatic.checkpoint_of(self._cls.__name__)
            self._exchange = self._begun()
            try:
                rows = [row for index, found in self._stages(None) for row in self._segments(index, *found)]
                rows.sort(key=self._order)
                self._exchange.place.remove({entry.name for entry in self._entries.values() if entry.name})
            except BaseException as error:
                self._close(error)
                raise
            exchange: Exchange | None = self._exchange
            if not any(row.name for row in rows):
                self._exchange.close()
                exchange = None
            result: Result = self._result(rows, exchange)
            return result if keep is None else result.kept(keep)

    def _result(self, rows: list[SegmentRow], exchange: Exchange | None) -> Any:
        """Return the result whose segments these are."""
        cls = self._cls
        return Result(
            rows,
            exchange,
            self._exchange.state(),
            cls.KEY,
            cls.key_bytes_fn,
            is_seen=self._is_seen,
            is_trusted=self._is_trusted,
            fields=tuple(cls.reduce_fn.aggregations) if isinstance(cls.reduce_fn, Several) else (),
        )

    @property
    def _is_trusted(self) -> bool:
        """True if what workers send may be unpickled."""
        return bool(self.producer._choose().is_trusted)

    def _order(self, row: SegmentRow) -> Any:
        """Return what puts a segment in its place."""
        return row.bucket

    def written(self, sink: Sink) -> Written:
        """Run both stages; let the second write to a sink, and commit that."""
        check_sink(sink)
        sink = sink.for_a_job()
        with one_line_on_interrupt(self._cls.__name__):
            check_call(self.checkpoint, self.progress, self.on_mismatch)
            if self.checkpoint is None:
                self.checkpoint = automatic.checkpoint_of_sink(self._cls.__name__, sink)
            if (earlier := automatic.earlier_result(self.checkpoint)) is not None:
                return earlier
            if self.checkpoint is not None:
                check_unpublished(self.checkpoint)
            self._exchange = self._begun()
            try:
                sink.begin(None if self.checkpoint is None else str(self.checkpoint))
                found = stages(sink, self._sink_stage, self._factory, self.checkpoint)
                self._exchange.place.remove({entry.name for entry in self._entries.values() if entry.name})
            except BaseException as error:
                self._close(error)
                raise
            self._exchange.close()
            return found

    def _sink_stage(self, factory: DataSourceFactory, sink: Sink, checkpoint: Any) -> Iterator[Any]:
        """Run both stages for a sink; or the one that merges what it has written."""
        if sink.is_merging:
            return self._run(factory, sink, None, None)
        return (found for _, found in self._stages(sink))

    def _begun(self) -> Exchange:
        """Return a new exchange, or the one that belongs to the checkpoint."""
        return Exchange() if self.checkpoint is None else of_checkpoint(self.checkpoint)

    def _close(self, error: BaseException) -> None:
        """Remove the exchange; with errors of parts, once nobody has those any more: `replay` needs it.

        What a checkpoint keeps is there for `replay`, and free for the next call, while somebody has the error.
        """
        failed = error.exceptions if isinstance(error, PartsFailed) else (error,)
        for one in failed:
            if isinstance(one, PartFailed | PartLost) and not self._exchange.keeps:
                one.needs = self._exchange
            else:
                self._exchange.close()

    def _segments(self, index: int, name: str, data: bytes | None, rows: Sequence[Any]) -> Iterator[SegmentRow]:
        """Yield the segments that one part of the second stage has left."""
        if data is not None and len(data) > 0 and not self._is_seen:
            name, data = self._kept(data), None
        for bucket, at, length, pairs, digest in rows:
            mine = None if data is None else bytes(data[at : at + length])
            yield SegmentRow(bucket, name, 0 if mine is not None else at, length, pairs, digest, mine)

    def _kept(self, data: bytes, name: str = "") -> str:
        """Write bytes to a file of the exchange, which is here; return its name."""
        name = name or f"held-{token_hex(8)}"
        if name in self._exchange.place.names():  # of this job before it was killed
            self._exchange.place.remove([name])
        with translated(self._exchange.path):
            file = self._exchange.place.create(name)
            try:
                write_all(file, data)
                file.close()
            except BaseException:  # an interrupt too: no entry names the file, so nothing would remove it
                with suppress(Exception):  # the error matters more
                    file.close()
                    self._exchange.place.remove([name])
                raise
        return name

    # The stages

    def _stages(self, sink: Sink | None) -> Iterator[tuple[int, Any]]:
        """Run both stages; yield the number of each part of the second, and what it has kept, or a sink has written."""
        self._map(None)
        tasks = self._tasks()
        yield from self._completed(lambda wanted: self._reduce(tasks, sink, wanted))

    def _completed(
        self, run: Callable[[Sequence[int] | None], Iterator[tuple[int, str, Any]]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield what the parts of a stage have reported; map those again whose files they lack, and run the rest again.

        Args:
            run: runs the stage: all parts, or those with the given numbers.
        """
        wanted: Sequence[int] | None = None
        for last in range(_ROUNDS, -1, -1):
            lacking: dict[int, str] = {}
            unfinished = []
            for index, kind, found in run(wanted):
                if kind == "lacks":
                    lacking.update(found)
                    unfinished.append(index)
                else:
                    yield index, found
            if not lacking:
                return
            part, why = next(iter(lacking.items()))
            if not last:
                raise ExchangeError(
                    f"{self._exchange.path}: what part {part} has written is damaged again and again: {why}"
                )
            log.warning("%s: mapping %d parts again: %s", self._cls.__name__, len(lacking), why)
            self._map(lacking)
            wanted = sorted(unfinished)

    def _map(self, only: dict[int, str] | None) -> None:
        """Run the first stage; of all parts, or of those whose files are missing or damaged."""
        before = {} if only is None else {part: self._entries.pop(part) for part in only}
        self._map_side(self._factory, self._map_stage(), 0, only, self.checkpoint)
        self._compare(before)

    def _map_side(
        self, factory: DataSourceFactory, stage: Any, first: int, only: Mapping[int, str] | None, journal: Any
    ) -> None:
        """Map the data of a factory, whose parts have the numbers from `first` on among all entries."""
        given = None
        if only is not None:
            wanted = [part - first for part in only]
            given = Given(len(wanted), lambda parts: (part for part in parts if part.index in wanted))
        # Parts that are mapped again are in the journal already, as they were.
        for *fields, is_seen in self._run(factory, stage, given, journal if only is None else None):
            entry = Entry(*fields)
            self._arrived(entry._replace(part=first + entry.part), bool(is_seen), is_new=only is None)

    def _compare(self, before: Mapping[int, Entry]) -> None:
        """Compare what parts have written with what they wrote before.

        Raises:
            JobError: it is something else.
        """
        for part, entry in before.items():
            if self._entries[part].digest != entry.digest:
                raise JobError(
                    f"{self._cls.__name__}.map_fn gave other pairs for part {part} when it ran again, because what it "
                    "had written was lost: others were reduced with what it gave first. Let it depend on its records "
                    "alone (random numbers of `random` and numpy are seeded), and repeat the call"
                )

    def _map_stage(self) -> Any:
        """Return the sink of the first stage."""
        raise NotImplementedError

    def _tasks(self) -> list[Any]:
        """Return what the parts of the second stage are; report what was exchanged."""
        raise NotImplementedError

    def _task_data(self) -> Callable[[Any], tuple[Any, ...]]:
        """Return a function of a task: what its part is given."""
        raise NotImplementedError

    def _second_stage(self, sink: Sink | None) -> Any:
        """Return the sink of the second stage."""
        raise NotImplementedError

    def _reduce(
        self, tasks: Sequence[Any], sink: Sink | None, wanted: Sequence[int] | None
    ) -> Iterator[tuple[int, str, Any]]:
        """Run the second stage, of all tasks or of some; yield (number of the task, kind of the report, report)."""
        numbers = range(len(tasks)) if wanted is None else wanted
        if not numbers:
            return
        self._list_entries()
        data_of = self._task_data()

        def parts(_: Iterator[Part]) -> Iterator[Part]:
            for number in numbers:
                yield Part(number, 0, number, 1, [data_of(tasks[number])])

        journal = None
        if self.checkpoint is not None:  # a round that follows others does not recall what they lacked
            digest = self._digest if wanted is None else digest_of(self._digest + token_bytes(8), b"")
            journal = journal_of(self.checkpoint, digest)
        yield from self._run(DataSourceFactory([]), self._second_stage(sink), Given(len(numbers), parts), journal)

    def _list_entries(self) -> None:
        """Note what all parts have written, in their order; unless all of it is held, write it to the exchange."""
        if not self._all_are_held:
            self._write_held()
            self._gather_held()
        self._listed = plain.dumps([tuple(self._entries[part]) for part in sorted(self._entries)])
        self._digest = digest_of(self._listed, self._exchange.secret)

    def _gather_held(self) -> None:
        """With a checkpoint, put the entries that were held into one file, in part order, named by what it has.

        Which of them were written together depends on when they came; a later call has to find the same again.
        """
        held = [entry for _, entry in sorted(self._entries.items()) if entry.name.startswith("held-")]
        if self.checkpoint is None or not held:
            return
        place, secret = self._exchange.place, self._exchange.secret
        name = f"held-{digest_of(plain.dumps([(one.part, one.digest) for one in held]), secret).hex()}"
        try:
            data = [place.read(one.name, one.base, one.index_at + one.index_length) for one in held]
        except Damaged as damage:
            raise ExchangeError(f"{self._exchange.path} is damaged: {damage}. Repeat the call") from damage
        place.remove({one.name for one in held} - {name})
        self._kept(b"".join(data), name)
        for one, start in zip(held, accumulate(map(len, data), initial=0), strict=False):
            self._entries[one.part] = one._replace(name=name, base=start)

    def _source_of_all(self) -> Any:
        """Return all entries as a list, where they are held; else the file of the exchange that lists them."""
        if not self._is_seen or self._all_are_held:
            in_order = [self._entries[part] for part in sorted(self._entries)]
            return [tuple(self._excerpt(entry, 0, BUCKETS)) for entry in in_order]
        return self._kept(self._listed, f"parts-{self._digest.hex()}"), len(self._listed), self._digest

    def _excerpt(self, entry: Entry, low: int, high: int) -> Entry:
        """Return an entry with the bytes of some buckets in it."""
        secret = self._exchange.secret

        def read(at: int, length: int) -> bytes:
            if entry.data is not None:
                return entry.data[at : at + length]
            return self._exchange.place.read(entry.name, at, length)

        try:
            index = read(entry.base + entry.index_at, entry.index_length)
            some: list[bytes] = []
            new_index: list[bytes] = []
            for row in rows_of(entry, index, secret):
                if row.bucket < high and low < row.bucket + row.span:
                    data = bytes(checked(read(row.at, row.length), row, secret, entry.name))
                    some.append(data)
                    new_index.append(row_bytes(row.bucket, row.span, data, row.pairs, secret))
        except Damaged as damage:
            raise ExchangeError(f"{self._exchange.path} is damaged: {damage}. Repeat the call") from damage
        rows = b"".join(new_index)
        data = b"".join([*some, rows])
        return Entry(entry.part, "", data, len(data) - len(rows), len(rows), digest_of(rows, secret), b"", entry.pairs)

    @property
    def _all_are_held(self) -> bool:
        """True if all that the parts have written is in memory here."""
        return all(entry.data is not None for entry in self._entries.values())

    def _run(self, factory: DataSourceFactory, stage: Any, given: Given | None, journal: Any) -> Iterator[Any]:
        plan = self.producer._plan(factory, stage, given)
        keep = "refuse" if journal is None else self.on_mismatch
        with self.producer._runner(plan, self.left(), self.on_timeout, journal, self.progress, keep) as runner:
            try:
                yield from runner.as_finished()
            except (PartFailed, PartLost, PartsFailed) as error:
                error.add_note(f"This was in the {stage.stage or 'merge'} stage of {self._cls.__name__}.")
                raise
            except JobTimeout as error:  # the seconds of the call, and not what was left of them for this stage
                timeout = JobTimeout(self._timeout, error.done, error.total)
                timeout.add_note(f"This was in the {stage.stage or 'merge'} stage of {self._cls.__name__}.")
                raise timeout from None

    def left(self) -> float:
        """Return the seconds that are left for a stage; 0 for no time-out."""
        if not isinstance(self._timeout, int | float) or not self._timeout > 0:
            return self._timeout
        left = self._timeout - (monotonic() - self._began)
        if left <= 0 and self.on_timeout == "fail":
            raise JobTimeout(self._timeout, 0, None)
        return max(left, 0.001)

    def _arrived(self, entry: Entry, is_seen: bool, is_new: bool) -> None:
        """Note what a part has written; small entries are held, and written together."""
        if is_new:
            self._pairs += entry.pairs
            for bucket, size in enumerate(entry.sizes_of_buckets()):
                self._sizes[bucket] += size
            self._hot.update(dict(entry.hot))
        entry = entry._replace(sizes=b"", hot=())
        self._is_seen = self._is_seen and is_seen
        if entry.data is not None:
            self._held += len(entry.data) + _ENTRY
            if not is_seen:
                self._through += len(entry.data)
                if self._through > THROUGH:
                    raise ExchangeError(
                        f"{self._cls.__name__}: more than {THROUGH:,} bytes of pairs would go through the producer, "
                        f"since its workers do not see its folder: set {VARIABLE} to one that all of them share, or to "
                        "an address such as s3://bucket/exchange"
                    )
        self._entries[entry.part] = entry
        if self._held > HELD:
            self._write_held()

    def _write_held(self) -> None:
        """Write the entries that are held to one file of the exchange."""
        held = [entry for entry in self._entries.values() if entry.data is not None]
        if not held:
            return
        starts = accumulate((len(entry.data or b"") for entry in held), initial=0)
        name = self._kept(b"".join(entry.data or b"" for entry in held))
        for entry, start in zip(held, starts, strict=False):
            self._entries[entry.part] = entry._replace(name=name, data=None, base=start)
        self._held = 0

    def _report(self, partitions: Sequence[int]) -> None:
        """Report what was exchanged, from the bytes of each part of the second stage."""
        pairs, name = self._pairs, self._cls.__name__
        shares = tuple(
            (printable(key), count / pairs)
            for key, count in self._hot.most_common(3)
            if count > max(_HOT * pairs, _FEW)
        )
        for key, share in shares:
            log.warning("%s: the key %s has at least %.0f%% of the pairs", name, key, 100 * share)
        largest = max(partitions, default=0)
        self._notify(Exchanged(name, pairs, sum(partitions), len(partitions), largest, shares))

    def _notify(self, event: Event) -> None:
        notify([*self.producer._listeners, *on_terminal(self.progress)], event)


class KeyedJob(ExchangeJob):
    """One call of `map` or `write` of a keyed producer: pairs go to buckets, of which runs are reduced."""

    def _map_stage(self) -> Any:
        return MapStage(self._exchange.state())

    def _second_stage(self, sink: Sink | None) -> Any:
        return ReduceStage(self._exchange.state(), sink)

    def _tasks(self) -> list[tuple[int, int]]:
        """Return runs of buckets, of about the same size."""
        sizes, total = self._sizes, sum(self._sizes)
        wanted = self._cls.PARTITIONS or min(BUCKETS, -(-total // BYTES_A_PARTITION))
        tasks: list[tuple[int, int]] = []
        start = done = 0
        for bucket in range(BUCKETS):
            done += sizes[bucket]
            if bucket == BUCKETS - 1 or done * wanted >= total * (len(tasks) + 1):
                tasks.append((start, bucket + 1))
                start = bucket + 1
        tasks = [(low, high) for low, high in tasks if any(sizes[low:high])]
        self._report([sum(sizes[low:high]) for low, high in tasks])
        return tasks

    def _task_data(self) -> Callable[[Any], tuple[Any, ...]]:
        if not self._is_seen or self._all_are_held:
            in_order = [self._entries[part] for part in sorted(self._entries)]
            return lambda task: (*task, [tuple(self._excerpt(entry, *task)) for entry in in_order])
        source = self._source_of_all()
        return lambda task: (*task, source)
