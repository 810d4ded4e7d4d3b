"""In a worker process: the modules that travelled with its jobs, first on its import path.

A process serves one archive of modules (codecache.py) in its life: what it has imported stays imported.
"""

# Worker processes import this module when they start: other imports are in the functions that need them.
from __future__ import annotations

import os
import sys
from typing import Any

#: What a worker process is told of a job's modules: the folder with them, and the roots at the producer, each with True
#: if it stands before the standard library.
Code = tuple[str, tuple[tuple[str, bool], ...]]

#: The modules that travelled with the job that is computed here; None if none did.
_in_use: Code | None = None


def use(code: Code) -> None:
    """Find the modules of a job in this folder, before those of this host, from now on."""
    global _in_use
    folder, roots = code
    _in_use = folder, tuple((str(root), bool(is_first)) for root, is_first in roots)
    put_on_path()


def put_on_path() -> None:
    """Put the folders of the job's modules on the import path, if they are not there."""
    if _in_use is None:
        return
    folder, roots = _in_use
    entries = [(os.path.join(folder, str(number)), is_first) for number, (_, is_first) in enumerate(roots)]
    ours = {entry for entry, _ in entries}
    others = [entry for entry in sys.path if entry not in ours]
    sys.path[:] = [
        *(entry for entry, is_first in entries if is_first),
        *others,
        *(entry for entry, is_first in entries if not is_first),
    ]


def has_travelled(path: str | None) -> bool:
    """True if a file is one of those that travelled with the job."""
    return _in_use is not None and path is not None and path.startswith(_in_use[0] + os.sep)


def here(value: Any) -> Any:
    """Return a value; if it is the path of something that exists only at the producer, and travelled, its path here."""
    if _in_use is None:
        return value
    if type(value).__module__.partition(".")[0] == "pathlib" and hasattr(value, "__fspath__"):
        found = here(str(value))
        return value if found == str(value) else type(value)(found)
    if type(value) is not str or not os.path.isabs(value) or "\0" in value or os.path.exists(value):
        return value
    folder, roots = _in_use
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
    folder, roots = _in_use
    for number in range(len(roots)):
        above, _, last = os.path.join(folder, str(number), *module.split(".")).rpartition(os.sep)
        try:
            names = [name for name in os.listdir(above) if name.partition(".")[0] == last]
        except OSError:
            continue
        if extensions := sorted(name for name in names if name.endswith((".so", ".pyd"))):
            from sysconfig import get_config_var

            return (
                f"it travelled as {', '.join(extensions)}, and this host loads extensions for "
                f"{get_config_var('EXT_SUFFIX')}"
            )
    return ""
