"""Compressed files, read from start to end: they cannot be cut."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources.extras import needed

#: Bytes of a file that are decompressed at a time: the output may be ten thousand times as large.
_FED = 1 << 12
#: Bytes of the largest window of zstd (zstd --long=31).
_ZSTD_WINDOW = 1 << 31


@contextmanager
def decompressed(file: BinaryIO, path: str, compression: str) -> Iterator[Any]:
    """Open the decompressed data of a file; `compression` is one of formats.COMPRESSIONS.

    Raises:
        SourceError: the file is cut off, is not so compressed, or is a zip archive of several files.
    """
    import lzma
    import zipfile

    try:
        with _opened(file, path, compression) as inner:
            yield inner
    except EOFError as error:
        raise SourceError(f"{redacted(path)} is cut off: its compressed data ends too early. Copy it again") from error
    except zipfile.BadZipFile as error:
        raise SourceError(f"{redacted(path)} cannot be unzipped: {error}") from error
    except (zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise SourceError(f"{redacted(path)} cannot be decompressed: {error}") from error


def _opened(file: BinaryIO, path: str, compression: str) -> Any:
    if compression == "gzip":
        import gzip

        return gzip.GzipFile(fileobj=file)
    if compression == "bz2":
        import bz2

        return _Members(file, bz2.BZ2Decompressor)
    if compression == "xz":
        import lzma

        return _Members(file, lzma.LZMADecompressor, padding=b"\0")
    if compression == "zip":
        return _zip_member(file, path)
    zstandard = needed("zstandard", "zstd", redacted(path))
    return _Members(
        file, lambda: zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj(), zstandard.ZstdError
    )


def _zip_member(file: BinaryIO, path: str) -> Any:
    import zipfile

    try:
        archive = zipfile.ZipFile(file)
        names = [one.filename for one in archive.infolist() if not one.is_dir() and _is_data(one.filename)]
        if len(names) != 1:
            shown = ", ".join(names[:3]) or "none"
            raise SourceError(
                f"{redacted(path)} is a zip archive of {len(names)} files ({shown}), and is read only if it has one: "
                "unzip it first, and read the files in it"
            )
        return archive.open(names[0])
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # damaged; encrypted; of another method
        raise SourceError(f"{redacted(path)} cannot be unzipped: {error}") from error


def _is_data(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


class _Members:
    """The data of all members (streams) of a compressed file, one behind the other.

    Not by the libraries' own readers: those of bz2 and lzma stop silently at bytes that are no member, and that of
    zstandard does not raise an error if a member is cut off.
    """

    def __init__(
        self, file: BinaryIO, make: Callable[[], Any], error: type[Exception] = OSError, padding: bytes = b""
    ) -> None:
        self._file, self._make, self._error, self._padding = file, make, error, padding
        self._member: Any = None
        self._rest = b""
        self._is_first = True
        self._buffer = BytesIO()

    def __enter__(self) -> _Members:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        found = self._buffer.read(size)
        while not found:
            data, self._rest = self._rest or self._file.read(_FED), b""
            if not data:
                if self._member is None:
                    return b""
                raise EOFError
            if self._member is None and not self._is_first:
                data = data.lstrip(self._padding) if self._padding else data
            if data:
                self._buffer = BytesIO(self._decompressed(data))
                found = self._buffer.read(size)
        return found

    def _decompressed(self, data: bytes) -> bytes:
        if self._member is None:
            self._member, self._is_first = self._make(), False
        try:
            found: bytes = self._member.decompress(data)
        except self._error as error:
            raise OSError(str(error)) from error
        if self._member.eof:
            self._rest, self._member = self._member.unused_data, None
        return found
