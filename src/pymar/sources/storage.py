"""Files and objects of a store: the producer finds them once, workers open them and detect changes.

Each is described by a row, [path, bytes, version]. The version of a local file is its modification time in nanoseconds;
that of an object what its store has: a version id, an ETag, or a time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from stat import S_ISREG
from time import sleep
from typing import Any, BinaryIO, TypeVar

from pymar.exceptions import SourceChanged, SourceError, SourceUnavailable
from pymar.serialization.redaction import redacted
from pymar.sources import manifest, patterns
from pymar.sources.extras import needed
from pymar.sources.formats import HEAD

log: logging.Logger = logging.getLogger(__name__)

Row = list[Any]
Result = TypeVar("Result")
#: Seconds before the producer asks a store again that is away for a moment.
PAUSES = (0.2, 1.0, 3.0)
#: Names that stores give the version of an object; those that a listing and a look at one object both have come first.
_VERSIONS = (
    *("ETag", "etag", "VersionId", "version_id", "sha", "mtime", "LastModified", "Last-Modified", "last_modified"),
    *("modificationTime", "modify", "updated", "created"),
)
#: The extra that installs the driver, by the scheme of an address.
_EXTRAS = {"s3": "s3", "s3a": "s3"}


def found(path: Any, storage: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a path, a folder, a list of those, or patterns (see patterns.py), in the order of their names.

    Raises:
        SourceError: nothing matches; or a file cannot be read.
    """
    if not path:
        raise SourceError("path is empty: give a path, a pattern such as 'logs/*.txt', or a list of them")
    paths = [path] if isinstance(path, str | os.PathLike) else path
    if not isinstance(paths, list | tuple | set | frozenset) or not all(
        isinstance(one, str | os.PathLike) for one in paths
    ):
        raise SourceError(f"path={path!r}: give a path, a pattern such as 'logs/*.txt', or a list of them")
    rows = {row[0]: row for one in paths for row in _matching(os.fspath(one), storage)}
    return list(rows.values())  # each file once, even where patterns overlap


def _matching(path: str, storage: Mapping[str, Any]) -> Iterable[Row]:
    for scheme in ("file://", "local://"):
        if path.startswith(scheme):  # one rule for what is local, whatever it is called
            path = path.removeprefix(scheme)
    if "://" in path:
        return _objects(path, storage)
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        return _in_folders(path, [path])
    if os.path.lexists(path) or not patterns.is_pattern(path):
        return [_file(path)]
    folder, pattern = patterns.split(path)
    kinds = dict(patterns.local(folder or "/", pattern))
    files = sorted(name for name, is_folder in kinds.items() if not is_folder)
    folders = sorted(name for name, is_folder in kinds.items() if is_folder)
    if files:
        if folders:
            _log_left_out(path, folders)
        return map(_file, files)
    if folders:
        return _in_folders(path, folders)
    raise SourceError(f"no file matches {path}{_hidden(folder)}")


def _in_folders(path: str, folders: Iterable[str]) -> list[Row]:
    """Return the files of folders, at any depth; of one that a sink has written, those that its manifest names."""
    names: list[str] = []
    for folder in folders:
        there = sorted(name for name, _ in patterns.local(folder, [patterns.DEEP]))
        try:
            with open(where := os.path.join(folder, manifest.NAME), "rb") as file:
                named = manifest.parsed(file.read(), where)
        except FileNotFoundError:
            names += there
        else:
            sizes = {name: os.path.getsize(name) for name in there}
            names += _named(named, f"{folder}/", sizes)
    if not names:
        raise SourceError(f"{path} has no files (names that begin with . or _ are no data, unless they are given)")
    return list(map(_file, names))


