"""Warnings about a name or a behaviour that will be removed, for at least two minor versions before it is.

They are subclasses of DeprecationWarning: Python shows them when code of a script or a test causes them, and not when a
library does.
"""

from __future__ import annotations

import warnings


class PymarDeprecationWarning(DeprecationWarning):
    """Something that will be removed: the message says in which version, and what to write instead."""


def warn_deprecated(what: str, *, since: str, removed_in: str, instead: str, stacklevel: int = 3) -> None:
    """Warn that `what` will be removed.

    Args:
        since: the version that deprecated it.
        removed_in: the first version without it.
        instead: what to write, as the rest of a sentence.
        stacklevel: as in `warnings.warn`; by default the line that called the caller.
    """
    text = f"{what} is deprecated since Pymar {since} and will be removed in {removed_in}: {instead}"
    warnings.warn(text, PymarDeprecationWarning, stacklevel=stacklevel)
