"""Plain data as bytes that are safe to decode: CBOR (RFC 8949). Each value comes back with its exact type and bits.

    None, bool, int, str, bytes, finite floats, lists and dicts with text keys      as CBOR has them
    everything else                                          TAG([kind, what it is made of]), a line of KINDS each

To decode them executes none of the sender's code; it imports modules of the standard library and numpy only. An object
that is referred to twice comes back as two; one that refers to itself is refused.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable
from io import BytesIO
from itertools import chain
from typing import Any

import cbor2

from pymar.exceptions import NotPlain
from pymar.serialization.arrays import array_of, array_packed, scalar_of, scalar_packed
from pymar.serialization.bounds import SMALL, check_keys, compared, lacking_bytes

_Pack = Callable[[Any], Any]
#: Type codes of `array`: ints of 4 and of 8 bytes.
CODES = {"ints": "i", "longs": "q"}
FLOAT, _COMPLEX = struct.Struct("<d"), struct.Struct("<dd")


def little(numbers: array[Any]) -> bytes:
    """Return the bytes of an array of numbers, in little-endian order."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _numbers(code: str) -> _Pack:
    def unpack(data: bytes) -> list[Any]:
        numbers = array(code)
        numbers.frombytes(data)
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers.tolist()

    return unpack


#: Bits of the ends of a range, at most: `len` divides them, which is slow for long ints.
_LONGEST_END = 1 << 10
#: Bits up to which a fraction is reduced when it is decoded.
_LONG = 1 << 14


def _range_packed(value: range) -> list[int]:
    ends = [value.start, value.stop, value.step]
    if max(number.bit_length() for number in ends) > _LONGEST_END:
        raise NotPlain(f"a range whose ends have more than {_LONGEST_END:,} bits")
    return ends


def _range(ends: list[Any]) -> range:
    if max(number.bit_length() for number in _of(ends, int, int, int)) > _LONGEST_END:
        raise ValueError("a range with ends that are too long")
    return range(*ends)


def _fraction(parts: list[Any]) -> Any:
    from fractions import Fraction

    numerator, denominator = _of(parts, int, int)
    if max(numerator.bit_length(), denominator.bit_length()) <= _LONG:
        return Fraction(numerator, denominator)
    if denominator <= 0:
        raise ValueError("a fraction whose denominator is not positive")
    # Reducing it takes time that grows with the square of its length, and the sender has done it already.
    fraction: Any = object.__new__(Fraction)
    fraction._numerator, fraction._denominator = numerator, denominator
    return fraction


def _of(parts: list[Any], *kinds: type) -> list[Any]:
    """Return the parts; ValueError unless they have exactly these types."""
    if [*map(type, parts)] != [*kinds]:
        raise ValueError("what a value is made of has another type")
    return parts


def _datetime_packed(value: Any) -> Any:
    return [value.year, value.month, value.day, *_time_packed(value)]


def _time_packed(value: Any) -> Any:
    return [value.hour, value.minute, value.second, value.microsecond, value.fold, value.tzinfo]


def _datetime(parts: list[Any]) -> Any:
    from datetime import datetime

    *numbers, fold, zone = parts
    year, month, day, hour, minute, second, microsecond = numbers
    return datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _time(parts: list[Any]) -> Any:
    from datetime import time

    *numbers, fold, zone = parts
    hour, minute, second, microsecond = numbers
    return time(hour, minute, second, microsecond, zone, fold=fold)


def _made(module: str, name: str, *kinds: type) -> _Pack:
    """Return a function that calls a class of the standard library with parts of these types; it imports it."""

    def unpack(parts: list[Any]) -> Any:
        from importlib import import_module

        return getattr(import_module(module), name)(*_of(parts, *kinds))

    return unpack


def _timezone(parts: list[Any]) -> Any:
    from datetime import timezone

    return timezone(*parts)


def _pairs(cls: Any) -> _Pack:
    def unpack(parts: list[Any]) -> Any:
        keys = parts[::2]
        check_keys(keys)
        return cls(dict(zip(keys, parts[1::2], strict=True)))

    return unpack


