"""The producers that a dataset compiles to: one for each kind of result, and those of groups, joins and sorts."""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import chain, compress, count, islice, repeat
from math import fsum
from operator import add, itemgetter, length_hint, ne
from threading import local
from typing import Any, ClassVar

from pymar.datasets import steps as running
from pymar.datasets.steps import Step
from pymar.keyed.producer import KeyedProducer
from pymar.producer import Producer
from pymar.slots.task import Again

#: Bytes of files that a part has at least: of small ones many parts would be empty. Of columns more, as the groups of
#: each part are put together with those of all others.
LEAST_BYTES, LEAST_BYTES_OF_COLUMNS = 64 << 10, 16 << 20
#: Records that are added at once.
_ADDED = 4_096
_INTS, _FLOATS = frozenset({int, bool}), frozenset({float, int, bool})


class Piped(Producer[Any]):
    """Runs the steps of a dataset; its records go to a sink, or are what the partials are made of."""

    STEPS: ClassVar[Sequence[Step]] = ()
    #: True if what the source yields are Arrow record batches.
    COLUMNAR: ClassVar[bool] = False
    _reduces_parts: ClassVar[bool] = False

    @classmethod
    def map_fn(cls, source: Any, /) -> Iterable[Any]:
        found: Iterable[Any] = running.piped(cls, cls.STEPS, source)
        return found

    @staticmethod
    def reduce_fn(records: Any, /) -> Any:
        return list(records)

    @classmethod
    def _least_bytes(cls) -> int:
        return LEAST_BYTES

    @classmethod
    def _reads_all(cls) -> bool:
        return running.reads_all(cls.STEPS)

    @classmethod
    def _explain(cls, error: Exception, source: Any, read: int, sink: Any) -> None:
        running.explain(cls, cls.STEPS, error, source, read)


class Counted(Piped):
    """How many records a part has."""

    @classmethod
    def reduce_fn(cls, records: Any, /) -> int:
        if cls.COLUMNAR:
            return sum(batch.num_rows for batch in records)
        counter = count()
        deque(zip(records, counter, strict=False), maxlen=0)
        return next(counter)


#: The class of which a part is computed again in this thread, as its records are not all floats that simply add up. No
#: attribute of that class: other processes would have another.
_again: local = local()


class Summed(Piped):
    """What the records of a part add up to, as `Sums`."""

    #: True if their number is wanted too.
    COUNTS: ClassVar[bool] = False

    @classmethod
    def reduce_fn(cls, records: Any, /) -> tuple[Any, ...]:
        is_careful, _again.cls = getattr(_again, "cls", None) is cls, None
        sums = Sums()
        try:
            return (sums.add(records) if is_careful else sums.add_quickly(records, cls.COUNTS)).state()
        except (OverflowError, TypeError, ValueError):
            if is_careful:
                raise
            _again.cls = cls
            raise Again from None


class Reduced(Piped):
    """The records of a part, reduced by a function of two: in a tuple, which is empty if there are none."""

    function: ClassVar[Callable[[Any, Any], Any]]

    @classmethod
    def reduce_fn(cls, records: Any, /) -> tuple[Any, ...]:
        return reduced(cls.function, records)


class Best(Piped):
    """The greatest records of a part, greatest first, or the least."""

    N: ClassVar[int] = 1
    LEAST: ClassVar[bool] = False
    key: ClassVar[Callable[[Any], Any] | None] = None

    @classmethod
    def reduce_fn(cls, records: Any, /) -> list[Any]:
        return best(records, cls.N, cls.key, cls.LEAST)


class Taken(Piped):
    """The first records of a part."""

    N: ClassVar[int] = 1

    @classmethod
    def reduce_fn(cls, records: Any, /) -> list[Any]:
        return list(islice(records, cls.N))


