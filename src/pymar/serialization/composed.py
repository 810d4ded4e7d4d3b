"""Classes that are made of a user's functions: what the short forms (calls, datasets, join, sort) compile to.

    composed(Calls, "simulate", {"call_fn": simulate}, {"STARRED": False}) -> a subclass of Calls

Where code travels by value, it does so as any other class. Where it goes by name, the worker's job file has no such
class: the definition of the job names the base, and each function by the name that it has there.
"""

from __future__ import annotations

import builtins
import copyreg
import importlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType, ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from pymar.exceptions import UsageError
from pymar.serialization.settings import is_plain
from pymar.serialization.usercode import is_users, passing

#: The pool of the workers that compute what is made of the functions of a file.
POOL = "calls"
#: Classes that a job may be made from, and whose objects may stand in place of a function, by their full names.
BASES = frozenset(
    {"pymar.calls.producer.Calls"}
    | {f"pymar.keyed.calls.{name}" for name in ("Distinct", "Joining", "Sorting")}
    | {f"pymar.datasets.producers.{name}" for name in ("Piped", "Counted", "Summed", "Reduced", "Best", "Taken")}
    | {f"pymar.datasets.producers.{name}" for name in ("Grouped", "Ordered", "Joined")}
)
CALLABLES = frozenset(
    {f"pymar.datasets.steps.{name}" for name in ("Columns", "Folded", "Several")}
    | {f"pymar.keyed.aggregations.{name}" for name in ("Sum", "Count", "Min", "Max", "Mean", "First", "Last", "Var")}
    | {f"pymar.keyed.aggregations.{name}" for name in ("Std", "Quantile", "TopN", "Collect", "CountDistinct")}
    | {"pymar.keyed.reduction.Several"}
)
#: Where functions of Python that need no name in a job file are found: they compute, and touch nothing else.
_OF_PYTHON: dict[str, Any] = {
    "math": math,
    **{kind.__name__: kind for kind in (str, bytes, int, float, complex, tuple, list, dict, set, frozenset)},
}
_BUILTINS = frozenset({
    "abs", "all", "any", "ascii", "bin", "bool", "bytes", "chr", "complex", "dict", "divmod", "enumerate",
    "float", "format", "frozenset", "hash", "hex", "int", "len", "list", "max", "min", "oct", "ord", "pow",
    "range", "repr", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
})  # fmt: skip
#: Functions of texts that read attributes of what they are given, so that a format reaches all that a worker holds.
_READ_ATTRIBUTES = frozenset({"format", "format_map"})
#: What the functions of a class may be, besides those of steps.
_FUNCTIONS = frozenset({
    "call_fn", "function", "key", "key_fn", "left_fn", "map_fn", "records_fn", "reduce_fn", "right_fn", "setup_fn",
})  # fmt: skip
#: How many classes are kept: a loop that makes the same call again and again sends one class.
_KEPT = 16


class Made(NamedTuple):
    """What a class was made of."""

    base: type[Any]
    functions: dict[str, Callable[..., Any]]
    attributes: dict[str, Any]


class Composed(type):
    """The type of composed classes: so pickle sends them as what they are made of, if their functions have names."""


_made: WeakKeyDictionary[type, Made] = WeakKeyDictionary()
_kept: dict[Any, type[Any]] = {}


def composed(
    base: type[Any],
    name: str,
    functions: Mapping[str, Callable[..., Any] | None],
    attributes: Mapping[str, Any] | None = None,
    home: str | None = None,
) -> type[Any]:
    """Return a subclass of `base` with static functions and attributes of plain data; for equal ones, the same class.

    It belongs to the module `home`; by default, to that of its functions.

    Raises:
        UsageError: one of the functions cannot be called.
    """
    given = {what: function for what, function in functions.items() if function is not None}
    attributes = dict(attributes or {})
    for what, function in given.items():
        if not callable(function):
            raise UsageError(f"{what}={function!r:.100}: give a function")
    home = home or home_of(*given.values())
    if not all(map(_is_lasting, given.values())):
        made = _new(base, name, given, attributes, home)
        passing.add(made)
        return made
    of_functions = tuple((what, id(function)) for what, function in given.items())
    key: Any = base, name, home, of_functions, repr(attributes)
    known = _kept.pop(key, None)
    _kept[key] = known = _new(base, name, given, attributes, home) if known is None else known
    for oldest in list(_kept)[:-_KEPT]:
        _kept.pop(oldest, None)  # another thread may have done so
    return known


