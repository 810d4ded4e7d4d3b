"""Arrays on disk, read in blocks of rows: .npy and raw files by memory map, .npz, HDF5, Zarr."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar
from zipfile import BadZipFile

from pymar.datasource import DataSource
from pymar.exceptions import SourceChanged, SourceError
from pymar.serialization.redaction import redacted
from pymar.sources.checks import check_settings
from pymar.sources.extras import needed
from pymar.sources.formats import HEAD, format_of, remedy_of
from pymar.sources.storage import found

#: Names of files that are no raw numbers, unless dtype= says so.
_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".nc", ".mat")
#: Groups within groups that are looked into.
_DEEPEST = 16
#: Bytes of a block, if `block` is not set: it fits into the cache of a core.
_BLOCK_BYTES = 1 << 20


class ArrayBlocks(DataSource):
    """Blocks of rows of an array; `map_fn` gets arrays (read-only views of the file where it can be mapped).

    The first bytes of the file tell its format: .npy, .npz, or HDF5, which netCDF 4 and MATLAB 7.3 are too. A folder
    whose name ends in .zarr is Zarr; anything else is raw numbers, with `dtype`. A file that changes after the producer
    has looked at it is `SourceChanged`; of a Zarr folder only the modification time of the folder itself, the shape and
    the type are compared.

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
        check_settings(cls, texts=("name", "dtype"), numbers={"block": 0})
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
            stop = min(start + block, end)
            try:
                rows = array[start:stop]
            except (OSError, RuntimeError, ValueError) as error:  # of HDF5, or of the library that decompresses a chunk
                raise SourceError(f"{self.path}, rows {start:,} to {stop:,}, cannot be read: {error}") from error
            yield rows
        if _version(self.path, array) != self.layout[0]:
            raise SourceChanged(f"{self.path} has changed while it was read. Run the job again")

    @classmethod
    def _opened(cls, path: str) -> Any:
        numpy = needed("numpy", "array", "ArrayBlocks")
        try:
            if path.endswith(".zarr"):
                opened = needed("zarr", "zarr", path).open(path, mode="r")
                return opened if hasattr(opened, "shape") else _member(opened, cls.name, path)
            form = _format(path)
            if form == "npy":
                array = numpy.load(path, mmap_mode="r", allow_pickle=False)
                if not hasattr(array, "shape"):
                    raise ValueError("it is a .npz file")
                return array
            if form == "zip":
                return _member(numpy.load(path, allow_pickle=False), cls.name, path)
            if form == "HDF5":
                return _member(needed("h5py", "hdf5", path).File(path, "r"), cls.name, path)
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        if form and form not in ("UTF-16", "UTF-32"):  # which raw numbers may begin like
            remedy = remedy_of(form) or "decompress it first"
            raise SourceError(f"{path} begins as {form}, which is no array that can be read here: {remedy}")
        if not cls.dtype and path.endswith(_SUFFIXES):
            raise SourceError(f"{path} cannot be read: it does not begin as its name says")
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


def _format(path: str) -> str:
    """Return the format of a file; HDF5 may begin behind a block of the user's, of 512 bytes or a multiple."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
        start = HEAD
        while len(head) == HEAD and start < os.path.getsize(path):
            file.seek(start)
            if format_of(file.read(8)) == "HDF5":
                return "HDF5"
            start *= 2
    return format_of(head)


def _version(path: str, array: Any) -> str:
    """Return size and modification time of the file, and of those that hold values of it.

    Those are the files of a virtual dataset, and the one that an external link leads to (both of HDF5).
    """
    paths = [path]
    if hasattr(array, "file") and os.path.realpath(array.file.filename) != os.path.realpath(path):
        paths.append(array.file.filename)
    if getattr(array, "is_virtual", False):
        names = sorted({part.file_name for part in array.virtual_sources()} - {"."})
        paths += [os.path.join(os.path.dirname(path), name) for name in names]
    try:
        found = [os.stat(one) for one in paths]
    except OSError as error:
        raise SourceError(f"{error.filename}: {error.strerror}; it holds values of {path}") from error
    return ", ".join(f"{status.st_size} {status.st_mtime_ns}" for status in found)


def _member(group: Any, name: str, path: str) -> Any:
    """Return the array of this name within .npz, HDF5 or Zarr; without a name, the only one that there is.

    Raises:
        SourceError: there is none of this name, or several; the message names those that there are.
    """
    if name and (array := _array(group, name)) is not None:
        return array
    names = list(group.files) if hasattr(group, "files") else sorted(_names(group))
    if not name and len(names) == 1:
        return group[names[0]]
    what = f"no array {name!r}" if name else f"{len(names) or 'no'} arrays: set name=" if names else "no array"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise SourceError(f"{path} has {what}" + (f"; there is {shown}" if names else ""))


def _array(group: Any, name: str) -> Any:
    """Return the array of this name; None if there is none, or a link that leads nowhere."""
    try:
        found = group[name]
    except (KeyError, OSError, ValueError):
        return None
    return found if hasattr(found, "shape") else None


def _names(group: Any, above: str = "", depth: int = 0) -> list[str]:
    """Return the names of all arrays in a group and the groups within it; soft links that lead nowhere have none."""
    found: list[str] = []
    for name in group:
        try:
            one = group[name]
        except (KeyError, OSError, ValueError):
            continue
        if hasattr(one, "shape"):
            found.append(f"{above}{name}")
        elif hasattr(one, "keys") and depth < _DEEPEST:  # a group may hold a link to one above it
            found += _names(one, f"{above}{name}/", depth + 1)
    return found
