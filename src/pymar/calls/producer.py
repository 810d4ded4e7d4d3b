"""The producer of the calls: each part is one item, or a few of them, and its partial the list of their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import starmap
from typing import Any, ClassVar

# Only what a worker needs.
from pymar.producer import Producer
from pymar.slots.failures import shown

#: Items that are each a part; of more, several are one.
MOST_PARTS = 100_000


class Calls(Producer[list[Any]]):
    """Calls a function with each item. What is not given to `composed` is the same for all calls."""

    WORKERS_NUMBER: ClassVar[int | None] = MOST_PARTS
    #: True if an item is a tuple of arguments.
    STARRED: ClassVar[bool] = False
    call_fn: ClassVar[Callable[..., Any]]

    _reduces_parts: ClassVar[bool] = False
    _records_a_part: ClassVar[int] = 1
    _grows: ClassVar[bool] = True

    @classmethod
    def map_fn(cls, items: Any, /) -> Iterable[Any]:
        return starmap(cls.call_fn, items) if cls.STARRED else map(cls.call_fn, items)

    @staticmethod
    def reduce_fn(values: Any, /) -> list[Any]:
        return list(values)

    @classmethod
    def _reads_all(cls) -> bool:
        return True

    @classmethod
    def _explain(cls, error: Exception, source: Any, read: int, sink: Any) -> None:
        if read:
            error.add_note(f"item {source.offset + read - 1:,}: {shown(source.data[read - 1])}")
