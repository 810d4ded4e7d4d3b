"""An exception of the user's code as text, to be sent to another process."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sized
from traceback import TracebackException, walk_tb
from types import TracebackType
from typing import Any

from pymar.exceptions import (
    ExchangeError,
    ExchangeUnavailable,
    SinkError,
    SinkUnavailable,
    SourceError,
    SourceUnavailable,
    UsageError,
)
from pymar.parts import Failure
from pymar.serialization.redaction import is_secret, printable, redacted, redacted_values
from pymar.serialization.values import dumps_home

#: Frames of the user's code whose variables are shown, counted from where it raised.
_FRAMES_SHOWN = 3
#: Of larger ints and longer containers (other than those that reprlib cuts), only the size is shown.
_BITS_SHOWN, _LENGTH_SHOWN = 1_000, 1_000
_CUT_BY_REPRLIB = (list, tuple, dict, set, frozenset, str)
#: Control characters that a text of several lines keeps.
_LINES = "\n\t"
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 200
#: Packages whose frames stand before the user's code in a traceback; they are left out.
_OURS = ("pymar.slots.", "pymar.engines.", "pymar.calls.", "pymar.datasets.", "pymar.keyed.", "pymar.sinks.")


def describe(error: BaseException, dumps: Callable[[Any, str], bytes] = dumps_home) -> Failure:
    """Return an exception as text (traceback without our frames, variables of the innermost frames) and encoded.

    Never raises, whatever the user's `__str__` and `__repr__` do.
    """
    if isinstance(error, UsageError):
        exception = _encoded(error, dumps_home) if isinstance(error, SourceError | SinkError | ExchangeError) else None
        # Its message has the remedy, and its frames are ours.
        return Failure(printable(f"{type(error).__name__}: {error}", _LINES), exception=exception)
    frames = _users_frames(error.__traceback__)
    try:
        trimmed = TracebackException(type(error), error, frames)
        line, trace = "".join(trimmed.format_exception_only()).strip(), "".join(trimmed.format())
        line, trace = (printable(redacted(text), _LINES) for text in (line, trace))
    except BaseException as problem:  # of the user's __str__
        line = trace = f"{type(error).__name__} (which cannot be shown: {type(problem).__name__})"
    return Failure(line, trace, _variables(frames), _encoded(error, dumps))


def _encoded(error: BaseException, dumps: Callable[[Any, str], bytes]) -> bytes | None:
    """Return an exception encoded; None if it cannot be sent: its text is enough."""
    try:
        return dumps(_sendable(error.with_traceback(None)), "the exception")
    except Exception:  # whatever a library has attached to it
        return None


class _Remade:
    """Is unpickled as an exception whose class has an `__init__` of its own: that is not called again."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        return _remade, (type(self._error), self._error.args, dict(vars(self._error)))


def _sendable(error: BaseException) -> Any:
    """Return an exception, or what is unpickled as it: pickle would call its class with `args`, which may be others."""
    kind = type(error)
    has_its_own = kind.__init__ is not BaseException.__init__ and not _is_builtin(kind)
    is_pickled_plainly = kind.__reduce__ is BaseException.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__
    return _Remade(error) if has_its_own and is_pickled_plainly else error


def _is_builtin(kind: type[BaseException]) -> bool:
    base = next(one for one in kind.__mro__ if "__init__" in vars(one))
    return base.__module__ == "builtins"


def _remade(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error


def place_of(error: BaseException) -> str:
    """Return in which function and line the user's code raised, and the traceback: for an error that ends a process."""
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
    """True if a later attempt at the part may succeed: its data, or where to write them, could not be reached."""
    return isinstance(error, SourceUnavailable | SinkUnavailable | ExchangeUnavailable)


def _users_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame on that is not ours; all of it, if there is none."""
    found = trace
    while found is not None and f"{found.tb_frame.f_globals.get('__name__')}.".startswith(_OURS):
        found = found.tb_next
    return trace if found is None else found


def _variables(trace: TracebackType | None) -> str:
    lines: list[str] = []
    for frame, line in list(walk_tb(trace))[-_FRAMES_SHOWN:]:
        lines.append(f"  {frame.f_code.co_qualname} (line {line})")
        for name, value in list(frame.f_locals.items())[:30]:
            lines.append(f"    {name} = {'***' if is_secret(name) else shown(value)}")
    return "\n".join(lines)


def shown(value: Any) -> str:
    """Return a value in about 200 characters; of one that would take long to show, the size."""
    kind = type(value)
    if kind is int and value.bit_length() > _BITS_SHOWN:
        return f"<int of {value.bit_length():,} bits>"
    if kind not in _CUT_BY_REPRLIB and isinstance(value, Sized):
        try:
            length = len(value)
        except BaseException:  # of the user's __len__
            return f"<{kind.__name__} whose length is unknown>"
        if length > _LENGTH_SHOWN and kind.__module__ != "numpy":
            return f"<{kind.__name__} of length {length:,}>"
    try:
        return printable(redacted_values(_repr.repr(value)))
    except BaseException as problem:  # of the user's __repr__
        return f"<{kind.__name__} whose repr raised {type(problem).__name__}>"
