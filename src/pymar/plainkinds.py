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


def dtype_packed(dtype: Any) -> Any:
    """A numpy dtype as plain data.

    Raises:
        NotPlain: its fields are not one behind the other.
    """
    if dtype.names is None:
        return dtype.str
    described = [[name, dtype_packed(dtype[name]), list(dtype[name].shape)] for name in dtype.names]
    if _dtype_of(described) != dtype:
        raise NotPlain(
            f"a numpy array of {dtype}, whose fields have titles, padding or subarrays: copy it field by field"
        )
    return described


def _dtype_of(described: Any) -> Any:
    import numpy

    if isinstance(described, str):
        dtype: Any = numpy.dtype(described)
    else:
        dtype = numpy.dtype([(str(name), _dtype_of(inner), tuple(shape)) for name, inner, shape in described])
    if dtype.hasobject:
        raise ValueError("an array of objects")
    return dtype


def _array(parts: list[Any]) -> Any:
    import numpy

    described, shape, order, data = parts
    return numpy.frombuffer(data, _dtype_of(described)).reshape(shape, order=order).copy(order)


def _scalar(parts: list[Any]) -> Any:
    import numpy

    described, data = parts
    return numpy.frombuffer(data, _dtype_of(described))[0]


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


def _made(module: str, name: str) -> _Pack:
    """A class of the standard library, called with the parts of a value; imported when it is first met."""

    def unpack(parts: list[Any]) -> Any:
        from importlib import import_module

        return getattr(import_module(module), name)(*parts)

    return unpack


def _pairs(cls: Any) -> _Pack:
    def unpack(parts: list[Any]) -> Any:
        keys = iter(parts)
        return cls(dict(zip(keys, keys, strict=True)))

    return unpack


#: Containers: their names, and the list that they are sent as.
PARTS: dict[type, tuple[str, Callable[[Any], list[Any]]]] = {
    tuple: ("tuple", list),
    set: ("set", list),
    frozenset: ("frozenset", list),
    dict: ("dict", lambda value: list(chain.from_iterable(value.items()))),
    OrderedDict: ("ordered", lambda value: list(chain.from_iterable(value.items()))),
    Counter: ("counter", lambda value: list(chain.from_iterable(value.items()))),
}
#: What each kind is made of, and how it is made again.
KINDS: dict[str, tuple[_Pack, _Pack]] = {
    "tuple": (list, tuple),
    "set": (list, set),
    "frozenset": (list, frozenset),
    "dict": (list, _pairs(dict)),
    "ordered": (list, _pairs(OrderedDict)),
    "counter": (list, _pairs(Counter)),
    "float": (FLOAT.pack, lambda data: FLOAT.unpack(data)[0]),
    "floats": (list, _numbers("d")),
    "ints": (list, _numbers("i")),
    "longs": (list, _numbers("q")),
    "complex": (lambda value: _COMPLEX.pack(value.real, value.imag), lambda data: complex(*_COMPLEX.unpack(data))),
    "range": (lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    "decimal": (lambda value: [str(value)], _made("decimal", "Decimal")),
    "uuid": (lambda value: [str(value)], _made("uuid", "UUID")),
    "fraction": (lambda value: [value.numerator, value.denominator], _made("fractions", "Fraction")),
    "date": (lambda value: [value.year, value.month, value.day], _made("datetime", "date")),
    "datetime": (_datetime_packed, _datetime),
    "time": (_time_packed, _time),
    "timedelta": (lambda value: [value.days, value.seconds, value.microseconds], _made("datetime", "timedelta")),
    "timezone": (lambda value: list(value.__getinitargs__()), _made("datetime", "timezone")),
    "zone": (lambda value: [value.key], _made("zoneinfo", "ZoneInfo")),
    "array": (list, _array),
    "scalar": (list, _scalar),
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