def _is_lasting(function: Any) -> bool:
    """True for a function that holds nothing but its code: what it is made into may be kept for the next call."""
    if isinstance(function, FunctionType):
        return function.__closure__ is None and not function.__defaults__ and not function.__kwdefaults__
    if isinstance(function, BuiltinFunctionType):  # of a module, or a method of some object
        return isinstance(function.__self__, ModuleType)
    return isinstance(function, type | MethodDescriptorType)


def _new(base: type[Any], name: str, functions: dict[str, Any], attributes: dict[str, Any], home: str) -> type[Any]:
    found = _class(base, name, functions, attributes, home)
    _made[found] = Made(base, functions, attributes)
    return found


def _class(base: type[Any], name: str, functions: dict[str, Any], attributes: dict[str, Any], home: str) -> type[Any]:
    members: dict[str, Any] = {what: staticmethod(function) for what, function in functions.items()}
    names = {"__module__": home, "__qualname__": f"{base.__name__}.<locals>.{name}"}
    return Composed(name, (base,), {**members, **attributes, **names})


def home_of(*functions: Any) -> str:
    """Return the name of the user's module that has all of these functions that are a user's, by their names.

    It is the first that one of them comes from, or "__main__". If none has all, the first; without any, "__main__".
    """
    users = [one for one in map(_bare, _all_of(functions)) if is_users(getattr(one, "__module__", None) or "")]
    names: list[str] = [*dict.fromkeys(one.__module__ for one in users), "__main__"]
    for name in names:
        there = vars(sys.modules.get(name, builtins))
        if all(there.get(one.__name__) is one for one in users):
            return name
    return names[0]


def _all_of(values: Iterable[Any]) -> Iterator[Any]:
    """Yield functions, and those that objects of Pymar's hold in their place."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _all_of(value)
        elif isinstance(value, dict):
            yield from _all_of(value.values())
        elif _full_name(type(value)) in CALLABLES:
            yield from _all_of(vars(value).values())
        elif callable(value):
            yield value


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def module_of(function: Any) -> str:
    """Return the name of the module of what is called; "" if it has none."""
    return str(getattr(_bare(function), "__module__", None) or "")


def _bare(function: Any) -> Any:
    """Return what a partial or a method calls; of another object, its class."""
    while isinstance(function, partial | MethodType):
        function = function.func if isinstance(function, partial) else function.__func__
    return function if hasattr(function, "__name__") else type(function)


def name_of(function: Any) -> str:
    """Return the name of what is called, for people: of a function, or of the class of an object."""
    return str(_bare(function).__name__)


def made_of(cls: type[Any]) -> Made | None:
    """Return what a class was made of; None if it was not made here."""
    return _made.get(cls)


def _reduced(cls: Composed) -> tuple[Any, ...]:
    made = _made[cls]
    return _class, (made.base, cls.__name__, made.functions, made.attributes, cls.__module__)


copyreg.pickle(Composed, _reduced)


def described(cls: type[Any], made: Made) -> list[Any]:
    """Return a class as plain data: its base, its name, and the names of its functions in its job file.

    Raises:
        UsageError: a function has no name there.
    """
    module = sys.modules[cls.__module__]
    functions = {what: _reference(function, module) for what, function in made.functions.items()}
    return [f"{made.base.__module__}.{made.base.__qualname__}", cls.__name__, functions, made.attributes]


def _reference(function: Any, module: ModuleType) -> list[Any]:
    name = getattr(function, "__name__", "")
    if (kind := _full_name(type(function))) in CALLABLES:
        state = {name: _plain(value, module) for name, value in vars(function).items()}
        return ["of pymar", kind, state]
    if isinstance(function, FunctionType) and vars(module).get(name) is function and is_users(function.__module__):
        return ["name", name]
    if name in _BUILTINS and getattr(builtins, name) is function:
        return ["of python", "builtins", name]
    for place, where in _OF_PYTHON.items():
        if vars(where).get(name) is function and _only_computes(name, function):
            return ["of python", place, name]
    file = getattr(module, "__file__", module.__name__)
    what = f"{name} is a lambda" if name == "<lambda>" else f"{function!r:.100} is no function at the top level"
    raise UsageError(
        f"{what} of {file}, and without a key, workers find functions by their names there: write it as a function at "
        "the top level of that file (def name(...): ...); or give workers and producers a key (pymar keygen), start "
        "`pymar worker --pool NAME`, and set engine='amqp://host?pool=NAME': then code travels by value"
    )


def _plain(value: Any, module: ModuleType) -> list[Any]:
    """Return what an object of Pymar's holds as plain data: functions and other such objects in it as references."""
    if callable(value):
        return ["function", _reference(value, module)]
    if isinstance(value, list | tuple):
        return ["list", [_plain(one, module) for one in value]]
    if isinstance(value, dict):
        return ["dict", {name: _plain(one, module) for name, one in value.items()}]
    return ["plain", value]


