"""The result of a keyed job: a mapping that is read lazily from where the workers have left it; and a source of it."""

from __future__ import annotations

import heapq
import os
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from pymar.datasource import DataSource
from pymar.exceptions import ExchangeError, UsageError
from pymar.keyed.columns import Codec, as_list
from pymar.keyed.exchange import Damaged, Exchange, Place, check_private, digest_of, place_at, seen, translated
from pymar.keyed.keys import bucket_of, by_bytes, canonical, rank, shown
from pymar.keyed.reduction import chunks_in
from pymar.serialization import loads, plain
from pymar.serialization.redaction import redacted
from pymar.serialization.values import dumps

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["Result"]

_MANIFEST = "result"


class SegmentRow(NamedTuple):
    """Where some keys and their values are."""

    bucket: int
    name: str
    """The file; "" if the bytes are here."""
    at: int
    length: int
    pairs: int
    digest: bytes
    data: bytes | None = None


class Stored:
    """Segments of a result: read from where the workers have left them, and removed with it. One thread at a time."""

    def __init__(
        self,
        rows: Sequence[SegmentRow],
        exchange: Exchange | None,
        state: Mapping[str, Any],
        is_seen: bool = False,
        is_trusted: bool = True,
    ) -> None:
        self._codec = codec_of(is_trusted)
        self._rows = list(rows)
        self._exchange = exchange
        self._state = dict(state)
        #: True if workers see the place of its files.
        self._is_seen = is_seen
        self._place: Place | None = None if exchange is None else exchange.place
        self._length = sum(row.pairs for row in self._rows)
        self._is_closed = False

    def __len__(self) -> int:
        return self._length

    def _data(self, row: SegmentRow) -> bytes:
        """Return the bytes of a segment.

        Raises:
            UsageError: the result is closed.
            ExchangeError: they are not there, or damaged.
        """
        self._check_open()
        if row.data is not None:
            return row.data
        assert self._place is not None
        return _read(self._place, row, self._state["secret"], str(self._state["path"]))

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError("this result is closed: read it before, or keep it with map(..., keep='folder')")

    def _fingerprint(self) -> str:
        """Return a text that is the same for the same records in the same exchange."""
        rows = [(row.bucket, row.pairs, row.digest) for row in self._rows]
        return digest_of(plain.dumps(rows), self._state["secret"]).hex()

    def close(self) -> None:
        """Remove what it is read from. May be called twice."""
        self._is_closed = True
        if self._exchange is not None:
            self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._length:,}{', closed' if self._is_closed else ''}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a result does not travel: give it to a job as its source, DataSourceFactory(result), or send what you "
            "read of it, such as result.to_dict()"
        )

    def as_source(self) -> tuple[type[DataSource], dict[str, Any]] | None:
        """Return the source of its records for workers, with its settings; None if they do not see its files."""
        self._check_open()
        if not self._is_seen:
            return None
        return ResultSource, {"exchange": self._state, "segments": [list(row) for row in self._rows]}


