"""The producers of the calls: a function over items, each a part or a few of one; and the calls of an executor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from itertools import starmap
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

# Only what a worker needs.
from pymar.producer import Producer
from pymar.serialization import loads
from pymar.serialization.shipped import called

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
            from pymar.slots.failures import shown  # late: no part needs it that does not fail

            error.add_note(f"item {source.offset + read - 1:,}: {shown(source.data[read - 1])}")


#: What the `begin_fn` of a class has assigned to global variables of the script, in this process.
_assigned: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()


class Submitted(Producer[Any]):
    """Computes the calls of an executor, each a part of its own: a function, its arguments, its named arguments.

    A call is pickled if it goes to another process.
    """

    BACKUPS: ClassVar[float] = 0.0

    _reduces_parts: ClassVar[bool] = False
    _records_a_part: ClassVar[int] = 1
    _shares_batches: ClassVar[bool] = False
    _is_kept: ClassVar[bool] = False

    @staticmethod
    def begin_fn() -> object:
        """Do what a worker process needs before its first call: the user's `setup`."""

    @classmethod
    def setup_fn(cls) -> None:
        before = dict(vars(sys.modules["__main__"]))
        cls.begin_fn()
        after = vars(sys.modules["__main__"])
        _assigned[cls] = {name: value for name, value in after.items() if before.get(name, cls) is not value}

    @classmethod
    def map_fn(cls, calls: Any, /) -> Iterable[Any]:
        (call,) = calls
        if call is None:  # it was cancelled on its way
            return [None]
        function, arguments, named = called(loads, call, _assigned.get(cls, {})) if type(call) is bytes else call
        return [function(*arguments, **named)]

    @staticmethod
    def reduce_fn(values: Any, /) -> Any:
        (value,) = values
        return value

    def _is_served(self) -> None:
        return None
