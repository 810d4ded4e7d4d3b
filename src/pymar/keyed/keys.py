"""Keys: what may be one, which are equal, and a hash of each that is the same in every process and on every host.

Keys are equal as Python compares them (`1 == 1.0 == True == Decimal(1)`); and all NaNs are one key, within tuples too.
The hash decides the bucket. It never comes from `hash()` of texts, which differs between processes.
"""

from __future__ import annotations

import marshal
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any
from zlib import crc32

from pymar.exceptions import UsageError

#: How many buckets pairs are divided into. Part of the order of a result: it never changes with the machine or the job.
BUCKETS = 256
#: The NaN that stands for all NaNs: dicts find keys that are not equal to themselves by identity.
NAN = float("nan")
#: 2**64 divided by the golden ratio: multiply-shift hashing (Knuth, The Art of Computer Programming, volume 3, 6.4).
_MULTIPLIER = 0x9E37_79B9_7F4A_7C15
_MASK = 0xFFFF_FFFF_FFFF_FFFF
#: Ints of which none but -1 has another hash than itself are smaller than this in size (CPython's sys.hash_info).
_MODULUS = sys.hash_info.modulus
_BUCKET_OF_NAN = 17

#: Types whose values are the same key after any trip, and need no look inside; and those that a tuple may hold so.
_SIMPLE = frozenset({int, str, bytes, bool, type(None)})
_AS_THEY_ARE = frozenset({str, bytes, type(None)})
#: Types of the library that are keys by value, by module and name: none has to be imported to look.
_BY_VALUE: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("datetime", "date"): lambda key: key.toordinal(),
    ("datetime", "datetime"): lambda key: _instant(key),
    ("datetime", "time"): lambda key: _time_of_day(key),
    ("datetime", "timedelta"): lambda key: (key.days, key.seconds, key.microseconds),
    ("uuid", "UUID"): lambda key: key.int,
}


class KeyOf(bytes):
    """The bytes that `key_bytes_fn` gives for a key of another type, which it holds: compared and hashed as bytes."""

    key: Any

    def __new__(cls, data: bytes, key: Any) -> KeyOf:
        made = super().__new__(cls, data)
        made.key = key
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return KeyOf, (bytes(self), self.key)


def by_bytes(key_bytes_fn: Callable[[Any], bytes], keys: Iterable[Any]) -> list[Any]:
    """Return keys that are compared by the bytes that the user's function gives for them.

    Raises:
        UsageError: it returns something else.
    """
    made: list[Any] = []
    for key in keys:
        data = key_bytes_fn(key)
        if type(data) is not bytes:
            raise UsageError(f"key_bytes_fn returned {data!r:.100} for the key {key!r:.100}: it has to return bytes")
        made.append(KeyOf(data, key))
    return made


def shown(key: Any) -> Any:
    """Return a key as its user gave it."""
    return key.key if type(key) is KeyOf else key


def canonical(keys: Any, kinds: set[type] | None = None) -> Any:
    """Return keys with every NaN replaced by NAN, and numpy's scalars by Python's; an array of ints as it is.

    Args:
        kinds: the types of the keys, if they are known.
    """
    if isinstance(keys, array):
        if keys.typecode == "q" or (total := sum(keys)) == total:
            return keys
        keys = keys.tolist()
        kinds = {float}
    if kinds is None:
        kinds = set(map(type, keys))
    if kinds <= _SIMPLE:
        return keys
    if kinds == {tuple} and set(map(type, chain.from_iterable(keys))) <= _SIMPLE:
        return keys
    if kinds == {float}:
        total = sum(keys)
        return keys if total == total else [key if key == key else NAN for key in keys]
    return list(map(_canonical, keys))


