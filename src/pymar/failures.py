"""How an exception of the user's code is told to somebody in another process."""

from __future__ import annotations

import re
import reprlib
from traceback import TracebackException, walk_tb
from types import TracebackType

from pymar.parts import Failure
from pymar.values import dumps_home

#: Frames of the user's code whose variables are shown, counted from where it raised.
_FRAMES_SHOWN = 3
_SECRET = re.compile(
    r"passw|passphrase|passwd|pwd|secret|token|credential|api_?key|private_?key|access_?key|auth", re.I
)
_PASSWORD_IN_URL = re.compile(r"(://[^:/@\s]*:)[^@/\s]+@")
#: Modules whose frames stand between the worker's loop and the user's code.
_OURS = ("pymar.slot", "pymar.work", "pymar.engines.serial")


def describe(error: BaseException) -> Failure:
    """A failure as text (the traceback without our frames, the innermost variables) and as the exception itself."""
    frames = _users_frames(error.__traceback__)
    trimmed = TracebackException(type(error), error, frames)
    try:
        exception = dumps_home(error.with_traceback(None))
    except Exception:
        exception = None  # The text says it all; the object is an extra.
    return Failure(
        "".join(trimmed.format_exception_only()).strip(), "".join(trimmed.format()), _variables(frames), exception
    )


def _users_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _OURS:
        trace = trace.tb_next
    return trace


def _variables(trace: TracebackType | None) -> str:
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = shown.maxlong = 200
    lines: list[str] = []
    for frame, line in list(walk_tb(trace))[-_FRAMES_SHOWN:]:
        lines.append(f"  {frame.f_code.co_qualname} (line {line})")
        for name, value in list(frame.f_locals.items())[:30]:
            text = "***" if _SECRET.search(name) else _PASSWORD_IN_URL.sub(r"\1***@", shown.repr(value))
            lines.append(f"    {name} = {text}")
    return "\n".join(lines)
