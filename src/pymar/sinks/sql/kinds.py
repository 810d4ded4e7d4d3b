"""Kinds of values and of columns, which values a column takes as they are, and how they are sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pymar.exceptions import SinkError
from pymar.sources.sql.connection import alchemy
from pymar.sources.sql.words import MYSQL


class _Null:
    """NULL for the csv module: without quotes, since it is a number."""

    def __float__(self) -> float:
        return 0.0

    def __str__(self) -> str:
        return "\\N"


_NULL = _Null()
_KINDS = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "text",
    bytes: "bytes",
    Decimal: "decimal",
    UUID: "uuid",
    date: "date",
    datetime: "datetime",
    time: "time",
    timedelta: "interval",
    dict: "json",
    list: "json",
}


def kind_of(kind: type) -> str:
    """Return what we call a type; "" for one that no column has."""
    found = _KINDS.get(kind, "")
    if not found and kind.__module__ == "numpy":
        name = kind.__name__
        found = "int" if "int" in name else "float" if "float" in name else "bool" if name in ("bool", "bool_") else ""
        found = "text" if name == "str_" else found
    return found


#: Kinds of values that a column of a kind takes as they are.
TAKES = {
    "int": ("int", "bool"),
    "float": ("float", "int"),
    "decimal": ("decimal", "int", "float"),
    "text": ("text", "uuid", "date", "datetime", "datetime with a time zone", "time", "interval", "decimal", "json"),
    "bool": ("bool", "int"),
    "date": ("date",),
    "datetime": ("datetime", "date"),
    "datetime with a time zone": ("datetime with a time zone",),
    "time": ("time", "interval"),
    "bytes": ("bytes",),
}


def kind_of_column(column: Mapping[str, Any]) -> str:
    """Return the kind of an existing table's column; "" if what it takes is left to the database."""
    types, kind = alchemy().types, column["type"]
    if isinstance(kind, types.DateTime):
        return "datetime with a time zone" if kind.timezone else "datetime"
    known = (
        *((types.Boolean, "bool"), (types.Integer, "int"), (types.Float, "float"), (types.Numeric, "decimal")),
        *((types.Enum, ""), (types.Uuid, "uuid"), (types.JSON, "json"), (types.Date, "date"), (types.Time, "time")),
        *((types.LargeBinary, "bytes"), (types.String, "text")),
    )
    return next((name for base, name in known if isinstance(kind, base)), "")


def is_of_arrow(record: Any) -> bool:
    return type(record).__module__ == "pyarrow.lib" and hasattr(record, "schema")


def kind_of_arrow(kind: Any) -> str:
    """Return what we call a type of Arrow; "" if PostgreSQL may not read Arrow's text of it as the same value."""
    from pyarrow import types

    if types.is_timestamp(kind):
        return "datetime" if kind.tz is None else "datetime with a time zone" if kind.tz == "UTC" else ""
    known = {
        "bool": types.is_boolean,
        "int": types.is_integer,
        "float": types.is_float64,
        "text": lambda kind: types.is_string(kind) or types.is_large_string(kind),
        "date": types.is_date32,
        "decimal": types.is_decimal,
    }
    return next((name for name, is_it in known.items() if is_it(kind)), "")


def kind_of_value(value: Any) -> str:
    if value is None:
        return "none"
    kind = kind_of(type(value))
    return "datetime with a time zone" if kind == "datetime" and value.tzinfo is not None else kind


def common_kind(one: str, other: str) -> str | None:
    """Return the kind that a column of both has; None if there is none."""
    if not one or not other or one == other:
        return other or one
    if {one, other} <= {"int", "float"}:
        return "float"
    return "decimal" if {one, other} <= {"int", "decimal"} else None


def sql_type(kind: str, dialect: Any, name: str, key: Sequence[str]) -> str:
    """Return the SQL type of a new column.

    Raises:
        SinkError: this database has none that holds all such values.
    """
    types = alchemy().types
    if dialect.name in MYSQL:
        own = {"text": "LONGTEXT", "bytes": "LONGBLOB", "datetime": "DATETIME(6)", "time": "TIME(6)", "float": "DOUBLE"}
        own |= {"interval": "TIME(6)", "uuid": "CHAR(36)"}
        if kind in ("decimal", "datetime with a time zone") or (kind in ("text", "bytes") and name in key):
            raise SinkError(f"SQLSink: give schema= with the type of the column {name!r}, such as varchar(100)")
        if kind in own:
            return own[kind]
    if dialect.name == "sqlite":
        return {"int": "INTEGER", "float": "REAL", "bytes": "BLOB", "bool": "INTEGER"}.get(kind, "TEXT")
    found = {
        "bool": types.Boolean(),
        "int": types.BigInteger(),
        "float": types.Double(),
        "text": types.Text(),
        "bytes": types.LargeBinary(),
        "decimal": types.Numeric(),
        "uuid": types.Uuid(),
        "date": types.Date(),
        "datetime": types.DateTime(),
        "time": types.Time(),
        "interval": types.Interval(),
        "json": types.JSON(),
        "datetime with a time zone": types.DateTime(timezone=True),
    }
    return str(found[kind].compile(dialect))


def as_text(column: list[Any]) -> list[Any]:
    """Return values for COPY: text in quotes, numbers and NULL without."""
    kinds = set(map(type, column))
    if not kinds - {int, float, str, bool, date, datetime, time, Decimal}:
        return column
    return [_field(value) for value in column]


def _field(value: Any) -> Any:
    if value is None:
        return _NULL
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, timedelta):
        return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
    return value


def for_mysql(column: list[Any]) -> list[Any]:
    return [json.dumps(value) if isinstance(value, dict | list) else _bare(value) for value in column]


def for_sqlite(column: list[Any]) -> list[Any]:
    return [_sqlite_value(value) for value in column]


def _sqlite_value(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID | timedelta):
        return str(value)
    return _bare(value)


def _bare(value: Any) -> Any:
    """Return a number of numpy as Python's own."""
    return value.item() if type(value).__module__ == "numpy" else str(value) if isinstance(value, UUID) else value


def arrow_extremes(column: Any) -> list[int]:
    """Return the least and the largest number of an Arrow array; nothing if all are null."""
    from pyarrow.compute import min_max

    return [value for value in min_max(column).as_py().values() if value is not None]


def arrow_text(batch: Any) -> bytes:
    """Return a record batch as CSV in which text is quoted, and null is an empty field."""
    from pyarrow import BufferOutputStream
    from pyarrow.csv import WriteOptions, write_csv

    buffer = BufferOutputStream()
    write_csv(batch, buffer, WriteOptions(include_header=False, quoting_style="needed"))
    return bytes(buffer.getvalue())
