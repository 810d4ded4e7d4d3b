"""Which files of the user travel with a job to other hosts: the modules that its script could import, and no library.

    import path of this process --> entries: the folders of the script, of its project, of modules that the job reaches
                                      --> found: their modules, extensions and small data of packages, bounded

An import that the job does not need must not make it fail. So all modules of those folders travel, and if there are too
many of them, those which the job reaches.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import islice
from typing import NamedTuple

from pymar.exceptions import UsageError

log: logging.Logger = logging.getLogger(__name__)

#: Bytes of the largest file that travels, and of all that travel together.
LARGEST_FILE, LARGEST = 5_000_000, 50_000_000
#: Files that travel, at most; and names that are looked at to find them.
MOST_FILES, MOST_SEEN = 20_000, 100_000
#: A folder that is no package, and has no module among so many names, holds data: nobody imports from it.
_OF_DATA = 1_000

#: What makes a folder a project.
_MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")
_MODULES = (".py", ".pyc", ".so", ".pyd")
#: Data that travel if they are in a package: what its code reads when it is imported, or as its resources.
_DATA = frozenset(
    {".json", ".txt", ".toml", ".yaml", ".yml", ".ini", ".cfg", ".csv", ".tsv", ".sql", ".xml", ".html"}
    | {".jinja", ".jinja2", ".j2", ".tmpl", ".lark", ".proto", ".xsd", ".tex", ".md"}
)
_NEVER = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
#: The file in the script's folder, or its project, with patterns of what does not travel.
IGNORE = ".pymarignore"

#: What was logged, so that it is logged once.
_said: set[str] = set()


class Root(NamedTuple):
    """A folder of the import path from which modules travel. Immutable."""

    folder: str
    is_first: bool
    """True if it stands before the standard library on the import path."""


class Entry(NamedTuple):
    """A root, and what of it is looked at. Immutable."""

    root: Root
    only: frozenset[str] | None = None
    """The top-level modules and packages that travel; None for all."""
    is_flat: bool = False
    """True if folders are not looked into: it is a home folder, or holds anything."""


class FoundFile(NamedTuple):
    """A file that travels. Immutable."""

    path: str
    name: str
    """Its number of a root, and its path there: "0/package/module.py"."""
    size: int
    changed: int
    """When it was changed last, in nanoseconds."""


class TooMany(UsageError):
    """There are more files, or more bytes, than may travel; the message names the largest ones."""


def files_of(modules: Mapping[str, str]) -> tuple[list[Root], list[FoundFile]]:
    """Return the roots and the files that travel with a job.

    Args:
        modules: the user's modules that the job reaches, and their files.

    Raises:
        TooMany: those which the job reaches are too many, or too large.
    """
    reached = {name: path for name, path in modules.items() if path and not is_library(path)}
    entries = list(_entries(reached))
    try:
        return _found(entries)
    except TooMany as error:
        tops = frozenset(name.partition(".")[0] for name in reached)
        few = [entry._replace(only=tops if entry.only is None else entry.only & tops) for entry in entries]
        found = _found(few)
        say(
            f"{error}. Only the modules that this job is seen to use are sent to workers, and others are not found "
            f"there: name the folders that it does not need in {IGNORE}, beside the script"
        )
        return found


def _found(entries: list[Entry]) -> tuple[list[Root], list[FoundFile]]:
    ignored = [*_ignored(entries)]
    budget = _Budget()
    roots: list[Root] = []
    found: list[FoundFile] = []
    for entry in entries:
        scan = _Scan(entry, [other.root.folder for other in entries], ignored, budget)
        files = [file._replace(name=f"{len(roots)}/{file.name}") for file in scan.files()]
        if files:
            roots.append(entry.root)
            found += files
    return roots, found


# Where modules are.


def _entries(reached: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the folders of the import path whose modules travel, in their order."""
    tops = {name.partition(".")[0]: _folder_of(name, path) for name, path in sorted(reached.items())}
    whole, flat = _regions(tops.values())
    folders = list(_import_path())
    libraries = [place for place, folder in enumerate(folders) if _is_stdlib(folder)]
    given: set[str] = set()
    for place, folder in enumerate(folders):
        if not os.path.isdir(folder) or is_library(os.path.join(folder, "")):
            continue
        root = Root(folder, not libraries or place < libraries[0])
        of_folder = frozenset(top for top, where in tops.items() if where == folder)
        if any(_is_within(folder, region) for region in whole):
            yield Entry(root)
        elif folder in flat:
            yield Entry(root, is_flat=True)
            if deep := frozenset(top for top in of_folder if os.path.isdir(os.path.join(folder, top))):
                yield Entry(root, only=deep)
        elif of_folder:
            yield Entry(root, only=of_folder)
        else:
            continue
        given.update(of_folder)
    for top, where in tops.items():  # found by an import hook, as that of an editable installation
        if top not in given and where and not is_library(os.path.join(where, "")):
            given.add(top)
            yield Entry(Root(where, False), only=frozenset({top}))


