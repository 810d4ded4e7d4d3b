"""Checks of a user's classes and calls. Each error names the class, the value and the remedy."""

from __future__ import annotations

from itertools import takewhile
from os import PathLike
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

from pymar.datasource import DataSource
from pymar.exceptions import UsageError
from pymar.job.spelling import check_functions, check_names, members_of, near_function
from pymar.serialization.composed import Composed

#: Flags of a function's code, with the names that `inspect` has for them: to import that takes 10 ms.
CO_VARARGS, CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR = 0x04, 0x20, 0x80, 0x200
# The members that each class had when it passed its check.
_in_order: WeakKeyDictionary[type, tuple[tuple[str, int], ...]] = WeakKeyDictionary()


def check_producer(cls: Any, root: Any, instance: Any = None, needs_reduce: bool = True) -> None:
    """Refuse a producer that lacks a function, or has one with other arguments; `root` is Producer.

    Names that are nearly ours are refused too (spelling.py), and settings on an instance, which do not travel.

    Raises:
        UsageError: something is wrong with the class or the instance.
    """
    if instance is not None:
        _check_instance(cls, root, vars(instance))
    if _in_order.get(cls) == (state := _state(cls, root)):
        return
    for name in ("map_fn", "reduce_fn") if needs_reduce else ("map_fn",):
        if getattr(cls, name) is getattr(root, name):
            hint = f"; nothing calls {found}: rename it" if (found := near_function(cls, name)) else ""
            raise UsageError(f"{cls.__name__} has no {name}: define @staticmethod {name}(data_source){hint}")
    check_functions(cls, root)
    for name, takes in (("map_fn", 1), ("reduce_fn", 1), ("setup_fn", 0), ("routing_key", 0)):
        if name == "reduce_fn" and not cls._reduces_parts:
            continue  # it is of keys, and checked where it is used
        member = _member(cls, name)
        if not isinstance(member, staticmethod | classmethod):
            decorator = "classmethod" if name == "routing_key" else "staticmethod"
            raise UsageError(f"{cls.__name__}.{name} is {member!r}: put @{decorator} above it")
        _check_function(_label(cls, name), member, takes)
    if not isinstance(cls, Composed):  # its names are ours
        check_names(cls, root)
    if needs_reduce:
        _in_order[cls] = state