def _named(named: manifest.Manifest, folder: str, sizes: Mapping[str, int]) -> list[str]:
    """Return the files that a manifest names, of those in its folder.

    Raises:
        SourceError: one is missing, or has another size.
    """
    names = [f"{folder}{entry.path}" for entry in named.files]
    for name, entry in zip(names, named.files, strict=True):
        if sizes.get(name) != entry.bytes:
            what = "is missing" if name not in sizes else f"has {sizes[name]:,} bytes instead of {entry.bytes:,}"
            raise SourceError(
                f"{redacted(name)} {what}, by {manifest.NAME} of its folder: write the folder again, or delete "
                f"{manifest.NAME} to read what is there"
            )
    if more := sorted(sizes.keys() - set(names)):
        log.warning(
            "%s: %d files are no data, since %s does not name them: %s",
            *(redacted(folder), len(more), manifest.NAME, ", ".join(map(os.path.basename, more[:3]))),
        )
    return names


def _log_left_out(path: str, folders: Sequence[str]) -> None:
    shown = ", ".join(map(os.path.basename, folders[:3]))
    more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    log.warning("%s also matches folders, which are left out: %s%s. To read them too: %s/**", path, shown, more, path)


def _hidden(folder: str) -> str:
    """Say that a folder has only names that are no data, if that is so."""
    names = _listed(folder)
    if names and all(map(patterns.is_hidden, names)):
        return f"; names that begin with . or _ are no data, unless they are given: {', '.join(sorted(names)[:3])}"
    return ""


def _file(path: str) -> Row:
    try:
        status = os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            raise SourceError(f"{path} is a link to {os.readlink(path)}: {error.strerror}") from error
        near = get_close_matches(os.path.basename(path), _listed(os.path.dirname(path)), 3)
        hint = f"; there is {', '.join(near)}" if near else ""
        raise SourceError(f"{path}: {error.strerror}{hint}") from error
    if not S_ISREG(status.st_mode):
        raise SourceError(f"{path} is not a regular file, and so cannot be read in parts: copy its data to one")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{path}: this user has no permission to read it")
    if not status.st_size and _has_bytes(path):
        raise SourceError(
            f"{path} reports a size of 0 but is not empty, as files under /proc do: copy it to a regular file first"
        )
    return [path, status.st_size, str(status.st_mtime_ns)]