def _canonical(key: Any) -> Any:
    kind = type(key)
    if kind in _SIMPLE or kind is KeyOf:
        return key
    if kind is tuple:
        return tuple(map(_canonical, key))
    if isinstance(key, tuple) and hasattr(kind, "_make"):  # a named tuple
        return kind._make(map(_canonical, key))
    if kind is frozenset:
        return frozenset(map(_canonical, key))
    if kind.__module__ == "numpy" and hasattr(key, "item") and not getattr(key, "shape", None):
        return _canonical(_item(key))
    try:
        return key if key == key else NAN if isinstance(key, float | complex) or _is_number(key) else key
    except Exception as error:  # of the user's __eq__, or of an array, whose comparison is no truth value
        raise unusable(key) from error


def _item(key: Any) -> Any:
    """Return a scalar of numpy as Python's.

    Raises:
        UsageError: Python has none that is equal.
    """
    if key.dtype.kind in "mM":
        exact = key.astype(key.dtype.str[:3] + "[us]")
        if key == key and exact != key:
            raise UsageError(f"the key {key!r} has a time that Python's microseconds do not hold: round it")
        key = exact
    found = key.item()
    if type(found) is type(key):
        raise unusable(key)
    return found


def unusable(key: Any) -> UsageError:
    """Return the error about a key that has no stable hash, or none at all."""
    kind = type(key)
    if kind.__hash__ is None or (kind is tuple and not _is_hashable(key)):
        remedy = "give a tuple of it, or define key_bytes_fn(key), which returns bytes that are equal for equal keys"
        return UsageError(f"the key {key!r:.100} is of type {kind.__name__}, or holds one, that has no hash: {remedy}")
    return UsageError(
        f"the key {key!r:.100} is of type {kind.__module__}.{kind.__qualname__}, whose hash may differ between "
        "processes: define @staticmethod key_bytes_fn(key), which returns bytes that are equal for equal keys, or "
        "yield a key of numbers, texts, bytes, dates, UUIDs, enums or tuples of these"
    )


def _is_hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def bucket_of(key: Any) -> int:
    """Return the bucket of one key.

    Raises:
        UsageError: it is of no type that can be a key.
    """
    found = key if type(key) is KeyOf else _folded(key)
    if type(found) is int:
        return ((found * _MULTIPLIER) & _MASK) >> 56
    if type(found) is str:
        return crc32(found.encode("utf-8", "surrogatepass")) & 255
    return crc32(found if isinstance(found, bytes) else marshal.dumps(found, 2)) & 255


def buckets_of(keys: Sequence[Any]) -> bytes:
    """Return the bucket of each key, one byte a key.

    Raises:
        UsageError: a key is of no type that can be one.
    """
    kinds = set(map(type, keys))
    if kinds == {str}:
        try:
            return bytes([crc32(key.encode()) & 255 for key in keys])
        except UnicodeEncodeError:  # a lone surrogate
            return bytes([crc32(key.encode("utf-8", "surrogatepass")) & 255 for key in keys])
    if kinds == {bytes}:
        return bytes([crc32(key) & 255 for key in keys])
    if kinds == {int}:
        return bytes([((hash(key) * _MULTIPLIER) & _MASK) >> 56 for key in keys])
    if kinds == {tuple} and len(set(map(len, keys))) == 1 and keys[0]:
        columns = [_folded_column(column) for column in zip(*keys, strict=True)]
        return bytes([crc32(marshal.dumps(row, 2)) & 255 for row in zip(*columns, strict=True)])
    return bytes(map(bucket_of, keys))


def _folded_column(values: Sequence[Any]) -> Iterable[Any]:
    """Return `_folded` of each value, by columns: as what it is, if all are texts or all ints."""
    kinds = set(map(type, values))
    if kinds <= _AS_THEY_ARE:
        return values
    return map(hash, values) if kinds == {int} else map(_folded, values)


def int_buckets(numpy: Any, keys: Any) -> Any:
    """Return the buckets of an int64 array as an array of uint8: the same as `buckets_of`."""
    least = int(keys.min()) if len(keys) else 0
    if len(keys) and (int(keys.max()) >= _MODULUS or least <= -_MODULUS):
        return numpy.frombuffer(buckets_of(keys.tolist()), numpy.uint8)
    if least < 0:
        keys = numpy.where(keys == -1, -2, keys)  # hash(-1) is -2
    mixed = keys.astype(numpy.int64, copy=False).view(numpy.uint64) * numpy.uint64(_MULTIPLIER)
    mixed >>= numpy.uint64(56)
    return mixed.astype(numpy.uint8)


