"""How a script ends while its job runs: Ctrl-C, SIGTERM and SIGHUP, `pymar cancel`, or its last line.

    SIGTERM, SIGHUP --> Terminated, raised in the main thread --> the job is stopped, what is temporary is removed
                    --> one line: what was finished, and how to go on --> exit code 128 + the signal's number

A handler that the user has installed is left alone, and so is a signal that is ignored, as SIGHUP is under nohup.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any

from pymar.exceptions import JobCancelled

#: Seconds in which another signal does not end the script at once: a terminal and its shell both send SIGHUP.
_AGAIN_AFTER = 5.0
_NAMES = ("SIGTERM", "SIGHUP")

#: The name of each job that runs, and what returns how far it is, as a text. Any thread.
_jobs: dict[object, tuple[str, Callable[[], str]]] = {}
#: What has to be stopped or removed if a signal ends the script. Any thread.
_needs: set[object] = set()
#: What handled each signal that this module handles now. Main thread only.
_taken: dict[int, Any] = {}
#: The signals that a thread had blocked before it began to fork, by its id.
_masks: dict[int, set[int]] = {}


class Terminated(KeyboardInterrupt):
    """A signal ends the script while a job of it runs. Whoever lets Ctrl-C end the script lets this end it too.

    Args:
        number: of the signal.
        text: what was finished, and how to go on.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, text)
        self.number = number
        self.process: int = os.getpid()
        self.since: float = monotonic()


#: What ends the script; None unless a signal was received.
_ending: Terminated | None = None


def is_ending() -> bool:
    """True if Ctrl-C or a signal has ended the script, which runs its exit handlers now."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt or _is_terminated()


def _is_terminated() -> bool:
    return _ending is not None and _ending.process == os.getpid()


def hold() -> Callable[[], None]:
    """Have SIGTERM and SIGHUP end this script as Ctrl-C does, until the function that this returns is called.

    It does nothing in other threads than the main one, and in worker processes, which end with their parts.
    """
    if threading.current_thread() is not threading.main_thread() or "pymar.slots.child" in sys.modules:
        return _nothing
    import signal

    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and _is_free(signal.getsignal(number)):
            _taken[number] = signal.signal(number, _end)
    need = object()
    _needs.add(need)
    return partial(_release, need)


def _nothing() -> None:
    """Nothing was held."""


def _is_free(handler: Any) -> bool:
    """True if nobody handles a signal, or only the library of an engine, which would exit without a word."""
    import signal

    return handler is signal.SIG_DFL or str(getattr(handler, "__module__", "")).startswith("ray.")


def _release(need: object) -> None:
    _needs.discard(need)
    if not _needs and not _is_terminated() and threading.current_thread() is threading.main_thread():
        _restore()


def _restore() -> None:
    """Give the signals their former handlers again, unless somebody else handles them by now."""
    if _taken:
        import signal

        for number, handler in _taken.items():
            if signal.getsignal(number) is _end:
                signal.signal(number, handler)
        _taken.clear()


def _end(number: int, frame: object) -> None:
    """End the script: by an exception; at once if no job runs, or if the first signal did not end it."""
    global _ending
    import signal

    if not _needs if _ending is None else monotonic() > _ending.since + _AGAIN_AFTER:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif _ending is None:
        text = "; ".join(f"{name}: {how_far()}" for name, how_far in list(_jobs.values()))
        _ending = Terminated(number, text)
        line = f"{signal.Signals(number).name} ends the script" + (f"; {text}" if text else "")
        _print_instead(_ending, line, 128 + number)
        raise _ending


def _before_fork() -> None:
    """Have signals wait that come to the fork before it handles them: Python would drop those."""
    if _taken:
        import signal

        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _taken)


def _after_fork() -> None:
    if (before := _masks.pop(threading.get_ident(), None)) is not None:
        import signal

        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forget() -> None:
    """Forget the jobs in a fork, whose parent's they are: signals end it as if there were none."""
    global _ending
    _ending = None
    _needs.clear()
    _jobs.clear()
    _restore()
    _after_fork()
    _masks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forget)


def running(name: str, how_far: Callable[[], str]) -> Callable[[], None]:
    """Note that a job runs, until the function that this returns is called. Any thread.

    Args:
        how_far: returns what of it was finished, and how to go on. Called in the main thread.
    """
    one = object()
    _jobs[one] = name, how_far
    release = hold()

    def is_over() -> None:
        _jobs.pop(one, None)
        release()

    return is_over


def progress_of(done: int, total: int | None, checkpoint: str) -> str:
    """Return what of a job was finished, and how to go on, for people."""
    of = "" if total is None else f" of {total:,}"
    if checkpoint:
        return f"{done:,} parts{of} were done and are in {checkpoint}: the same call goes on from there"
    return f"{done:,} parts{of} were done. With checkpoint=FILE, the same call would go on from there"


@contextmanager
def one_line_on_interrupt(name: str) -> Iterator[None]:
    """Print one line in place of a traceback, if Ctrl-C, a signal or `pymar cancel` ends the context and the script.

    Raises:
        Terminated: a signal has come already, and the script has gone on.
    """
    if _ending is not None and _is_terminated():
        raise _ending
    release = hold()
    try:
        yield
    except Terminated:
        raise
    except KeyboardInterrupt as interrupt:
        if _ending is not None and _is_terminated():  # Ray has made another of it
            raise _ending from None
        if not hasattr(sys, "ps1"):  # interactive sessions catch it, and show it in their own way
            _print_instead(interrupt, ", ".join([f"{name}: interrupted", *map(str, interrupt.args)]))
        raise
    except JobCancelled as cancelled:
        if not hasattr(sys, "ps1"):
            _print_instead(cancelled, f"{name}: {cancelled}", 1)
        raise
    finally:
        release()


def _print_instead(ending: BaseException, line: str, code: int | None = None) -> None:
    """Print a line in place of the traceback of an error that nothing catches; exit with that code, if it is given."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is ending:
            _print(line)
            if code is not None:
                raise SystemExit(code)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook


def _print(line: str) -> None:
    try:
        print(line, file=sys.stderr, flush=True)
    except Exception:  # nobody reads it, as after SIGHUP the terminal
        return


def log_if_script_ends(name: str, what: str) -> Callable[[], None]:
    """Log a warning if the script ends before the function that this returns was called."""
    log = partial(_log, os.getpid(), f"the script has ended while {name} ran ({what}): the job is stopped")
    atexit.register(log)
    release = hold()

    def is_over() -> None:
        atexit.unregister(log)
        release()

    return is_over


def _log(process: int, line: str) -> None:
    # The jobs in a fork are its parent's; and after Ctrl-C the user knows.
    if os.getpid() == process and not is_ending():
        import logging  # late, since each worker process imports this module at its start

        logging.getLogger(__name__).warning("%s", line)
