"""Arrays on disk, read in blocks of rows: .npy, raw files and classic netCDF by memory map, .npz, HDF5, Zarr.

Files stand one behind the other, and so do their rows; a Zarr store is one file, whether a folder or a zip archive.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, ClassVar

from pymar.exceptions import PymarError, SourceChanged, SourceError
from pymar.serialization.redaction import redacted
from pymar.sources import patterns
from pymar.sources.checks import check_settings
from pymar.sources.extras import needed
from pymar.sources.files import FileSource
from pymar.sources.formats import HEAD, format_of, remedy_of
from pymar.sources.storage import Row, found

log: logging.Logger = logging.getLogger(__name__)

#: Names of files that are no raw numbers, unless dtype= says so.
_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".nc", ".mat", ".zip")
#: Files that a Zarr store has at its root: format 3, and 2.
_ZARR = ("zarr.json", ".zgroup", ".zarray")
#: Groups within groups that are looked into.
_DEEPEST = 16
#: Bytes of a block, if `block` is not set: it fits into the cache of a core.
_BLOCK_BYTES = 1 << 20
#: The most files of a job whose blocks are views: each keeps its file open, and a process may often have 1,024.
_MOST_VIEWED = 100


class ArrayBlocks(FileSource):
    """Blocks of rows of arrays; `map_fn` gets arrays (read-only views of the file where it can be mapped).

    The first bytes of a file tell its format: .npy, .npz, a zip archive of a Zarr store, netCDF, or HDF5, which
    netCDF 4 and MATLAB 7.3 are too. A folder is Zarr if it has what Zarr has at its root, or a name that ends in .zarr;
    of other folders all files are read. Anything else is raw numbers, with `dtype`. Values are those that the file
    holds, in its byte order: fill values, `scale_factor` and `add_offset` of netCDF are not applied.

    Several files have to be alike in the shape of a row and in the type. A block is of one file. A file that changes
    after the producer has looked at it is `SourceChanged`; of a Zarr folder only the modification time of the folder
    itself, the shape and the type are compared.

    Class attributes, besides those of FileSource (of which `storage` has no use: files are local):
        path: of files, patterns, folders, or a list of those; a Zarr folder is one file.
        name: of the array within .npz, netCDF, HDF5 or Zarr; not needed if there is only one.
        dtype, shape: of raw files: `"<f8"`, and the shape of a row, such as (3,); () for numbers.
        skip_bytes: the header of raw files, which is not read.
        block: rows of a block; 0: about 1 MiB.
    """

    unit: ClassVar[str] = "rows"
    name: ClassVar[str] = ""
    dtype: ClassVar[str] = ""
    shape: ClassVar[Sequence[int]] = ()
    skip_bytes: ClassVar[int] = 0
    block: ClassVar[int] = 0
    #: What `prepare` found: shape of a row, type. In `files`, [path, bytes, version, rows, version of other files].
    layout: ClassVar[Sequence[Any]] = ()

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        check_settings(cls, flags=("with_path",), texts=("name", "dtype"), numbers={"block": 0, "skip_bytes": 0})
        files = _found(cls.path)
        layout: list[Any] = []
        for row in files:
            path = row[0]
            with cls._opened(path) as array:
                if not array.shape:
                    raise SourceError(f"{path} is a single number, not an array with rows")
                here = _layout(array)
                row += _rows_of(path, array)
            layout = layout or here
            if here != layout:
                raise SourceError(
                    f"{path} has rows of shape {tuple(here[0])}, {here[1]}, and {files[0][0]} of shape "
                    f"{tuple(layout[0])}, {layout[1]}: the {len(files):,} files of a job have to be alike. Run a job "
                    "for each kind, or convert them"
                )
        return {"files": files, "layout": layout}

    @classmethod
    def _extent(cls, row: Row) -> int:
        return int(row[3])

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        numpy = needed("numpy", "array", "ArrayBlocks")
        path = row[0]
        _compare(path, row[1:3], _version(path))  # before it is opened: what it has become may be no array
        with self._opened(path) as array:
            _compare(path, [*row[1:], *self.layout], [*_version(path), *_rows_of(path, array), *_layout(array)])
            size = max(1, numpy.dtype(array.dtype).itemsize * int(numpy.prod(array.shape[1:], initial=1)))
            block = self.block or max(1, _BLOCK_BYTES // size)
            is_copied = len(self.files) > _MOST_VIEWED and isinstance(array, numpy.ndarray)
            for at in range(start, end, block):
                stop = min(at + block, end)
                try:
                    rows = array[at:stop]
                except Exception as error:  # of HDF5, or of the library that decompresses a chunk
                    text = _text_of(error)
                    raise SourceError(f"{path}, rows {at:,} to {stop:,}, cannot be read: {text}") from error
                if is_copied:
                    rows = numpy.array(rows)
                    rows.flags.writeable = False
                yield rows
            _compare(path, row[1:], [*_version(path), *_rows_of(path, array)])

    @classmethod
    @contextmanager
    def _opened(cls, path: str) -> Iterator[Any]:
        """Open the array of a file; what it was read with is closed afterwards, and maps when no view is left."""
        with ExitStack() as stack:
            try:
                array = cls._array(path, stack)
            except PymarError:
                raise
            except Exception as error:  # each format has errors of its own, damaged files many more
                raise SourceError(f"{path} cannot be read: {_text_of(error)}") from error
            yield array

    @classmethod
    def _array(cls, path: str, stack: ExitStack) -> Any:
        numpy = needed("numpy", "array", "ArrayBlocks")
        if os.path.isdir(path):
            if cls.skip_bytes:
                raise SourceError(f"{path} is a Zarr folder, and skip_bytes is for raw files: set skip_bytes = 0")
            return _of_zarr(needed("zarr", "zarr", path).open(path, mode="r"), cls.name, path)
        form = _format(path)
        is_raw = form in ("", "UTF-16", "UTF-32")  # which raw numbers may begin like
        if cls.skip_bytes and not is_raw:
            raise SourceError(f"{path} begins as {form}, and skip_bytes is for raw files: set skip_bytes = 0")
        if form == "npy":
            return numpy.load(path, mmap_mode="r", allow_pickle=False)
        if form == "zip":
            file = stack.enter_context(open(path, "rb"))  # noqa: SIM115 - numpy leaves it open if it is no archive
            return _of_zip(stack.enter_context(numpy.load(file, allow_pickle=False)), cls.name, path, stack)
        if form == "HDF5":
            return _member(stack.enter_context(needed("h5py", "hdf5", path).File(path, "r")), cls.name, path)
        if form == "netCDF":
            return _member(_variables(path), cls.name, path)
        if not is_raw:
            remedy = remedy_of(form) or "decompress it first"
            raise SourceError(f"{path} begins as {form}, which is no array that can be read here: {remedy}")
        if not cls.dtype and path.endswith(_SUFFIXES):
            hint = ". Of MATLAB before 7.3, save it again with -v7.3" if path.endswith(".mat") else ""
            raise SourceError(f"{path} cannot be read: it does not begin as its name says{hint}")
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
        size, skip = os.path.getsize(path), int(cls.skip_bytes)
        if size < skip:
            raise SourceError(f"{path} has {size:,} bytes, fewer than skip_bytes={skip}: what is skipped is not there")
        if (size - skip) % kind.itemsize:
            behind = f", {size - skip:,} of them behind skip_bytes={skip}" if skip else ""
            raise SourceError(
                f"{path} has {size:,} bytes{behind}, which is not a whole number of rows of {kind.itemsize} bytes"
            )
        if size == skip:
            return numpy.empty((0, *cls.shape), cls.dtype)  # nothing cannot be mapped
        shape = ((size - skip) // kind.itemsize, *cls.shape)
        return numpy.memmap(path, dtype=cls.dtype, mode="r", offset=skip, shape=shape)


def _found(path: Any) -> list[Row]:
    """Return the rows of files as `found` does, and those of Zarr folders, each as one file among them."""
    paths = [path] if isinstance(path, str | os.PathLike) else path
    is_list = isinstance(paths, list | tuple | set | frozenset)
    if not path or not is_list or not all(isinstance(one, str | os.PathLike) for one in paths):
        return found(path, {})  # it says what is wrong
    try:
        rows = {row[0]: row for one in paths for row in _matching(os.fspath(one))}
    except OSError as error:  # a folder that may not be listed, or is gone
        raise SourceError(f"{error.filename}: {error.strerror}") from error
    return list(rows.values())


def _matching(path: str) -> list[Row]:
    path = path.removeprefix("file://").removeprefix("local://")
    if "://" in path:
        raise SourceError(f"{redacted(path)}: arrays are read from local files; copy it first")
    path = os.path.abspath(os.path.expanduser(path))
    folders: list[str] = []
    if os.path.isdir(path):
        names = set(_walked(path))
    elif patterns.is_pattern(path) and not os.path.lexists(path):
        names, folders = _fitting(path)
    elif path.endswith(".zarr") and not os.path.lexists(path):
        raise SourceError(f"{path}: there is no such Zarr folder")
    else:
        return found(path, {})
    stores = set(filter(os.path.isdir, names))
    if not stores:
        return found(path, {})
    if folders:
        shown = ", ".join(map(os.path.basename, folders[:3])) + (", ..." if len(folders) > 3 else "")
        log.warning("%s also matches folders, which are left out: %s. To read them too: %s/**", path, shown, path)
    return [[name, *_version(name)] if name in stores else found(name, {})[0] for name in sorted(names)]


def _walked(folder: str) -> Iterator[str]:
    """Yield the files below a folder, as patterns.py has them, and the Zarr folders, of which a link to one is one."""

    def refuse(error: OSError) -> None:
        raise error  # a folder that is passed over would be data that are missing

    if _is_zarr(folder):
        yield folder
        return
    for here, folders, files in os.walk(folder, onerror=refuse):
        stores = {name for name in folders if not patterns.is_hidden(name) and _is_zarr(os.path.join(here, name))}
        folders[:] = [name for name in folders if not patterns.is_hidden(name) and name not in stores]
        for name in (*(name for name in files if not patterns.is_hidden(name)), *stores):
            yield os.path.join(here, name)


def _fitting(path: str) -> tuple[set[str], list[str]]:
    """Return the files and Zarr folders that match a pattern, or are in folders that do, if these are all that match.

    What is within a Zarr folder is that folder. The folders that match besides are returned too.
    """
    top, pattern = patterns.split(path)
    known: dict[str, str] = {}
    names, folders = set(), []
    for name, is_folder in patterns.local(top or "/", pattern):
        store = _store_of(os.path.join(name, "") if is_folder else name, top, known)
        if is_folder and not store:
            folders.append(name)
        else:
            names.add(store or name)
    if names:
        return names, sorted(folders)
    return {name for folder in folders for name in _walked(folder)}, []


def _store_of(path: str, top: str, known: dict[str, str]) -> str:
    """Return the outermost Zarr folder, from the folder `top` on, that a path is in; "" if it is in none.

    Args:
        known: what was found for each folder.
    """
    folder = os.path.dirname(path)
    if folder == path or len(folder) < len(top):
        return ""
    if folder not in known:
        known[folder] = _store_of(folder, top, known) or (folder if _is_zarr(folder) else "")
    return known[folder]


def _is_zarr(folder: str) -> bool:
    return folder.endswith(".zarr") or any(os.path.lexists(os.path.join(folder, name)) for name in _ZARR)


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


def _version(path: str) -> list[Any]:
    """Return size and modification time of a file or folder."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}; it was there when the job began") from error
    return [status.st_size, str(status.st_mtime_ns)]


