"""Values of Arrow as Python has them: the same whatever version of pyarrow, and what else, a worker has installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import repeat
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pymar.sources.arrowtypes import arrow, converted, is_list, mark_of, with_values

#: Changes a value that pyarrow gives; None where it gives the right one.
Change = Callable[[Any], Any] | None
#: Codes of `memoryview`, by types whose values are bytes in the way of C.
_CODES: Mapping[str, Any] = {
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float": "f",
    "double": "d",
}


def rows_of(batch: Any, names: list[str], columns: list[list[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch, whose columns are lists of Python's values, as dicts."""
    if not names:
        return iter([{} for _ in range(batch.num_rows)])
    return map(dict, map(zip, repeat(names), zip(*columns, strict=True)))


def values_of(column: Any, field: Any) -> list[Any]:
    """Return the values of a column of a stored schema.

    Nanoseconds become microseconds, since Python's own types have no more; time zones are those of `zoneinfo`, UTC is
    `datetime.UTC`; a UUID is `uuid.UUID`; a map is a list of pairs, since its keys may be repeated; other extension
    types are their storage.

    Raises:
        pyarrow.ArrowException, ArithmeticError, ValueError, LookupError: a value that Python's types do not hold.
    """
    kind, change = _python_kind(field.type, mark_of(field))
    column = converted(column, kind)
    code = _CODES.get(str(kind))
    if code and not column.null_count:
        data = memoryview(column.buffers()[1]) if len(column) else memoryview(b"")
        size = kind.bit_width // 8
        values = data[column.offset * size : (column.offset + len(column)) * size].cast("B").cast(code).tolist()
    else:
        values = column.to_pylist()
    return values if change is None else list(map(change, values))


def _python_kind(kind: Any, mark: str = "") -> tuple[Any, Change]:
    """Return the type of Arrow to convert to, whose values pyarrow gives by itself, and what changes these."""
    types = arrow().types
    if mark == "arrow.uuid":
        return kind, _or_none(lambda data: UUID(bytes=data))
    if mark == "arrow.bool8":
        return kind, _or_none(bool)
    if types.is_dictionary(kind):
        return _python_kind(kind.value_type)
    if types.is_float16(kind):
        return arrow().float32(), None
    if types.is_interval(kind):
        raise ValueError("intervals of months are no type of Python")
    if types.is_timestamp(kind):
        unit = "us" if kind.unit == "ns" else kind.unit
        return arrow().timestamp(unit), None if kind.tz is None else _in_zone(kind.tz)
    if types.is_duration(kind):
        return arrow().duration("us") if kind.unit == "ns" else kind, None
    if types.is_time64(kind):
        return arrow().time64("us"), None
    if types.is_struct(kind):
        return _of_struct(kind)
    if types.is_map(kind):
        key, item = (_python_kind(field.type, mark_of(field)) for field in (kind.key_field, kind.item_field))
        new = arrow().map_(kind.key_field.with_type(key[0]), kind.item_field.with_type(item[0]))
        return new, _of_pairs(key[1], item[1])
    if is_list(kind):
        inner, change = _python_kind(kind.value_type, mark_of(kind.value_field))
        return with_values(kind, kind.value_field.with_type(inner)), _of_list(change)
    return kind, None


def _or_none(change: Callable[[Any], Any]) -> Change:
    return lambda value: None if value is None else change(value)


def _in_zone(name: str) -> Change:
    zone = _zone(name)
    if zone is UTC:
        return _or_none(lambda time: time.replace(tzinfo=UTC))
    return _or_none(lambda time: time.replace(tzinfo=UTC).astimezone(zone))


def _zone(name: str) -> tzinfo:
    """Return a time zone by Arrow's name for it: "UTC", "+01:00" or "Europe/Berlin"."""
    if name == "UTC":
        return UTC
    if name[:1] in ("+", "-"):
        away = datetime.strptime(name[1:], "%H:%M") - datetime.strptime("0", "%H")
        return timezone(away if name[0] == "+" else timedelta() - away)
    return ZoneInfo(name)


def _of_struct(kind: Any) -> tuple[Any, Change]:
    inner = [(field, *_python_kind(field.type, mark_of(field))) for field in kind]
    changes = [(field.name, change) for field, _, change in inner if change is not None]

    def each(value: dict[str, Any]) -> dict[str, Any]:
        for name, change in changes:
            value[name] = change(value[name])
        return value

    return arrow().struct([field.with_type(new) for field, new, _ in inner]), _or_none(each) if changes else None


def _of_list(change: Change) -> Change:
    return None if change is None else _or_none(lambda values: list(map(change, values)))


def _of_pairs(key: Change, item: Change) -> Change:
    if key is None and item is None:
        return None

    def each(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        return [(key(one) if key else one, item(other) if item else other) for one, other in pairs]

    return _or_none(each)
