"""Libraries that Pymar does not install itself: imported where they are used; if one is missing, its extra is named."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pymar.exceptions import MissingExtra


def needed(module: str, extra: str, what: str) -> Any:
    """Import a module, and return it.

    Raises:
        MissingExtra: it is not installed; the message has the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtra(f"{what} needs: pip install 'pymar[{extra}]'") from error