def _rows_of(path: str, array: Any) -> list[Any]:
    """Return the number of rows, and the sizes and times of other files that hold values of this one.

    Those are the files of a virtual dataset, and the one that an external link leads to (both of HDF5).
    """
    paths = []
    if hasattr(array, "file") and os.path.realpath(array.file.filename) != os.path.realpath(path):
        paths.append(array.file.filename)
    if getattr(array, "is_virtual", False):
        names = sorted({part.file_name for part in array.virtual_sources()} - {"."})
        paths += [os.path.join(os.path.dirname(path), name) for name in names]
        for part in array.virtual_sources():
            _check_source(os.path.join(os.path.dirname(path), part.file_name), part.dset_name, array, path)
    try:
        others = [os.stat(one) for one in paths]
    except OSError as error:
        raise SourceError(f"{error.filename}: {error.strerror}; it holds values of {path}") from error
    return [int(array.shape[0]), ", ".join(f"{status.st_size} {status.st_mtime_ns}" for status in others)]


def _check_source(source: str, name: str, array: Any, path: str) -> None:
    """Refuse a virtual dataset whose source has no such array: HDF5 would give fill values.

    Raises:
        SourceError: it has none.
    """
    if not os.path.exists(source) or os.path.samefile(source, path):
        if name not in array.file and os.path.exists(source):
            raise SourceError(f"{path} has no array {name!r}, which holds values of one of its own")
        return  # that the file is missing is said elsewhere
    with needed("h5py", "hdf5", path).File(source, "r") as file:
        if name not in file:
            raise SourceError(f"{source} has no array {name!r}, which holds values of {path}")


