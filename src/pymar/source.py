"""Where the data is: a slice of it, read where the part is computed. Users write subclasses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, repeat
from typing import Any, ClassVar

from pymar.exceptions import UsageError
from pymar.settings import splitmix64


class DataSource:
    """A slice of some data: the records `offset` to `offset + limit`, read where the part is computed.

    Subclasses define `full_length` and `__iter__`. Public class attributes that hold plain data travel to the workers.
    """

    #: What offset and limit count. While it is "records", a source that yields more or fewer of them is an error.
    unit: ClassVar[str] = "records"

    #: What `part_seed` is made from: set by the worker.
    _state: int = 0
    #: What was read from this source (work.Read); used by the worker.
    _reads: list[Any]

    def __init__(self, offset: int = 0, limit: int = 0) -> None:
        self.offset = offset
        self.limit = limit

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
        """The length of all the data, in the source's unit. Asked at the producer."""
        raise UsageError(f"{cls.__name__} has no full_length: define @classmethod full_length(cls) that returns an int")

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        """Settings found out once, at the producer, before `full_length` (file sizes, bounds, a snapshot's id).

        They become class attributes in every worker. Plain data only.
        """
        return {}

    @classmethod
    def release_prepared(cls) -> None:
        """Let go of what `prepare` holds (a snapshot, a lock). Called at the producer when the job is over."""

    @staticmethod
    def add_default_keys(values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """`(0, value)` for each value, for map functions that expect pairs."""
        return zip(repeat(0), values)

    @cached_property
    def part_seed(self) -> int:
        """A random seed of 64 bits for this part: the same on whatever worker and whenever the part is computed."""
        return splitmix64(self._state)


class ListDataSource(DataSource):
    """The elements of `data`, a sequence set in the subclass, as `(0, element)`; the list is made on the worker."""

    data: Sequence[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return self.add_default_keys(self.data[self.offset : self.offset + self.limit])

    @classmethod
    def full_length(cls) -> int:
        return len(cls.data)


class DictDataSource(DataSource):
    """The items of `data`, a dict set in the subclass, as `(key, value)`; the dict is made on the worker."""

    data: Mapping[Any, Any] = {}

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.data.items()), self.offset, self.offset + self.limit)

    @classmethod
    def full_length(cls) -> int:
        return len(cls.data)


class Records(DataSource):
    """Records that came with their part, as they are."""

    def __init__(self, offset: int, limit: int, data: Iterable[Any]) -> None:
        super().__init__(offset, limit)
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)
