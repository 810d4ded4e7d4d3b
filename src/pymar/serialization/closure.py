"""What a function holds besides its code, by name: defaults, variables of its closure, attributes. Some are caches."""

from __future__ import annotations

from types import CellType, FunctionType
from typing import Any

#: Prefixes of the names of defaults and of variables of the closure; names of attributes contain no space.
DEFAULT, CLOSURE = "the default ", "the variable "


def held_by(function: FunctionType) -> dict[str, Any]:
    """Return all that a function holds, without `__wrapped__` and variables of the closure that are not set yet."""
    code = function.__code__
    positional = code.co_varnames[: code.co_argcount]
    given = zip(reversed(positional), reversed(function.__defaults__ or ()), strict=False)
    found = {f"{DEFAULT}{name}": value for name, value in (*given, *(function.__kwdefaults__ or {}).items())}
    for name, cell in _cells(function).items():
        try:
            found[f"{CLOSURE}{name}"] = cell.cell_contents
        except ValueError:
            continue  # the function is being defined
    attributes = sorted(vars(function).items()) if vars(function) else ()
    found.update((name, value) for name, value in attributes if name != "__wrapped__")
    return found


def hold(function: FunctionType, name: str, value: Any) -> None:
    """Set what a function holds under a name that `held_by` returns."""
    if name.startswith(CLOSURE):
        _cells(function)[name.removeprefix(CLOSURE)].cell_contents = value
    elif name.startswith(DEFAULT):
        _set_default(function, name.removeprefix(DEFAULT), value)
    else:
        setattr(function, name, value)


def _cells(function: FunctionType) -> dict[str, CellType]:
    return dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def _set_default(function: FunctionType, name: str, value: Any) -> None:
    if function.__kwdefaults__ and name in function.__kwdefaults__:
        function.__kwdefaults__[name] = value
        return
    code, defaults = function.__code__, list(function.__defaults__ or ())
    defaults[code.co_varnames.index(name) - code.co_argcount] = value
    function.__defaults__ = tuple(defaults)
