"""Where the files of a sink go: a local folder, or a prefix of an object store.

    local folder    parts in .NAME.pymar/parts, beside the target; the finished folder is renamed into place, so that
                    every program sees all or nothing; it is exchanged with the one that it replaces
    object store    parts in _pymar-JOB/ below the target; copied to their names, and then named by the manifest

An append to a local folder is published as on a store: readers that do not know the manifest may see files before it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import Any, Protocol

from pymar.exceptions import SinkError, SinkUnavailable, SourceError, SourceUnavailable
from pymar.serialization.redaction import redacted
from pymar.sources import manifest
from pymar.sources.manifest import Entry, Manifest
from pymar.sources.patterns import is_hidden
from pymar.sources.storage import described, filesystem, is_passing, patiently

log: logging.Logger = logging.getLogger(__name__)

MODES = ("new", "overwrite", "append")
#: A file of a part that becomes data: its name among the parts, and what the manifest says of it.
Move = tuple[str, Entry]
_REMEDY = "mode='overwrite' replaces it, mode='append' adds to it"


class Target(Protocol):
    """What a sink of files needs of the place that they go to."""

    def begin(self, mode: str, job: str, keeps: bool) -> None:
        """Check the target, and make a place for parts; with `keeps`, those of an earlier run stay there.

        Raises:
            SinkError: it cannot be written, has data already, or another job writes to it.
        """

    def create(self, name: str) -> Any:
        """Open a new file for a part, for writing bytes."""

    def open(self, name: str) -> Any:
        """Open such a file for reading."""

    def present(self) -> Sequence[Entry]:
        """Return the files that are the data now."""

    def open_present(self, entry: Entry) -> Any:
        """Open one of them for reading."""

    def discard(self, file: Any) -> None:
        """Close a file that is not to be written further."""

    def commit(self, moves: Sequence[Move], mode: str, job: str) -> None:
        """Publish the files of parts.

        Raises:
            SinkError: it cannot be done; the target is as before.
        """

    def abort(self, keeps: bool) -> None:
        """Remove the parts, unless a later run goes on with them."""


def target_of(path: str, storage: Mapping[str, Any], job: str) -> Target:
    """Return the target at a path or an address."""
    return Store(path, storage, job) if "://" in path else Folder(path)


def cleaned(path: str, storage: Mapping[str, Any]) -> list[str]:
    """Remove what jobs that did not end have left at a target; return what was removed.

    Raises:
        SinkError: a job writes to it now, or it cannot be removed.
    """
    return Store(path, storage, "").clean() if "://" in path else Folder(path).clean()


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Translate errors of the operating system and of stores.

    Raises:
        SinkUnavailable: a store is away for a moment.
        SinkError: it refuses.
    """
    try:
        yield
    except SinkError:
        raise
    except SourceUnavailable as error:
        raise SinkUnavailable(str(error)) from error
    except SourceError as error:
        raise SinkError(str(error)) from error
    except OSError as error:
        if "://" in path and is_passing(error):
            raise SinkUnavailable(f"{redacted(path)}: {redacted(described(error))}") from error
        hint = {
            errno.ENOSPC: ". Make room: nothing was published, and the target is as before",
            errno.EDQUOT: ". Make room: nothing was published, and the target is as before",
            errno.EACCES: ": this user has no permission to write there",
        }.get(error.errno or 0, "")
        raise SinkError(f"{redacted(path)}: {error.strerror or redacted(described(error))}{hint}") from error
    except Exception as error:  # of a store's client
        if "://" not in path:
            raise
        kind = SinkUnavailable if is_passing(error) else SinkError
        raise kind(f"{redacted(path)}: {redacted(described(error))}") from error


