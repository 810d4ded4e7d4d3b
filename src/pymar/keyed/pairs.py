"""What map_fn yields, as blocks of pairs: pairs, mappings, pairs of numpy arrays, Arrow tables and record batches.

A block has a given number of pairs at most, or about BYTES_A_BLOCK of texts; a batch is a block of its own. Where
blocks begin depends on the pairs alone: what a reduce_fn is called with depends on it.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain, islice
from typing import Any, NamedTuple, Union

from pymar.exceptions import UsageError

BYTES_A_BLOCK = 8 << 20
#: How many pairs are asked for at once, at most: many enough that Python's loops run in C, few enough to stop in time.
STEP = 1 << 12

#: A column: an array if all are ints of 64 bits, or all floats; and the codes of such arrays.
Column = Union[list[Any], "array[Any]"]
_CODES = {int: "q", float: "d"}

_SIZELESS = frozenset({int, float, bool, type(None), complex})
_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex, type(...), range})
#: Other types that never change, by module and name.
_NEVER_CHANGE = frozenset(
    {("decimal", "Decimal"), ("fractions", "Fraction"), ("uuid", "UUID")}
    | {("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")}
)


class Changing(Exception):
    """Raised if a value that can change comes among values that cannot: the part is mapped again, with care."""


class Block(NamedTuple):
    """Some pairs: a column of keys and one of values, of the same length."""

    keys: Column
    values: Column
    key_kinds: set[type]
    """The types of the keys."""
    size: int
    """Bytes of texts and the like among them, about."""


class Batch(NamedTuple):
    """Columns of Arrow or numpy, as they were yielded."""

    data: Any


class _Waiting:
    """The pairs of the block that is being filled."""

    def __init__(self, pairs_a_block: Callable[[], int]) -> None:
        self._pairs_a_block = pairs_a_block
        #: How many it has at most.
        self.pairs: int = pairs_a_block()
        self.keys: Column = []
        self.values: Column = []
        self._kinds: set[type] = set()
        #: Bytes of texts and the like among them.
        self.size = 0

    @property
    def is_full(self) -> bool:
        return len(self.keys) >= self.pairs or self.size >= BYTES_A_BLOCK

    def add(self, keys: Sequence[Any], values: Sequence[Any], is_careful: bool, are_fresh: bool = False) -> int:
        """Add pairs; return how many bytes of texts and the like they have.

        Raises:
            Changing: a value can change, and `is_careful` is false; otherwise it is copied.
        """
        kinds, value_kinds = _kinds_of(keys), _kinds_of(values)
        if not are_fresh and not (_are_settled(keys, kinds) and _are_settled(values, value_kinds)):
            if not is_careful:
                raise Changing
            keys, values = _copied(keys), _copied(values)
        self._kinds |= kinds
        size = _size(keys, kinds) + _size(values, value_kinds)
        self.keys = _joined(self.keys, keys, kinds)
        self.values = _joined(self.values, values, value_kinds)
        self.size += size
        return size

    def block(self) -> Block:
        """Return the pairs; `begin` has to follow once they are used."""
        return Block(self.keys, self.values, self._kinds, self.size)

    def begin(self) -> None:
        """Begin a new block."""
        self.keys, self.values, self._kinds, self.size = [], [], set(), 0
        self.pairs = self._pairs_a_block()


def _kinds_of(values: Sequence[Any]) -> set[type]:
    """Return the types of values; in half the time of a set, if all are of one type."""
    kinds = list(map(type, values))
    first = kinds[0]
    return {first} if kinds.count(first) == len(kinds) else set(kinds)


def _joined(column: Column, new: Sequence[Any], kinds: set[type]) -> Column:
    """Return a column with new values behind it: an array as long as all are ints of 64 bits, or all floats."""
    code = _CODES.get(next(iter(kinds))) if len(kinds) == 1 else None
    if code is not None:
        if not column:
            column = array(code)
        if isinstance(column, array) and column.typecode == code:
            try:
                column.frombytes(struct.pack(f"{len(new)}{code}", *new))  # in half the time of `fromlist`
                return column
            except struct.error:  # past 64 bits
                pass
    if isinstance(column, array):
        column = column.tolist()
    column += new
    return column


def blocks(
    mapped: Any, name: str, pairs_a_block: Callable[[], int], with_care: bool = False, are_fresh: bool = False
) -> Iterator[Block | Batch]:
    """Yield the pairs of a part, block by block. A block is used up before the next one is asked for.

    Values that can change are copied as they come: a map_fn may yield one list again and again, each time changed.
    To look at each value costs time, so values that cannot change are taken many at once.

    Args:
        name: of map_fn, for errors.
        pairs_a_block: asked how many pairs the next block has at most.
        with_care: take the pairs one by one.
        are_fresh: nothing changes a value once it is yielded: none is looked at or copied.

    Raises:
        Changing: without `with_care`, a value that can change came among others.
        UsageError: something else than pairs was yielded.
    """
    if isinstance(mapped, Mapping) or _is_batch(mapped):
        mapped = (mapped,)
    records = iter(mapped)
    waiting = _Waiting(pairs_a_block)
    step = 1
    while several := list(islice(records, min(step, waiting.pairs - len(waiting.keys)))):
        count = len(several)
        record = several[0]
        if _kinds_of(several) == {tuple} and len(record) == 2 and not _is_batch(record):
            try:
                keys, values = zip(*several, strict=True)
            except ValueError:  # they have other lengths
                raise Changing from None
            added = waiting.add(keys, values, count == 1, are_fresh)
            more = min(4 * step, STEP, max(1, BYTES_A_BLOCK // 4 * count // (added + 1)))
            is_settled = count > 1 or are_fresh or _are_settled(record, set(map(type, record)))
            step = 1 if with_care or not is_settled else more
        elif count > 1:
            raise Changing
        else:
            step = 1
            if _is_batch(record):
                if waiting.keys:
                    yield waiting.block()
                    waiting.begin()
                yield Batch(record)
            elif isinstance(record, Mapping):
                items = iter(record.items())
                while found := list(islice(items, min(STEP, waiting.pairs - len(waiting.keys)))):
                    keys, values = zip(*found, strict=True)
                    waiting.add(keys, values, True)
                    if waiting.is_full:
                        yield waiting.block()
                        waiting.begin()
            else:
                key, value = _pair(record, name)
                waiting.add([key], [value], True)
        if waiting.is_full:
            yield waiting.block()
            waiting.begin()
    if waiting.keys:
        yield waiting.block()


def _pair(record: Any, name: str) -> tuple[Any, Any]:
    """Return the key and the value of a record that is no plain tuple of two.

    Raises:
        UsageError: it is no pair.
    """
    if isinstance(record, tuple | list) and len(record) == 2:
        return record[0], record[1]
    raise UsageError(
        f"{name} yielded {record!r:.200}, and has to yield pairs (key, value), mappings, pairs of numpy arrays, or "
        f"Arrow tables{_remedy(record)}"
    )


def _remedy(record: Any) -> str:
    if isinstance(record, tuple | list) and len(record) > 2:
        return f": of {len(record)} values, make a pair: (key, (value, ...)) or ((key, ...), value)"
    if isinstance(record, str):
        return ": to count texts, yield text, 1"
    return ""


def _is_batch(record: Any) -> bool:
    """True for an Arrow table or record batch, and for a pair of numpy arrays."""
    if type(record) is tuple:
        return len(record) == 2 and is_array(record[0]) and is_array(record[1])
    return is_arrow(record)


def is_array(value: Any) -> bool:
    """True for an array of numpy that has a dimension."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.ndim > 0


