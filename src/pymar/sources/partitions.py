"""A list of plain values as a source, each a record: names of months, addresses, seeds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pymar.datasource import DataSource
from pymar.exceptions import SourceError


class Partitions(DataSource):
    """The elements of `values`, which are sent to each worker once; for instance the keys of what `map_fn` looks up."""

    values: Sequence[Any] = ()

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        if isinstance(cls.values, Mapping | str | bytes | deque) or not hasattr(cls.values, "__getitem__"):
            raise SourceError(f"values is a {type(cls.values).__name__}: give a list of values")
        return {}

    @classmethod
    def full_length(cls) -> int:
        return len(cls.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values[self.offset : self.offset + self.limit])
