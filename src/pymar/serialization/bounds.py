"""What it may take to decode plain data: bounds on memory and time that follow from the number of its bytes.

Whoever sends it may be anybody. Honest data is within the bounds, or is refused where it is encoded, with a reason.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Collection
from typing import Any

#: Bytes of data that holds too few containers to matter, and their number that is free.
SMALL = 1 << 16
#: Bytes for each list and map beyond those: an empty one is one byte that takes 72.
_BYTES_A_CONTAINER = 4
#: Pairs of keys with one hash, for each key of a set or dict.
_COLLISIONS_A_KEY = 64
#: Pairs of keys with one hash, if these are or hold sets, in all of a value: to compare two of them compares what is in
#: them in turn.
_DEEP_COLLISIONS = 10_000
#: Keys of these types do not collide; or, as floats, hardly.
_EVEN = frozenset({str, bytes, bool, float, type(None)})


class _Compared(threading.local):
    #: Pairs that were met in the value that is being encoded or decoded, in this thread; set to 0 before each.
    pairs: int = 0


compared: _Compared = _Compared()


def check_keys(keys: Collection[Any]) -> None:
    """Refuse keys of a set or dict that would take a time that grows with the square of their number.

    Raises:
        ValueError: too many of them have the same hash.
    """
    kinds = {*map(type, keys)}
    if kinds <= _EVEN or (kinds == {int} and (len(keys) <= _COLLISIONS_A_KEY or _are_short(keys))):
        return
    times: dict[int, int] = {}
    for one in map(hash, keys):
        times[one] = times.get(one, 0) + 1
    if len(times) == len(keys):
        return
    pairs = sum(number * (number - 1) // 2 for number in times.values())
    are_too_many = pairs > _COLLISIONS_A_KEY * len(keys)
    if any(map(_holds_sets, keys)):
        compared.pairs += pairs
        are_too_many = are_too_many or compared.pairs > _DEEP_COLLISIONS
    if are_too_many:
        raise ValueError(f"a set or dict of {len(keys):,} keys that have only {len(times):,} hashes")


def _are_short(keys: Collection[int]) -> bool:
    """True if these ints have 64 bits at most: then 16 of them have the same hash, and no more."""
    try:
        array("q", keys)
    except OverflowError:
        return False
    return True


def _holds_sets(key: Any) -> bool:
    return type(key) is frozenset or (type(key) is tuple and any(map(_holds_sets, key)))


def lacking_bytes(data: bytes) -> int:
    """How many bytes some CBOR is too short for the number of containers in it; 0 if it is not."""
    size = len(data)
    # The bytes that may begin a container are counted in a thousandth of the time that it takes to look at each value.
    most = size - len(data.translate(None, _MAY_BEGIN))
    if (most - SMALL) * _BYTES_A_CONTAINER <= size:
        return 0
    return max(0, (_containers(data) - SMALL) * _BYTES_A_CONTAINER - size)


_MAY_BEGIN = bytes(range(0x80, 0xC0))
#: By a value's first byte: the bytes to the next one, if it alone tells; else 0.
_STEPS = bytes([1] * 24 + [2, 3, 5, 9, 0, 0, 0, 0]) * 2  # ints
_STEPS += bytes([*range(1, 25), *[0] * 8]) * 2  # bytes and texts
_STEPS += bytes([1] * 24 + [2, 3, 5, 9, 0, 0, 0, 0]) * 3  # lists, maps, tags: what is in them follows
_STEPS += bytes([1] * 24 + [2, 3, 5, 9, 0, 0, 0, 0])  # floats and simple values


def _containers(data: bytes) -> int:
    """How many lists and maps there are; if it is broken, as many as there are up to there."""
    position, count, size = 0, 0, len(data)
    while position < size:
        head = data[position]
        if 0x80 <= head < 0xC0:
            count += 1
        if step := _STEPS[head]:
            position += step
        elif 0x58 <= head < 0x5C or 0x78 <= head < 0x7C:  # of a length that stands in the next bytes
            start = position + 1 + (1 << (head & 3))
            position = start + int.from_bytes(data[position + 1 : start])
        else:
            break
    return count