def _has_bytes(path: str) -> bool:
    with open(path, "rb") as file:
        return bool(file.read(1))


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def filesystem(path: str, storage: Mapping[str, Any]) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path within it.

    Raises:
        SourceError: it is no address, or the store refuses.
        MissingExtra: its driver is not installed.
    """
    protocol = path.partition("://")[0]
    if "::" in path:
        raise SourceError(f"{redacted(path)}: addresses within addresses (::) are not supported: unpack the file first")
    extra = _EXTRAS.get(protocol, "url")
    fsspec = needed("fsspec", extra, redacted(path))
    try:
        system, inner = fsspec.core.url_to_fs(path, **storage)
    except ImportError as error:
        needed(_driver(error), extra, redacted(path))
        raise SourceError(f"{redacted(path)}: {error}") from error
    except (ValueError, OSError) as error:
        raise SourceError(f"{redacted(path)}: {redacted(str(error))}") from error
    return system, inner


def _driver(error: ImportError) -> str:
    return error.name or "s3fs"


def _objects(path: str, storage: Mapping[str, Any]) -> Iterable[Row]:
    system, inner = filesystem(path, storage)

    def listing() -> list[tuple[str, Any]]:
        system.invalidate_cache()  # or it would answer with what it listed for an earlier job
        return _listed_objects(system, path, inner)

    listed = patiently(path, listing)
    for _, info in listed:
        if info.get("size") is None:
            raise SourceError(
                f"{redacted(path)}: the server reports no size, so it cannot be read in parts: download it first"
            )
    return [[name, info["size"], _version(info)] for name, info in listed]


def _listed_objects(system: Any, path: str, inner: str) -> list[tuple[str, Any]]:
    """Return the objects of a path or pattern, with what the store says of each."""
    if not patterns.is_pattern(inner) or system.exists(inner):
        info = system.info(inner)
        if info["type"] == "file" and not path.endswith("/"):
            return [(path, info)]
        folder, pattern, whole = inner, [patterns.DEEP], [patterns.DEEP]
    else:
        folder, pattern = patterns.split(inner)
        whole = [*pattern, patterns.DEEP]
    if pattern == [patterns.DEEP] and system.exists(where := f"{folder.rstrip('/')}/{manifest.NAME}"):
        named = manifest.parsed(system.cat_file(where), redacted(f"{path}/{manifest.NAME}"))
        files = _below(system, folder, pattern, None)
        names = _named(named, f"{folder.rstrip('/')}/", {name: info["size"] for name, info in files.items()})
        if not names:
            raise SourceError(f"{redacted(path)} has no files: by {manifest.NAME}, no job has written there yet")
        return [(system.unstrip_protocol(name), files[name]) for name in names]
    # Files alone: a key that is also the beginning of others is listed as both, and a folder would hide the file.
    depth = None if patterns.DEEP in pattern else len(pattern)
    files = _below(system, folder, pattern, depth)
    if not files and pattern != whole:
        files = _below(system, folder, whole, None)
    if not files:
        raise SourceError(
            f"no object matches {redacted(path)} (names that begin with . or _ are no data, unless they are given)"
        )
    return [(system.unstrip_protocol(name), files[name]) for name in sorted(files)]


def _below(system: Any, folder: str, pattern: Sequence[str], depth: int | None) -> dict[str, Any]:
    start = folder.rstrip("/")
    found = system.find(folder, maxdepth=depth, withdirs=False, detail=True)
    return {
        name: info
        for name, info in found.items()
        if info["type"] == "file" and patterns.matches(pattern, name[len(start) :].strip("/").split("/"))
    }


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in _VERSIONS if info.get(name) is not None), "")


def _text_of(error: OSError) -> str:
    if error.strerror:
        return error.strerror
    if error.__cause__ is not None and str(error.__cause__):  # the text of the error itself may be only the address
        return str(error.__cause__)
    return "not found" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__


#: Answers of a web server, or of a store, that say: not now.
_NOT_NOW = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Errors of the libraries that carry the data, by their names: these are not imported where nobody uses them.
_LOST = frozenset(
    {
        *("ClientConnectionError", "ClientConnectorError", "ClientOSError", "ClientPayloadError"),
        *("ServerDisconnectedError", "ServerTimeoutError", "ContentLengthError", "TransferEncodingError"),
        *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"),
        *("HTTPClientError", "IncompleteReadError", "IncompleteRead", "ResponseStreamingError", "SlowDown"),
    }
)


def is_passing(error: BaseException) -> bool:
    """True if a store may answer when it is asked again: it was busy, away, or its answer was cut off."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        if isinstance(error, ConnectionError | TimeoutError):
            return True
        if {base.__name__ for base in type(error).__mro__} & _LOST or _status_of(error) in _NOT_NOW:
            return True
        following = error.__cause__ or error.__context__
        if following is None:
            return False
        error = following
    return False


def _is_absent(error: BaseException) -> bool:
    """True if nobody listens at an address."""
    names = {base.__name__ for base in type(error).__mro__}
    return isinstance(error, ConnectionRefusedError) or bool(
        names & {"ClientConnectorError", "EndpointConnectionError"}
    )


def _status_of(error: BaseException) -> Any:
    """Return the status that a server has answered with: aiohttp's, or botocore's."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return getattr(error, "status", None)


def described(error: BaseException) -> str:
    """Return an error's type and text."""
    text = f"{type(error).__name__}: {error}"
    return text if str(error) else type(error).__name__


