"""Classes and functions sent by value keep their identity: records, code and results refer to the same class.

    producer   byvalue.Outward: class -> its token, and how to make it -----> make(): one for each definition   worker
               home(): the class itself <----- token <----- byvalue.Homeward

cloudpickle has a tracker for this, which is not used: it gives a class that a worker has seen before the attributes of
the newest definition, so that two jobs of one class, with different globals, would compute each other's code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from types import CellType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

#: Names of the module of a script: in the process that was started with it, and in spawned ones.
MAIN = frozenset({"__main__", "__mp_main__"})
#: The user's modules that a fresh interpreter cannot import: what is read of them is sent by value.
dynamic_modules: set[str] = set()

# Tokens of classes and functions: those of this process, and those that were made here for another process; and the
# names by which they are found in `__main__`.
_tokens: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
_at_home: WeakValueDictionary[str, Any] = WeakValueDictionary()
_numbers = count()

# Those whose attributes are set.
_filled: WeakSet[Any] = WeakSet()


class Definition:
    """What was sent by value with one job; and the module that is `__main__` while the job is computed."""

    def __init__(self, main: ModuleType | None = None) -> None:
        self.things: dict[str, Any] = {}
        #: Modules that no import finds in this process.
        self.modules: dict[str, ModuleType] = {}
        self.main: ModuleType = main or ModuleType("__main__")


_in_use = Definition(sys.modules["__main__"])


def use(definition: Definition) -> None:
    """Take classes and functions from this definition from now on, in a worker, and add new ones to it."""
    global _in_use
    _in_use = definition
    sys.modules["__main__"] = definition.main
    sys.modules["__mp_main__"] = definition.main
    sys.modules.update(definition.modules)


def in_use() -> Definition:
    """Return the definition that is in use."""
    return _in_use


def token_of(thing: Any) -> str:
    """Return the token of a class or function that is sent by value; a new one on the first call."""
    token = _tokens.get(thing)
    if token is None:
        token = _tokens[thing] = f"{os.urandom(8).hex()}-{next(_numbers)}"
        _names[thing] = name_in_main(thing) or thing.__qualname__
    _at_home[token] = thing
    return token


def name_of(thing: Any) -> str:
    """Return the name by which a later process may find a class or function that has a token."""
    return _names[thing]


def came_with_token(thing: Any) -> str | None:
    """Return the token of a class or function that was sent or received by value; None if it was not."""
    return _tokens.get(thing)


def name_in_main(thing: Any) -> str:
    """Return the name of a class or function in `__main__`, even if its own is another; "" if it is not there."""
    main = sys.modules["__main__"]
    found: Any = main
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is thing:
        return str(thing.__qualname__)
    return next((name for name, value in list(vars(main).items()) if value is thing), "")


def make(token: str, name: str, maker: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the class or function with this token in the definition in use; make it if it is new there."""
    thing = _in_use.things.get(token)
    if thing is None:
        thing = _in_use.things[token] = maker(*arguments)
        _tokens[thing] = token
        _names[thing] = name
    return thing


def fill(thing: Any, state: tuple[Any, Any]) -> None:
    """Set the attributes of a new class or function; do nothing if they are set."""
    if thing in _filled:
        return
    _filled.add(thing)
    setter, attributes = state
    setter(thing, attributes)
    name = _names.get(thing, "")
    if name.isidentifier() and thing.__module__ in MAIN:  # for code that looks it up by name
        vars(_in_use.main).setdefault(name, thing)


def home(token: str, name: str) -> Any:
    """Return the class or function with this token; if an earlier process gave it, `name` in `__main__`."""
    found = _at_home.get(token)
    if found is None:
        found = _in_use.things.get(token)
    return named(name) if found is None else found


def named(name: str) -> Any:
    """Return what has this (dotted) name in `__main__`."""
    return of_module("__main__", name)


def of_module(module: str, name: str) -> Any:
    """Return what has this (dotted) name in a module that this process has loaded."""
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    return found


def main_globals(of_module: dict[str, Any]) -> dict[str, Any]:
    """Return the global variables of the script's functions in the definition in use."""
    variables = vars(_in_use.main)
    for name, value in of_module.items():
        variables.setdefault(name, value)
    return variables


#: The global variables that were made for the functions of the call that is being loaded.
_call_globals: list[dict[str, Any]] = []


def call_globals(of_module: dict[str, Any]) -> dict[str, Any]:
    """Return new global variables for the script's functions in one call."""
    _call_globals.append(of_module)
    return of_module


