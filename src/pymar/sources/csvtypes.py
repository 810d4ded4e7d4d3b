"""The types of columns of CSV: how the text of a field becomes a value, strictly."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

#: Names of types, with Python's own.
TYPES: dict[str, type] = {
    "int": int,
    "float": float,
    "bool": bool,
    "date": date,
    "datetime": datetime,
    "decimal": Decimal,
    "text": str,
}
#: What fields have to be, without the letters' case where that does not matter.
INT = re.compile(r"[+-]?[0-9]+")
FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
#: The same without digits that have a leading zero, such as 007: they may be no number.
STRICT_INT = re.compile(r"[+-]?(0|[1-9][0-9]*)")
STRICT_FLOAT = re.compile(
    r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE
)
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
DATETIME = re.compile(DATE.pattern + r"[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?")
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def name_of(kind: Any) -> str:
    """Return the name of a type, given by that or as Python's own; of others, something that is not in TYPES."""
    return next((name for name, python in TYPES.items() if kind is python), kind if isinstance(kind, str) else "?")


def converter(kind: str, leading_zeros: bool = True) -> Callable[[str], Any] | None:
    """Return the function that makes a value of a text, and raises ValueError if it is none; None for text.

    Args:
        leading_zeros: False if 007 is no number.
    """
    if not leading_zeros and kind in ("int", "float"):
        pattern, number = (STRICT_INT, int) if kind == "int" else (STRICT_FLOAT, float)
        return lambda text: number(_fitting(pattern, text.strip(" ")))
    return {
        "int": _int,
        "float": _float,
        "bool": _bool,
        "date": _date,
        "datetime": _datetime,
        "decimal": _decimal,
    }.get(kind)


# Python's own take more than a file should have: 1_000, Arabic digits, 20200101 or 2020-W01 for dates.


def _int(text: str) -> int:
    return int(_fitting(INT, text.strip(" ")))


def _float(text: str) -> float:
    return float(_fitting(FLOAT, text.strip(" ")))


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(_fitting(FLOAT, text.strip(" ")))
    except InvalidOperation as error:
        raise ValueError(text) from error


def _bool(text: str) -> bool:
    if (found := _BOOLS.get(text.strip(" ").lower())) is None:
        raise ValueError(text)
    return found


def _date(text: str) -> date:
    return date.fromisoformat(_fitting(DATE, text))


def _datetime(text: str) -> datetime:
    return datetime.fromisoformat(_fitting(DATETIME, text))


def _fitting(pattern: re.Pattern[str], text: str) -> str:
    if pattern.fullmatch(text) is None:
        raise ValueError(text)
    return text
