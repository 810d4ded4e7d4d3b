"""What a user's classes have to be; what is wrong is said with the class, the value and the remedy."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from pymar.exceptions import UsageError
from pymar.source import DataSource

#: The flag of a generator's code, as `inspect`, which takes 10 ms to import, calls it.
CO_GENERATOR = 0x20
# The functions of each class that were found in order.
_in_order: WeakKeyDictionary[type, tuple[Any, ...]] = WeakKeyDictionary()


def check_producer(cls: Any, root: Any) -> None:
    """Refuse a producer that lacks a function, or has one that is not static; `root` is Producer."""
    functions = cls.map_fn, cls.reduce_fn, cls.setup_fn
    if _in_order.get(cls) == functions:
        return
    for name in ("map_fn", "reduce_fn"):
        if getattr(cls, name) is getattr(root, name):
            raise UsageError(f"{cls.__name__} has no {name}: define @staticmethod {name}(data_source)")
    for name in ("map_fn", "reduce_fn", "setup_fn"):
        member = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
        if not isinstance(member, staticmethod | classmethod):
            raise UsageError(f"{cls.__name__}.{name} is {member!r}: put @staticmethod above it")
    _check_spelling(cls, root)
    code = getattr(cls.reduce_fn, "__code__", None)
    if code is not None and code.co_flags & CO_GENERATOR:
        raise UsageError(f"{cls.__name__}.reduce_fn is a generator: it has to return a value; return instead of yield")
    _in_order[cls] = functions


def _check_spelling(cls: Any, root: Any) -> None:
    """Refuse WORKER_NUMBER and its like: what is nearly, but not quite, the name of one of ours."""
    ours = [name for name in vars(root) if name.isupper()]
    theirs = [name for base in cls.__mro__ for name in vars(base) if name.isupper() and name not in ours]
    if theirs:
        from difflib import get_close_matches

        for name in theirs:
            for meant in get_close_matches(name, ours, 1, 0.85):
                raise UsageError(f"{cls.__name__}.{name} is not used by anything: {meant} is. Rename one or the other")


def check_source(source: type[DataSource]) -> None:
    """Refuse a source that yields nothing."""
    if source.__iter__ is DataSource.__iter__:
        raise UsageError(
            f"{source.__name__} has no __iter__: define one that yields the records "
            "self.offset to self.offset + self.limit"
        )


def a_number(cls: type, name: str, kinds: Any, least: int = 0) -> Any:
    """A class attribute that has to be a number."""
    value = getattr(cls, name)
    if isinstance(value, kinds) and not isinstance(value, bool) and value >= least:
        return value
    kind = "an int" if kinds is int else "a number"
    raise UsageError(f"{cls.__name__}.{name} is {value!r}: it has to be {kind}, {least} or more")


def a_limit(cls: type, name: str, kinds: Any) -> Any:
    """A class attribute that has to be more than zero, or None."""
    value = getattr(cls, name)
    if value is None or (isinstance(value, kinds) and not isinstance(value, bool) and value > 0):
        return value
    unit = "seconds" if name == "PART_TIMEOUT" else "bytes, an int"
    raise UsageError(f"{cls.__name__}.{name} is {value!r}: it has to be {unit}, more than zero, or None for no limit")