def _read(value: Any, module: ModuleType) -> Any:
    match value:
        case ["function", reference]:
            return _found(reference, module)
        case ["list", list(values)]:
            return [_read(one, module) for one in values]
        case ["dict", dict(values)]:
            return {name: _read(one, module) for name, one in values.items()}
        case ["plain", found]:
            return found
    raise UsageError("this is no job definition: an object in it has another form")


def recomposed(module: ModuleType, description: list[Any]) -> type[Any]:
    """Return the class that `described` has described, of the functions of this job file.

    A message can name no function but those that the file, or a module of the user's, defines at its top level, and
    some of Python that only compute.

    Raises:
        UsageError: it is no description, or a function is not there.
    """
    if not (
        [*map(type, description)] == [str, str, dict, dict]
        and description[0] in BASES
        and description[1].isidentifier()
        and all(map(_is_function_name, description[2]))
        and all(type(name) is str and name.isidentifier() and name.isupper() for name in description[3])
        and all(map(is_plain, description[3].values()))
    ):
        raise UsageError("this is no job definition: it describes no class of functions")
    home, _, name = description[0].rpartition(".")
    base = getattr(importlib.import_module(home), name)
    functions = {what: _found(reference, module) for what, reference in description[2].items()}
    return _class(base, description[1], functions, description[3], module.__name__)


def _is_function_name(name: Any) -> bool:
    return name in _FUNCTIONS or (type(name) is str and is_step(name))


def is_step(name: str) -> bool:
    """True if an attribute is the function of a step of a dataset."""
    return name.startswith("step_") and name.removeprefix("step_").isdecimal()


def _is_attribute(name: Any) -> bool:
    return type(name) is str and name.isidentifier() and not name.startswith("__")


def _only_computes(name: str, function: Any) -> bool:
    is_of_python = isinstance(function, BuiltinFunctionType | MethodDescriptorType)
    return is_of_python and name[0] != "_" and name not in _READ_ATTRIBUTES


def _found(reference: Any, module: ModuleType) -> Any:
    match reference:
        case ["name", str(name)]:
            found = vars(module).get(name)
            if isinstance(found, FunctionType) and is_users(found.__module__):
                return found
            raise UsageError(
                f"{module.__file__} has no function {name!r} at its top level above its first job: define it there"
            )
        case ["of python", "builtins", str(name)] if name in _BUILTINS:
            return getattr(builtins, name)
        case ["of python", str(place), str(name)] if place in _OF_PYTHON:
            found = vars(_OF_PYTHON[place]).get(name)
            if _only_computes(name, found):
                return found
        case ["of pymar", str(full), dict(state)] if full in CALLABLES and all(map(_is_attribute, state)):
            home, _, name = full.rpartition(".")
            made = object.__new__(getattr(importlib.import_module(home), name))
            vars(made).update({name: _read(value, module) for name, value in state.items()})
            return made
    raise UsageError("this is no job definition: it names a function that no job may have")