def called(loads: Callable[[bytes], Any], call: bytes, assigned: Mapping[str, Any]) -> Any:
    """Return what `byvalue.dumps_call` has encoded, made anew: another call may have another version of a function.

    Args:
        assigned: what the functions find as global variables in place of what the script has.
    """
    if __name__.encode() in call:
        use(Definition(_in_use.main))
    _call_globals.clear()
    found = loads(call)
    for variables in _call_globals:
        variables.update(assigned)
    _call_globals.clear()
    return found


def module(name: str) -> ModuleType:
    """Return the module of this name, which no import finds, in the definition in use; an empty one if it is new."""
    made = _in_use.modules.get(name)
    if made is None:
        made = _in_use.modules[name] = sys.modules[name] = ModuleType(name)
    return made


def fill_module(made: ModuleType, variables: dict[str, Any]) -> None:
    """Set the variables of such a module."""
    vars(made).update(variables)


def cell(token: str) -> CellType:
    """Return the closure cell with this token, which several functions may share; an empty one if it is new."""
    things = _in_use.things
    if token not in things:
        things[token] = CellType()
    found: CellType = things[token]
    return found


# Classes are made without their attributes, which may refer to the class itself and are set by `fill`.


def made_class(metaclass: Any, name: str, bases: tuple[Any, ...], namespace: dict[str, Any]) -> Any:
    """Return a class. Hooks (`__init_subclass__`, metaclasses) that were sent by value ran at the producer only."""
    maker = next(base for base in metaclass.__mro__ if base not in _tokens)
    if maker is type or (maker.__module__, maker.__qualname__) == ("abc", "ABCMeta"):
        with _without_hooks(bases):
            return maker.__new__(metaclass, name, bases, namespace)
    from types import new_class

    bases = namespace.get("__orig_bases__", bases)
    return new_class(name, bases, {"metaclass": metaclass}, lambda body: body.update(namespace))


@contextmanager
def _without_hooks(bases: tuple[Any, ...]) -> Iterator[None]:
    owner = next((one for base in bases for one in base.__mro__ if "__init_subclass__" in vars(one)), None)
    if owner is None or owner not in _tokens:
        yield
        return
    hook = vars(owner)["__init_subclass__"]
    type.__setattr__(owner, "__init_subclass__", classmethod(lambda cls, **keywords: None))
    try:
        yield
    finally:
        type.__setattr__(owner, "__init_subclass__", hook)


def set_class(cls: Any, state: tuple[dict[str, Any], list[Any]]) -> None:
    """Set the attributes of a class; register with an abstract one the classes that were registered at the producer."""
    attributes, registered = state
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)
    for other in registered:
        cls.register(other)


def made_enum(
    metaclass: Any,
    name: str,
    bases: tuple[Any, ...],
    namespace: dict[str, Any],
    kind: Any,
    members: list[tuple[str, tuple[Any, ...], dict[str, Any]]],
) -> Any:
    """Return an enumeration with the members that it has at the producer, without calling its `__new__`."""

    def __new__(cls: Any, place: int) -> Any:  # noqa: N807 - EnumMeta calls it for each member
        _, made_of, state = members[place]
        member = kind.__new__(cls, *made_of)
        vars(member).update(state)
        return member

    body = metaclass.__prepare__(name, bases)
    for key, value in (*namespace.items(), ("__new__", __new__)):
        body[key] = value
    for place, (member, _, _) in enumerate(members):
        body[member] = place
    return metaclass.__new__(metaclass, name, bases, body)


def made_cached(function: Any, parameters: dict[str, Any], attributes: dict[str, Any]) -> Any:
    """Return a function with `functools.lru_cache` applied, its cache empty."""
    from functools import lru_cache

    cached = lru_cache(**parameters)(function)
    vars(cached).update(attributes)
    return cached


def keep_function(function: FunctionType, state: Any) -> None:
    """Do nothing: the state of such a function was set when it was made."""


#: Objects of weak references: nothing else may keep them alive here.
_referents: list[Any] = []


def made_reference(referent: Any) -> Any:
    """Return a weak reference to an object that this process keeps alive."""
    from weakref import ref

    _referents.append(referent)
    return ref(referent)


def made_cached_property(function: Any, name: str | None, attributes: dict[str, Any]) -> Any:
    """Return a `functools.cached_property` with these attributes."""
    from functools import cached_property

    made: Any = cached_property(function)
    vars(made).update(attributes)
    made.attrname = name
    return made


def made_context_variable(name: str, default: tuple[Any, ...], value: tuple[Any, ...]) -> Any:
    """Return a context variable with its default and its value; an empty tuple stands for none."""
    from contextvars import ContextVar

    made: Any = ContextVar(name, default=default[0]) if default else ContextVar(name)
    if value:
        made.set(value[0])
    return made
