"""The exchange: where the workers of the first stage leave pairs, in buckets, for those of the second.

    folder      pymar-RANDOM/ (mode 0700) below PYMAR_EXCHANGE or the temporary folder
      token       a random text: a worker that reads it sees the very folder that the producer made
      lock        held by the producer, so that what a dead one has left can be told from what is used
      N-RANDOM    what the part N has written: runs of buckets, one bucket behind the other, and an index at the end

A file counts only if the report of its part names it. Each bucket of a run has a digest in the index, and the index one
in the report: what is damaged or missing is found before it is used, and its part is mapped again.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import stat
import struct
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from secrets import compare_digest, token_bytes, token_hex
from typing import Any, NamedTuple, Protocol
from weakref import finalize
from zlib import crc32

from pymar.exceptions import ExchangeError, ExchangeUnavailable, SourceError, SourceUnavailable
from pymar.job.interrupt import hold
from pymar.keyed.keys import BUCKETS
from pymar.serialization.redaction import redacted
from pymar.sources.storage import filesystem, patiently

log: logging.Logger = logging.getLogger(__name__)

#: The variable that names a folder, or an address of a store, that all workers reach.
VARIABLE = "PYMAR_EXCHANGE"
#: Bytes that a part holds before it writes a run of its buckets.
RUN = 16 << 20
#: Bytes of the largest file that travels with the report of its part instead.
SMALL = 32 << 10

_PREFIX, _KEPT_PREFIX = "pymar-exchange-", "pymar-checkpoint-"
_ROW = struct.Struct("<BHQQ16s")
#: What an exchange, its token and its files are called. Definitions and reports name them, and without a key anybody
#: may have sent those: nothing else is opened or removed, whatever they say.
_NAME, _TOKEN, _FILE = (
    re.compile(f"(?:{_PREFIX}|{_KEPT_PREFIX})[0-9a-f]{{16}}"),
    re.compile("[0-9a-f]{32}"),
    re.compile("[0-9a-z-]{1,100}"),
)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Damaged(Exception):
    """Raised if what a part has written is not there, or not as it was written."""


class Entry(NamedTuple):
    """What one part has written, as its report says."""

    part: int
    name: str
    """The file; "" if its bytes travel with the report."""
    data: bytes | None
    index_at: int
    """Where in the file, or in the bytes, its index begins."""
    index_length: int
    digest: bytes
    """Of the index."""
    sizes: bytes
    """The bytes of each bucket: 256 ints of 64 bits."""
    pairs: int
    """How many map_fn has yielded."""
    hot: tuple[tuple[Any, int], ...] = ()
    """Keys that many pairs have, with about how many."""
    base: int = 0
    """Where in the file it begins: the producer puts small ones behind each other."""
    extra: Any = None
    """What else a stage reports: where the blocks of a sorted run are, say."""

    def sizes_of_buckets(self) -> array[int]:
        """Return the bytes of each bucket."""
        return array("Q", self.sizes)


class Row(NamedTuple):
    """One bucket of one run, or several neighbouring ones: where it is, and what it has."""

    bucket: int
    span: int
    """How many buckets."""
    at: int
    length: int
    pairs: int
    digest: bytes


def digest_of(data: bytes | memoryview, secret: bytes) -> bytes:
    """Return 16 bytes that tell changed data: a checksum, or with a secret, a code that nobody else can make."""
    if secret:
        return blake2b(data, digest_size=16, key=secret).digest()
    return crc32(data).to_bytes(16, "little")


class Place(Protocol):
    """Where files of an exchange are: a folder, or a prefix of a store."""

    def create(self, name: str) -> Any:
        """Open a new file for writing bytes."""

    def read(self, name: str, at: int, length: int) -> bytes:
        """Return bytes of a file.

        Raises:
            Damaged: it does not have them.
        """

    def names(self) -> list[str]:
        """Return the names of all files."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, as far as they are there."""


