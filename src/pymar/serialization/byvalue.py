"""Picklers for classes and functions sent by value, over cloudpickle; they keep their identity by tokens (shipped.py).

    Outward, Calling, Defining           to a worker that gets the script by value: its data; a call; a job
    ToScript, DefiningToScript           to a worker that has loaded the script: its data; a job
    Homeward, FromJobFile                to the producer, from a worker: that got code with the job; that has a job file

Importing this module takes 50 ms, so that others import it only where plain pickle is not enough.
"""

from __future__ import annotations

import _thread
import contextvars
import enum
import functools
import os
import struct
import sys
import threading
import typing
import weakref
from abc import ABCMeta
from collections import ChainMap
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pickle import PicklingError
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle

from pymar.serialization import shipped
from pymar.serialization.shipped import (
    MAIN,
    came_with_token,
    dynamic_modules,
    fill,
    home,
    make,
    name_in_main,
    name_of,
    named,
    token_of,
)

if TYPE_CHECKING:

    class _Pickler:
        """What is used here of cloudpickle's pickler, which has no types."""

        def __init__(self, *arguments: Any) -> None: ...
        def dump(self, value: Any) -> None: ...
        def _dynamic_function_reduce(self, function: FunctionType) -> Any: ...
        def _function_getnewargs(self, function: FunctionType) -> Any: ...

else:
    _Pickler = cloudpickle.Pickler

#: Attributes that a class gets when it is made.
_MADE_WITH = frozenset(
    {"__dict__", "__weakref__", "__slots__", "_abc_impl", "__annotate_func__", "__annotations_cache__"}
)
#: Attributes that have to be in the namespace when a class is made.
_IN_BODY = ("__module__", "__slots__", "__orig_bases__")
#: Private names of an enumeration that its body may define; attributes of its members that are set with them.
_OF_ENUMS = frozenset({"_missing_", "_generate_next_value_", "_new_member_", "_ignore_"})
_OF_MEMBERS = frozenset({"_name_", "__objclass__", "_sort_order_"})
_STREAMS = ("stdin", "stdout", "stderr")


def dumps_outward(value: Any) -> bytes:
    """Pickle for a worker that gets the script by value: its classes and functions are made there."""
    return _pickled(Outward, value)


def dumps_call(value: Any) -> bytes:
    """Pickle a call for a worker: functions of the script see its global variables as they are now."""
    return _pickled(Calling, value)


def dumps_definition(value: Any, modules: dict[str, dict[str, Any]]) -> bytes:
    """Pickle a job for such a worker: its functions share the global variables of the worker's `__main__`.

    `modules` are those that no import finds there, with what is read of them.
    """
    return _pickled(Defining, value, modules)


def dumps_to_script(value: Any) -> bytes:
    """Pickle for a worker that has loaded the script: what has a name there is sent by name."""
    return _pickled(ToScript, value)


def dumps_definition_to_script(value: Any, modules: dict[str, dict[str, Any]]) -> bytes:
    """Pickle a job for such a worker."""
    return _pickled(DefiningToScript, value, modules)


def dumps_homeward(value: Any) -> bytes:
    """Pickle for the process that sent the classes and functions of the definition in use here."""
    return _pickled(Homeward, value)


def _pickled(kind: type[Any], value: Any, modules: dict[str, dict[str, Any]] | None = None) -> bytes:
    buffer = BytesIO()
    pickler = kind(buffer, 5)
    pickler.modules = modules or {}
    pickler.dump(value)
    return buffer.getvalue()


def _refuse_files(obj: Any) -> None:
    """Raise PicklingError for an open file: cloudpickle would send its text, and each part would read all of it."""
    if isinstance(obj, TextIOWrapper) and obj not in (sys.stdin, sys.stdout, sys.stderr):
        raise PicklingError(f"{obj!r} is an open file")


def _code(code: CodeType) -> tuple[Any, ...]:
    """Reduce code with the name of its file, which cloudpickle leaves out, for tracebacks."""
    maker, arguments, *rest = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return maker, tuple(code.co_filename if one == "<dynamic-code>" else one for one in arguments), *rest


# Wrappers of the standard library that pickle and cloudpickle refuse, or send by a name that does not exist.


def _cached_property(value: Any) -> tuple[Any, ...]:
    rest = {name: item for name, item in vars(value).items() if name not in ("func", "attrname", "lock")}
    return shipped.made_cached_property, (value.func, value.attrname, rest)


def _context_variable(value: Any) -> tuple[Any, ...]:
    default, now = contextvars.Context().run(_got, value), _got(value)
    return shipped.made_context_variable, (value.name, default, now if now != default else ())


def _got(variable: Any) -> tuple[Any, ...]:
    try:
        return (variable.get(),)
    except LookupError:
        return ()


