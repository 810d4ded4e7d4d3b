"""Arrays on disk, read in blocks of rows: .npy and raw files by memory map, .npz, HDF5, Zarr."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar
from zipfile import BadZipFile

from pymar.datasource import DataSource
from pymar.exceptions import SourceChanged, SourceError
from pymar.serialization.redaction import redacted
from pymar.sources.extras import needed
from pymar.sources.storage import found

#: Bytes of a block, if `block` is not set: it fits into the cache of a core.
_BLOCK_BYTES = 1 << 20


class ArrayBlocks(DataSource):
    """Blocks of rows of an array; `map_fn` gets arrays (read-only views of the file where it can be mapped).

    The end of `path` tells the format: .npy, .npz, .h5 or .hdf5, .zarr (a folder); anything else is raw numbers, with
    `dtype`. A file that changes after the producer has looked at it is `SourceChanged`; of a Zarr folder only the
    modification time of the folder itself, the shape and the type are compared.

    Class attributes:
        path: of the file, or the folder.
        name: of the array within .npz, HDF5 or Zarr; not needed if there is only one.
        dtype, shape: of raw files: `"<f8"`, and the shape of a row, such as (3,); () for numbers.
        block: rows of a block; 0: about 1 MiB.
    """

    unit: ClassVar[str] = "rows"
    path: ClassVar[str] = ""
    name: ClassVar[str] = ""
    dtype: ClassVar[str] = ""
    shape: ClassVar[Sequence[int]] = ()
    block: ClassVar[int] = 0
    #: What `prepare` found: version of the file, number of rows, shape of a row, type.
    layout: ClassVar[Sequence[Any]] = ()

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        if "://" in str(cls.path):
            raise SourceError(f"{redacted(str(cls.path))}: arrays are read from local files; copy it first")
        path = os.path.abspath(os.path.expanduser(cls.path)) if isinstance(cls.path, str) and cls.path else ""
        if not path.endswith(".zarr"):
            rows = found(cls.path, {})
            if len(rows) != 1:
                raise SourceError(f"path={cls.path!r} is {len(rows)} files: give one file, and run a job for each")
            path = rows[0][0]
        elif not os.path.isdir(path):
            raise SourceError(f"{path}: there is no such Zarr folder")
        return {"path": path, "layout": cls._layout(path)}

    @classmethod
    def _layout(cls, path: str) -> list[Any]:
        array = cls._opened(path)
        if not array.shape:
            raise SourceError(f"{path} is a single number, not an array with rows")
        return [_version(path, array), array.shape[0], list(array.shape[1:]), str(array.dtype)]

    @classmethod
    def full_length(cls) -> int:
        return int(cls.layout[1])

    def __iter__(self) -> Iterator[Any]:
        numpy = needed("numpy", "array", "ArrayBlocks")
        array = self._opened(self.path)
        here = [_version(self.path, array), array.shape[0], list(array.shape[1:]), str(array.dtype)]
        if here != list(self.layout):
            raise SourceChanged(
                f"{self.path} has changed since the job began: from {list(self.layout)} to {here}. Run the job again"
            )
        row = max(1, numpy.dtype(array.dtype).itemsize * int(numpy.prod(array.shape[1:], initial=1)))
        block = self.block or max(1, _BLOCK_BYTES // row)
        end = self.offset + self.limit
        for start in range(self.offset, end, block):
            yield array[start : min(start + block, end)]
        if _version(self.path, array) != self.layout[0]:
            raise SourceChanged(f"{self.path} has changed while it was read. Run the job again")

    @classmethod
    def _opened(cls, path: str) -> Any:
        numpy = needed("numpy", "array", "ArrayBlocks")
        try:
            if path.endswith(".npy"):
                array = numpy.load(path, mmap_mode="r", allow_pickle=False)
                if not hasattr(array, "shape"):
                    raise ValueError("it is a .npz file")
                return array
            if path.endswith(".npz"):
                return _member(numpy.load(path, allow_pickle=False), cls.name, path)
            if path.endswith((".h5", ".hdf5")):
                return _member(needed("h5py", "hdf5", path).File(path, "r"), cls.name, path)
            if path.endswith(".zarr"):
                opened = needed("zarr", "zarr", path).open(path, mode="r")
                return opened if hasattr(opened, "shape") else _member(opened, cls.name, path)
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        return cls._raw(numpy, path)

    @classmethod
    def _raw(cls, numpy: Any, path: str) -> Any:
        if not cls.dtype:
            raise SourceError(f"{path}: its name does not tell its format: set dtype= (such as '<f8') for raw numbers")
        try:
            kind = numpy.dtype((numpy.dtype(cls.dtype), tuple(cls.shape)))
        except (TypeError, ValueError) as error:
            raise SourceError(f"dtype={cls.dtype!r}, shape={cls.shape!r}: {error}") from None
        if kind.hasobject or not kind.itemsize:
            raise SourceError(
                f"dtype={cls.dtype!r}, shape={cls.shape!r}: rows of this type cannot be read from the bytes of a file"
            )
        size = os.path.getsize(path)
        if size % kind.itemsize:
            raise SourceError(
                f"{path} has {size:,} bytes, which is not a whole number of rows of {kind.itemsize} bytes"
            )
        if not size:
            return numpy.empty((0, *cls.shape), cls.dtype)  # an empty file cannot be mapped
        return numpy.memmap(path, dtype=cls.dtype, mode="r", shape=(size // kind.itemsize, *cls.shape))


def _version(path: str, array: Any) -> str:
    """Return size and modification time of the file, and of those that hold the values of a virtual dataset (HDF5)."""
    paths = [path]
    if getattr(array, "is_virtual", False):
        names = sorted({part.file_name for part in array.virtual_sources()} - {"."})
        paths += [os.path.join(os.path.dirname(path), name) for name in names]
    try:
        found = [os.stat(one) for one in paths]
    except OSError as error:
        raise SourceError(f"{error.filename}: {error.strerror}; it holds values of {path}") from error
    return ", ".join(f"{status.st_size} {status.st_mtime_ns}" for status in found)


def _member(group: Any, name: str, path: str) -> Any:
    names = list(group.files if hasattr(group, "files") else group.keys())
    if not name and len(names) == 1:
        name = names[0]
    if not name or name not in group or not hasattr(group[name], "shape"):
        what = f"no array {name!r}" if name else "several arrays, or none: set name="
        arrays = sorted(one for one in names if hasattr(group[one], "shape"))
        raise SourceError(f"{path} has {what}; there is {', '.join(arrays) or 'nothing'}")
    return group[name]