def _import_path() -> Iterator[str]:
    """Yield the entries of the import path, absolute, each once."""
    given = set()
    for entry in sys.path:
        try:
            folder = os.path.abspath(entry) if isinstance(entry, str) else ""
        except OSError:  # the current folder was removed
            folder = ""
        if folder and folder not in given:
            given.add(folder)
            yield folder


def _folder_of(name: str, path: str) -> str:
    """Return the folder from which an import finds a module's top-level package; "" if its path does not tell."""
    folder = os.path.dirname(os.path.abspath(path))
    parts = name.split(".")
    if os.path.basename(path).startswith("__init__."):
        parts.append("__init__")
    for part in reversed(parts[:-1]):
        if os.path.basename(folder) != part:
            return ""
        folder = os.path.dirname(folder)
    return folder


def _regions(folders: Iterable[str]) -> tuple[list[str], set[str]]:
    """Return the folders that are looked through whole; and those of which only the files directly in them count."""
    whole: list[str] = []
    flat: set[str] = set()
    script = script_folder()
    for folder in dict.fromkeys([script, *folders]):
        if not folder or is_library(os.path.join(folder, "")):
            continue
        if holds_anything(folder):
            flat.add(folder)
            continue
        if folder == script:
            whole.append(folder)
        if project := project_of(folder):
            whole.append(project)
    return whole, flat