@contextmanager
def opened(row: Row, storage: Mapping[str, Any], may_grow: bool = False) -> Iterator[BinaryIO]:
    """Open the file or object of a row for reading; compare its size and version with the row before and after.

    With `may_grow`, for local files, the version is that of `identity`, and the file may be longer than the row says.

    Raises:
        SourceChanged: they differ from what the producer found.
        SourceUnavailable: its store is away for a moment, or too busy: the part is tried again.
        SourceError: it cannot be opened.
    """
    path, size = row[:2]
    if "://" in path:
        system, inner = filesystem(path, storage)
        system.invalidate_cache(inner)
        try:
            info = system.info(inner)
            _compare(row, info["size"], _version(info))
            with system.open(inner, "rb") as file:
                yield file
            system.invalidate_cache(inner)
            info = system.info(inner)
        except SourceError:
            raise
        except Exception as error:  # stores have errors of their own, and of the libraries that they are made with
            if is_passing(error):
                raise SourceUnavailable(f"{redacted(path)}: {redacted(described(error))}") from error
            if isinstance(error, OSError):
                raise SourceError(f"{redacted(path)}: {redacted(_text_of(error))}") from error
            if isinstance(error, ValueError) and "range requests" in str(error):
                raise SourceError(
                    f"{redacted(path)}: its server does not serve parts of a file: download it first"
                ) from error
            raise
        _compare(row, info["size"], _version(info))
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise SourceError(
            f"{path}: {error.strerror}; the producer saw {size:,} bytes there. Workers on other hosts need the same "
            "path: a folder that all of them share, or an object store"
        ) from error
    compare = _compare_grown if may_grow else _compare_file
    with file:
        compare(row, file)
        yield file
        compare(row, file)


def head_of(row: Row, storage: Mapping[str, Any]) -> bytes:
    """Return the first bytes of a file or object, as many as tell its format.

    Raises:
        SourceChanged, SourceError, SourceUnavailable: as `opened`.
    """
    path, size = row[:2]
    if not size:
        return b""
    if "://" not in path:
        with opened(row, storage) as file:
            return file.read(HEAD)
    system, inner = filesystem(path, storage)
    return patiently(path, lambda: bytes(system.cat_file(inner, start=0, end=min(HEAD, size))))


def patiently(path: str, action: Callable[[], Result]) -> Result:
    """Do something with a store, again after a while if it is away for a moment.

    Raises:
        SourceUnavailable: it is away for longer.
        SourceError: it refuses.
    """
    for pause in (*PAUSES, None):
        try:
            return action()
        except SourceError:
            raise
        except Exception as error:  # of the store's client: no credentials, no such bucket, no connection
            if not is_passing(error) or _is_absent(error):  # where nobody has ever answered, nobody will in a moment
                text = _text_of(error) if isinstance(error, OSError) else described(error)
                raise SourceError(f"{redacted(path)}: {redacted(text)}") from error
            if pause is None:
                raise SourceUnavailable(f"{redacted(path)}: {redacted(described(error))}") from error
            log.info("%s: %s; trying again in %g s", redacted(path), redacted(described(error)), pause)
            sleep(pause)
    raise AssertionError("unreachable")


def _compare_file(row: Row, file: BinaryIO) -> None:
    status = os.fstat(file.fileno())
    _compare(row, status.st_size, str(status.st_mtime_ns))


def identity(path: str) -> str:
    """Return what stays the same of a local file while it grows, and not if another one takes its place."""
    status = os.stat(path)
    return f"{status.st_dev} {status.st_ino}"


def _compare_grown(row: Row, file: BinaryIO) -> None:
    status = os.fstat(file.fileno())
    _compare(row, min(status.st_size, row[1]), f"{status.st_dev} {status.st_ino}")


def _compare(row: Row, size: int, version: str) -> None:
    path, seen, before = row[:3]
    if (size, version) != (seen, before):
        raise SourceChanged(
            f"{redacted(path)} has changed since the job began: from {seen:,} bytes, version {before}, to "
            f"{size:,} bytes, version {version}. Run the job again when nothing writes to it"
        )
