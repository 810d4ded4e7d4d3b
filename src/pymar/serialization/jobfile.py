"""A user's file as the code of jobs: found by path, told apart by its hash, and loaded in workers only.

A script without a guard can be a job file: loading stops where its first `map()`, `submit()` or `partials()` would run.
"""

from __future__ import annotations

# Children import this module for one flag: what else it needs is imported where it is used.
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

#: What classes of a job file are looked for, by their base; by name, since this module stands below both.
PRODUCER, SOURCE = "pymar.producer.Producer", "pymar.datasource.DataSource"

#: The file that is being loaded, whose jobs must not run; or, while modules of a job are imported, "".
_loading: str | None = None
#: The thread that loads; and what the file did that it must not, in case it caught the error.
_loader = 0
_refusal: UsageError | None = None
_is_watching = False
#: What jobs would have begun are of, while somebody wants to know: producers and their factories.
_noted: list[tuple[type[Any], Any]] | None = None

#: What changes something outside of the process, by the names of audit events (https://docs.python.org/3/library/audit_events.html).
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
    "os.exec": "becomes another program",
    "os.fork": "forks",
    "os.forkpty": "forks",
    "socket.connect": "connects a socket",
    "socket.bind": "binds a socket",
    "socket.sendto": "sends to a socket",
}


class Stopped(BaseException):
    """A job file has come to its first job: what stands above it is loaded."""

    def __init__(self, line: int = 0) -> None:
        super().__init__(line)
        self.line = line


class Differs(UsageError):
    """A worker's own code is not what the job was made with."""


class LoadRefused(UsageError):
    """A script, a job file or a module does more than define when it is loaded; the message has the line."""


def stop_if_loading(producer: type[Any], factory: Any) -> None:
    """Called where a job would begin, with what it would be of. However often that is caught, it is raised again.

    Raises:
        Stopped: the job file itself is being loaded.
        LoadRefused: a module that is being imported computes something.
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
    """Modules are imported for a job: none may begin one."""
    global _loading, _loader
    before = _loading, _loader
    _loading, _loader = "", _thread_id()
    try:
        yield
    finally:
        _loading, _loader = before


@contextmanager
def noting_jobs() -> Iterator[list[tuple[type[Any], Any]]]:
    """Note which producers, with which factories, would begin a job while files are loaded within this context."""
    global _noted
    before, _noted = _noted, []
    try:
        yield _noted
    finally:
        _noted = before


@contextmanager
def loading(file: str) -> Iterator[None]:
    """A script or job file is run: it must not begin a job, nor change anything that outlives this process.

    Raises:
        LoadRefused: it writes; the message says what, and in which line.
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
    """An audit hook: it costs every process that has loaded a script a tenth of a microsecond an event."""
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
        frame = frame.f_back  # an import may write: its own caches


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
    """What tells one version of a file from another: 16 digits of its SHA-256.

    Raises:
        UsageError: it cannot be read.
    """
    return code_of_source(_read(path))


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"the job file {os.fspath(path)!r} cannot be read: {error.strerror}") from None


def code_of_source(source: bytes) -> str:
    """What tells one version of a file from another, of its bytes."""
    import hashlib

    return hashlib.sha256(source).hexdigest()[:16]


def load(path: str | os.PathLike[str], code: str = "") -> ModuleType:
    """The module of a job file, as far as its first job. It also answers to `__main__`.

    Raises:
        UsageError: it cannot be read, has another hash than `code`, or raises; the message says where.
    """
    from pathlib import Path

    file = Path(path).resolve()
    try:
        source = _read(file)
    except UsageError as error:
        raise Differs(str(error)) if code else error from None
    if code and code_of_source(source) != code:
        raise Differs(f"the job file {file} has changed on disk since its worker looked at it")
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
    except BaseException as error:  # it is the user's, and may do anything
        raise UsageError(f"the job file {file} cannot be loaded: {_told(error)}") from error
    return module


def _run(code: Any, module: ModuleType) -> None:
    try:
        with loading(str(module.__file__)):
            exec(code, vars(module))
    except Stopped:
        return  # here begins what only the producer does


def _told(error: BaseException) -> str:
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
    """The module's name as its own host would import it, and the folder from which."""
    names, folder = [file.stem], file.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(names)
    # A file called random.py must not stand in for the library's.
    taken = len(names) == 1 and (name in sys.stdlib_module_names or not name.isidentifier() or name == "pymar")
    return f"pymar_job_{abs(hash(name))}" if taken else name, str(folder)


def find_class(module: ModuleType, name: str, base: str) -> type[Any]:
    """A subclass of `base` (PRODUCER or SOURCE) that stands at the top level of a job file under its own name.

    Raises:
        UsageError: there is none; or only below the line where the first job begins.
    """
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
    """The classes of the user's that `find_class` would find."""
    classes = [thing for thing in vars(module).values() if isinstance(thing, type) and _is_a(thing, base)]
    ours = {cls for cls in classes if cls.__module__.startswith("pymar.") and cls.__module__ != module.__name__}
    return sorted({cls.__name__ for cls in classes if cls not in ours})


def _is_a(cls: type, base: str) -> bool:
    return any(f"{above.__module__}.{above.__qualname__}" == base for above in cls.__mro__[1:])


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
    """Return what a job file offers, found out in a process of its own: agents never load a user's code themselves.

    Returns:
        "code": the file's hash; "producers": the pool of each, by name; "sources": their names.

    Raises:
        UsageError: it cannot be loaded; the message says where and why.
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
    """Print what the file of the last argument offers, as JSON on stdout; what the file prints goes to stderr."""
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
    os._exit(0)  # threads that the file has started are none of our business
