"""What code a job runs: the functions that its classes lead to, and the plain globals that those read."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from pymar.masks import is_secret, masked
from pymar.settings import collected, is_plain

_LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


# What was found from classes of importable modules, which do not change as those of `__main__` do in a notebook.
_known: WeakKeyDictionary[type, UserCode] = WeakKeyDictionary()


def settings_of(cls: type, root: type) -> dict[type | str, dict[str, Any]]:
    """The settings that a class's code can read, as they are now: by class, or by module for plain globals.

    The public plain attributes of the class, of its bases up to `root`, and of the classes that its code leads to; the
    plain globals of importable modules that it reads. Those of `__main__` travel with its functions, by value.
    """
    code = _known.get(cls)
    if code is None:
        code = UserCode(cls)
        if not any(name.startswith("__main__.") for name in code.functions):
            _known[cls] = code
    found: dict[type | str, dict[str, Any]] = {}
    for owner in dict.fromkeys((*cls.__mro__, *code.classes)):
        if owner not in (root, object):
            found[owner] = collected(owner)
    for module, name in code.globals:
        if module != "__main__" and module in sys.modules and is_plain(value := vars(sys.modules[module]).get(name)):
            found.setdefault(module, {})[name] = value
    return {place: values for place, values in found.items() if values}


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
        #: Plain values that functions have closed over, by the function's name and theirs.
        self.cells: dict[str, Any] = {}
        #: The user's classes.
        self.classes: dict[type, None] = {}
        self._seen: set[int] = set()
        for cls in classes:
            self._visit(cls)

    def _visit(self, thing: Any) -> None:
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, type) and is_users(thing.__module__):
            for base in thing.__mro__:
                if is_users(base.__module__):
                    self.classes[base] = None
                    for member in vars(base).values():
                        self._visit(_function_in(member))
        elif isinstance(thing, FunctionType) and is_users(thing.__module__):
            self.functions[f"{thing.__module__}.{thing.__qualname__}"] = thing
            self._follow(thing)

    def _follow(self, function: FunctionType) -> None:
        names = set(_names(function.__code__))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = _function_in(cell.cell_contents)
            except ValueError:
                continue  # The cell is still empty: the function is being defined.
            self._visit(value)
            if is_plain(value):
                self.cells[f"{function.__module__}.{function.__qualname__}, {name}"] = value
        self._read(names, function.__globals__.get("__name__", "?"), function.__globals__)

    def _read(self, names: set[str], module: str, variables: dict[str, Any]) -> None:
        for name in sorted(names & variables.keys()):
            self._meet(names, module, name, _function_in(variables[name]))

    def _meet(self, names: set[str], module: str, name: str, value: Any) -> None:
        if isinstance(value, ModuleType):
            if is_users(value.__name__) and id(value) not in self._seen:
                self._seen.add(id(value))
                self._read(names, value.__name__, vars(value))
                self._seen.discard(id(value))  # another function may read other names of it
        elif isinstance(value, type | FunctionType):
            self._visit(value)
        elif not name.startswith("__") and is_plain(value):
            self.globals[module, name] = value

    def hashes(self) -> dict[str, str]:
        """A short hash of each function's code: the same for the same code, wherever its file lies."""
        return {name: _hash(function) for name, function in sorted(self.functions.items())}


def told(value: Any, name: str = "") -> str:
    """Plain data as text that is the same in every process, whatever the order of its sets.

    Long ones by a hash, and those whose name, or key, is that of a secret.
    """
    if is_secret(name):
        return f"*** ({_digest(repr(value))})"
    if isinstance(value, set | frozenset):
        text = f"{{{', '.join(sorted(map(told, value)))}}}"
    elif type(value).__module__ == "numpy":
        text = f"{value.dtype}{value.shape}{_digest(value.tobytes())}"
    elif isinstance(value, dict):
        text = f"{{{', '.join(f'{told(key)}: {told(item, str(key))}' for key, item in value.items())}}}"
    elif isinstance(value, list | tuple):
        text = f"{type(value).__name__}({', '.join(map(told, value))})"
    else:
        text = repr(value)
        if (shown := masked(text)) != text:
            return f"{shown} ({_digest(text)})"
    if len(text) <= 200:
        return text
    return f"{text[:40]}... ({_digest(text)})"


def _digest(data: str | bytes) -> str:
    from hashlib import blake2b

    data = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    return blake2b(data, digest_size=8).hexdigest()


def _function_in(thing: Any) -> Any:
    """The function within a decorated one: a static or class method, a property, a cache, a partial."""
    for name in ("__func__", "fget", "__wrapped__", "func"):
        inner = getattr(thing, name, None) if not isinstance(thing, type | ModuleType | FunctionType) else None
        if isinstance(inner, FunctionType):
            return inner
    return getattr(thing, "__wrapped__", thing) if isinstance(thing, FunctionType) else thing


def is_users(module: str) -> bool:
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

    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()]
    told = repr((_described(function.__code__), [item if is_plain(item) else type(item).__name__ for item in defaults]))
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