def _file(name: Any) -> str:
    """Return the name of a file of an exchange.

    Raises:
        ExchangeError: it is no such name; it may be a path to somewhere else.
    """
    if type(name) is not str or not _FILE.fullmatch(name):
        raise ExchangeError(f"{name!r:.100} is no name of a file of an exchange")
    return name


class Folder:
    """A folder on this host, or one that several hosts share."""

    def __init__(self, path: str) -> None:
        self.path: str = path

    def create(self, name: str) -> Any:
        with translated(self.path):
            return open(os.path.join(self.path, _file(name)), "xb", buffering=0)

    def read(self, name: str, at: int, length: int) -> bytes:
        try:
            file = os.open(os.path.join(self.path, _file(name)), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise Damaged(f"{name} is not there") from error
        except OSError as error:
            raise ExchangeError(f"{self.path}/{name} cannot be read: {error.strerror}") from error
        try:
            found = os.pread(file, length, at)
            while len(found) < length and (more := os.pread(file, length - len(found), at + len(found))):
                found += more
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror}") from error
        finally:
            os.close(file)
        if len(found) < length:
            raise Damaged(f"{name} is too short")
        return found

    def names(self) -> list[str]:
        with suppress(FileNotFoundError):
            return os.listdir(self.path)
        return []

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.remove(os.path.join(self.path, _file(name)))


class Store:
    """A prefix of an object store, by fsspec."""

    def __init__(self, address: str) -> None:
        self.path: str = address
        with translated(address):
            self._system, self._inner = filesystem(address, {})
        protocols = self._system.protocol
        if "file" in ((protocols,) if isinstance(protocols, str) else protocols):  # it would not be checked as a folder
            raise ExchangeError(f"{redacted(address)}: for a folder, give its path alone, without ://")

    def create(self, name: str) -> Any:
        with translated(self.path):
            return self._system.open(f"{self._inner}/{_file(name)}", "wb")

    def read(self, name: str, at: int, length: int) -> bytes:
        if not length:
            return b""
        path = f"{self._inner}/{_file(name)}"

        def ask() -> bytes:
            try:
                return bytes(self._system.cat_file(path, start=at, end=at + length))
            except FileNotFoundError as error:
                raise Damaged(f"{name} is not there") from error

        with translated(self.path):
            found: bytes = _asked(self.path, ask)
        if len(found) < length:
            raise Damaged(f"{name} is too short")
        return found

    def names(self) -> list[str]:
        with translated(self.path):
            self._system.invalidate_cache()
            found = _asked(self.path, lambda: list(self._system.find(self._inner)))
        return [path.rpartition("/")[2] for path in found]

    def remove(self, names: Iterable[str]) -> None:
        paths = [f"{self._inner}/{_file(name)}" for name in names]
        with suppress(FileNotFoundError), translated(self.path):
            if paths:
                self._system.rm(paths)


def _asked(path: str, action: Any) -> Any:
    def without_damage() -> Any:
        try:
            return action()
        except Damaged as damage:
            return damage

    found = patiently(path, without_damage)
    if isinstance(found, Damaged):
        raise found
    return found


def place_at(path: str) -> Place:
    """Return the place at a path or an address."""
    return Store(path) if "://" in path else Folder(path)


@contextmanager
def translated(path: str, variable: str = VARIABLE) -> Iterator[None]:
    """Turn errors of a file system or a store into those of an exchange, with the remedy."""
    try:
        yield
    except SourceUnavailable as error:
        raise ExchangeUnavailable(str(error)) from error
    except SourceError as error:
        raise ExchangeError(f"the exchange cannot be used: {error}") from error
    except OSError as error:
        if "://" in path:
            from pymar.sources.storage import described, is_passing

            kind = ExchangeUnavailable if is_passing(error) else ExchangeError
            raise kind(f"the exchange {redacted(path)} cannot be used: {redacted(described(error))}") from error
        if error.errno in _FULL:
            raise ExchangeError(
                f"{path}: no space is left for the exchange on {os.uname().nodename} ({_free(path)} free). Make room, "
                f"or set {variable} to a folder with more"
            ) from error
        raise ExchangeError(f"{path}: the exchange cannot be used: {error.strerror or error}") from error


