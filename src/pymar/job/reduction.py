"""A check that reduce_fn returns a single partial unchanged: it runs on each part, and again over the partials."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isclose
from numbers import Number
from time import sleep
from types import GeneratorType
from typing import Any

from pymar.exceptions import UsageError
from pymar.serialization import loads

#: Bytes of the largest encoded partial that is checked.
SMALL = 64 << 10
#: Seconds between two calls that must agree before reduce_fn is refused: partials may hold the time of day.
PAUSE = 1.1
#: Floats that differ by less, relative to their size, are alike: sums of terms in another order have other last bits.
TOLERANCE = 1e-6


def check_partial(producer: type[Any], encoded: bytes) -> None:
    """Refuse a reduce_fn that, for a single partial, returns something other than that partial.

    It is not refused if it raises (the job's own call will raise too), nor if its values cannot be compared, are random
    or depend on the time.

    Raises:
        UsageError: reduce_fn returns something else; the message has both values.
    """
    reduce_fn, partial = producer.reduce_fn, loads(encoded)
    with generators_left_alone():
        try:
            found = reduce_fn(iter([loads(encoded)]))
            if isinstance(found, GeneratorType) or alike(found, partial) is not False:
                return
            sleep(PAUSE)
            if alike(reduce_fn(iter([loads(encoded)])), found) is not True:
                return
        except Exception:  # the job's own call will raise it
            return
    raise UsageError(
        f"{producer.__name__}.reduce_fn gives {found!r:.200} for the partial {partial!r:.200} alone, and has to give "
        "the partial back: it runs on each part, and once more over the partials. Return what can be reduced again "
        "(a sum and a count for a mean, lists that are joined), and finish what map() returns; or use partials(), "
        "which are not reduced"
    )


@contextmanager
def generators_left_alone() -> Iterator[None]:
    """Restore the random generators of `random` and numpy at the end of the context."""
    random, numpy_random = sys.modules.get("random"), sys.modules.get("numpy.random")
    states = random and random.getstate(), numpy_random and numpy_random.get_state()
    try:
        yield
    finally:
        if random is not None:
            random.setstate(states[0])
        if numpy_random is not None:
            numpy_random.set_state(states[1])


def alike(one: Any, other: Any) -> bool | None:
    """True if two values are equal apart from rounding and order; None if they cannot be compared."""
    try:
        return _alike(one, other)
    except Exception:  # whatever the user's __eq__ raises
        return None


def _alike(one: Any, other: Any) -> bool | None:
    if one is other:
        return True
    if one is None or other is None:
        return False
    if "numpy" in (type(one).__module__, type(other).__module__):
        return _arrays_alike(one, other)
    if isinstance(one, Number) and isinstance(other, Number):
        return one == other or (one != one and other != other) or _close(one, other)
    if isinstance(one, list | tuple | deque) and isinstance(other, list | tuple | deque):
        in_order = _all(map(_alike, one, other)) if len(one) == len(other) else False
        return in_order if in_order is not False else sorted(map(repr, one)) == sorted(map(repr, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and _all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, set | frozenset) and isinstance(other, set | frozenset):
        return one == other or sorted(map(repr, one)) == sorted(map(repr, other))
    if hasattr(one, "__dataclass_fields__") and type(one) is type(other):
        return _all(_alike(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)
    same: Any = one == other
    if isinstance(same, bool):
        return same if same or _defines_equality(one) or _defines_equality(other) else None
    return None


def _defines_equality(value: Any) -> bool:
    return "__eq__" in {name for base in type(value).__mro__[:-1] for name in vars(base)}


def _all(results: Iterable[bool | None]) -> bool | None:
    found = set(results)
    return False if False in found else None if None in found else True


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, complex) or isinstance(other, complex):
        return bool(abs(one - other) <= TOLERANCE * max(abs(one), abs(other)))
    return isclose(float(one), float(other), rel_tol=TOLERANCE)


def _arrays_alike(one: Any, other: Any) -> bool | None:
    numpy = sys.modules["numpy"]
    left, right = numpy.asarray(one), numpy.asarray(other)
    if left.dtype.hasobject or right.dtype.hasobject:
        return None
    if left.shape != right.shape:
        return False
    if left.dtype.kind in "fc" or right.dtype.kind in "fc":
        return bool(numpy.allclose(left, right, rtol=TOLERANCE, atol=0.0, equal_nan=True))
    return bool(numpy.array_equal(left, right))