def script_folder() -> str:
    """Return the folder of the script; of a module that runs by `python -m`, that of its package; of a notebook or a
    prompt, the current one; "" if it is neither."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if isinstance(file, str) and not hasattr(main, "__vsc_ipynb_file__"):
        spec = getattr(main, "__spec__", None)
        of_package = _folder_of(spec.name, file) if spec is not None else ""
        folder = of_package or os.path.dirname(os.path.abspath(file))
        return "" if is_library(os.path.join(folder, "")) else folder
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def project_of(folder: str) -> str:
    """Return the nearest folder, this one or above it, that is a project; "" if there is none."""
    while not holds_anything(folder):
        if any(os.path.exists(os.path.join(folder, marker)) for marker in _MARKERS):
            return folder
        folder = os.path.dirname(folder)
    return ""


def holds_anything(folder: str) -> bool:
    """True for folders that hold all kinds of things: `/`, a home folder and those above it, /tmp."""
    real = os.path.realpath(folder)
    home = os.path.realpath(os.path.expanduser("~"))
    temporary = {os.path.realpath(one) for one in ("/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())}
    return real in temporary or _is_within(home, real) or os.path.dirname(real) == real


def _is_within(folder: str, region: str) -> bool:
    return folder == region or folder.startswith(region.rstrip(os.sep) + os.sep)


_STDLIB = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
#: Folders of the interpreter and its environment. Not all of the environment: it may have been made in the project.
_INTERPRETERS = tuple(
    {
        os.path.realpath(sysconfig.get_path(name)) + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    }
)


def _is_stdlib(folder: str) -> bool:
    return os.path.realpath(folder) in _STDLIB


def is_library(path: str) -> bool:
    """True for a file, or a folder with a separator at its end, of the interpreter, an environment or a package."""
    if any(f"{os.sep}{name}{os.sep}" in path for name in _NEVER):
        return True
    real = os.path.realpath(path) + (os.sep if path.endswith(os.sep) else "")
    if real.startswith(_INTERPRETERS):
        return True
    return _has_installed(os.path.dirname(path))


def _has_installed(folder: str) -> bool:
    """True if packages were installed into this folder, as by `pip install --target`."""
    try:
        with os.scandir(folder) as names:
            return any(one.name.endswith(".dist-info") for one in islice(names, MOST_SEEN))
    except OSError:
        return False


# What of it travels.


class _Budget:
    """What a scan has found and looked at so far, of all its entries."""

    def __init__(self) -> None:
        self.seen = 0
        self.files: list[FoundFile] = []
        self.bytes = 0

    def look(self, names: int, folder: str) -> None:
        """Count names that were looked at."""
        self.seen += names
        if self.seen > MOST_SEEN:
            raise TooMany(
                f"more than {MOST_SEEN:,} files and folders are in the folders of the script and its project (the last "
                f"one was {folder}), too many to look for modules"
            )

    def add(self, file: FoundFile) -> None:
        """Count a file that travels."""
        self.files.append(file)
        self.bytes += file.size
        if len(self.files) > MOST_FILES:
            raise TooMany(
                f"more than {MOST_FILES:,} modules are in the folders of the script and its project (the last one is "
                f"{file.path}), more than are sent to workers"
            )

    def check(self) -> None:
        """Check the sum of the sizes."""
        if self.bytes > LARGEST:
            largest = sorted(self.files, key=lambda file: -file.size)[:5]
            raise TooMany(
                f"the modules of the script and its project have {_size(self.bytes)} together, more than the "
                f"{_size(LARGEST)} that are sent to workers. Name in {IGNORE} what workers do not need; the largest: "
                + ", ".join(f"{file.path} ({_size(file.size)})" for file in largest)
            )


class _Scan:
    """The files of one entry."""

    def __init__(self, entry: Entry, roots: list[str], ignored: list[Ignored], budget: _Budget) -> None:
        self._entry = entry
        self._roots = {root for root in roots if root != entry.root.folder}
        self._ignored = ignored
        self._budget = budget
        self._top = entry.root.folder
        self._real = os.path.realpath(self._top)

    def files(self) -> list[FoundFile]:
        """Return them, in the order of their names."""
        found = list(self._in_folder(self._top, (), False))
        self._budget.check()
        return found

    def _in_folder(self, folder: str, parts: tuple[str, ...], is_package: bool) -> Iterator[FoundFile]:
        try:
            with os.scandir(folder) as scan:
                wanted = scan if parts else filter(self._is_wanted, scan)
                names = sorted(islice(wanted, MOST_SEEN + 1), key=lambda one: one.name)
        except OSError as error:
            if not parts or is_package:
                say(f"{folder} cannot be read ({error.strerror}): its modules are not sent to workers")
            return
        self._budget.look(len(names), folder)
        is_package = is_package or (bool(parts) and any(one.name.startswith("__init__.") for one in names))
        if parts and not is_package and len(names) > _OF_DATA and not any(one.name.endswith(_MODULES) for one in names):
            return
        if parts and any(one.name in ("pyvenv.cfg", "conda-meta") for one in names):
            return
        for one in names:
            try:
                yield from self._of_name(one, parts, is_package)
            except OSError as error:  # removed meanwhile, or a link to itself
                log.debug("%s is not sent to workers: %s", one.path, error)

    def _is_wanted(self, one: os.DirEntry[str]) -> bool:
        top = one.name.partition(".")[0]
        return top != "pymar" and (self._entry.only is None or top in self._entry.only)

    def _of_name(self, one: os.DirEntry[str], parts: tuple[str, ...], is_package: bool) -> Iterator[FoundFile]:
        if one.name.startswith(".") or one.name in _NEVER:
            return
        if one.is_dir():
            if self._entry.is_flat or not (is_package or one.name.isidentifier()) or "." in one.name:
                return
            if not self._is_ignored(one.path, True) and not self._is_elsewhere(one, parts):
                yield from self._in_folder(one.path, (*parts, one.name), is_package)
            return
        kind = os.path.splitext(one.name)[1].lower()
        if kind not in _MODULES and not (is_package and kind in _DATA):
            return
        if not one.is_file() or self._is_ignored(one.path, False):
            return
        if (why := self._refused(one)) is not None:
            say(f"{_shown(one.path)} {why}; put it into {IGNORE} to hear no more")
            return
        about = one.stat()
        file = FoundFile(one.path, "/".join((*parts, one.name)), about.st_size, about.st_mtime_ns)
        self._budget.add(file)
        yield file

    def _refused(self, one: os.DirEntry[str]) -> str | None:
        size = one.stat().st_size
        if size > LARGEST_FILE:
            return f"has {_size(size)} and is not sent to workers: files of more than {_size(LARGEST_FILE)} are not"
        if one.is_symlink() and not _is_within(real := os.path.realpath(one.path), self._real):
            return f"is a link that leaves its folder (to {real}) and is not sent to workers"
        if not _is_utf8(one.name):
            return "has a name that is not UTF-8 and is not sent to workers"
        return None

    def _is_ignored(self, path: str, is_folder: bool) -> bool:
        verdicts = [verdict for one in self._ignored if (verdict := one.says(path, is_folder)) is not None]
        return bool(verdicts) and verdicts[-1]

    def _is_elsewhere(self, one: os.DirEntry[str], parts: tuple[str, ...]) -> bool:
        """True for a folder that travels as a root of its own, or a link that leads out of this one, or upwards."""
        if one.is_symlink():
            real = os.path.realpath(one.path)
            return not _is_within(real, self._real) or _is_within(os.path.realpath(os.path.dirname(one.path)), real)
        if one.path not in self._roots:
            return False
        name = ".".join((*parts, one.name))
        return not any(loaded == name or loaded.startswith(f"{name}.") for loaded in list(sys.modules))


def _size(size: int) -> str:
    for unit, name in ((1_000_000, "MB"), (1_000, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}" if size < 1_000 * unit else f"{size / unit:,.0f} {name}"
    return f"{size} bytes"


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    return path.encode(errors="backslashreplace").decode()


def say(text: str) -> None:
    """Log a warning, once in this process."""
    if text not in _said:
        _said.add(text)
        log.warning("%s", text)


# What the user has excluded.


class Ignored:
    """The patterns of one file, as in .gitignore, except that `*` stands for `/` too.

    A pattern with a slash before its end begins at the file's folder; others hold for names at any depth. A slash at
    the end: folders only. "!" before a pattern: what it matches travels all the same.
    """

    def __init__(self, folder: str, text: str) -> None:
        self._folder = folder
        self._patterns: list[tuple[bool, bool, bool, str]] = []
        for line in text.splitlines():
            pattern = line.strip()
            if not pattern or pattern.startswith("#"):
                continue
            travels, only_folders = pattern.startswith("!"), pattern.endswith("/")
            pattern = pattern.removeprefix("!").rstrip("/")
            is_path = "/" in pattern
            self._patterns.append((travels, only_folders, is_path, re.sub(r"\*\*/?", "*", pattern.lstrip("/"))))

    def says(self, path: str, is_folder: bool) -> bool | None:
        """Return True if a file or folder is ignored, False if it travels all the same, None if no pattern fits."""
        if not path.startswith(self._folder.rstrip(os.sep) + os.sep):
            return None
        relative = os.path.relpath(path, self._folder)
        verdict = None
        for travels, only_folders, is_path, pattern in self._patterns:
            if only_folders and not is_folder:
                continue
            if fnmatch(relative if is_path else os.path.basename(path), pattern):
                verdict = not travels
        return verdict


def _ignored(entries: Iterable[Entry]) -> Iterator[Ignored]:
    """Yield the patterns of the script's folder and its project, and of the folders that travel; inner ones last."""
    folders = {one.root.folder for one in entries}
    if script := script_folder():
        folders.add(script)
    folders |= {project for folder in list(folders) if (project := project_of(folder))}
    for folder in sorted(folders, key=lambda one: (len(one), one)):
        try:
            with open(os.path.join(folder, IGNORE), encoding="utf-8", errors="replace") as file:
                yield Ignored(folder, file.read())
        except FileNotFoundError:
            continue
        except OSError as error:
            say(f"{os.path.join(folder, IGNORE)} cannot be read ({error.strerror}): nothing is ignored for it")