def _layout(array: Any) -> list[Any]:
    """Return the shape of a row, and the type of its values; h5py keeps in metadata what an object stands for."""
    known = f" {dict(array.dtype.metadata)}" if array.dtype.metadata else ""
    return [[int(length) for length in array.shape[1:]], f"{array.dtype}{known}"]


def _compare(path: str, seen: list[Any], here: list[Any]) -> None:
    if here != seen:
        raise SourceChanged(f"{path} has changed since the job began: from {seen} to {here}. Run the job again")


def _text_of(error: Exception) -> str:
    text = str(error)
    if "Python objects" in text or "Object arrays" in text:
        return "its values are Python objects, and to unpickle them could run any code: write it with another dtype"
    return text if isinstance(error, OSError | ValueError) and text else f"{type(error).__name__}: {text}"


def _variables(path: str) -> dict[str, Any]:
    """Return the variables of a classic netCDF file by name, each mapped into memory.

    SciPy reads them, not netCDF4, whose C library gives zeros for what is missing of a file that was cut short.
    """
    # Of a file that is closed already netcdf_file has nothing to close: it would warn of views that users have.
    with open(path, "rb") as file:
        records = file.read(8)[4:]
        if records[:1] >= b"\x80":  # of which SciPy would make none: all ones stand for a number not known yet
            raise SourceError(
                f"{path} does not say how many records it has: what writes it has not finished. Read it when that has"
            )
        file.seek(0)
        scipy = needed("scipy.io", "netcdf", path)
        try:
            opened = scipy.netcdf_file(file, mode="r", mmap=True)
        except Exception as error:  # whatever the parsing of wrong numbers comes to
            raise SourceError(
                f"{path} cannot be read: it is cut short, or damaged ({_text_of(error)}). Copy or write it anew"
            ) from error
        if any(length is not None and length < 0 for length in opened.dimensions.values()):
            raise SourceError(
                f"{path} has a dimension of 2**31 or more, or is damaged: convert it to netCDF 4 first (nccopy -k nc4)"
            )
        # SciPy takes names for Latin-1; they are UTF-8.
        return {
            name.encode("latin-1").decode("utf-8", "replace"): variable.data
            for name, variable in opened.variables.items()
        }


