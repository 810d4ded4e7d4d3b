"""Ctrl-C ends a script with one line, not with a traceback through our code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


@contextmanager
def said_in_one_line(name: str) -> Iterator[None]:
    """If nobody catches an interrupt of what is within, one line is printed in place of its traceback."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not hasattr(sys, "ps1"):  # interactive sessions show what they catch in their own way
            _say_instead(interrupt, ", ".join([f"{name}: interrupted", *map(str, interrupt.args)]))
        raise


def _say_instead(interrupt: KeyboardInterrupt, line: str) -> None:
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is interrupt:
            print(line, file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook
