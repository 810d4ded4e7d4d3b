"""check_source: tests that a source gives each record once, however it is cut. For authors of sources."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from itertools import pairwise
from math import copysign
from typing import Any

from pymar.datasource import DataSource, DataSourceFactory
from pymar.exceptions import UsageError
from pymar.parts import cut
from pymar.serialization.settings import applied, is_plain

#: The largest length of a source that is also cut into parts of a single unit.
_SINGLE_UNITS = 300


def check_source(
    factory: DataSourceFactory | type[DataSource],
    *,
    cuts: int = 10,
    seed: int | None = None,
    joined: Callable[[list[Any]], Any] = list,
) -> int:
    """Read a source whole and in parts of many sizes, compare, and return the number of its records.

    Args:
        factory: a DataSourceFactory, or the source class.
        cuts: how many times it is cut at random places, besides cuts into even parts.
        seed: for the random places; an error shows it.
        joined: is applied to the records before they are compared: `numpy.concatenate` for blocks of arrays, `sorted`
            where order may differ.

    Returns:
        The number of records of the source.

    Raises:
        AssertionError: some cut gave other records than reading from start to end; the message shows the cut.
    """
    factory = DataSourceFactory(factory) if isinstance(factory, type) else factory
    if factory.source is None:
        raise UsageError("check_source checks a DataSource class, and this factory holds plain data")
    seed = random.randrange(1 << 32) if seed is None else seed
    rng = random.Random(seed)
    mine = factory.for_a_job()
    length = mine.length()
    try:
        with applied(factory.source, mine.prepared):
            whole = _read(factory.source, mine.offset, length)
            expected = joined(whole) if whole else whole
            for sizes in _ways(length, cuts, rng):
                records = [
                    record for offset, limit in sizes for record in _read(factory.source, mine.offset + offset, limit)
                ]
                _compare(expected, joined(records) if records else records, sizes, seed)
    finally:
        mine.release()
    return len(whole)


def _ways(length: int, cuts: int, rng: random.Random) -> list[list[tuple[int, int]]]:
    ways = [list(cut(length, count)) for count in (2, 3, 7, 100)]
    if length <= _SINGLE_UNITS:
        ways.append(list(cut(length, length)))
    for _ in range(cuts if length else 0):
        places = sorted({0, length, *(rng.randrange(length + 1) for _ in range(rng.randrange(1, 30)))})
        ways.append([(low, high - low) for low, high in pairwise(places)])
    return ways


def _read(source: type[DataSource], offset: int, limit: int) -> list[Any]:
    return list(source(offset=offset, limit=limit))


def _compare(expected: Any, found: Any, sizes: list[tuple[int, int]], seed: int) -> None:
    if type(expected).__module__ == type(found).__module__ == "numpy":
        same = expected.shape == found.shape and expected.dtype == found.dtype and _bytes(expected) == _bytes(found)
    else:
        same = len(expected) == len(found) and all(map(alike, expected, found))
    if same:
        return
    pairs = enumerate(zip(expected, found, strict=False))
    where = next((place for place, (one, other) in pairs if not alike(one, other)), min(len(expected), len(found)))
    count = f"{len(found)} records instead of {len(expected)}" if len(found) != len(expected) else "other records"
    hint = ""
    if isinstance(expected, list) and hasattr(next(iter(expected), None), "dtype"):
        hint = ". To compare blocks of arrays as a whole: joined=numpy.concatenate"
    elif isinstance(expected, list) and sorted(map(repr, expected)) == sorted(map(repr, found)):
        hint = ". Only their order differs: joined=sorted, if order does not matter"
    raise AssertionError(
        f"cut into {len(sizes)} parts {sizes[:20]!r}..., the source gives {count}; they differ from record {where} on "
        f"(seed={seed}){hint}"
    )


def alike(one: Any, other: Any) -> bool:
    """True if two records are equal; or, where == does not help (NaN, arrays), have the same text or pickle."""
    try:
        if bool(one == other):
            return _same_kinds(one, other)
    except ValueError:  # an array has no truth value
        return pickle.dumps(one) == pickle.dumps(other)
    return repr(one) == repr(other) if is_plain(one) and is_plain(other) else pickle.dumps(one) == pickle.dumps(other)


def _same_kinds(one: Any, other: Any) -> bool:
    """True if two equal values are of the same types: 1 is not 1.0, nor True; 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return copysign(1.0, one) == copysign(1.0, other)
    if isinstance(one, dict):
        return all(_same_kinds(one[key], other[key]) for key in one)
    return not isinstance(one, list | tuple) or all(map(_same_kinds, one, other))


def _bytes(array: Any) -> bytes:
    """Return the bytes of the values of an array, whatever its order in memory."""
    return pickle.dumps(array.tolist()) if array.dtype.hasobject else bytes(array.tobytes())