def reduced(function: Callable[[Any, Any], Any], records: Iterable[Any]) -> tuple[Any, ...]:
    """Return what a function of two makes of records, from left to right; of none, nothing."""
    several = iter(records)
    return tuple(reduce(function, several, first) for first in islice(several, 1))


def best(records: Iterable[Any], n: int, key: Callable[[Any], Any] | None, least: bool) -> list[Any]:
    """Return the greatest records, greatest first (or the least, least first); of equal ones, the earlier.

    A record that is NaN or None, or whose key is, comes behind all others.
    """
    several = iter(records)
    choose = heapq.nsmallest if least else heapq.nlargest
    found: list[tuple[Any, Any]] = []
    unordered: list[Any] = []
    try:
        while some := list(islice(several, _ADDED)):
            keys = some if key is None else list(map(key, some))
            pairs: Iterable[tuple[Any, Any]] = zip(keys, some, strict=True)
            if _has_unordered(keys):
                unordered += [record for one, record in zip(keys, some, strict=True) if one is None or one != one][:n]
                pairs = [(one, record) for one, record in pairs if one is not None and one == one]
            found = choose(n, chain(found, pairs), key=itemgetter(0))
    except TypeError as error:
        if key is None:
            error.add_note(
                "records that have no order need key=: a function, or the name of a column, as in key='count'"
            )
        raise
    return [record for _, record in found] + unordered[: n - len(found)]


def _has_unordered(keys: list[Any]) -> bool:
    try:
        return None in keys or any(map(ne, keys, keys))
    except ValueError:  # arrays, which have no truth
        return False


class Sums:
    """The sum of values, the same for any number of workers and on every Python.

    Ints are added exactly. Floats are added with one rounding (`math.fsum`, after Shewchuk, Discrete & Computational
    Geometry 18, 1997) for each part, and one for the sum of the parts. Anything else is added from left to right, by
    its own `+`.
    """

    def __init__(self) -> None:
        self._ints = 0
        self._has_ints = False
        self._floats: list[float] = []
        #: The sum of all others, if there are any.
        self._others: list[Any] = []
        #: How many values were added.
        self.count: int = 0

    def add(self, values: Iterable[Any]) -> Sums:
        """Add values; return this."""
        several = iter(values)
        while some := list(islice(several, _ADDED)):
            self.count += len(some)
            kinds = set(map(type, some))
            if any(kind.__module__ == "numpy" for kind in kinds):  # ints of numpy would wrap
                some = [value.item() if getattr(value, "shape", None) == () else value for value in some]
                kinds = set(map(type, some))
            if kinds <= _INTS:
                self._ints += sum(some)
                self._has_ints = True
            elif kinds <= _FLOATS:
                self._floats.append(_fsum(some))
            else:
                self._add_others(some)
        return self

    def add_quickly(self, values: Iterable[Any], counts: bool) -> Sums:
        """Add values, of which the first tells if all are taken as floats; return this. Floats are counted if `counts`.

        Raises:
            OverflowError, TypeError, ValueError: they are not, or do not add up as such: `add` has to add them anew.
        """
        several = iter(values)
        for first in several:
            if type(first) is not float:
                return self.add(chain((first,), several))
            left = repeat(True, sys.maxsize)
            floats = chain((first,), several)
            self._floats.append(fsum(compress(floats, left) if counts else floats))
            self.count += sys.maxsize - length_hint(left)
        return self

    def _add_others(self, values: Sequence[Any]) -> None:
        for value in values:
            if not hasattr(value, "__add__"):  # one alone would be the sum
                raise TypeError(f"{value!r:.100} cannot be added: it is a {type(value).__name__}")
        self._others = [reduce(add, [*self._others, *values])]

    def state(self) -> tuple[Any, ...]:
        """Return what `join` takes."""
        ints = self._ints if self._has_ints else None
        return ints, _fsum(self._floats) if self._floats else None, self._others, self.count

    def join(self, state: tuple[Any, ...]) -> None:
        """Add what another has added; its values came later."""
        ints, floats, others, number = state
        self.count += number
        if ints is not None:
            self._ints += ints
            self._has_ints = True
        if floats is not None:
            self._floats.append(floats)
        if others:
            self._add_others(others)

    def value(self) -> Any:
        """Return the sum; 0 of nothing."""
        found: Any = _fsum([*self._floats, self._ints]) if self._floats else self._ints
        if not self._others:
            return found
        return found + self._others[0] if self._has_ints or self._floats else self._others[0]