def _check_instance(cls: type, root: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        # The number of parts is read from the instance, at the producer; all else travels with the class.
        is_ours = name[0] != "_" and name in members_of(root) and name not in ("WORKERS_NUMBER", "workers_number")
        if is_ours and not (isinstance(value, int | float) and value == getattr(cls, name)):
            raise UsageError(
                f"{name} was set on an instance of {cls.__name__}, which does not travel to workers: "
                f"set it on the class, {cls.__name__}.{name} = {value!r:.100}"
            )
    if callable(attributes.get("workers_number", max)):
        check_names(cls, root, attributes)
        return
    raise UsageError(
        f"workers_number was set on an instance of {cls.__name__}, where it is a function: set WORKERS_NUMBER"
    )


def check_source(source: type[DataSource]) -> None:
    """Refuse a source that lacks `__iter__` or a length, or has a function with other arguments.

    Raises:
        UsageError: something is wrong with the class.
    """
    if _in_order.get(source) == (state := _state(source, DataSource)):
        return
    name = source.__name__
    if source.__iter__ is DataSource.__iter__:
        hint = f"; nothing calls {found}: rename it" if (found := near_function(source, "__iter__")) else ""
        raise UsageError(
            f"{name} has no __iter__: define one that yields the records self.offset to self.offset + self.limit{hint}"
        )
    _check_function(f"{name}.__iter__", _member(source, "__iter__"), 1, may_yield=True)
    length = _member(source, "full_length")
    if not isinstance(length, classmethod | staticmethod):
        given = (
            "a plain method: put"
            if isinstance(length, FunctionType)
            else f"{length!r:.100}, and has to be a method: put"
        )
        raise UsageError(f"{name}.full_length is {given} @classmethod above it")
    if length is vars(DataSource)["full_length"]:
        found = "__len__" if "__len__" in _names_above(source) else near_function(source, "full_length")
        hint = f"; {found} is not used for the length of all the data" if found else ""
        raise UsageError(f"{name} has no full_length: define @classmethod full_length(cls) that returns an int{hint}")
    for other in ("full_length", "prepare", "release_prepared"):
        _check_function(f"{name}.{other}", _member(source, other), 0)
    check_names(source, DataSource)
    _in_order[source] = state


def _names_above(source: type) -> set[str]:
    """Return the names that a source and its bases up to DataSource define."""
    bases = source.__mro__[: source.__mro__.index(DataSource)]
    return {name for base in bases for name in vars(base)}


def _state(cls: type, root: type) -> tuple[tuple[str, int], ...]:
    """Return a value that changes when a class, or one of its bases, gets other members."""
    bases = takewhile(lambda base: base is not root, cls.__mro__)
    return tuple((name, id(value)) for base in bases for name, value in vars(base).items())


def _member(cls: type, name: str) -> Any:
    return next(vars(base)[name] for base in cls.__mro__ if name in vars(base))


def _check_function(name: str, member: Any, takes: int, may_yield: bool = False) -> None:
    """Refuse a function that is asynchronous, yields where it has to return, or takes another number of arguments.

    Raises:
        UsageError: it does.
    """
    function = getattr(member, "__func__", member)
    given = takes + isinstance(member, classmethod)
    if isinstance(function, MethodType):
        given, function = given + 1, function.__func__
    if not isinstance(function, FunctionType):  # a builtin or a partial, whose arguments are not known
        return
    code = function.__code__
    flags = code.co_flags
    if flags & (CO_COROUTINE | CO_ASYNC_GENERATOR):
        raise UsageError(f"{name} is asynchronous, and a worker has no event loop: write def in place of async def")
    short = name.rpartition(".")[2]
    if flags & CO_GENERATOR and short == "setup_fn":
        raise UsageError(f"{name} is a generator, so that nothing of it would run: remove the yield")
    if flags & CO_GENERATOR and not may_yield and short != "map_fn":
        raise UsageError(f"{name} is a generator: it has to return a value: write return in place of yield")
    names = code.co_varnames[: code.co_argcount]
    least = len(names) - len(function.__defaults__ or ())
    needed = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    missing = [one for one in needed if one not in (function.__kwdefaults__ or {})]
    if least > given or (len(names) < given and not flags & CO_VARARGS) or missing:
        asked = ", ".join([*names, *missing]) or "no arguments"
        what = {"map_fn": "the records of a part", "reduce_fn": "an iterable of values"}.get(short)
        remedy = f"it is called with one, {what}" if what else "it is called without any"
        fold = "; to fold pairs, functools.reduce within it" if short == "reduce_fn" and least == given + 1 else ""
        raise UsageError(f"{name} takes {asked}, and {remedy}{fold}")


def check_call(checkpoint: Any, progress: Any, on_mismatch: Any = "refuse") -> None:
    """Refuse arguments of `map` that have another type.

    Raises:
        UsageError: one has.
    """
    if not isinstance(checkpoint, str | PathLike | None) or checkpoint == "":
        raise UsageError(f"checkpoint={checkpoint!r:.100}: give the path of a file, which is made if it is not there")
    if not isinstance(progress, bool | None):
        raise UsageError(f"progress={progress!r:.100}: it is True, False, or None for a bar on a terminal only")
    if on_mismatch not in ("refuse", "keep"):
        raise UsageError(
            f"on_mismatch={on_mismatch!r:.100}: it is 'refuse' (the checkpoint of a job that differs) or 'keep' (what "
            "is finished in it)"
        )
    if on_mismatch == "keep" and checkpoint is None:
        raise UsageError("on_mismatch='keep' without checkpoint=: give the path of the checkpoint that is to be kept")


def a_number(cls: type, name: str, kinds: Any, least: int = 0) -> Any:
    """Return a class attribute that has to be a number.

    Raises:
        UsageError: it is none, or less than `least`.
    """
    value = getattr(cls, name)
    if isinstance(value, kinds) and not isinstance(value, bool) and value >= least:
        return value
    kind = "an int" if kinds is int else "a number"
    raise UsageError(f"{_label(cls, name)} is {value!r}: it has to be {kind}, {least} or more")


def a_limit(cls: type, name: str, kinds: Any) -> Any:
    """Return a class attribute that has to be more than zero, or None.

    Raises:
        UsageError: it is something else.
    """
    value = getattr(cls, name)
    if value is None or (isinstance(value, kinds) and not isinstance(value, bool) and value > 0):
        return value
    unit = "seconds" if name == "PART_TIMEOUT" else "bytes, an int"
    raise UsageError(f"{_label(cls, name)} is {value!r}: it has to be {unit}, more than zero, or None for no limit")


def _label(cls: type, name: str) -> str:
    """Return the name of a setting; of a call or a dataset, that of its option."""
    if isinstance(cls, Composed):
        return f"{'parts' if name == 'WORKERS_NUMBER' else name.removesuffix('_fn').lower()}="
    return f"{cls.__name__}.{name}"
