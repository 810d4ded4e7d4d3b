"""The steps of a dataset where they run: in a worker, as iterators one around the other.

A class that a dataset compiles to has them as plain data, `[kind, name of the function, detail]`, and its functions as
static ones. Iterators of Python's own (map, filter, chain) call them, so a step costs what `map` does. If one raises,
the record that was read last is run through the steps once more, one at a time, to find which it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from itertools import chain, compress, islice, repeat
from operator import itemgetter
from random import Random
from typing import Any

from pymar.exceptions import UsageError
from pymar.keyed.reduction import no_column
from pymar.serialization.composed import is_step
from pymar.slots.failures import shown
from pymar.slots.task import INTERRUPTED

#: A step: its kind, the attribute that has its function ("" if it has none), and its detail, plain data.
Step = Sequence[Any]

_END = object()
#: Records that are counted at once, and keys that are held: Counter is fastest with many, and has to fit into memory.
_COUNTED, _KEYS = 1 << 14, 1 << 18
#: Values of one record that are looked at, at most, to find the step that failed.
_LOOKED_AT = 1_000


class Columns:
    """Takes columns out of a record (a mapping): the value of one name, or a tuple of those of several. A key."""

    def __init__(self, names: str | Sequence[str]) -> None:
        self.names: str | list[str] = names if isinstance(names, str) else list(names)

    def __getstate__(self) -> dict[str, Any]:
        return {"names": self.names}

    def __call__(self, record: Any) -> Any:
        names = self.names
        try:
            return record[names] if isinstance(names, str) else tuple([record[name] for name in names])
        except (KeyError, TypeError, IndexError) as error:
            raise no_column("the key", [names] if isinstance(names, str) else names, record) from error


class _Field:
    """Takes the value of a column out of a record: of a mapping, or an attribute of another."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, record: Any) -> Any:
        try:
            return record[self._name] if isinstance(record, Mapping) else getattr(record, self._name)
        except (KeyError, AttributeError) as error:
            raise no_column("the aggregation", [self._name], record) from error


class Read:
    """Takes out of a record all columns that a job of rows reads, to find the one that is missing."""

    def __init__(self, producer: type[Any]) -> None:
        from pymar.keyed.reduction import Reduction

        names = producer.KEY
        self._key = None if names is None else Columns(names)
        self._columns = [column for column in Reduction(producer).columns if isinstance(column, str)]

    def __call__(self, record: Any) -> None:
        if self._key is not None:
            self._key(record)
        value = record if self._key is not None else record[1]
        for column in self._columns:
            Columns(column)(value) if isinstance(value, Mapping) else getattr(value, column)


class Several:
    """A key of several functions or columns: the tuple of what each gives."""

    def __init__(self, keys: Sequence[Callable[[Any], Any]]) -> None:
        self.keys: list[Callable[[Any], Any]] = list(keys)

    def __call__(self, record: Any) -> tuple[Any, ...]:
        return tuple([key(record) for key in self.keys])


