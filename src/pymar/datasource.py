"""Data sources: a slice of some data, read where the part is computed. Users write subclasses of DataSource."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import cached_property
from itertools import islice, repeat
from os import PathLike
from types import FunctionType, GeneratorType, MethodType
from typing import Any, ClassVar
from weakref import WeakSet, finalize

from pymar.exceptions import UsageError
from pymar.serialization.redaction import redacted_values
from pymar.serialization.settings import applied, splitmix64

__all__ = ["DataSource", "DataSourceFactory", "DictDataSource", "ListDataSource"]


class DataSource:
    """A slice of some data: `limit` records from `offset` on, read where the part is computed.

    Subclasses define `full_length` and `__iter__`. Public class attributes that hold plain data travel to the workers.
    """

    #: What offset and limit count. If it is "records", a source that yields more or fewer of them is an error.
    unit: ClassVar[str] = "records"

    #: The state that `part_seed` is made from; set where the part is computed.
    _state: int = 0
    #: How values that come from other processes are decoded; set where the part is computed.
    _loads: Callable[[bytes], Any] | None = None
    #: Iterations over this source (slots.task.Read); set where the part is computed.
    _reads: list[Any]

    def __init__(self, offset: int = 0, limit: int = 0) -> None:
        self.offset: int = offset
        self.limit: int = limit

    def set_offset(self, offset: int) -> None:
        """Begin at this record."""
        self.offset = offset

    def set_limit(self, limit: int) -> None:
        """Yield this many records."""
        self.limit = limit

    def __len__(self) -> int:
        return self.limit

    def __iter__(self) -> Iterator[Any]:
        raise UsageError(
            f"{type(self).__name__} has no __iter__: define one that yields the records "
            "self.offset to self.offset + self.limit"
        )

    @classmethod
    def full_length(cls) -> int:
        """Return the length of all the data, in the source's unit. Called at the producer."""
        raise UsageError(f"{cls.__name__} has no full_length: define @classmethod full_length(cls) that returns an int")

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        """Return settings that are found once a job, before `full_length`: file sizes, bounds, a snapshot's id.

        Called at the producer. They become class attributes in every worker. Plain data only.
        """
        return {}

    @classmethod
    def release_prepared(cls) -> None:
        """Release what `prepare` holds (a snapshot, a lock). Called at the producer when the job is over."""

    @staticmethod
    def add_default_keys(values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Return `(0, value)` for each value, for map functions that expect pairs."""
        return zip(repeat(0), values)

    @cached_property
    def part_seed(self) -> int:
        """Return a random seed of 64 bits for this part: the same on every worker and in every attempt."""
        return splitmix64(self._state)


class ListDataSource(DataSource):
    """Yields `(0, element)` for the elements of `data`, a sequence set in the subclass, which each worker makes."""

    data: Sequence[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return self.add_default_keys(self.data[self.offset : self.offset + self.limit])

    @classmethod
    def full_length(cls) -> int:
        return len(cls.data)


class DictDataSource(DataSource):
    """Yields `(key, value)` for the items of `data`, a dict set in the subclass, which each worker makes."""

    data: Mapping[Any, Any] = {}

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.data.items()), self.offset, self.offset + self.limit)

    @classmethod
    def full_length(cls) -> int:
        return len(cls.data)


class Records(DataSource):
    """The records that came with a part."""

    def __init__(self, offset: int, limit: int, data: Iterable[Any]) -> None:
        super().__init__(offset, limit)
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)


#: Numbers of a range that are sent as a list, at most.
_FEW = 16
#: Records of a part, for an iterable without a length. A choice: small enough to hold a window of such parts in memory.
RECORDS_A_PART = 1_000


class DataSourceFactory:
    """The data of a job, of which parts are made: a source class with its settings, or data of the producer's.

    Args:
        data_source_class: a subclass of DataSource; or a list, tuple, range, dict or any other iterable. An iterable
            without a length is read lazily, in parts of 1,000 records; a generator can be read by one job only.
        limit, offset: a slice of the data, in the source's unit; all of it by default.
        settings: class attributes of the source for this factory's jobs: `DataSourceFactory(Source, dx=0.1)`.
    """

    def __init__(
        self, data_source_class: type[DataSource] | Iterable[Any], limit: int = 0, offset: int = 0, **settings: Any
    ) -> None:
        for name, value in (("limit", limit), ("offset", offset)):
            if type(value) is not int or value < 0:
                raise UsageError(f"{name}={value!r}: the {name} of a factory is an int, zero or more")
        of_result = getattr(data_source_class, "as_source", None)
        if of_result is not None and (found := of_result()) is not None:  # of a keyed job: its workers read it
            self._result = data_source_class
            data_source_class, settings = found[0], {**found[1], **settings}
        source, data = _source_or_data(data_source_class)
        self.source: type[DataSource] | None = source
        self.data: Any = data
        if settings and self.source is None:
            raise UsageError(
                f"settings {sorted(settings)} need a DataSource class; this factory holds plain data, of which limit= "
                "and offset= give a slice"
            )
        self.settings = settings
        self.offset = offset
        self.limit: int | None = limit or None
        self._was_read = False
        if self.source is not None:
            _check_settings(self.source, settings)

    #: The result of a keyed job that is read: its files stay as long as something refers to it.
    _result: Any = None
    #: True if `part` has made it, from a factory whose length is known; true if it is the copy that one job uses.
    _is_part = _is_of_a_job = False

    @cached_property
    def prepared(self) -> dict[str, Any]:
        """Return the factory's settings, updated with those that the source's `prepare()` returns."""
        if self.source is None:
            return {}
        with applied(self.source, self.settings):
            found = self.source.prepare()
        if not isinstance(found, Mapping):
            raise UsageError(
                f"{self.source.__name__}.prepare() returned {redacted_values(repr(found))}: return a dict of settings"
            )
        return {**self.settings, **found}

    def for_a_job(self) -> DataSourceFactory:
        """Return a copy for one job: `prepare` is called once for it, and what that holds is kept until `release`."""
        if self.source is None:
            return self
        mine = copy(self)
        mine.__dict__.pop("prepared", None)
        mine._is_of_a_job = True
        return mine

    def release(self) -> None:
        """Call `release_prepared`, if `prepare` was called: the job is over."""
        if self.source is not None and "prepared" in self.__dict__:
            with applied(self.source, self.prepared):
                self.source.release_prepared()
            del self.prepared

    def length(self) -> int:
        """Return the length of the data at this moment, in the source's unit; each job finds it anew.

        Raises:
            UsageError: `full_length` is missing, raises, or returns something other than an int of zero or more;
                or the data is an iterable without a length.
        """
        is_mine = not self._is_of_a_job and "prepared" not in self.__dict__
        try:
            length = self.known_length()
        finally:
            if is_mine:
                self.release()
        if length is None:
            raise UsageError(f"a {type(self.data).__name__} has no length before it has been read: give a list of it")
        return length

    def known_length(self) -> int | None:
        """Return `length()`, or None for an iterable without a length."""
        if self.source is not None:
            if self._is_part:
                return self.limit
            there = max(0, self._full_length(self.source) - self.offset)
            if self.limit is None or self.limit <= there:
                return there if self.limit is None else self.limit
            raise UsageError(
                f"limit={self.limit} at offset={self.offset} is more than {self.source.__name__} has: "
                f"its full_length() is {there + self.offset}"
            )
        if not hasattr(self.data, "__len__"):
            return None
        try:
            there = max(0, len(self.data) - self.offset)
        except OverflowError as error:
            raise UsageError(f"{self.data!r:.100} is longer than Python can count: give a DataSource") from error
        return there if self.limit is None else min(self.limit, there)

    def _full_length(self, source: type[DataSource]) -> int:
        name = f"{source.__name__}.full_length"
        member = next(vars(base)["full_length"] for base in source.__mro__ if "full_length" in vars(base))
        if not isinstance(member, classmethod | staticmethod):
            raise UsageError(f"{name} is a plain method: put @classmethod above it")
        with applied(source, self.prepared):
            try:
                length = source.full_length()
            except UsageError:
                raise
            except Exception as error:
                raise UsageError(f"{name}() raised {type(error).__name__}: {error}") from error
        if type(length) is not int or length < 0:
            raise UsageError(f"{name}() returned {length!r}: it has to return an int, zero or more")
        return length

    def part(self, limit: int, offset: int) -> DataSourceFactory:
        """Return a factory of `limit` records; `offset` counts from this factory's own start."""
        start = self.offset + offset
        part = copy(self)
        part.offset, part.limit, part._is_part = start, limit, True
        if self.source is not None:
            part.prepared = self.prepared  # prepare() is called once a job, not once a part
        return part

    def slices(self, cuts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, Any]]:
        """Yield `(offset, limit, records)` of data for each `(offset, limit)`, in order, in one pass."""
        if _is_sliceable(self.data):
            of_few = isinstance(self.data, range)  # to send a range takes as long as to send six ints
            for offset, limit in cuts:
                start = self.offset + offset
                some = self.data[start : start + limit]
                yield start, limit, list(some) if of_few and limit < _FEW else some
        else:
            records = islice(_records(self.data), self.offset, None)
            for offset, limit in cuts:
                data = list(islice(records, limit))
                if len(data) < limit:
                    name, length = type(self.data).__name__, len(self.data)
                    raise UsageError(f"a {name} of length {length} yields fewer records than that: give a list of them")
                yield self.offset + offset, limit, data

    def batches(self, size: int = RECORDS_A_PART) -> Iterator[tuple[int, int, Any]]:
        """Yield `(offset, limit, records)` in parts of so many records, for data without a length."""
        if self._was_read or _was_read(self.data):
            name = type(self.data).__name__
            raise UsageError(f"this {name} was read before, and can be read only once: make a new one, or a list")
        if iter(self.data) is self.data:
            self._was_read = True
            _note_read(self.data)
        stop = None if self.limit is None else self.offset + self.limit
        records = islice(iter(self.data), self.offset, stop)
        offset = self.offset
        while batch := list(islice(records, size)):
            yield offset, len(batch), batch
            offset += len(batch)

    def build_data_source(self) -> Iterable[Any]:
        """Return the records of this factory: a source object, or the data."""
        if self.source is not None:
            mine = self if self._is_part else self.for_a_job()
            # Workers set settings on the class, so class methods see them. Here a subclass has them.
            attributes = {**mine.prepared, "__module__": self.source.__module__}
            bound: Any = type(self.source.__name__, (self.source,), attributes)
            source: Iterable[Any] = bound(offset=mine.offset, limit=mine.length())
            if mine is not self:  # what was prepared is for this source object alone
                finalize(source, bound.release_prepared)
            return source
        stop = None if self.limit is None else self.offset + self.limit
        if _is_sliceable(self.data):
            return self.data[self.offset : stop]  # type: ignore[no-any-return]
        return islice(_records(self.data), self.offset, stop)

    def __repr__(self) -> str:
        what = self.source.__name__ if self.source else type(self.data).__name__
        return f"DataSourceFactory({what}, limit={self.limit}, offset={self.offset})"


