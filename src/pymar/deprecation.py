"""How a name or a behaviour goes away: a warning for at least two minor versions, with what to write instead.

The policy is in docs/releases.md. The warnings are DeprecationWarning, so that Python shows them where they are raised
by a script or by a test, and not where a library of somebody else's raises them.
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
