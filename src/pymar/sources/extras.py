"""Drivers that are not installed with Pymar: loaded where they are used; a missing one says what to type."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pymar.exceptions import MissingExtra


def needed(module: str, extra: str, what: str) -> Any:
    """The module.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtra(f"{what} needs: pip install 'pymar[{extra}]'") from error
