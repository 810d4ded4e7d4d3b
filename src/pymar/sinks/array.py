"""ArraySink: rows of arrays in .npy files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from tempfile import TemporaryFile
from typing import Any, ClassVar

from pymar.exceptions import SinkError
from pymar.sinks.files import FileSink, Misfit, Row, Writer
from pymar.sinks.targets import Target
from pymar.sources.extras import needed

#: Bytes that are copied at a time.
_PIECE = 1 << 20


class ArraySink(FileSink):
    """Arrays in .npy files, numpy's format: records are arrays, blocks of rows of one shape and type.

    `pymar.sources.ArrayBlocks` reads them back, with the rows of all files one behind the other.

    Raises:
        SinkError: a record is no array, has no rows, or rows of another shape or type than those before.
    """

    suffix: ClassVar[str] = ".npy"
    compressions: ClassVar[Sequence[str]] = ()

    def units(self, records: list[Any]) -> Iterable[Any]:
        numpy = needed("numpy", "array", "ArraySink")
        for record in records:
            if isinstance(record, numpy.ma.MaskedArray):
                raise Misfit("it is a masked array, whose mask a file does not have: fill it (.filled(value))", record)
            if not isinstance(record, numpy.ndarray) or not record.shape or record.dtype.hasobject:
                raise Misfit(f"it has to be an array of rows, of a numeric type, and is {record!r:.200}", record)
            yield record

    def divided(self, unit: Any) -> Iterable[tuple[str, Any]]:
        raise Misfit("rows of arrays have no names of columns: leave partition_by out", unit)

    def writer(self, file: Any) -> Writer:
        return _Rows(file)

    def arrived(self, wrote: Any) -> None:
        for row in wrote:
            first = vars(self).setdefault("_first", row[4])
            if row[4] is not None and row[4] != first:
                raise SinkError(
                    f"ArraySink: part {int(row[1][1:9])} has rows of shape and type {row[4]}, and one before it {first}"
                )

    def merge(self, rows: Sequence[Row], target: Target) -> Iterator[Any]:
        numpy = needed("numpy", "array", "ArraySink")
        for row in rows:
            with target.open(row[1]) as file:
                yield numpy.lib.format.read_array(file, allow_pickle=False)

    def merging_writer(self, file: Any) -> Writer:
        return _Rows(file)


class _Rows:
    """One .npy file. Its header has the number of rows, which is known at last: until then they are kept on disk."""

    pending = 0

    def __init__(self, file: Any) -> None:
        self._file = file
        self._kept: Any = TemporaryFile()  # noqa: SIM115 - closed with the file
        self._kind: Any = None
        self._rows = 0

    def fits(self, unit: Any) -> bool:
        kind = [list(unit.shape[1:]), unit.dtype.str if unit.dtype.names is None else str(unit.dtype.descr)]
        if self._kind is None:
            self._kind, self._dtype, self._shape = kind, unit.dtype, unit.shape[1:]
        if kind != self._kind:
            raise Misfit(f"it has rows of shape and type {kind}, and those before it {self._kind}", unit)
        return True

    def write(self, unit: Any) -> int:
        data = unit.tobytes()
        self._kept.write(data)
        self._rows += len(unit)
        return len(data)

    def flush(self) -> None:
        """What is written is on disk already."""

    def close(self) -> Any:
        numpy = needed("numpy", "array", "ArraySink")
        dtype, shape = (numpy.dtype("f8"), ()) if self._kind is None else (self._dtype, self._shape)
        header = {
            "descr": numpy.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (self._rows, *shape),
        }
        numpy.lib.format.write_array_header_1_0(self._file, header)
        self._kept.seek(0)
        with self._kept:
            while piece := self._kept.read(_PIECE):
                self._file.write(piece)
        return self._kind