def _fsum(values: Sequence[Any]) -> float:
    try:
        return fsum(values)
    except (OverflowError, ValueError):  # infinities, or sums over the largest float: as Python adds them
        return float(sum(values))


class Grouped(KeyedProducer):
    """Groups the records of a dataset; `reduce_fn` and KEY are given."""

    STEPS: ClassVar[Sequence[Step]] = ()
    #: True if no function of the user's makes the records, so that nothing changes one later.
    FRESH: ClassVar[bool] = False
    #: True if what the source yields are Arrow record batches.
    COLUMNAR: ClassVar[bool] = False

    @classmethod
    def _least_bytes(cls) -> int:
        return LEAST_BYTES_OF_COLUMNS if cls.COLUMNAR else LEAST_BYTES

    @classmethod
    def _are_fresh(cls) -> bool:
        return cls.FRESH

    @classmethod
    def map_fn(cls, source: Any, /) -> Iterable[Any]:
        found: Iterable[Any] = running.piped(cls, cls.STEPS, source)
        return found

    @classmethod
    def _reads_all(cls) -> bool:
        return running.reads_all(cls.STEPS)

    @classmethod
    def _explain(cls, error: Exception, source: Any, read: int, sink: Any) -> None:
        if sink is not None and sink.stage == "map":
            running.explain(cls, cls.STEPS, error, source, read, last=running.Read(cls))


class Ordered(Grouped):
    """Sorts the records of a dataset."""

    key_fn: ClassVar[Callable[[Any], Any] | None] = None

    @classmethod
    def _explain(cls, error: Exception, source: Any, read: int, sink: Any) -> None:
        if sink is not None and sink.stage == "sort":
            running.explain(cls, cls.STEPS, error, source, read, last=cls.key_fn)


class Joined(KeyedProducer):
    """Joins the records of two datasets."""

    LEFT: ClassVar[Sequence[Step]] = ()
    RIGHT: ClassVar[Sequence[Step]] = ()
    #: The number of the first step of each, in errors.
    LEFT_FIRST: ClassVar[int] = 1
    RIGHT_FIRST: ClassVar[int] = 1

    @classmethod
    def _least_bytes(cls) -> int:
        return LEAST_BYTES

    @classmethod
    def left_fn(cls, source: Any, /) -> Iterable[Any]:
        """Return the records of the left side."""
        found: Iterable[Any] = running.piped(cls, cls.LEFT, source, cls.LEFT_FIRST, is_last=True)
        return found

    @classmethod
    def right_fn(cls, source: Any, /) -> Iterable[Any]:
        """Return the records of the right side."""
        found: Iterable[Any] = running.piped(cls, cls.RIGHT, source, cls.RIGHT_FIRST, is_last=True)
        return found

    @classmethod
    def _explain(cls, error: Exception, source: Any, read: int, sink: Any) -> None:
        if getattr(sink, "side", "left") == "right":
            running.explain(cls, cls.RIGHT, error, source, read, cls.RIGHT_FIRST)
        else:
            running.explain(cls, cls.LEFT, error, source, read, cls.LEFT_FIRST)


def partials_merged(n: int, key: Any, least: bool, partials: Iterator[list[Any]]) -> list[Any]:
    """Return the best records of all parts, out of the best of each, in part order."""
    found: list[Any] = []
    for some in partials:
        found = best([*found, *some], n, key, least)
    return found