class Folder:
    """A local folder that all workers share. The producer holds the lock of its staging folder during the job."""

    def __init__(self, path: str) -> None:
        self._path = path = os.path.realpath(path)  # of a link, what it leads to: that is replaced, not the link
        name = os.path.basename(path)
        #: Of fixed name, so that a second job finds it, and one that goes on from a checkpoint too.
        self._staging = os.path.join(os.path.dirname(path), f".{name}.pymar")
        self._parts = os.path.join(self._staging, "parts")
        self._lock: int | None = None

    def begin(self, mode: str, job: str, keeps: bool) -> None:
        with translated(self._path):
            if os.path.isdir(self._path) and os.stat(self._path).st_dev != os.stat(os.path.dirname(self._path)).st_dev:
                raise SinkError(f"{self._path} is where a file system is mounted: give a folder below it")
            if os.path.lexists(self._path) and not os.path.isdir(self._path):
                raise SinkError(f"{self._path} is a file: give the folder that the files are to go to")
            if mode == "overwrite" and os.path.commonpath([os.getcwd(), self._path]) == self._path:
                raise SinkError(f"{self._path} is the working folder, or above it: give a folder of its own")
            if mode == "overwrite" and (inner := _target_within(self._path)):
                raise SinkError(f"{self._path} has another target within it, {inner}, which would be replaced too")
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._take(job)
            try:
                self._recover()
                if mode == "new" and (there := _data_in(self._path)):
                    raise SinkError(f"{self._path} has data already ({_some(there)}): {_REMEDY}")
                if not keeps:
                    shutil.rmtree(self._parts, ignore_errors=True)
                os.makedirs(self._parts, exist_ok=True)
            except BaseException:  # nothing would remove it
                self.abort(keeps=keeps)
                raise

    def _take(self, job: str) -> None:
        """Make the staging folder and lock it; a lock ends with its process.

        Raises:
            SinkError: another job has it.
        """
        while True:
            os.makedirs(self._staging, exist_ok=True)
            path = os.path.join(self._staging, "lock")
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:  # its job has just ended
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    os.ftruncate(lock, 0)
                    os.write(lock, f"job {job} of process {os.getpid()} on {os.uname().nodename}\n".encode())
                    self._lock = lock
                    return
            except BlockingIOError:
                who = os.read(lock, 200).decode(errors="replace").strip()
                os.close(lock)
                raise SinkError(
                    f"{self._path}: another job writes to it now ({who}). Wait for it, or give another target"
                ) from None
            except FileNotFoundError:  # likewise
                pass
            os.close(lock)

    def _recover(self) -> None:
        """Finish or undo the commit of a job that ended within it."""
        out, old = (os.path.join(self._staging, name) for name in ("out", "old"))
        if os.path.isdir(old) and not os.path.lexists(self._path):
            os.rename(old, self._path)  # it ended between the two renames of a replacement
        plan = os.path.join(self._staging, "plan")
        if os.path.exists(plan):
            with open(plan, encoding="utf-8") as file:
                planned = json.load(file)
            named = _manifest_of(self._path)
            if named is None or named.job != planned["job"]:  # nothing was published: the parts are parts again
                for name, path in planned["moves"]:
                    part = os.path.join(self._parts, name)
                    for place in (os.path.join(out, path), os.path.join(self._path, path)):
                        if os.path.lexists(place) and not os.path.lexists(part):
                            os.rename(place, part)
            os.remove(plan)
        with suppress(FileNotFoundError):
            os.remove(os.path.join(self._path, f"{manifest.NAME}.new"))
        for place in (out, old):
            self._keep_hidden(place)
            shutil.rmtree(place, ignore_errors=True)

    def create(self, name: str) -> Any:
        try:
            return open(os.path.join(self._parts, name), "xb")
        except FileNotFoundError as error:
            raise SinkError(
                f"{self._parts} is not there on {os.uname().nodename}: the target has to be in a folder that all "
                "workers share, or in an object store. Or the job is over"
            ) from error

    def open(self, name: str) -> Any:
        return open(os.path.join(self._parts, name), "rb")

    def present(self) -> Sequence[Entry]:
        return _data_in(self._path)

    def open_present(self, entry: Entry) -> Any:
        return open(os.path.join(self._path, entry.path), "rb")

    def discard(self, file: Any) -> None:
        file.close()
        os.remove(file.name)

    def commit(self, moves: Sequence[Move], mode: str, job: str) -> None:
        with translated(self._path):
            for name, entry in moves:
                _check_size(self._path, os.path.join(self._parts, name), entry)
            entries = tuple(entry for _, entry in moves)
            # A folder that is not new keeps what is no data, such as .gitignore.
            if mode != "overwrite" and os.path.isdir(self._path) and os.listdir(self._path):
                if mode == "new":
                    self._check_new()
                self._append(moves, Manifest(job, entries))
            else:
                self._replace(moves, Manifest(job, entries), mode)
        self._remove()

    def _replace(self, moves: Sequence[Move], named: Manifest, mode: str) -> None:
        out = os.path.join(self._staging, "out")
        os.mkdir(out)
        self._plan(moves, named.job)
        self._move(moves, out)
        _write(os.path.join(out, manifest.NAME), named.text())
        if mode != "overwrite":
            self._check_new()
        if not os.path.lexists(self._path):
            os.rename(out, self._path)
            return
        shutil.copymode(self._path, out)
        old = out
        if not _exchanged(out, self._path):
            old = os.path.join(self._staging, "old")
            os.rename(self._path, old)  # a job that ends here is finished by `_recover`
            try:
                os.rename(out, self._path)
            except BaseException:  # an interrupt too: the target is as before
                os.rename(old, self._path)
                raise
        self._keep_hidden(old)

    def _keep_hidden(self, old: str) -> None:
        """Move what is no data of any program, such as .git, from a folder that was replaced to its successor."""
        if not os.path.isdir(self._path):
            return
        for name in os.listdir(old) if os.path.isdir(old) else ():
            if name.startswith(".") and not name.endswith(".crc"):
                place = os.path.join(self._path, name)
                if not os.path.lexists(place):
                    os.rename(os.path.join(old, name), place)

    def _check_new(self) -> None:
        if there := _data_in(self._path):
            raise SinkError(f"{self._path} was written by somebody else during the job ({_some(there)}): {_REMEDY}")

    def _append(self, moves: Sequence[Move], added: Manifest) -> None:
        before = _manifest_of(self._path)
        if before is None:
            before = Manifest("", tuple(_data_in(self._path)))
        for _, entry in moves:
            if os.path.lexists(place := os.path.join(self._path, entry.path)):
                raise SinkError(f"{place} is there already: nothing was published. Give files other names")
        self._plan(moves, added.job)
        try:
            if before.files:
                # From here on only what this manifest names is data: what was there before.
                _write(os.path.join(self._path, manifest.NAME), before.text())
            self._move(moves, self._path)
            _write(os.path.join(self._path, manifest.NAME), Manifest(added.job, before.files + added.files).text())
        except BaseException:  # an interrupt too: the target is as before
            self._recover()
            raise

    def _plan(self, moves: Sequence[Move], job: str) -> None:
        """Note which files of parts become which files of the target, for `_recover`."""
        planned = {"job": job, "moves": [[name, entry.path] for name, entry in moves]}
        _write(os.path.join(self._staging, "plan"), json.dumps(planned))

    def _move(self, moves: Sequence[Move], folder: str) -> None:
        for name, entry in moves:
            place = os.path.join(folder, entry.path)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.lexists(place):
                raise SinkError(f"{place} exists: two files of one name")
            os.rename(os.path.join(self._parts, name), place)

    def abort(self, keeps: bool) -> None:
        if self._lock is None:
            return
        if keeps and os.path.isdir(self._parts):
            os.close(self._lock)
            self._lock = None
        else:
            self._remove()

    def _remove(self) -> None:
        """Remove the staging folder, and unlock it."""
        # By another name first, so that a late worker makes no file there while it is removed.
        gone = f"{self._staging}.{token_hex(4)}"
        with suppress(FileNotFoundError):
            os.rename(self._staging, gone)
        self._remove_gone()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove_gone(self) -> None:
        """Remove staging folders that were given up, also by a job that ended while it removed its own."""
        parent, name = os.path.split(self._staging)
        for there in os.listdir(parent):
            if re.fullmatch(rf"{re.escape(name)}\.[0-9a-f]{{8}}", there):
                shutil.rmtree(os.path.join(parent, there), ignore_errors=True)

    def clean(self) -> list[str]:
        if os.path.isdir(os.path.dirname(self._staging)):
            self._remove_gone()
        if not os.path.isdir(self._staging):
            return []
        with translated(self._path):
            self._take("cleaning")
            self._recover()
            self._remove()
        return [self._staging]


class Store:
    """A prefix of an object store that fsspec knows."""

    def __init__(self, path: str, storage: Mapping[str, Any], job: str) -> None:
        self._path = path.rstrip("/")
        self._system, inner = filesystem(self._path, storage)
        self._inner = inner.rstrip("/")
        self._staging = f"{self._inner}/_pymar-{job}"
        self._manifest = f"{self._inner}/{manifest.NAME}"
        #: What was there when the job began.
        self._before: Manifest | None = None

    def begin(self, mode: str, job: str, keeps: bool) -> None:
        with translated(self._path):
            self._before = self._present()
            if mode == "new" and self._before.files:
                raise SinkError(f"{redacted(self._path)} has data already ({_some(self._before.files)}): {_REMEDY}")
            if not keeps:
                self._delete(self._below(self._staging))

    def present(self) -> Sequence[Entry]:
        return self._present().files

    def open_present(self, entry: Entry) -> Any:
        return self._system.open(f"{self._inner}/{entry.path}", "rb")

    def _present(self) -> Manifest:
        """Return the manifest; if there is none, one that names all that is there."""

        def look() -> Manifest:
            self._system.invalidate_cache()
            if self._system.exists(self._manifest):
                return manifest.parsed(self._system.cat_file(self._manifest), redacted(f"{self._path}/{manifest.NAME}"))
            return Manifest("", tuple(Entry(name, size) for name, size in self._below(self._inner) if _is_data(name)))

        found: Manifest = patiently(self._path, look)
        return found

    def _below(self, folder: str) -> list[tuple[str, int]]:
        """Return the objects below a prefix, by their names from there on, with their sizes."""
        try:
            found = self._system.find(folder, detail=True)
        except FileNotFoundError:
            return []
        start = len(folder) + 1
        return sorted((name[start:], int(one["size"] or 0)) for name, one in found.items() if one["type"] == "file")

    def create(self, name: str) -> Any:
        return self._system.open(f"{self._staging}/{name}", "wb")

    def open(self, name: str) -> Any:
        return self._system.open(f"{self._staging}/{name}", "rb")

    def discard(self, file: Any) -> None:
        file.discard()

    def commit(self, moves: Sequence[Move], mode: str, job: str) -> None:
        with translated(self._path):
            before = self._present()
            if self._before is not None and before != self._before:
                raise SinkError(
                    f"{redacted(self._path)} was written by somebody else during the job: nothing was published. Run "
                    "the job again"
                )
            there = {name for name, _ in self._below(self._inner)}
            if clash := sorted(there & {entry.path for _, entry in moves}):
                raise SinkError(
                    f"{redacted(self._path)}/{clash[0]} is there already, and a store cannot replace it together with "
                    "others: nothing was published. Give files other names, or another target"
                )
            sizes = dict(self._below(self._staging))
            for name, entry in moves:
                if sizes.get(name) != entry.bytes:
                    raise _lost(self._path, name)
            # From here on only what this manifest names is data: what was there before, until the last line.
            self._put(before)
            copied = []
            try:
                for name, entry in moves:
                    copied.append(entry.path)
                    self._system.cp_file(f"{self._staging}/{name}", f"{self._inner}/{entry.path}")
                if self._present().files != before.files:
                    raise SinkError(
                        f"{redacted(self._path)} was written by somebody else at this moment: run the job again"
                    )
                added = tuple(entry for _, entry in moves)
                self._put(Manifest(job, before.files + added if mode == "append" else added))
            except BaseException:  # an interrupt too: the target is as before
                with suppress(Exception):  # the first error is the one to report; `pymar clean` removes what is left
                    self._delete((name, 0) for name in copied)
                    if not before.job and not before.files:
                        self._system.rm_file(self._manifest)
                raise
            with suppress(Exception):  # it is published; `pymar clean` removes what is left
                if mode == "overwrite":
                    named = {entry.path for entry in added}
                    self._delete((entry.path, 0) for entry in before.files if entry.path not in named)
                self.abort(keeps=False)

    def _put(self, named: Manifest) -> None:
        self._system.pipe_file(self._manifest, named.text().encode())

    def _delete(self, names: Iterable[tuple[str, int]], folder: str = "") -> None:
        for name, _ in names:
            with suppress(FileNotFoundError):
                self._system.rm_file(f"{folder or self._inner}/{name}")

    def abort(self, keeps: bool) -> None:
        if not keeps:
            self._system.invalidate_cache()
            self._delete(self._below(self._staging), self._staging)

    def clean(self) -> list[str]:
        with translated(self._path):
            self._system.invalidate_cache()
            there = [name for name, _ in self._below(self._inner)]
            left = [name for name in there if name.startswith("_pymar-")]
            if manifest.NAME in there:
                named = {entry.path for entry in self._present().files}
                others = [name.rpartition("/")[0] for name in there if name.endswith(f"/{manifest.NAME}")]
                left += [
                    name
                    for name in there
                    if name not in named
                    and _MADE.search(name)
                    and not any(name.startswith(f"{other}/") for other in others)
                ]
            self._delete((name, 0) for name in left)
        return [redacted(f"{self._path}/{name}") for name in left]