class Result(Stored, Mapping[Any, Any]):
    """All keys of a keyed job with their values: a mapping, read from disk as it is asked for.

    The order of the keys is the same on every engine and for any number of workers. What it is read from is removed by
    `close`, at the end of a `with` block, or when nothing refers to it any more. It can be the source of another job:
    `DataSourceFactory(result)`, whose records are its pairs (key, value). One thread at a time.
    """

    def __init__(
        self,
        rows: Sequence[SegmentRow],
        exchange: Exchange | None,
        state: Mapping[str, Any],
        names: str | tuple[str, ...] | None = None,
        key_bytes_fn: Callable[[Any], bytes] | None = None,
        is_seen: bool = False,
        is_sorted: bool = False,
        is_trusted: bool = True,
        fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__(rows, exchange, state, is_seen, is_trusted)
        self._names = names
        #: The names of the aggregations, if there are several.
        self._fields = fields
        self._key_bytes_fn = key_bytes_fn
        self._is_sorted = is_sorted
        self._by_bucket: dict[int, list[SegmentRow]] = {}
        for row in self._rows:
            self._by_bucket.setdefault(row.bucket, []).append(row)
        self._cached: tuple[int, dict[Any, Any]] | None = None
        #: The first keys of segments that were read, of a sorted result.
        self._firsts: dict[int, Any] = {}

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Result:
        """Return a result that `map(keep=path)` has kept in a folder. It is not removed.

        Raises:
            ExchangeError: there is none, or another user can write to the folder.
        """
        folder = os.path.abspath(os.path.expanduser(os.fspath(path)))
        try:
            check_private(folder)
            with open(os.path.join(folder, _MANIFEST), "rb") as file:
                names, rows, is_sorted, key_bytes_fn = loads(file.read())
        except FileNotFoundError as error:
            raise ExchangeError(f"{folder} has no result of a keyed job") from error
        except (ExchangeError, OSError):
            raise
        except Exception as error:  # whatever damaged bytes make of it
            raise ExchangeError(f"the result in {folder} is damaged: its manifest cannot be read: {error}") from error
        state = {"path": folder, "token": "", "secret": b"", "is_given": True}
        found = cls([SegmentRow(*row) for row in rows], None, state, names, key_bytes_fn, False, is_sorted)
        found._place = place_at(folder)
        return found

    def kept(self, path: str | PathLike[str]) -> Result:
        """Move a result to a new folder, which this process does not remove; return it as it is read from there.

        Raises:
            ExchangeError: the folder is there already, or cannot be written.
        """
        folder = os.path.abspath(os.path.expanduser(os.fspath(path)))
        with translated(folder):
            try:
                os.mkdir(folder, 0o700)
            except FileExistsError as error:
                raise ExchangeError(f"keep={folder!r}: it is there already: give a new folder") from error
            try:
                self._write_to(folder)
            except BaseException:  # half a result would be in the way of the next try
                shutil.rmtree(folder, ignore_errors=True)
                raise
        self.close()
        return Result.open(folder)

    def _write_to(self, folder: str) -> None:
        rows = []
        for number, row in enumerate(self._rows):
            data = self._data(row)
            with open(os.path.join(folder, f"{number}"), "xb") as file:
                file.write(data)
            rows.append((row.bucket, f"{number}", 0, row.length, row.pairs, digest_of(data, b"")))
        with open(os.path.join(folder, f"{_MANIFEST}.new"), "xb") as file:
            file.write(dumps((self._names, rows, self._is_sorted, self._key_bytes_fn), "the result"))
        os.rename(os.path.join(folder, f"{_MANIFEST}.new"), os.path.join(folder, _MANIFEST))

    def _pairs(self, row: SegmentRow) -> tuple[list[Any], list[Any]]:
        return _decoded(self._data(row), self._codec)

    def __iter__(self) -> Iterator[Any]:
        return map(itemgetter(0), self._each())

    def _each(self) -> Iterator[tuple[Any, Any]]:
        for row in self._rows:
            keys, values = self._pairs(row)
            yield from zip(map(shown, keys) if self._key_bytes_fn else keys, values, strict=True)

    def items(self) -> Any:
        """Return the pairs, read as they are asked for."""
        return _Items(self)

    def values(self) -> Any:
        """Return the values, read as they are asked for."""
        return _Values(self)

    def __getitem__(self, key: Any) -> Any:
        self._check_open()
        (key,) = by_bytes(self._key_bytes_fn, [key]) if self._key_bytes_fn else canonical([key])
        bucket = self._segment_of(key) if self._is_sorted else bucket_of(key)
        if self._cached is None or self._cached[0] != bucket:
            found: dict[Any, Any] = {}
            for row in self._by_bucket.get(bucket, ()):
                found.update(zip(*self._pairs(row), strict=True))
            self._cached = bucket, found
        return self._cached[1][key]

    def _segment_of(self, key: Any) -> int:
        """Return the segment of a sorted result that has a key, if any has.

        Raises:
            KeyError: the key cannot be compared with those that are there.
        """

        def first(number: int) -> Any:
            if number not in self._firsts:
                self._firsts[number] = rank(self._pairs(self._rows[number])[0][0])
            return self._firsts[number]

        try:
            number = bisect_right(range(len(self._rows)), rank(key), key=first) - 1
        except TypeError as error:
            raise KeyError(key) from error
        return self._rows[max(0, number)].bucket if self._rows else 0

    def __contains__(self, key: object) -> bool:
        try:
            self[key]
        except KeyError:
            return False
        return True

    def top(self, n: int, key: Callable[[tuple[Any, Any]], Any] | None = None) -> list[tuple[Any, Any]]:
        """Return the `n` pairs with the greatest values, greatest first; of equal ones, the earlier.

        Args:
            key: returns what of a pair is compared; its value by default, which must not be a dict.
        """
        try:
            return heapq.nlargest(n, self._each(), key=key or itemgetter(1))
        except TypeError as error:
            if key is None:
                error.add_note("values that have no order need top(n, key=...), such as key=lambda pair: pair[1]['n']")
            raise

    def to_dict(self) -> dict[Any, Any]:
        """Return a dict of all pairs, in order."""
        found: dict[Any, Any] = {}
        for row in self._rows:
            keys, values = self._pairs(row)
            found.update(zip(map(shown, keys) if self._key_bytes_fn else keys, values, strict=True))
        return found

    def to_arrow(self) -> Any:
        """Return an Arrow table: the columns of the key, and those of the value.

        The key's columns are named by KEY, or "key"; the value's by the names of its aggregations, or "value".
        """
        from pymar.sources.extras import needed

        pyarrow = needed("pyarrow", "parquet", "to_arrow()")
        return pyarrow.table(self._columns())

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with the columns of `to_arrow`."""
        from pymar.sources.extras import needed

        pandas = needed("pandas", "pandas", "to_pandas()")
        return pandas.DataFrame(self._columns())

    def _columns(self) -> dict[str, list[Any]]:
        keys: list[Any] = []
        values: list[Any] = []
        for key, value in self._each():
            keys.append(key)
            values.append(value)
        names = self._names
        if names is None or isinstance(names, str):
            columns = {names or "key": keys}
        else:
            columns = dict(zip(names, map(list, zip(*keys, strict=True)) if keys else [[] for _ in names], strict=True))
        if values and all(type(value) is dict and value.keys() == values[0].keys() for value in values):
            return {**columns, **{name: [value[name] for value in values] for name in values[0]}}
        if not values and self._fields:
            return {**columns, **{name: [] for name in self._fields}}
        return {**columns, "value": values}

    def as_source(self) -> tuple[type[DataSource], dict[str, Any]] | None:
        return None if self._key_bytes_fn is not None else super().as_source()

    def close(self) -> None:
        self._cached = None
        super().close()

    def __repr__(self) -> str:
        return f"<Result of {self._length:,} keys{', closed' if self._is_closed else ''}>"


class Records(Stored):
    """Records in their order, read from disk as they are asked for: by iteration, by place, as a source of a job.

    What it is read from is removed as that of a Result.
    """

    def __iter__(self) -> Iterator[Any]:
        for row in self._rows:
            yield from self._records(row)

    def __getitem__(self, place: int) -> Any:
        """Return the record at a place; from the end, if it is negative."""
        if not isinstance(place, int):
            raise UsageError(f"{place!r:.100} is no place: for a slice, use itertools.islice over the result")
        at = place + self._length if place < 0 else place
        if not 0 <= at < self._length:
            raise IndexError(f"there are {self._length:,} records, and none at {place}")
        for row in self._rows:
            if at < row.pairs:
                return self._records(row)[at]
            at -= row.pairs
        raise AssertionError("unreachable")

    def _records(self, row: SegmentRow) -> list[Any]:
        if self._latest is None or self._latest[0] is not row:
            self._latest = row, _decoded(self._data(row), self._codec)[0]
        self._check_open()
        return self._latest[1]

    #: The segment that was read last, and its records.
    _latest: tuple[SegmentRow, list[Any]] | None = None

    def batches(self) -> Batches:
        """Return the same records as Arrow record batches, for a job whose map_fn takes those; they have to be rows."""
        return Batches(self)

    def to_arrow(self) -> Any:
        """Return an Arrow table of all records, which have to be rows."""
        from pymar.sources.extras import needed

        pyarrow = needed("pyarrow", "parquet", "to_arrow()")
        tables = [_table(self._data(row), self._codec) for row in self._rows]
        return pyarrow.concat_tables(tables, promote_options="permissive") if tables else pyarrow.table({})

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame of all records, which have to be rows."""
        return self.to_arrow().to_pandas()

    def to_list(self) -> list[Any]:
        """Return all records, in their order."""
        return list(self)


class Batches:
    """The records of a result as Arrow record batches: data for a job."""

    def __init__(self, records: Records) -> None:
        self._of = records

    def __iter__(self) -> Iterator[Any]:
        for row in self._of._rows:
            yield from _table(self._of._data(row), self._of._codec).to_batches()

    def as_source(self) -> tuple[type[DataSource], dict[str, Any]] | None:
        """Return the source of the batches for workers, with its settings; None if they do not see its files."""
        found = self._of.as_source()
        return None if found is None else (found[0], {**found[1], "as_batches": True})


class _Items:
    """The pairs of a result."""

    def __init__(self, result: Result) -> None:
        self._result = result

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._result._each()

    def __len__(self) -> int:
        return len(self._result)


class _Values(_Items):
    """The values of a result."""

    def __iter__(self) -> Iterator[Any]:
        return map(itemgetter(1), self._result._each())


def _read(place: Place, row: SegmentRow, secret: bytes, path: str) -> bytes:
    try:
        data = place.read(row.name, row.at, row.length)
    except Damaged as damage:
        raise ExchangeError(f"the result in {redacted(path)} is damaged: {damage}") from damage
    if digest_of(data, secret) != row.digest:
        raise ExchangeError(f"the result in {redacted(path)} is damaged: {row.name} is not what was written")
    return data


def codec_of(is_trusted: bool) -> Codec:
    """Return how the values of a result are read: as plain data only, unless they may be unpickled."""
    return Codec(dumps, loads, True) if is_trusted else Codec(plain.dumps, plain.loads, False)


def _decoded(data: bytes, codec: Codec) -> tuple[list[Any], list[Any]]:
    """Return the keys and values of a segment; of one of records, those and no values."""
    (chunk,) = chunks_in(data, codec, has_keys=False)
    if not chunk.columns:
        return as_list(chunk.keys), []
    return as_list(canonical(chunk.keys)), as_list(chunk.columns[0])


def _table(data: bytes, codec: Codec) -> Any:
    """Return the records of a segment as an Arrow table."""
    import pyarrow

    (chunk,) = chunks_in(data, codec, has_keys=False)
    if isinstance(chunk.keys, pyarrow.Table):
        return chunk.keys
    rows = as_list(chunk.keys)
    if not all(isinstance(row, Mapping) for row in rows):
        raise UsageError(f"the records are no rows, but such as {rows[0]!r:.100}: iterate over the result instead")
    return pyarrow.Table.from_pylist(rows)


class ResultSource(DataSource):
    """The pairs (key, value) of a result, or the records, read by the workers: a segment of it is the unit."""

    unit: ClassVar[str] = "segments"

    #: The exchange, as workers see it; and where each segment is.
    exchange: ClassVar[dict[str, Any]] = {}
    segments: ClassVar[list[list[Any]]] = []
    #: True if records are yielded as Arrow record batches.
    as_batches: ClassVar[bool] = False

    @classmethod
    def full_length(cls) -> int:
        return len(cls.segments)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        codec = codec_of(self._loads is not plain.loads)
        place = None
        if any(fields[-1] is None for fields in self.segments):
            place = seen(self.exchange, codec.is_trusted)
        for fields in self.segments[self.offset : self.offset + self.limit]:
            row = SegmentRow(*fields)
            if row.data is not None:
                data = row.data
            elif place is None:
                raise ExchangeError(f"this worker does not see {self.exchange['path']}, where the result is")
            else:
                data = _read(place, row, self.exchange["secret"], str(self.exchange["path"]))
            if self.as_batches:
                yield from _table(data, codec).to_batches()
                continue
            keys, values = _decoded(data, codec)
            yield from zip(keys, values, strict=True) if values else keys
