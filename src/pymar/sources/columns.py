"""The setting `columns` of a source: names of the columns to read."""

from __future__ import annotations

from typing import Any

from pymar.exceptions import SourceError


def check_columns(source: Any) -> None:
    """Refuse a text as `columns`: each character of it would be taken for a name.

    Raises:
        SourceError: it is text.
    """
    if isinstance(source.columns, str):
        raise SourceError(f"{source.__name__}.columns is {source.columns!r}: it has to be a list of names")