def _of_zip(archive: Any, name: str, path: str, stack: ExitStack) -> Any:
    """Return the array of a zip archive: of .npz, which numpy has opened, or of a Zarr store."""
    members = [member.split("/") for member in archive.zip.namelist()]
    folders = [folders for *folders, last in members if last in _ZARR]
    if not folders:
        if not _names(archive):
            raise SourceError(
                f"{path} has no array: it is neither .npz nor a Zarr store. Unpack it, and read its files"
            )
        return _member(archive, name, path)
    least = min(map(len, folders))  # an archive of a folder has the store within that folder
    roots = sorted({"/".join(root) for root in folders if len(root) == least})
    if len(roots) > 1:
        raise SourceError(f"{path} has {len(roots)} Zarr stores ({', '.join(roots[:3])}): unpack it, and read those")
    zarr = needed("zarr", "zarr", path)
    store = stack.enter_context(closing(zarr.storage.ZipStore(path, mode="r")))
    return _of_zarr(zarr.open(store, mode="r", path=roots[0]), name, path)


def _of_zarr(opened: Any, name: str, path: str) -> Any:
    return opened if hasattr(opened, "shape") else _member(opened, name, path)


def _member(group: Any, name: str, path: str) -> Any:
    """Return the array of this name within .npz, netCDF, HDF5 or Zarr; without a name, the only one that there is.

    Raises:
        SourceError: there is none of this name, or several; the message names those that there are.
    """
    if name and (array := _array(group, name)) is not None:
        return array
    names = sorted(_names(group))
    if not name and len(names) == 1:
        return _array(group, names[0])
    what = f"no array {name!r}" if name else f"{len(names) or 'no'} arrays: set name=" if names else "no array"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise SourceError(f"{path} has {what}" + (f"; there is {shown}" if names else ""))


def _array(group: Any, name: str) -> Any:
    """Return the array of this name; None if there is none, or a link that leads nowhere."""
    if hasattr(group, "files"):  # .npz
        if name not in group:
            return None
        found = group[name]
        if not hasattr(found, "shape"):  # numpy gives the bytes
            raise ValueError(f"what is called {name!r} in it does not begin as .npy does")
        return found
    try:
        found = group[name]
    except (KeyError, OSError, ValueError):
        return None
    return found if hasattr(found, "shape") else None


def _names(group: Any, above: str = "", depth: int = 0) -> list[str]:
    """Return the names of all arrays in a group and the groups within it; soft links that lead nowhere have none."""
    if hasattr(group, "files"):  # .npz, of which each array would be read
        return [name.removesuffix(".npy") for name in group.zip.namelist() if name.endswith(".npy")]
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
