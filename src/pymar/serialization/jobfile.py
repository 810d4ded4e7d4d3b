"""Job files: a user's file with producers and sources, identified by its path and a hash, loaded by worker processes.

A script without a guard can be a job file: loading stops where its first `map()`, `submit()` or `partials()` would run.
While a job file or a script is loaded, jobs do not begin, and what would change a file or start a process is refused.
"""

from __future__ import annotations

# Worker processes import this module when they start, for one flag: other imports are in the functions that need them.
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pymar.exceptions import UsageError

if TYPE_CHECKING:
    from pathlib import Path

#: The base classes of what a job file offers; by name, since this module is in a lower layer than both.
PRODUCER, SOURCE, SINK = "pymar.producer.Producer", "pymar.datasource.DataSource", "pymar.sinks.sink.Sink"
#: Classes that any job may use by their full names, whatever its file offers: they reach nothing but an exchange, a
#: private folder of this user that has the job's token in it.
OF_PYMAR = frozenset(
    {f"pymar.keyed.{name}" for name in ("stages.MapStage", "stages.ReduceStage", "result.ResultSource")}
    | {f"pymar.keyed.sorting.{name}" for name in ("RunStage", "MergeStage")}
    | {f"pymar.keyed.joining.{name}" for name in ("SideStage", "JoinStage", "BroadcastStage")}
)

#: The file that is being loaded, whose jobs must not run; "" while modules of a job are imported; None otherwise.
_loading: str | None = None
#: The thread that loads; and the error about what the file must not do, in case the file catches it.
_loader = 0
_refusal: UsageError | None = None
_is_watching = False
#: Producers and factories of the jobs that would have begun; None if they are not collected (`noting_jobs`).
_noted: list[tuple[type[Any], Any]] | None = None

#: What changes something outside the process, by the names of audit events (https://docs.python.org/3/library/audit_events.html).
_WRITES = {
    "os.remove": "removes a file",
    "os.rename": "renames a file",
    "os.rmdir": "removes a folder",
    "os.truncate": "cuts a file",
    "shutil.rmtree": "removes a folder",
    "shutil.move": "moves a file",
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.spawn": "starts a process",
    "os.exec": "replaces its process by another program",
    "os.fork": "forks",
    "os.forkpty": "forks",
    "socket.connect": "connects a socket",
    "socket.bind": "binds a socket",
    "socket.sendto": "sends to a socket",
}


class Stopped(BaseException):
    """Raised at the first job of a job file: all that is above that line has been loaded."""

    def __init__(self, line: int = 0) -> None:
        super().__init__(line)
        self.line = line


class Differs(UsageError):
    """The code of a worker differs from the code that the job was made with."""


class LoadRefused(UsageError):
    """A script, a job file or a module begins a job, or writes, while it is loaded; the message has the line."""


def stop_if_loading(producer: type[Any], factory: Any) -> None:
    """Raise an error if a job begins while code is loaded. Each further job raises again, whatever the code catches.

    Raises:
        Stopped: the job file itself is being loaded.
        LoadRefused: a module that is being imported begins a job.
    """
    if _loading is None or _loader != _thread_id():
        return
    if _noted is not None:
        _noted.append((producer, factory))
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    file, line = (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("a module", 0)
    if _loading and file == _loading:
        raise Stopped(line)
    raise LoadRefused(
        f"{file} begins a job in line {line} when it is imported, which each worker would begin again: put it under "
        "`if __name__ == '__main__':`, or in a function"
    )


def _thread_id() -> int:
    import _thread

    return _thread.get_ident()


@contextmanager
def importing() -> Iterator[None]:
    """Within this context modules are imported for a job: none may begin a job itself."""
    global _loading, _loader
    before = _loading, _loader
    _loading, _loader = "", _thread_id()
    try:
        yield
    finally:
        _loading, _loader = before


@contextmanager
def noting_jobs() -> Iterator[list[tuple[type[Any], Any]]]:
    """Collect the producers and factories of the jobs that would begin while files are loaded within this context."""
    global _noted
    before, _noted = _noted, []
    try:
        yield _noted
    finally:
        _noted = before


@contextmanager
def loading(file: str) -> Iterator[None]:
    """Within this context a script or job file runs: it must not begin a job, or change anything outside the process.

    Raises:
        LoadRefused: it would change something; the message says what, and in which line.
    """
    global _loading, _loader, _refusal, _is_watching
    before = _loading, _loader
    if not _is_watching:
        _is_watching = True
        sys.addaudithook(_look_for_writes)
    _loading, _loader, _refusal = file, _thread_id(), None
    try:
        yield
    except Stopped:
        if _refusal is None:
            raise
    finally:
        _loading, _loader = before
        refusal, _refusal = _refusal, None
    if refusal is not None:
        raise refusal


def _look_for_writes(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook; raises LoadRefused. In a process that has loaded a script it costs 0.1 microseconds an event."""
    global _refusal
    if not _loading or _loader != _thread_id():
        return
    what = _WRITES.get(event) or (_opened_for_writing(*arguments[:3]) if event == "open" else "")
    if not what:
        return
    frame: Any = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        if frame.f_code.co_filename == _loading:
            _refusal = LoadRefused(
                f"{_loading} {what} in line {frame.f_lineno} when it is loaded, which each worker would do again: put "
                "that under `if __name__ == '__main__':`, or in a function"
            )
            raise _refusal
        frame = frame.f_back  # frames of an import end the search: imports write caches


def _opened_for_writing(path: Any, mode: Any, flags: Any) -> str:
    if isinstance(mode, str):
        writes = any(letter in mode for letter in "wax+")
    else:
        writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR)) and not flags & os.O_EXCL
    if not writes or not isinstance(path, str | bytes | os.PathLike):
        return ""
    name = os.fsdecode(path)
    return "" if name.startswith("/dev/") or os.path.isdir(name) else f"opens {name!r} for writing"


def code_of(path: str | os.PathLike[str]) -> str:
    """Return the hash that identifies a version of a file: 16 digits of its SHA-256.

    Raises:
        UsageError: the file cannot be read.
    """
    return code_of_source(_read(path))


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"the job file {os.fspath(path)!r} cannot be read: {error.strerror}") from None


def code_of_source(source: bytes) -> str:
    """Return the same for the bytes of a file."""
    import hashlib

    return hashlib.sha256(source).hexdigest()[:16]


def load(path: str | os.PathLike[str], code: str = "") -> ModuleType:
    """Load a job file as far as its first job; return it as a module, which is `__main__` too.

    Raises:
        UsageError: the file cannot be read, has another hash than `code`, or raises; the message says where.
    """
    from pathlib import Path

    file = Path(path).resolve()
    try:
        source = _read(file)
    except UsageError as error:
        raise Differs(str(error)) if code else error from None
    if code and code_of_source(source) != code:
        raise Differs(f"the job file {file} has changed on disk since the worker last checked it")
    name, root = _name_and_root(file)
    if sys.path[:1] != [root]:
        sys.path.insert(0, root)
    sys.argv[:] = [str(file)]
    module = ModuleType(name)
    module.__file__ = str(file)
    package = name.rpartition(".")[0]
    module.__package__ = package
    try:
        if package:
            importlib.import_module(package)
        sys.modules[name] = sys.modules["__main__"] = module
        _run(compile(source, str(file), "exec", dont_inherit=True), module)
    except (KeyboardInterrupt, LoadRefused):
        raise
    except BaseException as error:  # user code may raise anything
        raise UsageError(f"the job file {file} cannot be loaded: {_described(error)}") from error
    return module


def _run(code: Any, module: ModuleType) -> None:
    try:
        with loading(str(module.__file__)):
            exec(code, vars(module))
    except Stopped:
        return  # what follows is for the producer only


def _described(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it exits ({error}) before its first job. Workers run it without arguments"
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":
            line = trace.tb_lineno
        trace = trace.tb_next
    where = f" in line {line}" if line else ""
    return f"{type(error).__name__}: {error}{where}"


def _name_and_root(file: Path) -> tuple[str, str]:
    """Return the name by which an import would find the module, and the folder from which."""
    names, folder = [file.stem], file.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(names)
    # A file named random.py must not replace the module of the standard library.
    taken = len(names) == 1 and (name in sys.stdlib_module_names or not name.isidentifier() or name == "pymar")
    return f"pymar_job_{abs(hash(name))}" if taken else name, str(folder)


def find_class(module: ModuleType, name: str, base: str) -> type[Any]:
    """Return the subclass of `base` (PRODUCER or SOURCE) with this name at the top level of a job file.

    Raises:
        UsageError: there is none; or it is defined after the first job.
    """
    if name in OF_PYMAR:
        home, _, name = name.rpartition(".")
        known: type[Any] = getattr(importlib.import_module(home), name)
        return known
    found = vars(module).get(name) if name.isidentifier() and not name.startswith("__") else None
    if isinstance(found, type) and _is_a(found, base):
        return found
    file = module.__file__
    later = _line_of(str(file), name)
    if found is None and later:
        raise UsageError(f"{file} defines {name} in line {later}, after its first job: define it above that")
    there = ", ".join(names_of(module, base)) or "none"
    raise UsageError(f"{file} has no {base.rpartition('.')[2]} {name!r} at its top level; it has: {there}")


def names_of(module: ModuleType, base: str) -> list[str]:
    """Return the names of the user's classes that `find_class` would find."""
    classes = [thing for thing in vars(module).values() if isinstance(thing, type) and _is_a(thing, base)]
    ours = {cls for cls in classes if cls.__module__.startswith("pymar.") and cls.__module__ != module.__name__}
    return sorted({cls.__name__ for cls in classes if cls not in ours})


def _is_a(cls: type, base: str) -> bool:
    return any(full_name(above) == base for above in cls.__mro__[1:])


def full_name(cls: type) -> str:
    """Return the names of a class and its module."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _line_of(file: str, name: str) -> int:
    import ast

    tree = ast.parse(_read(file))
    return next((node.lineno for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), 0)


#: The folder that holds the package `pymar`, three levels above this file.
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from pymar.serialization.jobfile import print_classes; print_classes()"
)


def classes_of(path: str, environ: dict[str, str]) -> dict[str, Any]:
    """Return what a job file offers. It is loaded in a new process, since agents never load a user's code themselves.

    Returns:
        "code": the hash of the file; "producers": their pools, by name; "sources": their names.

    Raises:
        UsageError: the file cannot be loaded; the message says where and why.
    """
    import json
    import subprocess

    command = [sys.executable, "-P", "-c", _START, _PACKAGE_PARENT, path]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environ, check=False)
    if not done.stdout:
        raise UsageError(f"the job file {path} ends its process when it is loaded (exit code {done.returncode})")
    found: dict[str, Any] = json.loads(done.stdout)
    if "error" in found:
        raise UsageError(found["error"])
    return found


def print_classes() -> None:
    """Print what the job file in the last argument offers, as JSON on stdout; what the file prints goes to stderr."""
    import json

    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    path = sys.argv[-1]
    found: dict[str, Any]
    try:
        module = load(path)
        pools = {name: str(vars(module)[name].routing_key()) for name in names_of(module, PRODUCER)}
        found = {"code": code_of(path), "producers": pools, "sources": names_of(module, SOURCE)}
    except UsageError as error:
        found = {"error": str(error)}
    print(json.dumps(found), file=result, flush=True)
    os._exit(0)  # do not wait for threads that the file has started