def subdivisions(keys: Iterable[Any], depth: int, count: int) -> list[int]:
    """Return in which of `count` subdivisions of its bucket each key is; `depth` says of which level.

    By another hash: crc32 is linear, so keys that meet in one bucket by design would meet at every level.
    """
    level = bytes([depth])
    found = []
    for key in keys:
        data = key if type(key) is KeyOf else marshal.dumps(_folded(key), 2)
        found.append(int.from_bytes(blake2b(data, digest_size=4, person=level).digest(), "big") % count)
    return found


def _folded(key: Any) -> Any:
    """Return plain data that are equal for equal keys: ints, texts, bytes, None and tuples of those, for marshal.

    Raises:
        UsageError: the key is of no type that can be one.
    """
    kind = type(key)
    if kind is str or kind is bytes or key is None:
        return key
    if kind is int or kind is bool:
        return hash(key)
    if kind is tuple:
        return tuple(map(_folded, key))
    if kind is float or _is_number(key):
        return hash(key) if key == key else _BUCKET_OF_NAN
    by_value = _BY_VALUE.get((kind.__module__, kind.__qualname__))
    if by_value is not None:
        return (kind.__name__, by_value(key))
    if isinstance(key, str) and _compares_as(kind, str):  # an enum of texts, say
        return str.__str__(key)
    if isinstance(key, bytes) and _compares_as(kind, bytes):
        return bytes(key)
    if isinstance(key, tuple) and _compares_as(kind, tuple):  # a named tuple
        return tuple(map(_folded, key))
    if isinstance(key, frozenset):
        return ("frozenset", *sorted(map(_folded, key), key=_marshalled))
    enum = sys.modules.get("enum")
    if enum is not None and isinstance(key, enum.Enum) and kind.__hash__ is enum.Enum.__hash__:
        return (kind.__qualname__, key.name)
    raise unusable(key)


def _compares_as(kind: type, base: type) -> bool:
    """True if values of a type derived from `base` are equal as those of the base are."""
    return kind.__eq__ is base.__eq__ and kind.__hash__ is base.__hash__


def _marshalled(value: Any) -> bytes:
    return marshal.dumps(value, 2)


def _is_number(key: Any) -> bool:
    """True for numbers whose hash depends on their value alone: Python's rule for all numeric types."""
    if isinstance(key, int | float | complex):
        return type(key).__hash__ in (int.__hash__, float.__hash__, complex.__hash__)
    return (type(key).__module__, type(key).__qualname__) in (("decimal", "Decimal"), ("fractions", "Fraction"))


def _instant(moment: Any) -> tuple[Any, ...]:
    """Return the same for equal datetimes: an aware one is its instant."""
    offset = moment.replace(fold=0).utcoffset()  # as its hash: those of an hour that comes twice are equal in one zone
    naive = moment.replace(tzinfo=None, fold=0)
    if offset is not None:
        naive -= offset
    seconds = naive.hour * 3600 + naive.minute * 60 + naive.second
    return (offset is not None, naive.toordinal(), seconds, naive.microsecond)


def _time_of_day(time: Any) -> tuple[Any, ...]:
    offset = time.utcoffset()
    seconds = time.hour * 3600 + time.minute * 60 + time.second
    if offset is not None:
        seconds -= int(offset.total_seconds())
    return (offset is not None, seconds, time.microsecond)


def rank(key: Any) -> Any:
    """Return what orders a key among any others: NaN behind numbers, None behind everything."""
    if key is None:
        return (2,)
    if isinstance(key, tuple):
        return (0, tuple(map(rank, key)))
    return (1,) if key != key else (0, key)
