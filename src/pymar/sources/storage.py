"""Files and objects of a store: the producer finds them once, workers open them and detect changes.

Each is described by a row, [path, bytes, version]. The version of a local file is its modification time in nanoseconds;
that of an object what its store has: a version id, an ETag, or a time.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO

from pymar.exceptions import SourceChanged, SourceError
from pymar.serialization.redaction import redacted
from pymar.sources.extras import needed

Row = list[Any]
#: Names that stores give the version of an object; those that a listing and a look at one object both have come first.
_VERSIONS = (
    *("ETag", "etag", "VersionId", "version_id", "sha", "mtime", "LastModified", "Last-Modified", "last_modified"),
    *("modificationTime", "modify", "updated", "created"),
)
#: The extra that installs the driver, by the scheme of an address.
_EXTRAS = {"s3": "s3", "s3a": "s3"}


def found(path: Any, storage: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a path, a list of paths, or patterns (`*`, `?`, `[a-z]`, `**`), in the order of their names.

    Raises:
        SourceError: nothing matches; or a path is a directory, or cannot be read.
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
    if "://" in path:
        return _objects(path, storage)
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.lexists(path) or not glob.has_magic(path):
        return [_file(path)]
    names = sorted(set(glob.glob(path, recursive=True)))
    rows = [_file(name) for name in names if not os.path.isdir(name)]
    if not rows:
        raise SourceError(f"no file matches {path}")
    return rows


def _file(path: str) -> Row:
    try:
        status = os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            raise SourceError(f"{path} is a link to {os.readlink(path)}: {error.strerror}") from error
        near = get_close_matches(os.path.basename(path), _listed(os.path.dirname(path)), 3)
        hint = f"; there is {', '.join(near)}" if near else ""
        raise SourceError(f"{path}: {error.strerror}{hint}") from error
    if S_ISDIR(status.st_mode):
        raise SourceError(f"{path} is a directory: give {os.path.join(path, '*')} for the files in it")
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


def _filesystem(path: str, storage: Mapping[str, Any]) -> tuple[Any, str]:
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
    system, inner = _filesystem(path, storage)
    listed: list[tuple[str, Any]]
    try:
        system.invalidate_cache()  # or it would answer with what it listed for an earlier job
        if glob.has_magic(inner) and ("*" in inner or not system.exists(inner)):
            infos = system.glob(inner, detail=True)
            files = [name for name in sorted(infos) if infos[name]["type"] == "file"]
            listed = [(system.unstrip_protocol(name), infos[name]) for name in files]
        else:
            listed = [(path, system.info(inner))]
    except OSError as error:
        raise SourceError(f"{redacted(path)}: {redacted(_text_of(error))}") from error
    except Exception as error:  # errors of the store's client: no credentials, no such bucket, no connection
        raise SourceError(f"{redacted(path)}: {type(error).__name__}: {redacted(str(error))}") from error
    if not listed:
        raise SourceError(f"no object matches {redacted(path)}")
    for _, info in listed:
        if info["type"] != "file":
            raise SourceError(f"{redacted(path)} is a directory: give {redacted(path).rstrip('/')}/* for what is in it")
        if info.get("size") is None:
            raise SourceError(
                f"{redacted(path)}: the server reports no size, so it cannot be read in parts: download it first"
            )
    return [[name, info["size"], _version(info)] for name, info in listed]


def _version(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in _VERSIONS if info.get(name) is not None), "")


def _text_of(error: OSError) -> str:
    if error.strerror:
        return error.strerror
    if error.__cause__ is not None and str(error.__cause__):  # the text of the error itself may be only the address
        return str(error.__cause__)
    return "not found" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__


@contextmanager
def opened(row: Row, storage: Mapping[str, Any]) -> Iterator[BinaryIO]:
    """Open the file or object of a row for reading; compare its size and version with the row before and after.

    Raises:
        SourceChanged: they differ from what the producer found.
        SourceError: it cannot be opened.
    """
    path, size, _ = row
    if "://" in path:
        system, inner = _filesystem(path, storage)
        system.invalidate_cache(inner)
        try:
            info = system.info(inner)
            _compare(row, info["size"], _version(info))
            with system.open(inner, "rb") as file:
                yield file
            system.invalidate_cache(inner)
            info = system.info(inner)
        except OSError as error:
            raise SourceError(f"{redacted(path)}: {redacted(_text_of(error))}") from error
        except ValueError as error:
            if "range requests" not in str(error):
                raise
            raise SourceError(
                f"{redacted(path)}: its server does not serve parts of a file: download it first"
            ) from error
        _compare(row, info["size"], _version(info))
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; the producer saw {size:,} bytes there") from error
    with file:
        _compare_file(row, file)
        yield file
        _compare_file(row, file)


def _compare_file(row: Row, file: BinaryIO) -> None:
    status = os.fstat(file.fileno())
    _compare(row, status.st_size, str(status.st_mtime_ns))


def _compare(row: Row, size: int, version: str) -> None:
    path, seen, before = row
    if (size, version) != (seen, before):
        raise SourceChanged(
            f"{redacted(path)} has changed since the job began: from {seen:,} bytes, version {before}, to "
            f"{size:,} bytes, version {version}. Run the job again when nothing writes to it"
        )
