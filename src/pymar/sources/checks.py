"""Settings of a source are checked before the job begins: their types, and the least that a number may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from pymar.exceptions import SourceError


def check_settings(
    source: Any,
    *,
    flags: Iterable[str] = (),
    texts: Iterable[str] = (),
    names: Iterable[str] = (),
    numbers: Mapping[str, int] | None = None,
) -> None:
    """Check attributes of a source class, each given by its name.

    Args:
        source: the class.
        flags: True or False; a number is refused, as 0 may have been meant for the first line.
        texts: text.
        names: lists of names; a text is refused, as each character of it would be taken for a name.
        numbers: whole numbers, with the least that each may be.

    Raises:
        SourceError: a setting has another type, or is less than that.
    """
    for name in flags:
        _check(source, name, type(getattr(source, name)) is bool, "True or False")
    for name in texts:
        _check(source, name, isinstance(getattr(source, name), str), "a text")
    for name in names:
        value = getattr(source, name)
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        _check(source, name, is_list and all(isinstance(one, str) for one in value), "a list of names")
    for name, least in (numbers or {}).items():
        value = getattr(source, name)
        is_number = isinstance(value, Integral) and not isinstance(value, bool)
        _check(source, name, is_number and value >= least, f"a whole number, {least} or more")


def _check(source: Any, name: str, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise SourceError(f"{source.__name__}.{name} is {getattr(source, name)!r}: it has to be {wanted}")
