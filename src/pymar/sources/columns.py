"""The columns of a table that are wanted."""

from __future__ import annotations

from typing import Any

from pymar.exceptions import SourceError


def check_columns(source: Any) -> None:
    """Refuse text for `columns`, whose characters would be taken for names.

    Raises:
        SourceError: it is text.
    """
    if isinstance(source.columns, str):
        raise SourceError(f"{source.__name__}.columns is {source.columns!r}: it is a list of names")