def _check_settings(source: type[DataSource], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if not hasattr(source, name) and name not in _annotated(source):
            known = sorted({*dir(source), *_annotated(source)} - {*dir(DataSource)})
            known = [known for known in known if known[0] != "_"]
            from difflib import get_close_matches

            close = get_close_matches(name.lower(), [*known, "limit", "offset", "unit"], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"{source.__name__} has no attribute {name!r} to set; it has {known}{hint}")
        member = next((vars(base)[name] for base in source.__mro__ if name in vars(base)), None)
        if isinstance(member, FunctionType | classmethod | staticmethod) and not callable(value):
            raise UsageError(f"{name}={value!r:.100}: {source.__name__}.{name} is a function; settings replace values")


def _annotated(source: type[DataSource]) -> set[str]:
    """Return the names of attributes that are declared without a value, as in `path: str`."""
    names: set[str] = set()
    for base in source.__mro__:
        with suppress(NameError):  # Python 3.14 evaluates annotations when they are read
            names.update(getattr(base, "__annotations__", ()))
    return names


def _source_or_data(given: Any) -> tuple[type[DataSource] | None, Any]:
    if isinstance(given, type):
        if issubclass(given, DataSource):
            return given, None
        raise UsageError(f"{given.__name__} is not a subclass of DataSource")
    if isinstance(given, DataSource):
        name = type(given).__name__
        raise UsageError(
            f"got {redacted_values(repr(given))}, an instance of {name}: give the class itself, "
            f"DataSourceFactory({name})"
        )
    if remedy := not_records(given):
        raise UsageError(f"got the {type(given).__name__} {redacted_values(repr(given)):.100}: {remedy}")
    if isinstance(given, DataSourceFactory) or not isinstance(given, Iterable):
        raise UsageError(
            f"got {redacted_values(repr(given))}: give a subclass of DataSource, or a list, a dict or another iterable"
        )
    return None, given


def not_records(given: Any, lines: str = "DataSourceFactory(pymar.sources.TextLines, path=...)") -> str:
    """Return what to give in place of data that is iterable but not of records; "" if it is of records.

    Args:
        lines: how to write the lines of a file.
    """
    if isinstance(given, str | bytes | PathLike):
        instead = f"for the lines of a file, {lines}; for one record, a list"
        if isinstance(given, PathLike):
            return instead
        return f"its {'letters' if isinstance(given, str) else 'numbers'} would be the records. Give, {instead}"
    if isinstance(given, FunctionType | MethodType):
        return f"call it, and give what it yields or returns: DataSourceFactory({given.__name__}())"
    if isinstance(given, AsyncIterable):
        return "it is asynchronous: collect it before, [record async for record in ...]"
    if type(given).__name__ == "DataFrame" or hasattr(given, "__dataframe__"):  # pandas, polars and others
        return "its columns would be the records: give a list of its rows (df.to_dict('records') with pandas)"
    if type(given).__module__ == "numpy" and getattr(given, "shape", None) == ():
        return "it is a single number: give a list of it"
    return ""


#: Iterators that jobs have read: those that can be referred to weakly, and the last ones of others (`map`, `zip`: they
#: are small). Another job would take one for no records at all.
_read_weakly: WeakSet[Any] = WeakSet()
_read_last: deque[Any] = deque(maxlen=64)


def _was_read(data: Any) -> bool:
    if isinstance(data, GeneratorType) and data.gi_frame is None:
        return True
    return any(one is data for one in _read_last) or (_has_weak_references(data) and data in _read_weakly)


def _note_read(iterator: Any) -> None:
    if _has_weak_references(iterator):
        _read_weakly.add(iterator)
    else:
        _read_last.append(iterator)


def _has_weak_references(data: Any) -> bool:
    return bool(type(data).__weakrefoffset__) and getattr(type(data), "__hash__", None) is object.__hash__


def _is_sliceable(data: Any) -> bool:
    if isinstance(data, deque):
        return False
    return isinstance(data, Sequence) or type(data).__module__ == "numpy"


def _records(data: Any) -> Iterator[Any]:
    return iter(data.items()) if isinstance(data, Mapping) else iter(data)
