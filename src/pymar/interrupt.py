"""Ctrl-C ends a script with one line, not with a traceback through our code."""

from __future__ import annotations

import sys
from types import TracebackType


def say_instead(interrupt: KeyboardInterrupt, line: str) -> None:
    """If nobody catches this interrupt, print `line` in place of its traceback. Interactive sessions show their own."""
    if hasattr(sys, "ps1"):
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is interrupt:
            print(line, file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook
