"""Bounds on the memory and the time that it takes to decode plain data, in proportion to the number of its bytes.

The sender may be an attacker. The encoder refuses data beyond the bounds too, with a message for its user.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Collection
from typing import Any

#: Bytes of data that are too few to be checked; and the number of containers that need no further bytes.
SMALL = 1 << 16
#: Bytes that the data must have for each further list or map: an empty one is one byte, and takes 72 in memory.
_BYTES_A_CONTAINER = 4
#: Pairs of keys with the same hash, at most, for each key of a set or dict.
_COLLISIONS_A_KEY = 64
#: Pairs of keys with the same hash, at most, in a whole value, if keys are or hold sets: to compare two sets compares
#: their elements in turn.
_DEEP_COLLISIONS = 10_000
#: Types whose hashes do not collide, or, for floats, rarely.
_EVEN = frozenset({str, bytes, bool, float, type(None)})


class _Compared(threading.local):
    #: Such pairs in the value that this thread is encoding or decoding; set to 0 before each value.
    pairs: int = 0


compared: _Compared = _Compared()


def check_keys(keys: Collection[Any]) -> None:
    """Refuse keys of a set or dict whose insertion would take time that grows with the square of their number.

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
    """True if these ints have 64 bits at most: then at most 16 of them have the same hash."""
    try:
        array("q", keys)
    except OverflowError:
        return False
    return True


def _holds_sets(key: Any) -> bool:
    return type(key) is frozenset or (type(key) is tuple and any(map(_holds_sets, key)))


def lacking_bytes(data: bytes) -> int:
    """Return how many bytes some CBOR is too short for the number of containers in it; 0 if it is long enough."""
    size = len(data)
    # Counting the bytes that may begin a container takes a thousandth of the time of looking at each value.
    most = size - len(data.translate(None, _MAY_BEGIN))
    if (most - SMALL) * _BYTES_A_CONTAINER <= size:
        return 0
    return max(0, (_containers(data) - SMALL) * _BYTES_A_CONTAINER - size)


_MAY_BEGIN = bytes(range(0x80, 0xC0))
#: By the first byte of a value: bytes to the next value, if that byte tells it; else 0.
_STEPS = bytes([1] * 24 + [2, 3, 5, 9, 0, 0, 0, 0]) * 2  # ints
_STEPS += bytes([*range(1, 25), *[0] * 8]) * 2  # bytes and texts
_STEPS += bytes([1] * 24 + [2, 3, 5, 9, 0, 0, 0, 0]) * 3  # lists, maps, tags: their contents follow
_STEPS += bytes([1] * 24 + [2, 3, 5, 9, 0, 0, 0, 0])  # floats and simple values


def _containers(data: bytes) -> int:
    """Return the number of lists and maps; in invalid data, the number up to the error."""
    position, count, size = 0, 0, len(data)
    while position < size:
        head = data[position]
        if 0x80 <= head < 0xC0:
            count += 1
        if step := _STEPS[head]:
            position += step
        elif 0x58 <= head < 0x5C or 0x78 <= head < 0x7C:  # the next bytes have the length
            start = position + 1 + (1 << (head & 3))
            position = start + int.from_bytes(data[position + 1 : start])
        else:
            break
    return count
