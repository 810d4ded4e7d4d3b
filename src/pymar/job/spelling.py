"""Names in a user's class that are nearly those of Pymar and that nothing uses: they would silently do nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import takewhile
from types import CodeType, FunctionType, ModuleType
from typing import Any

from pymar.exceptions import UsageError
from pymar.serialization.usercode import is_users

# Names that users give to settings and functions, as stems (see `_stem`), and the right ones.
_SETTINGS = {
    "worker": "WORKERS_NUMBER",
    "part": "WORKERS_NUMBER",
    "attempt": "ATTEMPTS",
    "retry": "RETRIES",
    "failed": "MAX_FAILED",
    "failure": "MAX_FAILED",
    "timeout": "PART_TIMEOUT",
    "parttimeout": "PART_TIMEOUT",
    "memory": "MEMORY_LIMIT",
    "mem": "MEMORY_LIMIT",
    "backup": "BACKUPS",
    "seed": "SEED",
    "unit": "unit",
}
_FUNCTIONS = {
    "map": "map_fn",
    "mapper": "map_fn",
    "reduce": "reduce_fn",
    "reducer": "reduce_fn",
    "setup": "setup_fn",
    "initialize": "setup_fn",
    "initializer": "setup_fn",
    "init": "setup_fn",
    "divide": "divide",
    "routingkey": "routing_key",
    "workersnumber": "workers_number",
    "length": "full_length",
    "len": "full_length",
    "fulllength": "full_length",
    "fulllen": "full_length",
    "totallength": "full_length",
    "prepare": "prepare",
    "releaseprepared": "release_prepared",
    "release": "release_prepared",
    "iter": "__iter__",
}
#: The types of settings.
_PLAIN = int | float | str | None
_FILLERS = frozenset(("max", "maximum", "num", "number", "n", "count", "of", "limit", "random", "default"))


def near(name: str, stems: Mapping[str, str], among: Collection[str]) -> str | None:
    """Return the name of `among` that is probably meant, by its stem or its letters; None if there is none."""
    from difflib import get_close_matches

    meant = stems.get(_stem(name))
    if meant in among:
        return meant
    plain = {one.replace("_", "").lower(): one for one in among}
    found = get_close_matches(name.replace("_", "").lower(), plain, 1, 0.8)
    return plain[found[0]] if found else None


def _stem(name: str) -> str:
    """Return a name without fillers, plurals, underscores and case: "worker" of NUM_WORKERS, "map" of mapFunc."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    words = [re.sub("(?<=..)ies$", "y", word) for word in words if word not in _FILLERS]
    joined = "".join(word if word.endswith("ss") else word.removesuffix("s") for word in words)
    return re.sub("(fn|fun|func|function)$", "", joined)


def members_of(root: type) -> dict[str, Any]:
    """Return what `root` (Producer or DataSource) and its own bases define, by name."""
    return {name: value for base in reversed(root.__mro__[:-1]) for name, value in vars(base).items()}


def near_function(cls: type, meant: str) -> str | None:
    """Return the name in a user's class that is probably meant to be this function, which the class lacks; or None."""
    for name, value in _members(cls):
        if name != meant and _is_function(value) and near(name.strip("_"), _FUNCTIONS, (meant,)) == meant:
            return name
    return None


def check_names(cls: type, root: Any, instance: Mapping[str, Any] | None = None) -> None:
    """Refuse names such as RETRY or `setup`, which are nearly those of `root` (Producer or DataSource).

    With `instance`, the names in it are checked instead of those of the class. A name is allowed if the user's code
    reads it, or if the right name is there too.

    Raises:
        UsageError: a name is nearly one of ours; the message has both.
    """
    ours = {name: value for name, value in members_of(root).items() if name[0] != "_" or name == "__iter__"}
    functions = [name for name, value in ours.items() if _is_function(value)]
    settings = [name for name, value in ours.items() if isinstance(value, _PLAIN)]
    theirs = dict(_members(cls))
    for name, value in (theirs if instance is None else instance).items():
        if name in ours or name[0] == "_":
            continue
        if is_function := _is_function(value):
            meant = near(name, _FUNCTIONS, functions)
        elif isinstance(value, _PLAIN):
            meant = near(name, _SETTINGS, settings)
        else:
            continue
        if meant is not None and not _is_next_to(cls, root, meant, name) and not _is_used(cls, name):
            does = "called" if is_function else "used"
            raise UsageError(f"{cls.__name__}.{name} is not {does} by anything: {meant} is. Rename one or the other")