def _items(cls: Any) -> _Pack:
    def unpack(parts: list[Any]) -> Any:
        check_keys(parts)
        return cls(parts)

    return unpack


def _keys(value: Any) -> list[Any]:
    check_keys(value)
    return list(value)


def _items_in_turn(value: Any) -> list[Any]:
    check_keys(value)
    return list(chain.from_iterable(value.items()))


#: Containers: the name of the kind, and the function that makes the list that is sent.
PARTS: dict[type, tuple[str, Callable[[Any], list[Any]]]] = {
    tuple: ("tuple", list),
    set: ("set", _keys),
    frozenset: ("frozenset", _keys),
    dict: ("dict", _items_in_turn),
    OrderedDict: ("ordered", _items_in_turn),
    Counter: ("counter", _items_in_turn),
}
#: By kind: the function that takes a value apart, and the function that makes it again.
KINDS: dict[str, tuple[_Pack, _Pack]] = {
    "tuple": (list, tuple),
    "set": (list, _items(set)),
    "frozenset": (list, _items(frozenset)),
    "dict": (list, _pairs(dict)),
    "ordered": (list, _pairs(OrderedDict)),
    "counter": (list, _pairs(Counter)),
    "float": (FLOAT.pack, lambda data: FLOAT.unpack(data)[0]),
    "floats": (list, _numbers("d")),
    "ints": (list, _numbers("i")),
    "longs": (list, _numbers("q")),
    "complex": (lambda value: _COMPLEX.pack(value.real, value.imag), lambda data: complex(*_COMPLEX.unpack(data))),
    "range": (_range_packed, _range),
    "decimal": (lambda value: [str(value)], _made("decimal", "Decimal", str)),
    "uuid": (lambda value: [str(value)], _made("uuid", "UUID", str)),
    "fraction": (lambda value: [value.numerator, value.denominator], _fraction),
    "date": (lambda value: [value.year, value.month, value.day], _made("datetime", "date", int, int, int)),
    "datetime": (_datetime_packed, _datetime),
    "time": (_time_packed, _time),
    "timedelta": (
        lambda value: [value.days, value.seconds, value.microseconds],
        _made("datetime", "timedelta", int, int, int),
    ),
    "timezone": (lambda value: list(value.__getinitargs__()), _timezone),
    "zone": (lambda value: [value.key], _made("zoneinfo", "ZoneInfo", str)),
    "array": (array_packed, array_of),
    "scalar": (scalar_packed, scalar_of),
    # [filler, value], for a value whose data is shorter than bounds.py requires for the containers in it.
    "padded": (list, lambda parts: parts[1]),
}
#: Kinds by class; by the names of module and class, so that no module has to be imported for it.
NAMES = {
    ("builtins", "complex"): "complex",
    ("builtins", "range"): "range",
    ("decimal", "Decimal"): "decimal",
    ("fractions", "Fraction"): "fraction",
    ("uuid", "UUID"): "uuid",
    **{("datetime", name): name for name in ("date", "datetime", "time", "timedelta", "timezone")},
    ("zoneinfo", "ZoneInfo"): "zone",
}


#: Kinds that are made of bytes; all others are made of a list.
OF_BYTES = frozenset({"float", "floats", "ints", "longs", "complex"})


#: The first bytes of plain data, which no pickle has: "self-described CBOR", RFC 8949, section 3.4.6.
PLAIN_MARK = b"\xd9\xd9\xf7"
#: The tag of kinds that CBOR does not have; "PYM". It is not registered.
TAG = 0x50594D
#: Depth of containers within containers, at most; a tuple counts as three.
DEEPEST = 300
#: The tags of CBOR that are read: large ints. All others are refused: some build objects that are slow or have effects.
_LARGE_INTS = (2, 3)
_REFUSED_TAGS = (0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000)
#: Length from which on lists of numbers are sent as one byte string.
_LONG = 16
_SAFE = frozenset({type(None), bool, int, str, bytes})


