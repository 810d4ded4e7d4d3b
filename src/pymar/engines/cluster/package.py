"""A job package: a job on its way to a Dask or Ray cluster, with its classes and the hashes of its modules.

What is defined in the script travels by value, and the modules of the script and its project travel as an archive, once
to each worker (serialization.archive). Others are sent by name: a worker imports its own, or those in the producer's
folders if it can read these (the same host, a shared file system). If such a module is another there, the job is
refused.
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
from pymar.serialization.archive import Archive, archive_of
from pymar.serialization.jobfile import Differs, code_of
from pymar.serialization.package import pack


class JobPackage(NamedTuple):
    """What travels once to each worker; its digest travels with each batch. Immutable."""

    modules: dict[str, str]
    """Hashes of the user's modules that do not travel, by name."""
    definition: bytes
    """For `serialization.loads` in a worker process: it returns the JobSpec."""
    modules_sent: bytes
    """The reference to the archive of the modules that travel (archive.Reference); b"" if none do."""


class _Job:
    """Becomes a JobSpec when it is unpickled: `restored` is called then."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., JobSpec], tuple[Any, ...]]:
        return restored, self._arguments


class EncodedPackage(NamedTuple):
    """A job package as the producer sends it. Immutable."""

    data: bytes
    """For `opened`."""
    digest: bytes
    dumps: Callable[[Any, str], bytes]
    """Encodes the records of its parts."""
    archive: Archive | None
    """The modules that travel, each archive once to each worker."""


def packaged(spec: JobSpec) -> EncodedPackage:
    """Return the package of a job for the workers of a cluster.

    Raises:
        NotPicklable: its classes or settings cannot be pickled.
        UsageError: its modules are too many, or too large, to travel.
    """
    job = pack(spec)
    archive = archive_of(job.modules)
    stay = {name: path for name, path in job.modules.items() if archive is None or not archive.has(path)}
    modules = {name: code_of(path) for name, path in stay.items() if os.path.isfile(path)}
    definition = pickle.dumps(_Job(_folders(), modules, stay, job.definition))
    data = pickle.dumps((modules, definition, b"" if archive is None else archive.reference().encoded()))
    return EncodedPackage(data, sha256(data).digest(), job.dumps, archive)


def opened(data: bytes) -> JobPackage:
    """Decode what `packaged` has encoded."""
    return JobPackage(*pickle.loads(data))


def restored(folders: list[str], modules: dict[str, str], files: dict[str, str], inner: bytes) -> JobSpec:
    """Return the job, in a worker process, once its modules are known to be those of the producer.

    Raises:
        Differs: a module is absent, or is another.
    """
    _find_first(folders)
    spec: JobSpec = loads(inner)
    for name, hashed in modules.items():
        path = getattr(sys.modules.get(name), "__file__", None)
        here = "absent" if path is None else code_of(path)
        if here != hashed:
            raise Differs(
                f"the module {name} differs: {hashed} at the producer ({files[name]}), {here} there ({path}). Copy the "
                "producer's file there, or put it into the script's project: then it travels"
            )
    return spec


#: Folders of producers in which this worker process looks for modules, after its own.
_added: list[str] = []


def _find_first(folders: list[str]) -> None:
    """Look for modules in these folders before those of other jobs; these stay, for modules that are imported later."""
    for folder in reversed(folders):
        if folder in _added:
            _added.remove(folder)
            if folder in sys.path:  # the user's code may have taken it away
                sys.path.remove(folder)
        if folder not in sys.path and os.path.isdir(folder):
            sys.path.insert(len(sys.path) - len(_added), folder)
            _added.insert(0, folder)


def _folders() -> list[str]:
    """Return the folders in which the producer finds modules, without Python's own."""
    own = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    folders = [os.path.abspath(folder) for folder in sys.path if isinstance(folder, str)]
    return [folder for folder in dict.fromkeys(folders) if not folder.startswith(own)]