def _is_next_to(cls: type, root: type, meant: str, name: str) -> bool:
    """True if the class that defines a name, or one derived from it, has the right name too."""
    for base in takewhile(lambda base: base is not root, cls.__mro__):
        if meant in vars(base):
            return True
        if name in vars(base):
            return False
    return False


def check_functions(cls: type, root: Any) -> None:
    """Refuse a number or a text in place of a function: workers_number = 3, routing_key = "name".

    Raises:
        UsageError: there is one.
    """
    for name, value in _members(cls):
        ours = getattr(root, name, None) if name in members_of(root) else None
        if isinstance(ours, FunctionType) or hasattr(ours, "__func__"):
            if callable(getattr(cls, name)):
                continue
            meant = _SETTINGS.get(_stem(name))
            remedy = (
                f"write {meant} = {value!r:.100}"
                if meant is not None and meant in members_of(root)
                else f"define a function {name} that returns it"
            )
            raise UsageError(f"{cls.__name__}.{name} is {value!r:.100}, and has to be a function: {remedy}")


def _is_function(value: Any) -> bool:
    return isinstance(value, FunctionType | staticmethod | classmethod)


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield names and values that a class and its bases define, as far as these are the user's."""
    seen: set[str] = set()
    for base in cls.__mro__:
        if is_users(base.__module__):
            for name, value in vars(base).items():
                if name not in seen:
                    seen.add(name)
                    yield name, value


def _is_used(cls: type, name: str) -> bool:
    """True if a class, its bases or the user's modules around them read an attribute of this name."""
    for base in cls.__mro__:
        for member in vars(base).values():
            if name in _read_by(getattr(getattr(member, "__func__", member), "__code__", None)):
                return True
    from pymar.job.attributereads import reads  # late: it imports ast, which takes 5 ms

    for module in _modules_around(cls, name):
        path = getattr(module, "__file__", None) or ""
        try:
            with open(path, "rb") as file:
                source = file.read()
            if name.encode() in source and reads(source, cls, name):
                return True
        except (OSError, SyntaxError, ValueError):  # an interactive prompt, or a module without a source file
            if any(name in _read_by(getattr(thing, "__code__", None)) for thing in list(vars(module).values())):
                return True
    return False


def _modules_around(cls: type, name: str) -> list[ModuleType]:
    """Return the user's modules that define a class or its bases, that these import, and that import the class."""
    own = {base.__module__ for base in cls.__mro__ if is_users(base.__module__)}
    found = set(own)
    for module in own:
        for thing in list(vars(sys.modules[module]).values()):
            found.add(str(thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", "")))
    derived = {id(base) for base in cls.__mro__ if any(name in vars(above) for above in base.__mro__)} | {id(cls)}
    for module, there in list(sys.modules.items()):
        if is_users(module) and any(id(thing) in derived for thing in list(vars(there).values())):
            found.add(module)
    modules = [sys.modules[module] for module in found if module in sys.modules and is_users(module)]
    return [module for module in modules if "-packages/" not in (getattr(module, "__file__", None) or "")]


def _read_by(code: CodeType | None) -> Iterator[str]:
    if code is not None:
        yield from code.co_names
        for constant in code.co_consts:
            if isinstance(constant, str):
                yield constant  # getattr(cls, "name")
            elif isinstance(constant, CodeType):
                yield from _read_by(constant)


def called_wrong(
    method: Callable[..., Any], names: Collection[str], arguments: tuple[Any, ...], named: Mapping[str, Any], root: type
) -> UsageError:
    """Return the error of a wrong call of a Producer's method: on the class, or with an argument of another name."""
    name = method.__name__
    if not arguments or not isinstance(arguments[0], root):
        return UsageError(
            f"{name}() was called on a class, not on a producer: make one first, with parentheses after "
            f"the class: MyProducer().{name}(...)"
        )
    cls = type(arguments[0]).__name__
    given = next(one for one in named if one not in names)
    settings = [one for one in members_of(root) if one.isupper()]
    call = cls if name == "__init__" else f"{cls}.{name}"
    if meant := near(given, {}, names):
        return UsageError(f"{call}() has no argument {given!r}: did you mean {meant}=?")
    if meant := given if given in settings else near(given, _SETTINGS, settings):
        return UsageError(
            f"{call}() has no argument {given!r}: {meant} is an attribute of the class, {cls}.{meant} = ..."
        )
    return UsageError(f"{call}() has no argument {given!r}: it takes {', '.join(sorted(names))}")