def _reference(value: Any) -> tuple[Any, ...]:
    referent = value()
    if referent is None:
        raise PicklingError("a weak reference whose object is gone")
    return shipped.made_reference, (referent,)


def _new_type(value: Any) -> tuple[Any, ...]:
    return typing.NewType, (value.__name__, value.__supertype__)


_OF_LIBRARY: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    CodeType: _code,
    functools.cached_property: _cached_property,
    contextvars.ContextVar: _context_variable,
    weakref.ReferenceType: _reference,
    weakref.WeakKeyDictionary: lambda value: (weakref.WeakKeyDictionary, ()),
    weakref.WeakValueDictionary: lambda value: (weakref.WeakValueDictionary, ()),
    _thread.LockType: lambda value: (threading.Lock, ()),
    threading.RLock().__class__: lambda value: (threading.RLock, ()),
    threading.local: lambda value: (threading.local, ()),
    struct.Struct: lambda value: (struct.Struct, (value.format,)),
    typing.NewType: _new_type,
}


class _ByValue(_Pickler):
    """What all picklers here share: how a class or a function is taken apart."""

    dispatch_table: ClassVar[Any] = ChainMap({CodeType: _code}, cloudpickle.Pickler.dispatch_table)

    #: Modules that no import finds in the other process, and what is read of them.
    modules: ClassVar[dict[str, dict[str, Any]]] = {}

    def reducer_override(self, obj: Any) -> Any:
        _refuse_files(obj)
        if isinstance(obj, ModuleType) and obj.__name__ in self.modules:
            state = dict(self.modules[obj.__name__])
            return shipped.module, (obj.__name__,), state, None, None, shipped.fill_module
        if isinstance(obj, TextIOWrapper):
            return getattr, (sys, next(name for name in _STREAMS if getattr(sys, name) is obj))
        if isinstance(obj, FunctionType | type | functools._lru_cache_wrapper):
            if (reference := self.reference(obj)) is not None:
                return reference
            if has_a_name(obj):
                return (
                    NotImplemented
                    if isinstance(obj, FunctionType | functools._lru_cache_wrapper)
                    else _plain_class(obj)
                )
            return self.by_value(obj)
        return NotImplemented

    def reference(self, obj: Any) -> Any:
        """Return how the other process finds a class or function; None if it has to be sent by value."""
        return None

    def by_value(self, obj: Any) -> Any:
        """Return how the other process makes a class or function that has no name there."""
        maker, arguments, state, setter = self.taken_apart(obj)
        return make, (token_of(obj), name_of(obj), maker, arguments), (setter, state), None, None, fill

    def taken_apart(self, obj: Any) -> tuple[Any, tuple[Any, ...], Any, Any]:
        """Return the function that makes it, its arguments, the state, and the function that sets the state."""
        if isinstance(obj, FunctionType):
            maker, arguments, state, _, _, setter = self._dynamic_function_reduce(obj)
            return maker, arguments, state, setter
        if isinstance(obj, functools._lru_cache_wrapper):
            rest = {name: value for name, value in vars(obj).items() if name not in ("__wrapped__", "cache_parameters")}
            parameters = obj.cache_parameters()
            return shipped.made_cached, (obj.__wrapped__, parameters, rest), None, shipped.keep_function
        namespace = {name: vars(obj)[name] for name in _IN_BODY if name in vars(obj)}
        namespace["__qualname__"] = obj.__qualname__
        if isinstance(obj, enum.EnumMeta) and obj.__members__:
            return _enum_apart(obj, namespace)
        return (
            shipped.made_class,
            (type(obj), obj.__name__, obj.__bases__, namespace),
            _class_state(obj),
            shipped.set_class,
        )


def _plain_class(cls: type) -> Any:
    """Reduce a class by name; cloudpickle knows those of the interpreter that have none, such as type(None)."""
    if cls.__module__ == "builtins":
        from cloudpickle.cloudpickle import _class_reduce

        return _class_reduce(cls)
    return NotImplemented


def has_a_name(obj: Any) -> bool:
    """True if a fresh interpreter finds this class or function itself by its module and name."""
    module = getattr(obj, "__module__", None)
    if module == "builtins":
        return True
    if module is None or module in MAIN or module in dynamic_modules:
        return False
    found: Any = sys.modules.get(module)
    if not isinstance(found, ModuleType):
        return False
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def _class_state(cls: Any) -> tuple[dict[str, Any], list[Any]]:
    attributes = {
        name: value
        for name, value in vars(cls).items()
        if name not in _MADE_WITH
        and not (isinstance(value, MemberDescriptorType | GetSetDescriptorType) and value.__objclass__ is cls)
    }
    if "__annotate_func__" in vars(cls):  # Python 3.14: a function of the class body, which is not sent
        attributes["__annotations__"] = cls.__annotations__
    registered: list[Any] = []
    if isinstance(cls, ABCMeta):
        import abc

        registered = [one() for one in abc._get_dump(cls)[0] if one() is not None]  # type: ignore[attr-defined]
    return attributes, registered


