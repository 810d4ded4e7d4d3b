"""Kinds of plain values that are none of CBOR's own: what each is made of, and how it is made again."""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import chain
from typing import Any

from pymar.exceptions import NotPlain
from pymar.plainarrays import array_of, array_packed, scalar_of, scalar_packed
from pymar.plainbounds import check_keys

_Pack = Callable[[Any], Any]
#: Type codes of `array`: ints of 4 and of 8 bytes.
CODES = {"ints": "i", "longs": "q"}
FLOAT, _COMPLEX = struct.Struct("<d"), struct.Struct("<dd")


def little(numbers: array[Any]) -> bytes:
    """Their bytes, the lowest first."""
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


#: Bits of the ends of a range: nobody counts further, and to tell its length divides them.
_LONGEST_END = 1 << 10
#: Bits of a fraction's numbers whose common divisor is looked for.
_LONG = 1 << 14


def _range_packed(value: range) -> list[int]:
    ends = [value.start, value.stop, value.step]
    if max(number.bit_length() for number in ends) > _LONGEST_END:
        raise NotPlain(f"a range whose ends have more than {_LONGEST_END:,} bits")
    return ends


def _range(ends: list[Any]) -> range:
    if max(number.bit_length() for number in _of(ends, int, int, int)) > _LONGEST_END:
        raise ValueError("a range that nobody can go through")
    return range(*ends)


def _fraction(parts: list[Any]) -> Any:
    from fractions import Fraction

    numerator, denominator = _of(parts, int, int)
    if max(numerator.bit_length(), denominator.bit_length()) <= _LONG:
        return Fraction(numerator, denominator)
    if denominator <= 0:
        raise ValueError("a fraction that is none")
    # To shorten it again takes a time that grows with the square of its length; whoever sends it has done so.
    fraction: Any = object.__new__(Fraction)
    fraction._numerator, fraction._denominator = numerator, denominator
    return fraction


def _of(parts: list[Any], *kinds: type) -> list[Any]:
    """The parts, which have to be of these types, and no more."""
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
    """A class of the standard library, called with parts of these types; imported when it is first met."""

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


#: Containers: their names, and the list that they are sent as.
PARTS: dict[type, tuple[str, Callable[[Any], list[Any]]]] = {
    tuple: ("tuple", list),
    set: ("set", _keys),
    frozenset: ("frozenset", _keys),
    dict: ("dict", _items_in_turn),
    OrderedDict: ("ordered", _items_in_turn),
    Counter: ("counter", _items_in_turn),
}
#: What each kind is made of, and how it is made again.
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
    # A value that has too few bytes for what is in it (plainbounds.py), behind bytes that make up for it.
    "padded": (list, lambda parts: parts[1]),
}
#: Their classes, by name, so that nobody has to import them.
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
