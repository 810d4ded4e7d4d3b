"""The script that this process was started with, for worker processes: its code as it runs here, not as it is on disk.

    producer    look(), when Pymar is imported: the module's code object and its text -> loadable() -> Script
    worker      load(Script): the module, without what is under its `__main__` guard; it is `__main__` there

As in `multiprocessing` with "spawn", the code under the guard does not run, and the module's name is `__mp_main__`.
"""

from __future__ import annotations

import marshal
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

from pymar.exceptions import UsageError
from pymar.serialization.jobfile import Stopped, loading

#: The name and the constant that the guard compares.
_NAME, _VALUE = "__name__", "__main__"


class Script(NamedTuple):
    """A script as it is sent to a worker process of the same Python version."""

    code: bytes
    file: str
    package: str | None
    text: str
    """The source text, for tracebacks and `inspect.getsource`; "" if it is not known."""


class _Seen(NamedTuple):
    module: ModuleType
    code: CodeType
    file: str
    source: bytes
    guards: tuple[tuple[int, int], ...]
    """Start and end of the body of each guard, as offsets in the byte code."""
    lines: frozenset[int]
    """Line numbers of the bodies of the guards."""


_seen: _Seen | None = None
_made: tuple[_Seen, Script] | None = None


def look() -> None:
    """Remember the code of the script while it runs: once it has ended, nothing refers to it."""
    global _seen
    main = sys.modules.get("__main__")
    if main is None or (_seen is not None and _seen.module is main):
        return
    frame, file = _frame_of(main), getattr(main, "__file__", None)
    if frame is None or not isinstance(file, str) or hasattr(main, "__ipython_dir__"):
        return
    try:
        with open(file, "rb") as opened:
            source = opened.read()
    except OSError:
        source = b""
    guards = tuple(_guards_of(frame.f_code))
    _seen = _Seen(main, frame.f_code, os.path.abspath(file), source, guards, _lines_of(frame.f_code, guards))


def loadable(functions: Iterable[FunctionType] = ()) -> Script | None:
    """Return the script if workers can load it: it has a `__main__` guard, and runs code under that now; else None.

    None too if one of these functions is defined under the guard: workers would not have it.
    """
    global _made
    look()
    seen = _seen
    if seen is None or not seen.guards or sys.modules.get("__main__") is not seen.module:
        return None
    frame = _frame_of(seen.module)
    if frame is not None and (frame.f_code is not seen.code or not _is_within(frame.f_lasti, seen.guards)):
        return None
    if any(function.__globals__ is vars(seen.module) and _is_guarded(function, seen) for function in functions):
        return None
    sys.modules.setdefault("__mp_main__", seen.module)  # as in multiprocessing: partials name their classes by it
    if _made is None or _made[0] is not seen:
        text = seen.source.decode(errors="replace") if _is_made_of(seen.code, seen.source) else ""
        package = getattr(seen.module, "__package__", None)
        _made = seen, Script(marshal.dumps(seen.code), seen.file, package, text)
    return _made[1]


def _is_guarded(function: FunctionType, seen: _Seen) -> bool:
    return function.__code__.co_firstlineno in seen.lines and "<locals>" not in function.__qualname__


def source_of(module: ModuleType) -> bytes | None:
    """Return the text of the script as it was when it began; None if the module is not the script.

    Raises:
        UsageError: the file was changed before it could be read.
    """
    look()
    if _seen is None or module is not _seen.module:
        return None
    if not _is_made_of(_seen.code, _seen.source):
        raise UsageError(
            f"{_seen.file} was changed while it was being started, and workers would run other code: start it again"
        )
    return _seen.source


def _is_made_of(code: CodeType, source: bytes) -> bool:
    try:
        return compile(source, code.co_filename, "exec", dont_inherit=True) == code
    except (SyntaxError, ValueError):
        return False


