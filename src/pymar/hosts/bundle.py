"""What a detached run takes along: the script, the modules that it could import, and files that the user names.

The folders keep their places to each other. So a path that the script makes from `__file__`, or one relative to the
folder from which it was started, is that of the same file on the host.
"""

from __future__ import annotations

import ast
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from types import ModuleType
from typing import NamedTuple

from pymar.exceptions import UsageError
from pymar.serialization import codefiles

#: Bytes that travel, at most. What is larger belongs on a file system or a store that the hosts see.
LARGEST = 256 << 20


class Bundle(NamedTuple):
    """The archive, and where in it things are. Immutable."""

    archive: bytes
    """Of tar."""
    script: str
    current: str
    """The folder from which the script is started."""
    path: list[str]
    """Folders of modules, besides that of the script."""


def made_of(script: str, extra: Sequence[str]) -> Bundle:
    """Return what a script takes along.

    Raises:
        UsageError: it is no file, or a file of `extra` is not there, or all is too large.
    """
    if not os.path.isfile(script):
        raise UsageError(f"{script}: there is no such file")
    script = os.path.realpath(script)  # as Python does, for the folder from which it imports
    above, current = os.path.dirname(script), os.path.realpath(os.getcwd())
    named = [os.path.realpath(path) for path in extra]
    if missing := [given for given, path in zip(extra, named, strict=True) if not os.path.exists(path)]:
        raise UsageError(f"--file {missing[0]}: there is no such file")
    with _as_main(script):
        roots, found = codefiles.files_of(_imported(script))
        project = codefiles.project_of(above)
    places = [above, project or above, current, *(root.folder for root in roots), *map(os.path.dirname, named)]
    base = os.path.commonpath(places)
    members = {script: os.path.relpath(script, base)}
    for file in found:
        number, _, name = file.name.partition("/")
        members[file.path] = os.path.join(os.path.relpath(roots[int(number)].folder, base), name)
    for path in named:
        members.update((one, os.path.relpath(one, base)) for one in _files_below(path))
    # So that it is a project there too, whose modules travel on to workers.
    marker = [os.path.join(os.path.relpath(project, base), "pyproject.toml")] if project else []
    return Bundle(
        _packed(members, [os.path.relpath(current, base)], marker),
        os.path.relpath(script, base),
        os.path.relpath(current, base),
        [os.path.relpath(root.folder, base) for root in roots if root.folder != above],
    )


def _packed(members: dict[str, str], folders: Sequence[str], empty: Sequence[str]) -> bytes:
    sizes = {path: os.path.getsize(path) for path in members}
    if sum(sizes.values()) > LARGEST:
        largest = max(sizes, key=lambda path: sizes[path])
        raise UsageError(
            f"the script and its files have {sum(sizes.values()) >> 20} MiB, and {LARGEST >> 20} travel at most: put "
            f"{largest} ({sizes[largest] >> 20} MiB) where the hosts see it"
        )
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w", dereference=True) as archive:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(entry)
        for name in empty:
            entry = tarfile.TarInfo(os.path.normpath(name))
            entry.mode = 0o600
            archive.addfile(entry)
        for path, name in sorted(members.items(), key=lambda item: item[1]):
            entry = tarfile.TarInfo(os.path.normpath(name))
            entry.size, entry.mode = os.path.getsize(path), 0o700 if os.access(path, os.X_OK) else 0o600
            with open(path, "rb") as file:
                archive.addfile(entry, file)
    return made.getvalue()


def _files_below(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names)


@contextmanager
def _as_main(script: str) -> Iterator[None]:
    """Let this process look as if it ran the script, to whoever asks for its folder and its import path."""
    main, path = sys.modules["__main__"], list(sys.path)
    standing = ModuleType("__main__")
    standing.__file__ = script
    sys.modules["__main__"] = standing
    sys.path[:1] = [os.path.dirname(script)]  # in place of the folder of the command
    try:
        yield
    finally:
        sys.modules["__main__"], sys.path[:] = main, path


def _imported(script: str) -> dict[str, str]:
    """Return the user's top-level modules that a script imports, and those which these import, with their files."""
    found: dict[str, str] = {}
    files = [script]
    while files:
        try:
            with open(files.pop(), "rb") as file:
                tree = ast.parse(file.read())
        except (OSError, SyntaxError, ValueError):
            continue
        for name in _names(tree):
            if name not in found and name not in sys.stdlib_module_names and name != "pymar":
                found[name] = path = _file_of(name)
                if path.endswith(".py") and not codefiles.is_library(path):
                    files.append(path)
    return {name: path for name, path in found.items() if path and not codefiles.is_library(path)}


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _file_of(name: str) -> str:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return ""
    return spec.origin or "" if spec and spec.has_location else ""
