"""How an exception of the user's code is told to somebody in another process."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sized
from traceback import TracebackException, walk_tb
from types import TracebackType
from typing import Any

from pymar.exceptions import SourceError, SourceUnavailable, UsageError
from pymar.parts import Failure
from pymar.serialization.redaction import is_secret, printable, redacted, redacted_values
from pymar.serialization.values import dumps_home

#: Frames of the user's code whose variables are shown, counted from where it raised.
_FRAMES_SHOWN = 3
#: Larger numbers and longer containers (other than those that reprlib cuts) are told by their size.
_BITS_SHOWN, _LENGTH_SHOWN = 1_000, 1_000
_CUT_BY_REPRLIB = (list, tuple, dict, set, frozenset, str)
#: What a text of several lines has.
_LINES = "\n\t"
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 200
#: Modules whose frames stand between the worker's loop and the user's code.
_OURS = ("pymar.slots.child", "pymar.slots.childjobs", "pymar.slots.task", "pymar.engines.serial")


def describe(error: BaseException, dumps: Callable[[Any, str], bytes] = dumps_home) -> Failure:
    """A failure as text (the traceback without our frames, the innermost variables) and as the exception itself.

    Whatever the user's classes do when they are shown, it never raises.
    """
    if isinstance(error, UsageError):
        exception = dumps_home(error.with_traceback(None)) if isinstance(error, SourceError) else None
        # It says itself what to do, and its frames are ours.
        return Failure(printable(f"{type(error).__name__}: {error}", _LINES), exception=exception)
    frames = _users_frames(error.__traceback__)
    try:
        trimmed = TracebackException(type(error), error, frames)
        line, trace = "".join(trimmed.format_exception_only()).strip(), "".join(trimmed.format())
        line, trace = (printable(redacted(text), _LINES) for text in (line, trace))
    except BaseException as problem:  # of the user's __str__
        line = trace = f"{type(error).__name__} (which cannot be shown: {type(problem).__name__})"
    try:
        exception = dumps(error.with_traceback(None), "the exception")
    except Exception:  # The text says it all; the object is an extra.
        exception = None
    return Failure(line, trace, _variables(frames), exception)


def place_of(error: BaseException) -> str:
    """Where the user's code raised, in one line, and the traceback; for what ends a process."""
    frames = _users_frames(error.__traceback__)
    ours = ("map_fn", "reduce_fn", "setup_fn")
    found = [(frame.f_code.co_name, line) for frame, line in walk_tb(frames)]
    innermost = found[-1] if found else ("the worker's code", 0)
    name, line = next((place for place in reversed(found) if place[0] in ours), innermost)
    try:
        trace = "".join(TracebackException(type(error), error, frames).format()).rstrip()
    except BaseException as problem:  # of the user's __str__
        trace = f"(the traceback cannot be shown: {type(problem).__name__})"
    return f"{type(error).__name__} was raised in {name}, line {line}\n{trace}"


def is_passing(error: BaseException) -> bool:
    """Whether the part may be computed if it is tried again: its data could not be reached."""
    return isinstance(error, SourceUnavailable)


def _users_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _OURS:
        trace = trace.tb_next
    return trace


def _variables(trace: TracebackType | None) -> str:
    lines: list[str] = []
    for frame, line in list(walk_tb(trace))[-_FRAMES_SHOWN:]:
        lines.append(f"  {frame.f_code.co_qualname} (line {line})")
        for name, value in list(frame.f_locals.items())[:30]:
            lines.append(f"    {name} = {'***' if is_secret(name) else _shown(value)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A value in some 200 characters; what would take long to show is told by its size."""
    kind = type(value)
    if kind is int and value.bit_length() > _BITS_SHOWN:
        return f"<int of {value.bit_length():,} bits>"
    if kind not in _CUT_BY_REPRLIB and isinstance(value, Sized):
        try:
            length = len(value)
        except BaseException:  # of the user's __len__
            return f"<{kind.__name__} whose length cannot be told>"
        if length > _LENGTH_SHOWN and kind.__module__ != "numpy":
            return f"<{kind.__name__} of length {length:,}>"
    try:
        return printable(redacted_values(_repr.repr(value)))
    except BaseException as problem:  # of the user's __repr__
        return f"<{kind.__name__} whose repr raised {type(problem).__name__}>"
