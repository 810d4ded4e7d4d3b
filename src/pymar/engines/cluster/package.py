"""A job on its way to a process of somebody else's cluster: its classes, where its modules lie, and their hashes.

What is defined in the script travels by value. Modules go by name: a worker finds them where it has them, or in the
producer's folders if it sees those too (the same host, a shared file system). They have to be the same, or are refused.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

from pymar.parts import JobSpec
from pymar.serialization import loads
from pymar.serialization.jobfile import Differs, code_of
from pymar.serialization.package import pack


class JobPackage(NamedTuple):
    """What travels once to each worker; its digest goes with each batch."""

    modules: dict[str, str]
    """Hashes of the user's modules, by name."""
    definition: bytes
    """For `values.loads`, in a child: gives the JobSpec."""


class _Job:
    """Is a JobSpec once it has been unpickled."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., JobSpec], tuple[Any, ...]]:
        return restored, self._arguments


class Bundled(NamedTuple):
    """A job as the producer sends it."""

    data: bytes
    """For `opened`."""
    digest: bytes
    dumps: Callable[[Any, str], bytes]
    """How the data of its parts are encoded."""


def packaged(spec: JobSpec) -> Bundled:
    """A job for workers of a cluster.

    Raises:
        NotPicklable: its classes or settings cannot be pickled.
    """
    job = pack(spec)
    modules = {name: code_of(path) for name, path in job.modules.items() if os.path.isfile(path)}
    data = pickle.dumps((modules, pickle.dumps(_Job(_folders(), modules, job.modules, job.definition))))
    return Bundled(data, sha256(data).digest(), job.dumps)


def opened(data: bytes) -> JobPackage:
    """What `package` made."""
    return JobPackage(*pickle.loads(data))


def restored(folders: list[str], modules: dict[str, str], files: dict[str, str], inner: bytes) -> JobSpec:
    """In a child: the job, once its modules are found to be those of the producer.

    Raises:
        Differs: a module is not there, or is another.
    """
    _find_first(folders)
    spec: JobSpec = loads(inner)
    for name, hashed in modules.items():
        path = getattr(sys.modules.get(name), "__file__", None)
        here = "absent" if path is None else code_of(path)
        if here != hashed:
            raise Differs(
                f"the module {name} differs: {hashed} at the producer ({files[name]}), {here} there ({path}). Copy the "
                "producer's file there"
            )
    return spec


#: Folders of producers that this child looks for modules in, behind its own.
_added: list[str] = []


def _find_first(folders: list[str]) -> None:
    """Look for modules in these folders before those of other jobs, which stay for what is imported late."""
    for folder in reversed(folders):
        if folder in _added:
            _added.remove(folder)
            sys.path.remove(folder)
        if folder not in sys.path and os.path.isdir(folder):
            sys.path.insert(len(sys.path) - len(_added), folder)
            _added.insert(0, folder)


def _folders() -> list[str]:
    """Where the producer finds modules, but for Python's own folders."""
    own = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    folders = [os.path.abspath(folder) for folder in sys.path if isinstance(folder, str)]
    return [folder for folder in dict.fromkeys(folders) if not folder.startswith(own)]
