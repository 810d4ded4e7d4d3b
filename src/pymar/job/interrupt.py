"""How a script ends: Ctrl-C with one line, not with a traceback through our code; and with a job that still runs."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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


def say_at_the_end(name: str, what: str) -> Callable[[], None]:
    """If the script ends before what this returns was called, one line says that a job has ended with it."""
    say = partial(_say, os.getpid(), f"the script has ended while {name} ran ({what}): the job is stopped")
    atexit.register(say)
    return partial(atexit.unregister, say)


def _say(process: int, line: str) -> None:
    # A fork has jobs that are its parent's; and whoever interrupts knows.
    if os.getpid() == process and getattr(sys, "last_type", None) is not KeyboardInterrupt:
        import logging  # not at the start of each child, which imports this module too

        logging.getLogger(__name__).warning("%s", line)
