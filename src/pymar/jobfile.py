"""A user's file as the code of jobs: found by path, told apart by its hash, and loaded in workers only.

A script without a guard can be a job file: loading stops where its first `map()`, `submit()` or `partials()` would run.
"""

from __future__ import annotations

# Children import this module for one flag: what else it needs is imported where it is used.
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pymar.exceptions import UsageError

#: What classes of a job file are looked for, by their base; by name, since this module stands below both.
PRODUCER, SOURCE = "pymar.producer.Producer", "pymar.source.DataSource"

#: Whether a file is being loaded, whose jobs must not run.
_loading = False


class Stopped(BaseException):
    """A job file has come to its first job: what stands above it is loaded."""


class Differs(UsageError):
    """A worker's own code is not what the job was made with."""


def stop_if_loading() -> None:
    """Called where a job would begin. However often that is caught, it is raised again."""
    if _loading:
        raise Stopped


def code_of(path: str | os.PathLike[str]) -> str:
    """What tells one version of a file from another: 16 digits of its SHA-256.

    Raises:
        UsageError: it cannot be read.
    """
    return _hash(_read(path))


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"the job file {os.fspath(path)!r} cannot be read: {error.strerror}") from None


def _hash(source: bytes) -> str:
    import hashlib

    return hashlib.sha256(source).hexdigest()[:16]


def load(path: str | os.PathLike[str], code: str = "") -> ModuleType:
    """The module of a job file, as far as its first job. It also answers to `__main__`.

    Raises:
        UsageError: it cannot be read, has another hash than `code`, or raises; the message says where.
    """
    file = Path(path).resolve()
    try:
        source = _read(file)
    except UsageError as error:
        raise Differs(str(error)) if code else error from None
    if code and _hash(source) != code:
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
        _run(compile(source, str(file), "exec"), module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is the user's, and may do anything
        raise UsageError(f"the job file {file} cannot be loaded: {_told(error)}") from error
    return module


def _run(code: Any, module: ModuleType) -> None:
    global _loading
    _loading = True
    try:
        exec(code, vars(module))
    except Stopped:
        return  # here begins what only the producer does
    finally:
        _loading = False


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
