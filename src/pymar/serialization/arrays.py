"""Arrays and scalars of numpy as plain data: taken apart for `plain`, and made again."""

from __future__ import annotations

import re
from math import prod
from typing import Any

from pymar.exceptions import NotPlain

#: Types of items, as numpy writes them. numpy itself would accept many more texts, some of them slowly.
_ITEM = re.compile(r"[<>|][?biufcmMSUV]\d{1,9}(\[\d{0,9}[a-zA-Zμ]{1,9}\])?")
#: Items, at most, that the other dimensions of an array without items may stand for.
_LARGEST_EMPTY = 1 << 24


def dtype_packed(dtype: Any) -> Any:
    """Return a numpy dtype as plain data.

    Raises:
        NotPlain: it belongs to another library; or its fields have gaps, titles or shapes.
    """
    if dtype.names is None:
        try:
            if _dtype_of(dtype.str) == dtype:
                return dtype.str
        except (TypeError, ValueError):
            pass  # numpy cannot read its own text for it: refuse it below
        raise NotPlain(f"a numpy array of {dtype}, which numpy does not know: convert it to a dtype of numpy's own")
    described = [[name, dtype_packed(dtype[name]), []] for name in dtype.names if not dtype[name].shape]
    if len(described) != len(dtype.names) or _dtype_of(described) != dtype:
        raise NotPlain(
            f"a numpy array of {dtype}, whose fields have titles, padding or subarrays: copy it field by field"
        )
    return described


def array_packed(value: Any) -> list[Any]:
    """Return an array as plain data.

    Raises:
        NotPlain: see `dtype_packed`; or its items have no bytes; or it has no items, and a very large shape.
    """
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    try:
        _check_claims(value.dtype, value.shape)
    except ValueError as problem:
        raise NotPlain(f"{problem}: send what has items") from None
    return [dtype_packed(value.dtype), list(value.shape), order, value.tobytes(order)]


def scalar_packed(value: Any) -> list[Any]:
    """Return a scalar as plain data."""
    return [dtype_packed(value.dtype), value.tobytes()]


def array_of(parts: list[Any]) -> Any:
    """Return the array that `array_packed` took apart; it is writable."""
    import numpy

    described, shape, order, data = parts
    if type(shape) is not list or order not in ("C", "F") or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a shape that is not a list of sizes")
    dtype = _dtype_of(described)
    _check_claims(dtype, shape)
    if not data:
        return numpy.zeros(0, dtype).reshape(shape, order=order)
    return numpy.frombuffer(data, dtype).reshape(shape, order=order).copy(order)


def scalar_of(parts: list[Any]) -> Any:
    """Return the scalar that `scalar_packed` took apart."""
    import numpy

    described, data = parts
    dtype = _dtype_of(described)
    return numpy.frombuffer(data, dtype)[0] if dtype.itemsize else numpy.zeros((), dtype)[()]


def _check_claims(dtype: Any, shape: Any) -> None:
    """Refuse an array that takes no bytes, but would be long or slow to iterate over."""
    if not dtype.itemsize:
        raise ValueError(f"a numpy array of {dtype}, whose items have no bytes")
    if 0 in shape and prod(size for size in shape if size) > _LARGEST_EMPTY:
        raise ValueError(f"a numpy array of shape {tuple(shape)}, which has no items and claims many")


def _dtype_of(described: Any) -> Any:
    import numpy

    if isinstance(described, str):
        if _ITEM.fullmatch(described) is None:
            raise ValueError("a type that numpy does not write in this form")
        dtype: Any = numpy.dtype(described)
    else:
        fields = [(name, _dtype_of(inner)) for name, inner, shape in described if type(name) is str and shape == []]
        if len(fields) != len(described):
            raise ValueError("a field that is not [name, type, []]")
        dtype = numpy.dtype(fields)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    return dtype