def _enum_apart(cls: Any, namespace: dict[str, Any]) -> tuple[Any, tuple[Any, ...], Any, Any]:
    kind = cls._member_type_
    members = []
    for name, member in cls.__members__.items():
        made_of = kind.__getnewargs__(member) if hasattr(kind, "__getnewargs__") else ()
        if kind is not object and not hasattr(kind, "__getnewargs__"):
            raise PicklingError(f"the enumeration {cls.__qualname__} has members of {kind.__qualname__}")
        members.append((name, made_of, {key: item for key, item in vars(member).items() if key not in _OF_MEMBERS}))
    state, registered = _class_state(cls)
    body = {
        name: value
        for name, value in state.items()
        if name not in cls.__members__
        and (name in _OF_ENUMS or not (name[0] == "_" and name[-1] == "_" and name[:2] != "__"))
        and not isinstance(value, cls)
    }
    arguments = (type(cls), cls.__name__, cls.__bases__, namespace, kind, members)
    return shipped.made_enum, arguments, (body, registered), shipped.set_class


class Outward(_ByValue):
    """To a worker that gets the script by value: data, with functions and instances of the script's classes."""

    def by_value(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType) and came_with_token(obj) is None and not name_in_main(obj):
            return self._dynamic_function_reduce(obj)  # it is never referred to by a token: the worker need not keep it
        return super().by_value(obj)


class Calling(Outward):
    """To a worker that gets the script by value: one call. See `shipped.called`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._main_globals: dict[int, _Call] = {}

    def _function_getnewargs(self, function: FunctionType) -> Any:
        code, variables, *rest = super()._function_getnewargs(function)
        if variables.get("__name__") in MAIN:
            called = _Call(shipped.call_globals, dict(variables))
            variables = self._main_globals.setdefault(id(variables), called)
        return code, variables, *rest


class Defining(_ByValue):
    """To a worker that gets the script by value: a job. Locks and caches that its code holds are new there."""

    dispatch_table: ClassVar[Any] = ChainMap(_OF_LIBRARY, cloudpickle.Pickler.dispatch_table)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._main_globals: dict[int, _Call] = {}
        self._cells: dict[int, _Call] = {}
        self._name = os.urandom(8).hex()

    def _function_getnewargs(self, function: FunctionType) -> Any:
        code, variables, name, defaults, closure = super()._function_getnewargs(function)
        if variables.get("__name__") in MAIN:
            called = _Call(shipped.main_globals, dict(variables))
            variables = self._main_globals.setdefault(id(variables), called)
        if closure is not None:
            closure = tuple(map(self._cell, function.__closure__ or ()))
        return code, variables, name, defaults, closure

    def _cell(self, cell: Any) -> _Call:
        """Return the call that gives all functions with this cell the same one; its content is set later."""
        return self._cells.setdefault(id(cell), _Call(shipped.cell, f"{self._name}-{len(self._cells)}"))


class _Call:
    """Is unpickled as the result of a call in the worker."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


class ToScript(Outward):
    """To a worker that has loaded the script: data."""

    def reference(self, obj: Any) -> Any:
        return _by_name_in_main(obj)


class DefiningToScript(Defining):
    """To a worker that has loaded the script: a job."""

    def reference(self, obj: Any) -> Any:
        return _by_name_in_main(obj)


def _by_name_in_main(obj: Any) -> Any:
    name = name_in_main(obj) if obj.__module__ in MAIN else ""
    return (named, (name,)) if name else None


class Homeward(_ByValue):
    """To the process that sent the code: by tokens, or by names in its `__main__`."""

    def reference(self, obj: Any) -> Any:
        if (token := came_with_token(obj)) is not None:
            return home, (token, name_of(obj))
        return _by_name_in_main(obj)


def dumps_from_job_file(value: Any, here: str, home: str) -> bytes:
    """Pickle a value of the job file, the module `here`, for the producer that runs it as the module `home`."""
    buffer = BytesIO()
    pickler = FromJobFile(buffer, 5)
    pickler.here, pickler.home = here, home
    pickler.dump(value)
    return buffer.getvalue()


class FromJobFile(_ByValue):
    """To the producer of a job by name: what the job file defines is named in the producer's module of that file."""

    here = home = ""

    def reference(self, obj: Any) -> Any:
        if obj.__module__ != self.here:
            return None
        name = name_in_main(obj)
        return (shipped.of_module, (self.home, name)) if name else None