def _frame_of(main: ModuleType) -> FrameType | None:
    """Return the frame in which the script runs; None if it has ended, or this process runs no script."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_globals is vars(main) and frame.f_code.co_name == "<module>":
            return frame
        frame = frame.f_back
    return None


def _guards_of(code: CodeType) -> Iterator[tuple[int, int]]:
    """Yield start and end of the body of each `if __name__ == "__main__":`, as offsets in the byte code."""
    from opcode import opmap

    by_number = {number: name for name, number in opmap.items()}
    cache, extends = opmap["CACHE"], opmap["EXTENDED_ARG"]
    found: list[tuple[int, str, Any]] = []
    extended = 0
    for offset in range(0, len(code.co_code), 2):
        operation, argument = code.co_code[offset], code.co_code[offset + 1] | extended
        extended = argument << 8 if operation == extends else 0
        if operation in (cache, extends):
            continue
        name = by_number.get(operation, "")
        found.append((offset, name, argument))
    for place, (offset, name, argument) in enumerate(found[3:], 3):
        if not name.startswith("POP_JUMP") or not name.endswith("IF_FALSE"):
            continue
        before = [one for one in found[max(0, place - 5) : place] if one[1] not in ("TO_BOOL", "NOT_TAKEN")]
        loaded = {code.co_names[one[2]] for one in before[-3:] if one[1] == "LOAD_NAME"}
        constants = [code.co_consts[one[2]] for one in before[-3:] if one[1] == "LOAD_CONST"]
        if before[-1][1] == "COMPARE_OP" and loaded == {_NAME} and _VALUE in constants and _is_equality(before[-1][2]):
            start = found[place + 1][0] if place + 1 < len(found) else offset + 2
            after = offset + 2
            while after < len(code.co_code) and code.co_code[after] == cache:
                after += 2
            yield start, after + 2 * argument


def _is_within(place: int, guards: tuple[tuple[int, int], ...]) -> bool:
    return any(start <= place < end for start, end in guards)


def _lines_of(code: CodeType, guards: tuple[tuple[int, int], ...]) -> frozenset[int]:
    lines = [line for start, _, line in code.co_lines() if line is not None and _is_within(start, guards)]
    return frozenset(range(min(lines), max(lines) + 1)) if lines and len(guards) == 1 else frozenset(lines)


def _is_equality(argument: int) -> bool:
    from opcode import cmp_op

    shift = 5 if sys.version_info >= (3, 13) else 4 if sys.version_info >= (3, 12) else 0
    return cmp_op[argument >> shift] == "=="


# In a worker process.

_loaded: dict[Script, ModuleType] = {}


def load(script: Script) -> ModuleType:
    """Return the module of a script, which is `__main__` from now on; the first call runs it.

    Raises:
        UsageError: it begins a job outside of its guard, or writes; the message says where.
    """
    module = _loaded.get(script)
    if module is None:
        module = ModuleType("__mp_main__")
        module.__file__, module.__package__ = script.file, script.package
        module.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
        if script.text:
            import linecache

            lines = script.text.splitlines(keepends=True)
            linecache.cache[script.file] = len(script.text), None, lines, script.file
        code = marshal.loads(script.code)
        try:
            with loading(code.co_filename):
                exec(code, vars(module))
        except Stopped as stop:
            raise UsageError(
                f"{script.file} begins a job in line {stop.line}, outside of its `if __name__ == '__main__':`, which "
                "each worker would begin again: put all jobs under the guard"
            ) from None
        _loaded[script] = module
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return module


def with_lines_of_script(trace: str) -> str:
    """Return a traceback from another host with the lines of this process's script, whose file is not there."""
    from linecache import getline

    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if not isinstance(path, str) or path not in trace:
        return trace
    found: list[str] = []
    lines = trace.split("\n")
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        found.append(line)
        frame = re.fullmatch(r'  File "(.+)", line (\d{1,9}), in .+', line)
        if frame and frame[1] == path and not after.startswith("    "):
            found += [f"    {source}"] if (source := getline(path, int(frame[2])).strip()) else []
    return "\n".join(found)
