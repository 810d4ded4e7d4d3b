"""What a script prints at its end: one line after Ctrl-C, in place of a traceback; a warning if a job still runs."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType


@contextmanager
def one_line_on_interrupt(name: str) -> Iterator[None]:
    """Print one line in place of a traceback, if a KeyboardInterrupt of the context is not caught."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not hasattr(sys, "ps1"):  # interactive sessions catch it, and show it in their own way
            _print_instead(interrupt, ", ".join([f"{name}: interrupted", *map(str, interrupt.args)]))
        raise


def _print_instead(interrupt: KeyboardInterrupt, line: str) -> None:
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is interrupt:
            print(line, file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook


def log_if_script_ends(name: str, what: str) -> Callable[[], None]:
    """Log a warning if the script ends before the function that this returns was called."""
    log = partial(_log, os.getpid(), f"the script has ended while {name} ran ({what}): the job is stopped")
    atexit.register(log)
    return partial(atexit.unregister, log)


def _log(process: int, line: str) -> None:
    # The jobs in a fork are its parent's; and after Ctrl-C the user knows.
    if os.getpid() == process and getattr(sys, "last_type", None) is not KeyboardInterrupt:
        import logging  # late, since each worker process imports this module at its start

        logging.getLogger(__name__).warning("%s", line)
