"""Warnings about a name or a behaviour that will be removed, for at least two minor versions before it is.

They are subclasses of DeprecationWarning: Python shows them when code of a script or a test causes them, and not when a
library does.
"""

from __future__ import annotations

import sys
import warnings

__all__ = ["PymarDeprecationWarning"]


class PymarDeprecationWarning(DeprecationWarning):
    """Something that will be removed: the message says in which version, and what to write instead."""


def warn_deprecated(what: str, *, since: str, removed_in: str, instead: str) -> None:
    """Warn that `what` will be removed. The warning shows the line outside of Pymar that has led here.

    Args:
        since: the version that deprecated it.
        removed_in: the first version without it.
        instead: what to write, as the rest of a sentence.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "pymar":
        level, frame = level + 1, frame.f_back
    text = f"{what} is deprecated since Pymar {since} and will be removed in {removed_in}: {instead}"
    warnings.warn(text, PymarDeprecationWarning, stacklevel=level)