#: The names that sinks give to files.
_MADE = re.compile(r"(\A|/)part-\d{5,}-[0-9a-f]{8}(\.\w+)*\Z")


def _is_data(name: str) -> bool:
    return not any(map(is_hidden, name.split("/")))


def _data_in(folder: str) -> list[Entry]:
    """Return the files that are the data of a local folder."""
    named = _manifest_of(folder)
    if named is not None:
        return list(named.files)
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if _is_data(relative := os.path.relpath(path, folder)):
                found.append(Entry(relative, os.lstat(path).st_size))
    return sorted(found)


def _target_within(folder: str) -> str:
    """Return a folder below another one that a sink has written; "" if there is none."""
    for place, _, names in os.walk(folder):
        if place != folder and manifest.NAME in names:
            return place
    return ""


def _manifest_of(folder: str) -> Manifest | None:
    path = os.path.join(folder, manifest.NAME)
    try:
        with open(path, "rb") as file:
            return manifest.parsed(file.read(), path)
    except FileNotFoundError:
        return None


def _write(path: str, text: str) -> None:
    """Write a small file in one step: by another name, which is changed."""
    new = f"{path}.new"
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(new, path)


def _check_size(target: str, path: str, entry: Entry) -> None:
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        size = -1
    if size != entry.bytes:
        raise _lost(target, path)


def _lost(target: str, name: str) -> SinkError:
    return SinkError(
        f"{redacted(target)}: {redacted(name)}, which a part has written, is gone or damaged: nothing was published. "
        "If there is a checkpoint, delete it; run the job again"
    )


def _some(entries: Sequence[Entry]) -> str:
    names = ", ".join(entry.path for entry in entries[:3])
    return f"{len(entries)} files: {names}" + (", ..." if len(entries) > 3 else "")


#: renameat2's flag, and "relative to the working directory", of Linux (renameat2(2)).
_EXCHANGE, _AT_CWD = 2, -100


def _exchanged(one: str, other: str) -> bool:
    """Exchange two folders in one step; False if this system or file system cannot do that."""
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), other)