class Folded:
    """A reduce_fn of a key and its values, made of a function of two."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function: Callable[[Any, Any], Any] = function

    def __call__(self, key: Any, values: Iterable[Any]) -> Any:
        return reduce(self.function, values)


def piped(cls: type[Any] | None, steps: Sequence[Step], source: Any, first: int = 1, is_last: bool = False) -> Any:
    """Return the records of a source, as the steps make them.

    An iterator ends if a function that it calls raises StopIteration: that would lose records in silence. Whoever runs
    a job sees to it that a source was read to its end (slots.task); here it is seen to where that is not possible.

    Args:
        first: the number of the first step, for errors.
        is_last: True if nobody else sees to it.

    Raises:
        RuntimeError: from the iterator: a function has raised StopIteration, as in a generator (PEP 479).
    """
    records: Any = source
    end: Iterator[Any] | None = None
    if steps and (is_last or not reads_all(steps)):
        records = _Chained(source, end := _nothing())
    for number, (kind, name, detail) in enumerate(steps, first):
        function = _function_of(cls, name)
        if kind == "map_parts":
            records = chain(records, _checked(end))
        records = KINDS[kind](function, records, detail, Where(number, kind, source))
        if kind == "map_parts":  # it may end before what it was given
            records = chain(records, end := _nothing())
    return records if end is None else chain(records, _checked(end))


def _function_of(cls: Any, name: str) -> Any:
    """Return the function of a step; None if it has none. No other attribute: steps may come in a message."""
    if name and not is_step(name):
        raise UsageError(f"{name!r:.100} is no function of a step")
    return getattr(cls, name) if name else None


class _Chained:
    """The records of a source, and behind them an iterator that is finished once they have ended."""

    def __init__(self, source: Any, end: Iterator[Any]) -> None:
        self._source = source
        self._end = end

    def __iter__(self) -> Iterator[Any]:
        return chain(self._source, self._end)


def _nothing() -> Iterator[Any]:
    yield from ()


def _checked(end: Any) -> Iterator[Any]:
    if end.gi_frame is not None:
        raise RuntimeError(INTERRUPTED)
    yield from ()


def reads_all(steps: Sequence[Step]) -> bool:
    """True if the steps end only with their source: a function that takes an iterator may end before."""
    return all(kind != "map_parts" for kind, _, _ in steps)


class Where:
    """Which step it is, and of which part."""

    def __init__(self, number: int, kind: str, source: Any) -> None:
        self.number = number
        self.kind = kind
        self.source = source

    def __str__(self) -> str:
        return f"in step {self.number}, {self.kind}"


def _map(function: Any, records: Any, detail: Any, where: Where) -> Any:
    return map(function, records)


def _filter(function: Any, records: Any, detail: Any, where: Where) -> Any:
    return filter(function, records)


def _flat_map(function: Any, records: Any, detail: Any, where: Where) -> Any:
    def several(record: Any) -> Any:
        found = function(record)
        if type(found) is not list:  # which most are; to look at each costs 40 ns
            _check_iterable(found, where)
        return found

    return chain.from_iterable(map(several, records))


def _map_parts(function: Any, records: Any, detail: Any, where: Where) -> Any:
    found = function(iter(records))
    _check_iterable(found, where)
    return found


def _check_iterable(found: Any, where: Where) -> None:
    if isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping):
        return
    what = f"the {type(found).__name__} {shown(found)}" if found is not None else "None"
    letters = ", and its letters would be the records" if isinstance(found, str) else ""
    remedy = "return [value] for one" if found is not None else "return [] for no records, or yield them"
    raise UsageError(f"{where}: the function returned {what}{letters}. It has to return an iterable: {remedy}")


def _sample(function: Any, records: Any, detail: Any, where: Where) -> Any:
    # A stream of its own for each step and part, so that what users draw from `random` is not changed by it.
    drawn = Random(f"{where.source.part_seed} {where.number}").random
    fraction = float(detail)
    return compress(records, iter(lambda: drawn() < fraction, None))


def _pairs(function: Any, records: Any, detail: Any, where: Where) -> Any:
    """Yield (key, record); with a detail, which is the name or the place of a column, that in place of the record."""
    key_of = _itself if function is None else function
    if detail is None:
        return ((key_of(record), record) for record in records)
    if type(detail) is int:
        return ((key_of(record), record[detail]) for record in records)
    value_of = _Field(detail)
    return ((key_of(record), value_of(record)) for record in records)


def _itself(record: Any) -> Any:
    return record


def _joined(function: Any, records: Any, detail: Any, where: Where) -> Any:
    """Yield (key, record); without a function, the records, which have to be pairs."""
    if function is not None:
        return _pairs(function, records, detail, where)

    def pair(record: Any) -> Any:
        if isinstance(record, tuple | list) and len(record) == 2:
            return record if type(record) is tuple else tuple(record)
        what = "a row: say on='name', the column of the key" if isinstance(record, Mapping) else "none: say on="
        raise UsageError(f"{where}: without on= it takes pairs (key, value), and {shown(record)} is {what}")

    return map(pair, records)


def _keys(function: Any, records: Any, detail: Any, where: Where) -> Any:
    """Yield (key, 1), of keys that were counted before."""
    records = iter(records) if function is None else map(function, records)
    return chain.from_iterable(_counted(records))


def _counted(keys: Iterator[Any]) -> Iterator[Iterable[Any]]:
    keys = chain(keys)  # unlike `map`, it stays at its end
    counts: Counter[Any] = Counter()
    while some := list(islice(keys, _COUNTED)):
        try:
            counts.update(some)
        except TypeError:  # a key without a hash: whoever takes the pairs says which
            yield zip(some, repeat(1))
        if len(counts) >= _KEYS:
            yield counts.items()
            counts = Counter()
    yield counts.items()


def _rows(function: Any, records: Any, detail: Any, where: Where) -> Any:
    """Yield rows (dicts) of pairs: the columns of the key, and those of the value."""
    names, fields = detail
    return map(_Row(names, fields), records)


class _Row:
    def __init__(self, names: Sequence[str], field: str) -> None:
        self._names = names
        self._field = field

    def __call__(self, pair: tuple[Any, Any]) -> dict[str, Any]:
        key, value = pair
        row = {self._names[0]: key} if len(self._names) == 1 else dict(zip(self._names, key, strict=True))
        return {**row, **value} if not self._field else {**row, self._field: value}


#: Stands at the head of the key of a dict, and of a tuple that begins with it.
_DICT = "a dict of"


def _distinct(function: Any, records: Any, detail: Any, where: Where) -> Any:
    """Yield (key, order) for records: keys are equal if the records are, and the order is that of a dict's items."""
    return chain.from_iterable(_each_once(chain(records)))


