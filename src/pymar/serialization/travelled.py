"""In a worker process: the modules that travelled with its jobs, first on its import path.

A process serves one archive of modules (codecache.py) in its life: what it has imported stays imported.
"""

# Worker processes import this module when they start: other imports are in the functions that need them.
from __future__ import annotations

import os
import sys
from typing import Any

#: What a worker process is told of a job's modules: the folder with them; the roots at the producer, each with True if
#: it stands before the standard library; and True if the producer's own folders are to be used where they are here too.
Code = tuple[str, tuple[tuple[str, bool], ...], bool]
#: Files, and bytes of them, that are compared at most to find out if the producer's folders are here.
_COMPARED, _BYTES_COMPARED = 2_000, 10_000_000

#: The modules that travelled with the job that is computed here; None if none did.
_in_use: Code | None = None
#: The folders that stand for its roots here.
_folders: list[str] = []


def use(code: Code) -> None:
    """Import the modules of a job from this folder, before those of this host, from now on."""
    global _in_use
    folder, roots, in_place = code
    _in_use = folder, tuple((str(root), bool(is_first)) for root, is_first in roots), bool(in_place)
    same = _same(folder, [root for root, _ in roots]) if in_place else set()
    _folders[:] = [root if root in same else os.path.join(folder, str(n)) for n, (root, _) in enumerate(roots)]
    put_on_path()


def put_on_path() -> None:
    """Put the folders of the job's modules on the import path, if they are not there.

    None comes after packages that are installed here: an older version of the user's project may be among them.
    """
    if _in_use is None:
        return
    entries = [(folder, is_first) for folder, (_, is_first) in zip(_folders, _in_use[1], strict=True)]
    others = [entry for entry in sys.path if entry not in _folders]
    library = os.path.dirname(os.__file__)
    of_library = (library, os.path.join(library, "lib-dynload"))
    end = max((number for number, entry in enumerate(others, 1) if entry in of_library), default=0)
    first = [entry for entry, is_first in entries if is_first]
    sys.path[:] = [*first, *others[:end], *(entry for entry in _folders if entry not in first), *others[end:]]


def _same(folder: str, roots: list[str]) -> set[str]:
    """Return the roots that are folders of this user here too, and have the same files as travelled."""
    there = {str(number): root for number, root in enumerate(roots) if _is_ours(root)}
    if not there:
        return set()
    files = [os.path.join(above, name) for above, _, names in os.walk(folder) for name in names]
    files = [path for path in files if "__pycache__" not in path]
    if len(files) > _COMPARED or sum(map(os.path.getsize, files)) > _BYTES_COMPARED:
        return set()
    for path in files:
        number, _, name = os.path.relpath(path, folder).partition(os.sep)
        if number in there and _content(os.path.join(there[number], name)) != _content(path):
            del there[number]
    return set(there.values())


def _is_ours(folder: str) -> bool:
    try:
        return os.stat(folder).st_uid == os.geteuid()
    except OSError:
        return False


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def here(value: Any) -> Any:
    """Return a value; if it is the path of something that exists only at the producer, and travelled, its path here."""
    if _in_use is None:
        return value
    if type(value).__module__.partition(".")[0] == "pathlib" and hasattr(value, "__fspath__"):
        found = here(str(value))
        return value if found == str(value) else type(value)(found)
    if type(value) is not str or not os.path.isabs(value) or "\0" in value or os.path.exists(value):
        return value
    folder, roots, _ = _in_use
    for number, (root, _) in enumerate(roots):
        if value == root or value.startswith(root.rstrip(os.sep) + os.sep):
            path = os.path.normpath(os.path.join(folder, str(number), os.path.relpath(value, root)))
            if os.path.exists(path):
                return path
    return value


def why_absent(module: str) -> str:
    """Return why a module that is not found here may have travelled in vain; "" if it has not travelled."""
    if _in_use is None:
        return ""
    folder, roots, _ = _in_use
    for number in range(len(roots)):
        above, _, last = os.path.join(folder, str(number), *module.split(".")).rpartition(os.sep)
        try:
            names = [name for name in os.listdir(above) if name.partition(".")[0] == last]
        except OSError:
            continue
        if extensions := sorted(name for name in names if name.endswith((".so", ".pyd"))):
            from sysconfig import get_config_var

            return (
                f"where it came as {', '.join(extensions)}, and only extensions are loaded for "
                f"{get_config_var('EXT_SUFFIX')}"
            )
    return ""
