"""Compressed files, read from start to end: they cannot be cut."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

from pymar.exceptions import SourceError
from pymar.sources.extras import needed

#: Bytes of a .zst file that are decompressed at a time: what comes out may be ten thousand times as many.
_FED = 1 << 12
_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


def is_compressed(path: str) -> bool:
    """By its name."""
    return path.endswith(_SUFFIXES)


@contextmanager
def decompressed(file: BinaryIO, path: str) -> Iterator[Any]:
    """What is in it.

    Raises:
        SourceError: it is cut off, or is not what its name says.
    """
    import lzma

    try:
        with _opened(file, path) as inner:
            yield inner
    except EOFError as error:
        raise SourceError(f"{path} is cut off: its compressed data end too early. Copy it again") from error
    except (zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise SourceError(f"{path} cannot be decompressed: {error}") from error


def _opened(file: BinaryIO, path: str) -> Any:
    if path.endswith(".gz"):
        import gzip

        return gzip.GzipFile(fileobj=file)
    if path.endswith(".bz2"):
        import bz2

        return bz2.BZ2File(file)
    if path.endswith(".xz"):
        import lzma

        return lzma.LZMAFile(file)
    zstandard = needed("zstandard", "zstd", path)
    return _Zstd(zstandard, file)


class _Zstd:
    """A stream that says when it is cut off, which zstandard's reader does not."""

    def __init__(self, zstandard: Any, file: BinaryIO) -> None:
        self._file = file
        self._zstandard = zstandard
        self._object: Any = None
        self._buffer = BytesIO()

    def __enter__(self) -> _Zstd:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        found = self._buffer.read(size)
        while not found:
            is_between = self._object is None or self._object.eof
            data = self._object.unused_data if self._object is not None and is_between else b""
            data = data or self._file.read(_FED)
            if not data and is_between:
                return b""
            if not data:
                raise EOFError
            if is_between:
                self._object = self._zstandard.ZstdDecompressor().decompressobj()
            try:
                self._buffer = BytesIO(self._object.decompress(data))
            except self._zstandard.ZstdError as error:
                raise OSError(str(error)) from error
            found = self._buffer.read(size)
        return found
