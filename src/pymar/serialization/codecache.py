"""The modules of jobs on a worker's host: unpacked once a host into a cache, and put on the import path of a process.

    ~/.cache/pymar/code/<digest>/0/helper.py      private to the user, used by all of the user's processes on the host
                                /.head            what the archive said of its files
                       /.new-...                  being unpacked: renamed once it is complete

Two processes, or two hosts that share a home, may unpack the same archive at once: the first rename counts. Where the
home cannot be written, a temporary folder of this process takes its place.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Sequence

from pymar.exceptions import UsageError
from pymar.serialization.archive import Damaged, Reference, described, digest_of, opened

log: logging.Logger = logging.getLogger(__name__)

#: Seconds after which modules that no job has used are removed; and bytes from which on the oldest ones are, unless a
#: job has used them within the last day.
KEEP_FOR, KEEP_BYTES, IN_USE_FOR = 30 * 86_400.0, 1 << 30, 86_400.0
#: Seconds after which what a killed process was unpacking is removed.
_ABANDONED = 86_400.0
_HEAD = ".head"


def folder_of_cache() -> str:
    """Return the folder of the cache; it need not exist."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    above = given if os.path.isabs(given) else os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(above, "pymar", "code")


def _private(folder: str) -> str:
    """Make a folder that nobody else can write, and return it.

    Raises:
        OSError: it cannot be made.
        PermissionError: it is another user's, or others may write into it.
    """
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _check_private(folder)
    return folder


def _check_private(folder: str) -> None:
    for one in (os.path.dirname(folder), folder):
        about = os.stat(one)
        if about.st_uid != os.geteuid():
            raise PermissionError(f"{one} belongs to another user")
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"others may write into {one}")


def known(reference: Reference) -> str | None:
    """Return the folder with these modules if this process has seen that it is whole, and it is still there."""
    for folder in [one for one in list(_whole) if os.path.basename(one) == reference.digest]:
        if os.path.exists(os.path.join(folder, _HEAD)):
            _mark_used(folder)
            return folder
    return None


def found(reference: Reference) -> str | None:
    """Return the folder with these modules if they were unpacked on this host before, and are whole; else None."""
    for parent in (folder_of_cache(), *_temporary):
        folder = os.path.join(parent, reference.digest)
        try:
            _check_private(parent) if parent not in _temporary else None
        except OSError:
            continue
        if _is_ours(folder) and _is_whole(folder, reference.digest):
            _mark_used(folder)
            return folder
    return None


def _is_ours(folder: str) -> bool:
    try:
        about = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o022


#: Folders that this process has seen whole.
_whole: set[str] = set()


def _is_whole(folder: str, digest: str) -> bool:
    """True if a folder has what its archive had. Each process reads it once: a host may have lost power."""
    if folder in _whole and os.path.exists(os.path.join(folder, _HEAD)):
        return True
    try:
        with open(os.path.join(folder, _HEAD), "rb") as file:
            head = file.read()
        pieces = [len(head).to_bytes(4, "big"), head]
        for name, size in described(head):
            with open(os.path.join(folder, name), "rb") as file:
                pieces.append(file.read(size + 1))
    except (OSError, Damaged):
        return False
    if digest_of(b"".join(pieces)) != digest:
        return False
    _whole.add(folder)
    return True


def _mark_used(folder: str) -> None:
    try:
        os.utime(folder)
    except OSError:  # a file system that has become read-only
        log.debug("%s cannot be marked as used", folder)


def unpacked(reference: Reference, data: bytes) -> str:
    """Unpack an archive on this host, and return the folder with its modules.

    Raises:
        UsageError: it is damaged, or there is no room for it, neither in the cache nor in the temporary folder.
    """
    head, files = opened(data, reference.digest)
    try:
        return _unpacked_into(_private(folder_of_cache()), reference.digest, head, files)
    except OSError as error:
        why = error.strerror or str(error)
        log.warning("%s: %s: modules of jobs are unpacked into a temporary folder", folder_of_cache(), why)
    try:
        return _unpacked_into(_temporary_folder(), reference.digest, head, files)
    except OSError as error:
        raise UsageError(
            f"the job's modules cannot be unpacked, neither into {folder_of_cache()} ({why}) nor into "
            f"{tempfile.gettempdir()} ({error.strerror or error}): make room there, or set XDG_CACHE_HOME or TMPDIR"
        ) from error


def _unpacked_into(parent: str, digest: str, head: bytes, files: Sequence[tuple[str, bytes]]) -> str:
    folder = os.path.join(parent, digest)
    _trim(parent, digest)
    aside = tempfile.mkdtemp(prefix=".new-", dir=parent)
    try:
        made: set[str] = set()
        for name, content in files:
            path = os.path.join(aside, name)
            if (above := os.path.dirname(path)) not in made:
                os.makedirs(above, mode=0o700, exist_ok=True)
                made.add(above)
            _write(path, content)
        _write(os.path.join(aside, _HEAD), head)
        for _ in range(3):
            try:
                os.rename(aside, folder)
                break
            except OSError:
                if _is_ours(folder) and _is_whole(folder, digest):
                    break  # another process was faster
                _move_away(folder, parent)  # damaged, or not ours
        else:
            os.rename(aside, folder)
        _whole.add(folder)
        return folder
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(path: str, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _move_away(folder: str, parent: str) -> None:
    try:
        aside = tempfile.mkdtemp(prefix=".old-", dir=parent)
        os.rename(folder, os.path.join(aside, "damaged"))
        shutil.rmtree(aside, ignore_errors=True)
    except FileNotFoundError:  # another process has moved it
        return


#: The temporary folder of this process, if the cache cannot be used.
_temporary: list[str] = []
_making = threading.Lock()


def _temporary_folder() -> str:
    with _making:
        if not _temporary:
            folder, owner = tempfile.mkdtemp(prefix="pymar-code-"), os.getpid()
            _temporary.append(folder)
            atexit.register(_remove_temporary, folder, owner)
        return _temporary[0]


def _remove_temporary(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork
        shutil.rmtree(folder, ignore_errors=True)


def _trim(parent: str, keep: str) -> None:
    """Remove modules that no job has used for long, and of too many those that were used first."""
    now = time.time()
    there: list[tuple[float, str]] = []
    try:
        with os.scandir(parent) as names:
            for one in names:
                changed = one.stat(follow_symlinks=False).st_mtime
                if one.name.startswith((".new-", ".old-")):
                    if now - changed > _ABANDONED:
                        shutil.rmtree(one.path, ignore_errors=True)
                elif one.name != keep:
                    there.append((changed, one.path))
    except OSError as error:
        log.debug("%s cannot be trimmed: %s", parent, error)
        return
    size = 0
    for used, path in sorted(there, reverse=True):
        age = now - used
        if age <= KEEP_FOR:
            size += _size(path)
        if age > KEEP_FOR or (size > KEEP_BYTES and age > IN_USE_FOR):
            _whole.discard(path)
            shutil.rmtree(path, ignore_errors=True)


def _size(folder: str) -> int:
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(above, name)).st_size
            except OSError:  # removed meanwhile
                continue
    return total
