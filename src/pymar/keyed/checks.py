"""Checks of a keyed producer's class. Each error names the class, the value and the remedy."""

from __future__ import annotations

import os
from os import PathLike
from types import BuiltinFunctionType, FunctionType
from typing import Any

from pymar.exceptions import ExchangeError, UsageError
from pymar.keyed.aggregations import Aggregation
from pymar.keyed.keys import BUCKETS
from pymar.keyed.reduction import Several

_FLAGS_OF_GENERATORS = 0x20 | 0x80 | 0x200


def check_keyed(cls: Any) -> None:
    """Refuse a keyed producer whose reduce_fn, functions or settings are not what they have to be.

    Raises:
        UsageError: something is wrong with the class.
    """
    name, reduce_fn = cls.__name__, cls.reduce_fn
    if reduce_fn is None:
        raise UsageError(
            f"{name} has no reduce_fn: give an aggregation, reduce_fn = Sum(), a dict of them, or define @staticmethod "
            "reduce_fn(key, values)"
        )
    if isinstance(reduce_fn, type) and issubclass(reduce_fn, Aggregation):
        raise UsageError(f"{name}.reduce_fn is the class {reduce_fn.__name__}: write {reduce_fn.__name__}()")
    if isinstance(reduce_fn, Aggregation):
        for one in reduce_fn.aggregations.values() if isinstance(reduce_fn, Several) else (reduce_fn,):
            _check_aggregation(f"{name}.reduce_fn", one)
    else:
        if isinstance(reduce_fn, BuiltinFunctionType | type):
            meant = {"sum": "Sum()", "max": "Max()", "min": "Min()", "len": "Count()", "list": "Collect()"}
            found = reduce_fn.__name__
            remedy = f"write reduce_fn = {meant[found]}" if found in meant else "write a function of both"
            raise UsageError(f"{name}.reduce_fn is {found}, and it is called with a key and its values: {remedy}")
        _check_function(cls, "reduce_fn", 2, "a key and an iterable of its values")
    if cls.finish_fn is not None:
        _check_function(cls, "finish_fn", 2, "a key and its reduced value")
    if cls.key_bytes_fn is not None:
        _check_function(cls, "key_bytes_fn", 1, "a key")
    key = cls.KEY
    if not (
        key is None
        or isinstance(key, str)
        or (isinstance(key, tuple) and key and all(isinstance(one, str) for one in key))
    ):
        raise UsageError(f"{name}.KEY is {key!r:.100}: it is the name of the key column, or a tuple of names")
    if isinstance(key, tuple) and len(key) == 1:
        raise UsageError(f"{name}.KEY is {key!r:.100}: of one column, write KEY = {key[0]!r:.60}")
    if isinstance(reduce_fn, Several) and (
        twice := set(reduce_fn.aggregations) & set((key,) if isinstance(key, str) else key or ())
    ):
        raise UsageError(f"{name}.reduce_fn has the name {sorted(twice)[0]!r}, which KEY has too: give it another")
    if cls.SORTED and cls.key_bytes_fn is not None:
        raise UsageError(f"{name} is SORTED and has key_bytes_fn: only keys that need none can be put in order")
    partitions = cls.PARTITIONS
    if partitions is not None and (type(partitions) is not int or not 1 <= partitions <= BUCKETS):
        raise UsageError(f"{name}.PARTITIONS is {partitions!r:.100}: it is an int from 1 to {BUCKETS}, or None")


def check_keep(keep: Any) -> None:
    """Refuse a folder for a result that cannot be made: before the job, not after it.

    Raises:
        UsageError: it is no path.
        ExchangeError: it is there already, or the folder that it is to be in is not.
    """
    if keep is None:
        return
    if not isinstance(keep, str | PathLike) or keep == "":
        raise UsageError(f"keep={keep!r:.100}: give the path of a new folder")
    folder = os.path.abspath(os.path.expanduser(os.fspath(keep)))
    if os.path.lexists(folder):
        raise ExchangeError(f"keep={folder!r}: it is there already: give a new folder")
    if not os.path.isdir(os.path.dirname(folder)):
        raise ExchangeError(f"keep={folder!r}: there is no folder {os.path.dirname(folder)!r} for it: make that first")


def _check_aggregation(name: str, one: Aggregation) -> None:
    kind = type(one)
    missing = [method for method in ("start", "add", "merge") if getattr(kind, method) is getattr(Aggregation, method)]
    if missing:
        raise UsageError(f"{name}: {kind.__name__} has no {missing[0]}: an aggregation defines start, add and merge")
    if "column" not in vars(one):
        raise UsageError(f"{name}: {kind.__name__}.__init__ does not call super().__init__(column)")


def _check_function(cls: Any, name: str, takes: int, what: str) -> None:
    member = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
    label = f"{cls.__name__}.{name}"
    if isinstance(member, FunctionType):
        raise UsageError(f"{label} is a plain method: put @staticmethod above it")
    if not callable(getattr(cls, name)):
        raise UsageError(f"{label} is {member!r:.100}: it has to be a static function, called with {what}")
    function = getattr(member, "__func__", member)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    if code.co_flags & _FLAGS_OF_GENERATORS:
        raise UsageError(f"{label} is a generator or asynchronous: it has to return a value")
    given = takes + isinstance(member, classmethod)
    least = code.co_argcount - len(function.__defaults__ or ())
    if least > given or (code.co_argcount < given and not code.co_flags & 0x04):
        names = ", ".join(code.co_varnames[: code.co_argcount]) or "no arguments"
        hint = ": a KeyedProducer reduces the values of one key at a time" if name == "reduce_fn" else ""
        raise UsageError(f"{label} takes {names}, and it is called with {what}{hint}")