def _each_once(records: Iterator[Any]) -> Iterator[Iterable[Any]]:
    seen: dict[Any, Any] = {}
    keyed = _Keyed()
    while some := list(islice(records, _COUNTED)):
        if not {dict, tuple} & {*map(type, some)}:
            with suppress(TypeError):
                seen.update(dict.fromkeys(some))
                some = []
        for record in some:
            key, order = keyed(record)
            try:
                seen.setdefault(key, order)
            except TypeError:  # it has no hash: whoever takes the pairs says so
                yield [(record, None)]
        if len(seen) >= _KEYS:
            yield seen.items()
            seen = {}
    yield seen.items()


class _Keyed:
    """Makes (key, order) of records. Dicts are equal whatever the order of their items, and keep that of the first."""

    def __init__(self) -> None:
        #: By the names of a dict: the same, sorted.
        self._sorted: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def __call__(self, record: Any) -> tuple[Any, Any]:
        if type(record) is dict:
            names = tuple(record)
            order = self._sorted.get(names) or self._sorted.setdefault(names, _in_order(names))
            key = (_DICT, order, *map(record.__getitem__, order))
            return key, names
        if type(record) is tuple and record and type(record[0]) is str and record[0] == _DICT:
            return (_DICT, None, record), ()
        return record, None


def _in_order(names: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the names of a dict in an order that is the same for equal ones."""
    try:
        return tuple(sorted(names))
    except TypeError:  # of several types
        from pymar.keyed.keys import bucket_of

        return tuple(sorted(names, key=bucket_of))


def _records(function: Any, records: Any, detail: Any, where: Where) -> Any:
    """Yield the records that `_distinct` made keys of."""
    return map(_record, records)


def _record(pair: tuple[Any, Any]) -> Any:
    key, names = pair
    if names is None:
        return key
    if key[1] is None:
        return key[2]
    made = dict(zip(key[1], key[2:], strict=True))
    return made if names == key[1] else {name: made[name] for name in names}


def _values(function: Any, records: Any, detail: Any, where: Where) -> Any:
    """Yield the values of pairs."""
    return map(itemgetter(1), records)


def _as_rows(function: Any, records: Any, detail: Any, where: Where) -> Any:
    """Yield records as rows, for what takes nothing else."""
    return map(as_row, records)


def as_row(record: Any) -> Any:
    """Return a record as a row: a mapping as it is, a pair as "key" and "value", another as "value"."""
    if isinstance(record, Mapping):
        return record
    if isinstance(record, tuple) and len(record) == 2:
        key, value = record
        if isinstance(value, dict) and "key" in value:
            raise UsageError(f"{shown(record)} is a pair whose value has a column 'key' too: map it to a row")
        return {"key": key, **(value if isinstance(value, dict) else {"value": value})}
    return {"value": record}


KINDS: dict[str, Callable[[Any, Any, Any, Where], Any]] = {
    "map": _map,
    "filter": _filter,
    "flat_map": _flat_map,
    "map_parts": _map_parts,
    "sample": _sample,
    "group_by": _pairs,
    "join": _joined,
    "count": _keys,
    "rows": _rows,
    "distinct": _distinct,
    "records": _records,
    "values": _values,
    "as_rows": _as_rows,
}


def explain(
    cls: type[Any],
    steps: Sequence[Step],
    error: Exception,
    source: Any,
    read: int,
    first: int = 1,
    last: Callable[[Any], Any] | None = None,
) -> None:
    """Add to an error in which step it was raised, and with which record; nothing if it was in none of them.

    Args:
        last: what is done with each record behind the steps, such as taking its key; it counts as one more of them.
    """
    if not read or any(note.startswith("in step ") for note in getattr(error, "__notes__", ())):
        return
    record = next(islice(iter(source), read - 1, None), _END)
    if record is _END:
        return
    values = [record]
    behind = [] if last is None else [("group_by", "", None)]
    for number, (kind, name, detail) in enumerate([*steps, *behind], first):
        if kind in ("map_parts", "sample"):
            return  # what it is given is not of this record alone
        where = Where(number, kind, source)
        function = _function_of(cls, name) or (last if number == first + len(steps) else None)
        made: list[Any] = []
        for value in values:
            try:
                made += islice(KINDS[kind](function, [value], detail, where), _LOOKED_AT)
            except Exception as again:
                if type(again) is type(error):
                    unit = getattr(type(source), "unit", "records")
                    what = (
                        f"record {source.offset + read - 1:,}" if unit == "records" else f"record {read:,} of the part"
                    )
                    _note(error, f"{where}, with {shown(value)}, of {what}")
                return
        values = made


def _note(error: Exception, text: str) -> None:
    from pymar.exceptions import PymarError

    if isinstance(error, PymarError):  # shown without its notes
        if not str(error.args[0]).startswith("in step "):
            error.args = (f"{text}: {error.args[0]}", *error.args[1:])
        return
    error.add_note(text)
