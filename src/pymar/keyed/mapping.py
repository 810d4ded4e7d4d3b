"""The first stage of a keyed job, in a worker: pairs of a part are combined, divided into buckets, and written.

Pairs are combined in a dict that leaves once it has KEYS_HELD keys. If more than half of WINDOW pairs have new keys,
a dict only costs: the next UNCOMBINED pairs of the part pass as they are; so too if of its first 4,096 pairs 99.5% have
keys of their own. All of it depends on the pairs alone.

An aggregation adds each value to the state of its key. A plain reduce_fn is called once for each key of a block that
has two or more values, the state of the blocks before among them: a first block of WINDOW pairs, then, if that paid,
of BLOCK.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import inf
from operator import itemgetter
from typing import Any

from pymar.exceptions import UsageError
from pymar.job.reduction import alike, generators_left_alone
from pymar.keyed import batches
from pymar.keyed.columns import Codec
from pymar.keyed.exchange import BucketsWriter
from pymar.keyed.keys import BUCKETS, buckets_of, by_bytes, canonical, int_buckets, unusable
from pymar.keyed.pairs import STEP, Batch, Block, blocks, is_arrow
from pymar.keyed.reduction import Reduction, chunk_bytes, few_collections, no_column

#: Keys that are combined before they leave.
KEYS_HELD = 400_000
#: Pairs that a plain reduce_fn is called for at once: the more, the fewer calls.
BLOCK = 1 << 18
#: Bytes of keys and values, about, after which they leave too.
BYTES_HELD = 32 << 20
#: Pairs over which it is seen if combining pays; and how many pass uncombined once it did not.
WINDOW = 1 << 16
UNCOMBINED = 15 * WINDOW
#: Bytes of uncombined blocks that are divided into buckets at once; a value in a list takes about so many.
_TOGETHER, _LISTED = 16 << 20, 64
#: A bucket with more than this share of a block holds a hot key, and is combined.
_HOT = 1 / 16
#: Keys of a chunk, at least, if a part has few: each costs some 10 us where it is read.
_FEW_KEYS = 32
#: Of so many pairs the key of one is sampled, to find hot keys (a prime: data often have a rhythm); and how many
#: sampled keys are kept at most.
_SAMPLED, _SAMPLES = 61, 10_000
#: Keys of which a reduce_fn is checked, and values of each.
_CHECKED, _CHECKED_VALUES = 3, 50


class Mapper:
    """Takes the pairs of one part, and writes them to their buckets. One thread at a time."""

    def __init__(self, producer: type[Any], reduction: Any, writer: BucketsWriter, codec: Codec) -> None:
        self._producer = producer
        self._reduction = reduction
        self._writer = writer
        self._codec = codec
        self._key_bytes_fn: Callable[[Any], bytes] | None = producer.key_bytes_fn
        self._states = reduction.new_states()
        self._held = 0
        self._uncombined: float = 0 if reduction.combines else inf
        self._waiting: list[tuple[Any, list[Any]]] = []
        self._waiting_size = 0
        self._seen = self._new = 0
        #: How many pairs map_fn has yielded.
        self.pairs: int = 0
        #: True if combining has paid so far.
        self._pays = False
        self._hot: Counter[Any] = Counter()
        self._is_checked = reduction.function is None or not reduction.combines

    def run(self, mapped: Any, with_care: bool) -> list[tuple[Any, int]]:
        """Write all pairs; return hot keys, each with about how many pairs it has.

        Raises:
            Changing: the part has to be mapped again, with care.
            UsageError: something else than pairs was yielded, or a key cannot be one.
        """
        with few_collections():
            return self._run(mapped, with_care)

    def _run(self, mapped: Any, with_care: bool) -> list[tuple[Any, int]]:
        name = f"{self._producer.__name__}.map_fn"
        pairs = _rows(mapped, self._producer, self._reduction)
        found = blocks(pairs, name, self._pairs_a_block, with_care, self._producer._are_fresh())
        for block in _gathered(found):
            if isinstance(block, Batch):
                self._add_batch(block.data)
            else:
                keys = self._checked_keys(block.keys, block.key_kinds)
                self.pairs += len(keys)
                self._add(keys, self._reduction.split(block.values), block.size)
        self._flush_waiting()
        self._flush_states(is_last=True)
        return [(key, count * _SAMPLED) for key, count in self._hot.most_common(3)]

    def _sample(self, keys: Any) -> None:
        """Sample the keys of pairs that are not combined: hot ones are reported."""
        some = keys[self.pairs % _SAMPLED :: _SAMPLED]
        try:
            self._hot.update(some if isinstance(some, list) else some.tolist() if len(some) else ())
        except TypeError:  # a key without a hash: an error, once it is looked at
            return
        if len(self._hot) > _SAMPLES:
            self._hot = Counter(dict(self._hot.most_common(_SAMPLES // 10)))

    def _pairs_a_block(self) -> int:
        if self._reduction.function is None or self._uncombined:
            return STEP  # they are taken while they are in the processor's cache
        return BLOCK if self._pays else WINDOW

    def _checked_keys(self, keys: Any, kinds: set[type] | None = None) -> Any:
        if self._key_bytes_fn is not None:
            return by_bytes(self._key_bytes_fn, keys)
        return canonical(keys, kinds)

    def _add(self, keys: Any, columns: list[Any], size: int = 0) -> None:
        if not self._uncombined and not self._seen and not self._states[0] and self._are_different(keys):
            self._uncombined = UNCOMBINED
        if self._uncombined:
            self._uncombined = max(0, self._uncombined - len(keys))
            self._wait(keys, columns, size)
            return
        self._flush_waiting()
        states = self._states
        before = len(states[0])
        try:
            self._check_closed(keys, columns)
            self._reduction.combine(states, keys, columns)
        except TypeError:
            for key in keys:
                try:
                    hash(key)
                except TypeError:
                    raise unusable(key) from None
            raise
        self._held += size + (_LISTED * len(keys) if self._reduction.grows else 0)
        self._combined(len(keys), len(states[0]) - before)

    def _are_different(self, keys: Any) -> bool:
        """True if so many keys of a first block are different that combining will not pay."""
        if len(keys) < STEP:
            return False
        try:
            different = len(set(keys))
        except TypeError:  # a key without a hash
            return False
        # Of few pairs, nearly all have to be: then there are so many keys that of WINDOW most would be new.
        return different * 2 > len(keys) if len(keys) >= WINDOW else different * 200 >= len(keys) * 199

    def _combined(self, pairs: int, new: int) -> None:
        """Note that pairs were combined, of which some had new keys; let states leave if they are many."""
        self._seen += pairs
        self._new += new
        if self._seen >= WINDOW:
            self._pays = self._new * 2 <= self._seen
            if not self._pays:
                self._flush_states()
                self._uncombined = UNCOMBINED
            self._seen = self._new = 0
        if len(self._states[0]) >= KEYS_HELD or self._held >= BYTES_HELD:
            self._flush_states()

    def _add_batch(self, data: Any) -> None:
        """Add columns of numpy or Arrow: as columns where that is possible, else as lists."""
        found = batches.read(data, self._producer, self._reduction)
        if not found.length:
            return
        self.pairs += found.length
        combines = not self._uncombined
        self._uncombined = max(0, self._uncombined - found.length)
        if combines and self._key_bytes_fn is None:
            combined = batches.combined(found, self._reduction)
            if combined is not None:
                self._flush_waiting()
                keys, states = combined
                keys = canonical(keys)
                before = len(self._states[0])
                for one, mine, others in zip(self._reduction.aggregations, self._states, states, strict=True):
                    one._join(mine, keys, others)
                self._combined(found.length, len(self._states[0]) - before)
                return
            self._add(self._checked_keys(found.key_list()), found.value_lists(), found.size)
            return
        self._flush_states()
        self._wait(self._keys_of(found), found.value_columns(), found.size)

    def _keys_of(self, found: batches.Columns) -> Any:
        if self._key_bytes_fn is None and batches.is_int64(found.keys):
            return found.keys
        return self._checked_keys(found.key_list())

    def _flush_states(self, is_last: bool = False) -> None:
        if not self._states[0]:
            return
        keys = list(self._states[0])
        columns = [list(mine.values()) for mine in self._states]
        self._states = self._reduction.new_states()
        self._held = 0
        if is_last and self._writer.is_empty and len(keys) < _FEW_KEYS * BUCKETS:
            self._write_few(keys, columns)
        else:
            self._divide(False, keys, columns)

    def _write_few(self, keys: list[Any], columns: list[Any]) -> None:
        """Write the few keys of a part in fewer chunks: each has those of several neighbouring buckets."""
        span = BUCKETS
        while span > 1 and len(keys) * span >= 2 * _FEW_KEYS * BUCKETS:
            span //= 2
        places: list[list[int]] = [[] for _ in range(0, BUCKETS, span)]
        for place, bucket in enumerate(buckets_of(keys)):
            places[bucket // span].append(place)
        for number, mine in enumerate(places):
            if mine:
                some = [[column[place] for place in mine] for column in columns]
                data = chunk_bytes(False, [keys[place] for place in mine], some, self._codec)
                self._writer.write([(number * span, span, data, len(mine))])

    def _wait(self, keys: Any, columns: list[Any], size: int = 0) -> None:
        """Keep an uncombined block until several are divided into buckets together."""
        self._sample(keys)
        self._waiting.append((keys, columns))
        self._waiting_size += size
        for column in (keys, *columns):
            self._waiting_size += len(column) * (_LISTED if isinstance(column, list) else 8)
        if self._waiting_size >= _TOGETHER:
            self._flush_waiting()

    def _flush_waiting(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting, self._waiting_size = self._waiting, [], 0
        keys, columns = waiting[0]
        if len(waiting) > 1:
            keys = _concatenated([keys for keys, _ in waiting])
            columns = [_concatenated([columns[place] for _, columns in waiting]) for place in range(len(columns))]
        self._divide(True, keys, columns)

    def _divide(self, is_raw: bool, keys: Sequence[Any], columns: Sequence[Sequence[Any]]) -> None:
        """Write keys and columns to their buckets; in each, they stay in order."""
        keys = batches.as_array(keys)
        columns = [batches.as_array(column) for column in columns]
        write, codec = self._writer.add, self._codec
        for bucket, some_keys, some_columns in divided(keys, columns):
            raw = is_raw
            if is_raw and self._reduction.combines and len(some_keys) > max(64, _HOT * len(keys)):
                raw, some_keys, some_columns = self._combined_bucket(some_keys, some_columns)
            write(bucket, chunk_bytes(raw, some_keys, some_columns, codec), len(some_keys))
        self._writer.write_if_large()

    def _combined_bucket(self, keys: Any, columns: Any) -> tuple[bool, list[Any], list[list[Any]]]:
        """Combine the pairs of a bucket that has too many of a block: the values of a hot key become one."""
        keys = keys.tolist() if not isinstance(keys, list) else keys
        columns = [column if isinstance(column, list) else column.tolist() for column in columns]
        states = self._reduction.new_states()
        self._check_closed(keys, columns)
        self._reduction.combine(states, keys, columns)
        return False, list(states[0]), [list(mine.values()) for mine in states]

    def _check_closed(self, keys: list[Any], columns: list[list[Any]]) -> None:
        """Refuse a reduce_fn that gives something else for its own results than for all values at once.

        It is not refused if it raises, or if its values cannot be compared, are random or depend on the time.

        Raises:
            UsageError: it does; the message has both values.
        """
        if self._is_checked:
            return
        groups: dict[Any, list[Any]] = {}
        for key, value in zip(keys, columns[0], strict=True):
            several = groups.setdefault(key, [])
            if len(several) < _CHECKED_VALUES:
                several.append(value)
        function: Any = self._producer.reduce_fn
        large = sorted((one for one in groups.items() if len(one[1]) > 1), key=lambda one: -len(one[1]))[:_CHECKED]
        # Two values show less than three: a mean of means of two is right as long as no third comes.
        self._is_checked = bool(large) and len(large[0][1]) > 2
        with generators_left_alone():
            for key, several in large:
                # At least two of them, if there are three: of one alone, most functions return that.
                first = (len(several) + 1) // 2
                for some in (first, len(several)):
                    try:
                        whole = function(key, _own(several))
                        again = function(key, _own(several))
                        parts = function(key, [function(key, _own(several[:some])), *_own(several[some:])])
                        differs = alike(whole, parts) is False and alike(whole, again) is True
                    except Exception:  # the job's own call will raise it
                        self._is_checked = True
                        return
                    if differs:
                        others = f"the first {some} with the others" if some < len(several) else "them"
                        raise UsageError(
                            f"{self._producer.__name__}.reduce_fn gives {whole!r:.200} for all {len(several)} values "
                            f"of the key {key!r:.100}, and {parts!r:.200} for its own result of {others}: it runs on "
                            "each part, and again over what it returned there. Return what can be reduced again (a "
                            "sum and a count for a mean, and divide in finish_fn), or set COMBINE = False, which gives "
                            "it all values at once"
                        )


def _concatenated(columns: list[Any]) -> Any:
    """Return columns one behind the other: an array if all are of one type."""
    kinds = {getattr(column, "typecode", str(getattr(column, "dtype", ""))) for column in columns}
    if len(kinds) > 1:
        columns = [column if isinstance(column, list) else column.tolist() for column in columns]
    elif not isinstance(columns[0], list | array):
        return sys.modules["numpy"].concatenate(columns)
    whole = columns[0][:]
    for column in columns[1:]:
        whole += column
    return whole


def _own(values: list[Any]) -> list[Any]:
    """Return a copy: a reduce_fn may change what it is given."""
    from copy import deepcopy

    return deepcopy(values)


def divided(keys: Any, columns: Sequence[Any]) -> Iterator[tuple[int, Any, list[Any]]]:
    """Yield each bucket that occurs, with its keys and its columns, each in order."""
    numpy = batches.numpy_if_there()
    if numpy is None:
        yield from _divided_in_python(keys, columns)
        return
    if isinstance(keys, list):
        buckets = numpy.frombuffer(buckets_of(keys), numpy.uint8)
    elif batches.is_int64(keys):
        buckets = int_buckets(numpy, keys)
    else:
        buckets = numpy.frombuffer(buckets_of(keys.tolist()), numpy.uint8)
    order = numpy.argsort(buckets, kind="stable")
    ends = numpy.cumsum(numpy.bincount(buckets, minlength=BUCKETS)).tolist()
    taker: Any = None
    sorted_columns = []
    for column in (keys, *columns):
        if isinstance(column, list):
            if taker is None:
                taker = itemgetter(*order.tolist()) if len(order) > 1 else tuple
            sorted_columns.append(taker(column))
        else:
            sorted_columns.append(column[order])
    start = 0
    for bucket, end in enumerate(ends):
        if end > start:
            first, *others = [
                list(column[start:end]) if isinstance(column, tuple) else column[start:end] for column in sorted_columns
            ]
            yield bucket, first, others
        start = end


def _divided_in_python(keys: Any, columns: Sequence[Any]) -> Iterator[tuple[int, Any, list[Any]]]:
    """Do the same without numpy."""
    buckets = buckets_of(keys)
    found: list[list[Any]] = []
    for column in (keys, *columns):
        mine = [column[:0] for _ in range(BUCKETS)]
        appends = [one.append for one in mine]
        for bucket, value in zip(buckets, column, strict=True):
            appends[bucket](value)
        found.append(mine)
    for bucket, some_keys in enumerate(found[0]):
        if some_keys:
            yield bucket, some_keys, [mine[bucket] for mine in found[1:]]


def _gathered(found: Iterable[Block | Batch]) -> Iterator[Block | Batch]:
    """Yield blocks and batches; Arrow tables that follow each other are put together."""
    for are_arrow, several in groupby(found, lambda one: isinstance(one, Batch) and is_arrow(one.data)):
        if are_arrow:
            yield from map(Batch, batches.together(batches.as_table(one.data) for one in several))  # type: ignore[union-attr]
        else:
            yield from several


def _rows(mapped: Any, producer: type[Any], reduction: Reduction) -> Any:
    """Return what map_fn yields as pairs: of rows, the key columns and those that the aggregations read."""
    names = producer.KEY
    read = reduction.reader()
    if (names is None and read is None) or batches.is_batch(mapped):
        return mapped
    return _pairs_of_rows([mapped] if isinstance(mapped, Mapping) else mapped, names, read, reduction)


def _pairs_of_rows(records: Iterable[Any], names: Any, read: Any, reduction: Reduction) -> Iterator[Any]:
    wanted = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    key_of = itemgetter(*wanted) if wanted else None
    width = len(names) if isinstance(names, tuple) else 0
    for record in records:
        is_pair = width and type(record) is tuple and len(record) == 2 and not batches.is_batch(record)
        if is_pair and not (isinstance(record[0], tuple) and len(record[0]) == width):
            raise UsageError(
                f"map_fn yielded the pair {record!r:.100}, and KEY is {names!r}: the key of a pair is a tuple of "
                f"{width} then; or yield rows, which are mappings"
            )
        if key_of is not None and isinstance(record, Mapping):
            try:
                yield key_of(record), record if read is None else read(record)
            except KeyError as error:
                raise no_column("KEY", wanted, record) from error
        elif read is not None and isinstance(record, tuple) and len(record) == 2 and not batches.is_batch(record):
            yield record[0], read(record[1])
        elif read is not None and isinstance(record, Mapping):
            for key, value in record.items():
                yield key, read(value)
        else:
            yield record
