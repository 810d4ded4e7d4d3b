"""What code a job runs: the functions that its classes lead to, and the plain globals that those read."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from pymar.settings import is_plain

_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


# What was found from classes of importable modules, which do not change as those of `__main__` do in a notebook.
_known: WeakKeyDictionary[type, UserCode] = WeakKeyDictionary()


def globals_of(cls: type) -> dict[str, dict[str, Any]]:
    """The plain globals of importable modules that a class's code reads, by module, as they are now.

    Those of `__main__` travel with its functions, by value.
    """
    code = _known.get(cls)
    if code is None:
        code = UserCode(cls)
        if not any(name.startswith("__main__.") for name in code.functions):
            _known[cls] = code
    found: dict[str, dict[str, Any]] = {}
    for module, name in code.globals:
        if module != "__main__" and module in sys.modules and is_plain(value := vars(sys.modules[module]).get(name)):
            found.setdefault(module, {})[name] = value
    return found


class UserCode:
    """The user's functions reachable from some classes by the global names that they read.

    Libraries (the standard library, site-packages) are left out: they are the same everywhere, or somebody else's
    business. What is reached in other ways (getattr, registries) is not seen.
    """

    def __init__(self, *classes: type) -> None:
        #: "module.qualname" of each function, and the function.
        self.functions: dict[str, FunctionType] = {}
        #: (module, name) of each plain global that they read, and its value now.
        self.globals: dict[tuple[str, str], Any] = {}
        self._seen: set[int] = set()
        for cls in classes:
            self._visit(cls)

    def _visit(self, thing: Any) -> None:
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, type) and _is_users(thing.__module__):
            for base in thing.__mro__:
                if _is_users(base.__module__):
                    for member in vars(base).values():
                        self._visit(_function_in(member))
        elif isinstance(thing, FunctionType) and _is_users(thing.__module__):
            self.functions[f"{thing.__module__}.{thing.__qualname__}"] = thing
            self._follow(thing)

    def _follow(self, function: FunctionType) -> None:
        names = set(_names(function.__code__))
        for cell in function.__closure__ or ():
            try:
                self._visit(cell.cell_contents)
            except ValueError:
                continue  # The cell is still empty: the function is being defined.
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            if isinstance(value, ModuleType):
                if _is_users(value.__name__):
                    for attribute in sorted(names & vars(value).keys()):
                        self._meet(value.__name__, attribute, vars(value)[attribute])
            else:
                self._meet(function.__globals__.get("__name__", "?"), name, value)

    def _meet(self, module: str, name: str, value: Any) -> None:
        if isinstance(value, type | FunctionType):
            self._visit(value)
        elif not name.startswith("__") and is_plain(value):
            self.globals[module, name] = value

    def hashes(self) -> dict[str, str]:
        """A short hash of each function's code: the same for the same code, wherever its file lies."""
        return {name: _hash(function) for name, function in sorted(self.functions.items())}


def _function_in(member: Any) -> Any:
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member.fget if isinstance(member, property) else member


def _is_users(module: str) -> bool:
    if module == "__main__":
        return True
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None or module == "pymar" or (module.startswith("pymar.") and module != "pymar.testing"):
        return False
    return not path.startswith(_LIBRARIES)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _hash(function: FunctionType) -> str:
    import hashlib

    told = repr((_described(function.__code__), function.__defaults__, function.__kwdefaults__))
    return hashlib.blake2b(told.encode(errors="backslashreplace"), digest_size=8).hexdigest()


def _described(code: CodeType) -> tuple[Any, ...]:
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_described(constant))
        elif isinstance(constant, frozenset):
            constants.append(sorted(map(repr, constant)))  # a set's order differs between processes
        else:
            constants.append(constant)
    return code.co_code, constants, code.co_names, code.co_varnames