def _free(path: str) -> str:
    try:
        found = os.statvfs(path)
    except OSError:
        return "unknown"
    return f"{found.f_bavail * found.f_frsize / 1e6:,.0f} MB"


class FileWriter:
    """The file of one part, in a worker: rows of data, then their index. One thread at a time.

    Args:
        place: where to; None: the bytes travel with the report.
    """

    def __init__(self, place: Place | None, part: int, secret: bytes) -> None:
        self._place = place
        self._part = part
        self._name = f"{part}-{token_hex(8)}"
        self._secret = secret
        self._file: Any = None
        self._waiting: list[bytes] = []
        self._index: list[bytes] = []
        self._at = 0
        self._sizes = array("Q", bytes(8 * BUCKETS))
        self._pairs = 0

    @property
    def is_empty(self) -> bool:
        """True if nothing was written or added."""
        return not self._index

    def write(self, rows: Iterable[tuple[int, int, bytes, int]]) -> None:
        """Write rows: the first bucket of each and how many, its data, and how many pairs those are."""
        run: list[bytes] = []
        for bucket, span, data, pairs in rows:
            run.append(data)
            for one in range(bucket, bucket + span):
                self._sizes[one] += -(-len(data) // span)
            self._index.append(row_bytes(bucket, span, data, pairs, self._secret))
            self._pairs += pairs
        self._put(run)

    def _put(self, data: list[bytes]) -> None:
        self._waiting += data
        self._at += sum(map(len, data))
        if self._place is None or (self._file is None and self._at <= SMALL):
            return
        with translated(getattr(self._place, "path", "")):
            if self._file is None:
                self._file = self._place.create(self._name)
            write_all(self._file, b"".join(self._waiting))
        self._waiting = []

    def close(self, hot: Sequence[tuple[Any, int]] = (), extra: Any = None) -> Entry:
        """Write the index; return what the report says.

        Raises:
            ExchangeError: there is no space, or no such folder.
        """
        index_at, index = self._at, b"".join(self._index)
        self._put([index])
        data = None
        if self._file is not None:
            with translated(getattr(self._place, "path", "")):
                self._file.close()  # a network's file system may say only now that it is full
            self._file = None
        else:
            self._name, data = "", b"".join(self._waiting)
        digest = digest_of(index, self._secret)
        sizes = self._sizes.tobytes()
        name = self._name
        return Entry(self._part, name, data, index_at, len(index), digest, sizes, self._pairs, tuple(hot), 0, extra)

    def discard(self) -> None:
        """Remove what was written: the part has failed."""
        if self._file is not None and self._place is not None:
            with suppress(Exception):  # of a store that does not answer; the error of the part matters more
                self._file.discard() if hasattr(self._file, "discard") else self._file.close()
            self._file = None
            with suppress(Exception):
                self._place.remove([self._name])


class BucketsWriter(FileWriter):
    """As FileWriter; the data of buckets are collected, and written run by run, a row a bucket."""

    def __init__(self, place: Place | None, part: int, secret: bytes) -> None:
        super().__init__(place, part, secret)
        self._buckets: list[list[bytes]] = [[] for _ in range(BUCKETS)]
        self._counts = [0] * BUCKETS
        self._pending = 0

    @property
    def is_empty(self) -> bool:
        return not self._pending and super().is_empty

    def add(self, bucket: int, data: bytes, pairs: int) -> None:
        """Add encoded pairs of a bucket, behind those that it has."""
        self._buckets[bucket].append(data)
        self._counts[bucket] += pairs
        self._pending += len(data)

    def write_if_large(self) -> None:
        """Write a run if enough is collected."""
        if self._pending >= RUN:
            self._write_run()

    def _write_run(self) -> None:
        self.write(
            (bucket, 1, chunks[0] if len(chunks) == 1 else b"".join(chunks), self._counts[bucket])
            for bucket, chunks in enumerate(self._buckets)
            if chunks
        )
        self._buckets = [[] for _ in range(BUCKETS)]
        self._counts = [0] * BUCKETS
        self._pending = 0

    def close(self, hot: Sequence[tuple[Any, int]] = (), extra: Any = None) -> Entry:
        if self._pending:
            self._write_run()
        return super().close(hot, extra)


def write_all(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        count = file.write(view)
        view = view[count:] if count is not None else view[len(view) :]


def row_bytes(bucket: int, span: int, data: bytes | memoryview, pairs: int, secret: bytes) -> bytes:
    """Return a row of an index."""
    return _ROW.pack(bucket, span, len(data), pairs, digest_of(data, secret))


def rows_of(entry: Entry, index: bytes, secret: bytes) -> list[Row]:
    """Return where each bucket of each run is.

    Raises:
        Damaged: this is not the index that was written.
    """
    if len(index) != entry.index_length or not compare_digest(digest_of(index, secret), entry.digest):
        raise Damaged(f"the index of {entry.name or 'a part'} is damaged")
    rows = []
    at = entry.base
    for bucket, span, length, pairs, digest in _ROW.iter_unpack(index):
        rows.append(Row(bucket, span, at, length, pairs, digest))
        at += length
    return rows


def checked(data: bytes | memoryview, row: Row, secret: bytes, name: str) -> bytes | memoryview:
    """Return the data of a row.

    Raises:
        Damaged: they are not what was written.
    """
    if len(data) != row.length or not compare_digest(digest_of(data, secret), row.digest):
        raise Damaged(f"bucket {row.bucket} of {name or 'a part'} is damaged")
    return data


class Exchange:
    """An exchange as its producer holds it: made, locked, and removed when nothing needs it any more.

    Args:
        root: the folder or address to make it in; None: PYMAR_EXCHANGE, or the temporary folder.
        name: of an exchange that is kept by a checkpoint; "" makes a new one.

    Raises:
        ExchangeError: it cannot be made, or another job uses it.
    """

    def __init__(self, root: str | None = None, name: str = "", keeps: bool = False) -> None:
        given = root or os.environ.get(VARIABLE) or ""
        #: True if a user has said that all workers see it.
        self.is_given: bool = bool(os.environ.get(VARIABLE)) if keeps else bool(given)
        if "://" not in given:
            given = os.path.abspath(os.path.expanduser(given)) if given else temporary()
        self.root: str = given
        self.name: str = name or f"{_KEPT_PREFIX if keeps else _PREFIX}{token_hex(8)}"
        self.path: str = os.path.join(given, self.name)
        self.keeps: bool = keeps
        # A folder of this host, which ends with this process, is as safe as that.
        self.secret: bytes = token_bytes(16) if self.is_given or keeps else b""
        self._lock: int | None = None
        self.token: str = self._begin_store() if "://" in self.path else self._begin_folder()
        self.place: Place = place_at(self.path)
        #: Removes it if its object is let go, or at exit: also if a signal ends the script.
        self._remover = finalize(self, _removed, self.path, self._lock, keeps, os.getpid(), hold())

    def _begin_folder(self) -> str:
        with translated(self.root):
            _remove_dead(self.root)
            is_new = True
            try:
                os.mkdir(self.path, 0o700)  # refuses a folder or a link that somebody else has put there
            except FileExistsError:
                is_new = False
                check_private(self.path)
            except FileNotFoundError as error:
                raise ExchangeError(
                    f"there is no folder {self.root} on {os.uname().nodename} for the exchange: make it, or set "
                    f"{VARIABLE} to another"
                ) from error
            try:
                return self._lock_folder()
            except BaseException:  # an interrupt too: no exchange is made that would remove it and unlock it
                if is_new:
                    with suppress(OSError):
                        _remove(self.path)
                if self._lock is not None:
                    os.close(self._lock)
                raise

    def _lock_folder(self) -> str:
        """Lock the folder; return its token, which is made if there is none."""
        self._lock = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExchangeError(f"{self.path} is in use by another job: wait for it") from error
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        path = os.path.join(self.path, "token")
        try:
            with open(path, encoding="ascii") as file:
                token, _, secret = file.read().partition("\n")
            self.secret = bytes.fromhex(secret)
        except FileNotFoundError:
            token = token_hex(16)
            with open(path, "x", encoding="ascii") as file:
                file.write(f"{token}\n{self.secret.hex()}")
        return token

    def _begin_store(self) -> str:
        place = Store(self.path)
        if self.keeps and "token" in place.names():
            with suppress(Damaged):
                # Of a token that is shorter, or without a secret, digests would be checksums, which anybody can make.
                token, _, secret = place.read("token", 0, 65).decode("ascii").partition("\n")
                self.secret = bytes.fromhex(secret)
                if len(self.secret) == len(token) // 2 == 16:
                    return token
                raise ExchangeError(f"{redacted(self.path)}/token is not what was written: delete the checkpoint")
        token = token_hex(16)
        with translated(self.path):
            file = place.create("token")
            file.write(f"{token}\n{self.secret.hex()}".encode())
            file.close()
        return token

    def state(self) -> dict[str, Any]:
        """Return what workers need to know, as plain data."""
        return {"path": self.path, "token": self.token, "secret": self.secret, "is_given": self.is_given}

    def close(self) -> None:
        """Remove it, unless a checkpoint keeps it. May be called twice."""
        self._remover()


def _removed(path: str, lock: int | None, keeps: bool, process: int, release: Callable[[], None]) -> None:
    if os.getpid() != process:
        return  # in a fork of the process that has made it
    if not keeps:
        try:
            _remove(path)
        except Exception as error:  # it is called by the garbage collector too
            log.warning("%s could not be removed: %s: run `pymar clean %s`", redacted(path), error, redacted(path))
    if lock is not None:
        with suppress(OSError):
            os.close(lock)
    release()


def _remove(path: str) -> None:
    if "://" in path:
        store = Store(path)
        store.remove(store.names())
        return
    # Late writers may make files in it meanwhile: under another name they find no folder.
    gone = f"{path}.gone"
    with suppress(FileNotFoundError):
        os.rename(path, gone)
    if os.path.islink(gone):  # it was put in its place; rmtree follows none
        os.remove(gone)
    shutil.rmtree(gone, ignore_errors=True)


def is_name(name: str) -> bool:
    """True for what folders of exchanges are called."""
    return _NAME.fullmatch(name) is not None


def removed(path: str) -> bool:
    """Remove the exchange at a path or an address; return True if it was there.

    Raises:
        ExchangeError: a job uses it.
    """
    if "://" in path:
        names = Store(path).names()
        _remove(path)
        return bool(names)
    if not os.path.isdir(path):
        return False
    lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except BlockingIOError as error:
        raise ExchangeError(f"{path} is in use by a job: wait for it") from error
    finally:
        os.close(lock)
    return True


def temporary() -> str:
    """Return the temporary folder; if that is in memory, /var/tmp if that is not."""
    folder = tempfile.gettempdir()
    if "TMPDIR" not in os.environ and _is_in_memory(folder) and os.path.isdir("/var/tmp"):
        return folder if _is_in_memory("/var/tmp") else "/var/tmp"
    return folder


def _is_in_memory(folder: str) -> bool:
    """True if a folder is on a file system of Linux that lives in memory."""
    best, kind = "", ""
    folder = os.path.realpath(folder)
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _, where, found, *_ = line.split(" ")
                if os.path.commonpath([where, folder]) == where and len(where) >= len(best):
                    best, kind = where, found
    except (OSError, ValueError):
        return False
    return kind in ("tmpfs", "ramfs")


def check_private(path: str) -> None:
    """Refuse a folder that another user has made, can write to, or has replaced by a link.

    Raises:
        ExchangeError: it is not private.
        FileNotFoundError: it is not there.
    """
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise ExchangeError(f"{path} is no folder of an exchange: remove it, or use another {VARIABLE}")
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ExchangeError(
            f"{path} is not private (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}): another user could "
            f"put data there. Remove it, or use another {VARIABLE}"
        )


#: Exchanges that this process has looked at and seen: their paths and tokens.
_seen: set[tuple[str, str]] = set()


def seen(state: Mapping[str, Any], is_trusted: bool) -> Place | None:
    """Return the place of an exchange, as a worker sees it; None if it does not, and nobody has said that it would.

    Args:
        is_trusted: false if anybody may have sent the job: then of stores only the one in PYMAR_EXCHANGE here is used.

    Raises:
        ExchangeError: the folder was given, and this host does not see it; or it is not private.
    """
    path, token = state["path"], state["token"]
    if not is_trusted and "://" in path and not path.startswith((os.environ.get(VARIABLE) or " ").rstrip("/") + "/"):
        raise ExchangeError(
            f"{redacted(path)} is a store that this worker's {VARIABLE} does not name, and without a key anybody may "
            f"have sent the job: set {VARIABLE} to the same on all hosts, or use a key"
        )
    folder, _, name = path.rpartition("/")
    if not _NAME.fullmatch(name) or not _TOKEN.fullmatch(token) or not ("://" in path or os.path.isabs(folder)):
        raise ExchangeError(f"{redacted(path):.200} is no exchange")
    why = "it is not there"
    try:
        if "://" not in path:
            check_private(path)  # each time: once it is removed, another user may make one of this name
        if (path, token) in _seen:
            return place_at(path)
        if "://" not in path:
            with open(os.path.join(path, "token"), encoding="ascii") as file:
                found = file.read().partition("\n")[0]
        else:
            found = place_at(path).read("token", 0, len(token)).decode("ascii", "replace")
        if compare_digest(found.encode(), token.encode()):
            _seen.add((path, token))
            return place_at(path)
        why = "another folder is there under this name"
    except FileNotFoundError:
        pass
    except (ExchangeError, OSError, Damaged) as error:
        if isinstance(error, ExchangeUnavailable):
            raise
        why = str(error)
    if state["is_given"] or (path, token) in _seen:
        raise ExchangeError(
            f"the exchange {redacted(path)} cannot be used on {os.uname().nodename}: {why}. Set {VARIABLE} at the "
            "producer to a folder that all workers share, or to an address such as s3://bucket/exchange"
        )
    return None


def _remove_dead(root: str) -> None:
    """Remove exchanges of producers that were killed: on this host, of this user."""
    for path in dead(root):
        log.info("%s: removed; its producer is dead", path)
        _remove(path)


def dead(root: str) -> Iterator[str]:
    """Yield the exchanges below a folder that no process uses: of this user, and made on this host."""
    try:
        names = [name for name in os.listdir(root) if name.startswith(_PREFIX)]
    except OSError:
        return
    for name in names:
        path = os.path.join(root, name)
        with suppress(OSError, ExchangeError):
            check_private(path)
            if name.endswith(".gone"):
                yield path
                continue
            lock = os.open(os.path.join(path, "lock"), os.O_RDWR)
            try:
                text = os.read(lock, 500).decode(errors="replace")
                if not text.endswith(f" on {os.uname().nodename}\n"):
                    continue
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path
            finally:
                os.close(lock)
