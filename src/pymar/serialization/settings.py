"""Settings: the class attributes of plain data that travel with a job; set in classes for a job, and put back after it.

Also splitmix64, the function that makes the seeds of parts.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from pymar.serialization.closure import held_by, hold

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, range})
#: By names of module and class, so that no module has to be imported for it.
_LIBRARY_ATOMS = frozenset(
    {("decimal", "Decimal"), ("fractions", "Fraction"), ("uuid", "UUID")}
    | {("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")}
)
_SEQUENCES = frozenset({list, tuple, set, frozenset})
_MAPPINGS = frozenset({dict, OrderedDict, Counter})
#: Stands for the value of a name that is not set.
MISSING: Any = object()

#: Held while classes have the settings of a job: in one process, of one job at a time.
one_job: threading.RLock = threading.RLock()


def is_plain(value: Any) -> bool:
    """True if a value, and all in it, is plain data: numbers, text, bytes, dates, containers of those, numpy arrays."""
    try:
        return _is_plain(value)
    except RecursionError:  # it holds itself
        return False


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind in _SEQUENCES:
        return all(map(_is_plain, list(value)))  # a copy: other threads may change it
    if kind in _MAPPINGS:
        return all(map(_is_plain, list(value))) and all(map(_is_plain, list(value.values())))
    if (kind.__module__, kind.__qualname__) in _LIBRARY_ATOMS:
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and not value.dtype.hasobject


def collected(cls: type) -> dict[str, Any]:
    """Return the public plain-data attributes of a class itself, without those of its bases, as they are now."""
    return {name: value for name, value in list(vars(cls).items()) if name[0] != "_" and is_plain(value)}


def is_setting(cls: type, name: str) -> bool:
    """True if an attribute of a class travels with each job."""
    return name[0] != "_" and is_plain(vars(cls).get(name, MISSING))


def held(place: Any) -> Mapping[str, Any]:
    """Return what a class, a module or a function holds, by name."""
    return held_by(place) if type(place) is FunctionType else vars(place)


def put(place: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Set what a class, a module or a function holds; return what was there before, for `put_back`.

    A name with the value MISSING is removed.
    """
    there = held(place)
    before = {name: there.get(name, MISSING) for name in values}
    for name, value in values.items():
        _set(place, name, value)
    return before


def put_back(place: Any, before: Mapping[str, Any]) -> None:
    """Undo `put`."""
    for name, value in before.items():
        _set(place, name, value)


def _set(place: Any, name: str, value: Any) -> None:
    if value is MISSING:
        if name in held(place):
            delattr(place, name)
    elif type(place) is FunctionType:
        hold(place, name, value)
    else:
        setattr(place, name, value)


@contextmanager
def applied(cls: type, values: Mapping[str, Any]) -> Iterator[None]:
    """Set attributes of a class within this context; one thread at a time."""
    with one_job:
        before = put(cls, values)
        try:
            yield
        finally:
            put_back(cls, before)


def splitmix64(state: int) -> int:
    """Return a mix of 64 bits; neighbouring seeds give unrelated ones (Steele, Lea, Flood: OOPSLA 2014, figure 15)."""
    mask = 0xFFFF_FFFF_FFFF_FFFF
    z = (state + 0x9E37_79B9_7F4A_7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB) & mask
    return z ^ (z >> 31)