def is_arrow(value: Any) -> bool:
    """True for an Arrow table or record batch."""
    pyarrow = sys.modules.get("pyarrow")
    return pyarrow is not None and isinstance(value, pyarrow.Table | pyarrow.RecordBatch)


#: What is known of types: True if their values never change.
_known: dict[type, bool] = {}


def _never_changes(kind: type) -> bool:
    found = _known.get(kind)
    if found is None:
        numpy = sys.modules.get("numpy")
        found = (kind.__module__, kind.__qualname__) in _NEVER_CHANGE or (
            numpy is not None and issubclass(kind, numpy.generic) and not issubclass(kind, numpy.void)
        )
        if len(_known) < 10_000:
            _known[kind] = found
    return found


def _are_settled(values: Sequence[Any], kinds: set[type]) -> bool:
    """True if no value can change: scalars, and tuples of them, however deep."""
    if kinds <= _ATOMS:
        return True
    while tuple in kinds:
        if kinds == {tuple}:
            values = list(chain.from_iterable(values))
        else:
            values = [inner for value in values for inner in (value if type(value) is tuple else (value,))]
        kinds = set(map(type, values))
    return all(kind in _ATOMS or _never_changes(kind) for kind in kinds)


def _copied(values: Sequence[Any]) -> list[Any]:
    """Return values of which those that can change are copies."""
    return [value if _are_settled((value,), {type(value)}) else _copy(value) for value in values]


def _copy(value: Any) -> Any:
    try:
        return deepcopy(value)
    except Exception as error:
        raise UsageError(
            f"map_fn yielded {value!r:.100} as a key or a value, or within one, which cannot be copied or sent to "
            f"another process: {error}. Yield plain data, such as list(...) of a generator"
        ) from error


def _size(values: Sequence[Any], kinds: set[type]) -> int:
    """Return about how many bytes of texts, arrays and containers these values have."""
    if kinds <= _SIZELESS:
        return 0
    step = 64 if len(values) > 1_000 else 8 if len(values) > 64 else 1  # of many, some are looked at
    some = values[::step]
    try:
        return step * sum(map(len if kinds <= {str, bytes} else _size_of, some))
    except RecursionError:  # a value holds itself
        return 0


def _size_of(value: Any) -> int:
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, tuple | list | set | frozenset):
        return 16 + 8 * len(value) + sum(map(_size_of, islice(value, 1_000))) * max(1, len(value) // 1_000)
    if isinstance(value, Mapping):
        return (
            16
            + 16 * len(value)
            + _size_of(tuple(islice(value, 1_000)))
            + _size_of(tuple(islice(value.values(), 1_000)))
        )
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0
