"""Columns: lists of values as bytes, and back. Ints, floats and texts have a form of their own; all else is encoded.

    i  64-bit ints    f  floats    s  texts, joined    m  plain scalars of several types (marshal)
    t  tuples of the same length, as columns           r  dicts of the same names, likewise
    a  rows of an Arrow table                          o  anything

The form is chosen by the types of the values, never by what is installed, so that the bytes are the same everywhere.
Types are compared exactly: `array` would make 1 of True, and of 1.7.
"""

from __future__ import annotations

import marshal
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

#: The version of marshal that keeps no references: equal values have equal bytes.
_MARSHAL = 2
#: What marshal encodes by value alone. Others with a buffer, such as numpy's scalars, it would take for bytes.
_SCALARS = frozenset({int, float, str, bytes, bool, type(None)})
#: Characters that join texts: the first one that is in none of them.
_JOINTS = "\n\x00\x1f\x1e"

#: What stands before a column: its form, and how many bytes it has.
HEAD = struct.Struct("<cQ")

_is_little = sys.byteorder == "little"


class Codec(NamedTuple):
    """How values of other types travel: pickled, or as plain data where nothing may be unpickled."""

    dumps: Callable[[Any, str], bytes]
    loads: Callable[[bytes], Any]
    is_trusted: bool
    """True if marshal and pickle may be read: no other user can have written them."""


def encoded(values: Sequence[Any], codec: Codec) -> tuple[str, bytes]:
    """Return the form and the bytes of a column: a list, or an array of int64 or float64."""
    if hasattr(values, "to_batches"):
        return "a", _table_packed(values)
    if not isinstance(values, list):  # an array of numpy, or of the module array
        kind = "i" if getattr(values, "typecode", None) == "q" or getattr(values, "dtype", "f") == "int64" else "f"
        return kind, _packed(values)
    kinds = set(map(type, values))
    if kinds == {int}:
        try:
            return "i", _packed(array("q", values))
        except OverflowError:  # past 64 bits
            kinds = {int, bool}
    elif kinds == {float}:
        return "f", _packed(array("d", values))
    elif kinds == {str}:
        for joint in _JOINTS:
            text = joint.join(values)
            if text.count(joint) == len(values) - 1:
                return "s", (joint + text).encode("utf-8", "surrogatepass")
    elif kinds == {tuple} and set(map(len, values)) == {len(values[0])} != {0}:
        return "t", _columns_packed(zip(*values, strict=True), codec)
    elif kinds == {dict} and (names := _names_of(values)) is not None:
        return "r", _columns_packed((names, *zip(*[row.values() for row in values], strict=True)), codec)
    if codec.is_trusted and kinds <= _SCALARS:
        return "m", marshal.dumps(values, _MARSHAL)
    return "o", codec.dumps(values, "a key or a value that map_fn yields")


def decoded(kind: str, data: bytes | memoryview, codec: Codec) -> Any:
    """Return the values of a column that was encoded: an array if they are ints or floats, else a list.

    Raises:
        ValueError: the bytes are of no such column.
    """
    if kind in "if":
        return _unpacked(kind, data)
    if kind == "s":
        text = str(data, "utf-8", "surrogatepass")
        return text[1:].split(text[0])
    if kind == "t":
        return list(zip(*_columns_unpacked(memoryview(data), codec), strict=True))
    if kind == "r":
        names, *columns = _columns_unpacked(memoryview(data), codec)
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if kind == "a":
        return _table_unpacked(data, codec.is_trusted)
    found = marshal.loads(data) if kind == "m" and codec.is_trusted else codec.loads(bytes(data))
    if type(found) is not list:
        raise ValueError(f"a column of the kind {kind!r} is no list")
    return found


def _table_packed(table: Any) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


def _table_unpacked(data: bytes | memoryview, is_trusted: bool) -> Any:
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(bytes(data))) as reader:
        table = reader.read_all()
    if not is_trusted:
        table.validate(full=True)  # offsets that lead out of their buffers would be followed
    return table


def _names_of(rows: list[dict[Any, Any]]) -> tuple[str, ...] | None:
    """Return the names of all these dicts, if they are texts, the same and in the same order."""
    names = tuple(rows[0])
    if not names or set(map(type, names)) != {str} or any(tuple(row) != names for row in rows):
        return None
    return names


def _columns_packed(columns: Iterable[Sequence[Any]], codec: Codec) -> bytes:
    parts: list[bytes] = []
    for column in columns:
        kind, data = encoded(list(column), codec)
        parts += (HEAD.pack(kind.encode(), len(data)), data)
    return b"".join(parts)


def _columns_unpacked(view: memoryview, codec: Codec) -> list[Any]:
    columns = []
    at = 0
    while at < len(view):
        kind, length = HEAD.unpack_from(view, at)
        at += HEAD.size
        columns.append(decoded(kind.decode(), view[at : at + length], codec))
        at += length
    return columns


def as_list(values: Any) -> list[Any]:
    """Return a column as a list."""
    if isinstance(values, list):
        return values
    if hasattr(values, "to_pylist"):
        found: list[Any] = values.to_pylist()
        return found
    return list(values) if isinstance(values, tuple) else values.tolist()


def _packed(values: Any) -> bytes:
    if not _is_little:
        values = array(values.typecode, values) if isinstance(values, array) else values.copy()
        values.byteswap() if isinstance(values, array) else values.byteswap(inplace=True)
    return bytes(values.tobytes())


def _unpacked(kind: str, data: bytes | memoryview) -> array[Any]:
    values: array[Any] = array("q" if kind == "i" else "d")
    values.frombytes(data)
    if not _is_little:
        values.byteswap()
    return values