def dumps(value: Any, what: str = "the value") -> bytes:
    """Encode plain data.

    Raises:
        NotPlain: it is not plain data; the message names `what`, the type and the remedy.
    """
    compared.pairs = 0
    try:
        packed = _packed(value)
        data = cbor2.dumps(packed)
        if len(data) > SMALL and (lacking := lacking_bytes(data)):
            data = cbor2.dumps(_tagged("padded", [bytes(lacking), packed]))
        return PLAIN_MARK + data
    except NotPlain as error:
        raise NotPlain(f"{what} cannot be sent: it holds {error}") from None
    except ValueError as error:
        raise NotPlain(f"{what} cannot be sent as plain data: {error}") from error
    except RecursionError:
        raise NotPlain(f"{what} is nested too deeply, or holds itself: send flat data") from None


def loads(data: bytes) -> Any:
    """Decode what `dumps` returned.

    Raises:
        ValueError: `data` is something else.
    """
    if data[:3] != PLAIN_MARK:
        raise ValueError("this is no plain data")
    body = data[3:]
    compared.pairs = 0
    if len(body) > SMALL and lacking_bytes(body):
        raise ValueError("it holds more lists than its bytes are good for")
    return _unpacked_from(body)


def _unpacked_from(data: bytes) -> Any:
    stream = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            semantic_decoders=_DECODERS,
            tag_hook=_refused,
            max_depth=DEEPEST + 3,  # for the tag and the list of "padded"
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also of the constructors of its values; or a panic of the decoder
        cause: BaseException = error
        while type(cause).__name__ == "CBORDecodeError" and cause.__cause__ is not None:
            cause = cause.__cause__  # the cause says what is wrong, the outer error only where
        raise ValueError(f"{type(cause).__name__}: {cause}") from error
    if stream.tell() != len(data):
        raise ValueError("there is more than one value")
    return value


def _packed(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if kind in _SAFE:
        return value
    if depth > DEEPEST // 3:
        raise RecursionError
    if kind is float:
        return value if value == value else _tagged("float", FLOAT.pack(value))
    if kind is list:
        return _packed_list(value, depth)
    if kind is dict and all(type(key) is str for key in value):
        return {key: _packed(item, depth + 1) for key, item in value.items()}
    if kind in PARTS:
        name, parts = PARTS[kind]
        return _tagged(name, _packed_list(parts(value), depth))
    name = NAMES.get((kind.__module__, kind.__qualname__), "")
    if name:
        return _tagged(name, _packed(KINDS[name][0](value), depth + 1))
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray) and not value.dtype.hasobject:
        if isinstance(value, numpy.generic):
            return _tagged("scalar", scalar_packed(value))
        if kind is numpy.ndarray:
            return _tagged("array", array_packed(value))
    raise NotPlain(
        f"a {kind.__module__}.{kind.__qualname__}, which is not plain data. Give workers and producers a key "
        "(pymar keygen), and anything that can be pickled may travel"
    )


def _tagged(name: str, what: Any) -> cbor2.CBORTag:
    return cbor2.CBORTag(TAG, [name, what])


def _packed_list(values: list[Any], depth: int) -> Any:
    kinds = set(map(type, values))
    if len(values) >= _LONG and len(kinds) == 1:
        if kinds == {float}:
            return _tagged("floats", little(array("d", values)))
        if kinds == {int}:
            for name in ("ints", "longs"):
                try:
                    return _tagged(name, little(array(CODES[name], values)))
                except OverflowError:  # too long for 32 bits; for 64 bits: as CBOR has them
                    continue
    return values if kinds <= _SAFE else [_packed(value, depth + 1) for value in values]


def _unpacked(tagged: Any, immutable: bool) -> Any:
    name, what = tagged
    # A constructor that gets something else, such as a range, might make far more of it than the data's own size.
    if type(what) is not (bytes if name in OF_BYTES else list):
        raise ValueError("what a value is made of has another type")
    return KINDS[name][1](what)


def _refused(tagged: Any, immutable: bool) -> Any:
    raise ValueError("a CBOR tag that plain data has no use for")


_DECODERS = {**dict.fromkeys(_REFUSED_TAGS, _refused), TAG: _unpacked}
