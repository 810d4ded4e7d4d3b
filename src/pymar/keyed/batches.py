"""Batches: columns of numpy or Arrow that map_fn yields, combined by the library that they are of."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pymar.exceptions import UsageError
from pymar.keyed.aggregations import Aggregation, Count, Max, Mean, Min, Sum
from pymar.keyed.pairs import _is_batch as is_batch
from pymar.keyed.pairs import is_arrow
from pymar.keyed.reduction import Reduction, no_column
from pymar.keyed.vectors import numpy_if_there

__all__ = ["Columns", "as_array", "combined", "is_batch", "is_int64", "numpy_if_there", "read", "together"]


#: Rows of Arrow tables that are taken together, and bytes: few rows cost nearly what many do.
ROWS_TOGETHER, BYTES_TOGETHER = 1 << 20, 32 << 20


def as_table(data: Any) -> Any:
    """Return an Arrow table; of a record batch, one."""
    import pyarrow

    return pyarrow.Table.from_batches([data]) if isinstance(data, pyarrow.RecordBatch) else data


def together(tables: Iterable[Any]) -> Iterator[Any]:
    """Yield Arrow tables, those of one schema put together to ROWS_TOGETHER or more.

    Those that wait are copied: they may be of an array of numpy that map_fn changes before it yields the next one.
    """
    waiting: list[Any] = []
    rows = size = 0
    for table in tables:
        if waiting and table.schema != waiting[0].schema:
            yield _as_one(waiting)
            waiting, rows, size = [], 0, 0
        rows += len(table)
        size += table.nbytes
        if rows >= ROWS_TOGETHER or size >= BYTES_TOGETHER:
            yield _as_one([*waiting, table])
            waiting, rows, size = [], 0, 0
        else:
            waiting.append(_copied(table))
    if waiting:
        yield _as_one(waiting)


def _as_one(tables: Sequence[Any]) -> Any:
    import pyarrow  # late: whoever has no tables may not have it

    return pyarrow.concat_tables(tables).unify_dictionaries()


def _copied(table: Any) -> Any:
    import pyarrow

    return table.take(pyarrow.array(range(len(table)), pyarrow.int64()))


def as_array(column: Any) -> Any:
    """Return a column that is an array, or could be one, as an array (of numpy, if it is there); else the list."""
    if isinstance(column, list):
        kinds = set(map(type, column))
        if kinds != {int} and kinds != {float}:
            return column
        try:
            column = array("q" if kinds == {int} else "d", column)
        except OverflowError:
            return column
    numpy = numpy_if_there()
    if numpy is None or not isinstance(column, array):
        return column
    return numpy.frombuffer(column, numpy.int64 if column.typecode == "q" else numpy.float64)


def is_int64(column: Any) -> bool:
    """True for an array of int64."""
    return getattr(column, "dtype", None) == "int64" or getattr(column, "typecode", None) == "q"


def _is_float64(column: Any) -> bool:
    return bool(getattr(column, "dtype", None) == "float64")


class Columns:
    """A batch: a column of keys, and columns of values in the order of `Reduction.columns`."""

    def __init__(self, keys: Any, values: list[Any], table: Any = None, names: Sequence[str] = ()) -> None:
        self.keys: Any = keys
        self.values: list[Any] = values
        self.table: Any = table
        self.names: Sequence[str] = names
        self.length: int = len(keys) if table is None else table.num_rows
        #: Bytes of its columns, about.
        self.size: int = sum(getattr(one, "nbytes", 0) for one in (keys, *values)) if table is None else table.nbytes

    def key_list(self) -> list[Any]:
        """Return the keys as a list."""
        if self.table is None:
            return _listed(self.keys)
        columns = [self.table.column(name).to_pylist() for name in self.names]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    def value_columns(self) -> list[Any]:
        """Return the columns of values: arrays of numpy as they are, others as lists."""
        return [column if is_int64(column) or _is_float64(column) else _listed(column) for column in self.values]

    def value_lists(self) -> list[list[Any]]:
        """Return the columns of values as lists."""
        return [_listed(column) for column in self.values]


def _listed(column: Any) -> list[Any]:
    if isinstance(column, list):
        return column
    dtype = getattr(column, "dtype", None)
    if dtype is not None and dtype.kind in "mM" and dtype.itemsize:
        unit = str(dtype)[str(dtype).find("[") :]
        if unit in ("[ns]", "[ps]", "[fs]", "[as]"):
            exact = column.astype(dtype.str[:3] + "[us]")
            missing = column != column  # NaT
            if ((exact.astype(dtype) != column) & ~missing).any():
                raise UsageError(f"an array of {dtype} has times that Python's microseconds do not hold: round them")
            column = exact
    found: list[Any] = column.tolist()
    return found


def read(data: Any, producer: type[Any], reduction: Reduction) -> Columns:
    """Return a batch as columns.

    Raises:
        UsageError: it lacks a column, or has another shape.
    """
    if is_arrow(data):
        return _read_arrow(data, producer, reduction)
    keys, values = data
    if keys.ndim != 1 or len(values) != len(keys):
        raise UsageError(
            f"{producer.__name__}.map_fn yielded arrays of the shapes {keys.shape} and {values.shape}: the first holds "
            "the keys, has one dimension, and is as long as the second"
        )
    names = [column for column in reduction.columns if column is not None]
    if values.dtype.names and names:
        if lacking := [name for name in names if name not in values.dtype.names]:
            raise no_column(reduction.name, lacking, dict.fromkeys(values.dtype.names))
        columns = [values[name] if name is not None else values for name in reduction.columns]
    elif values.ndim == 2 and names and all(type(name) is int and name < values.shape[1] for name in names):
        columns = [values[:, name] if name is not None else values for name in reduction.columns]
    elif names:
        raise UsageError(
            f"{reduction.name} reads the column {names[0]!r}, and map_fn yields an array of values without names: "
            "yield one with fields (a structured array), a dict a row, or an Arrow table"
        )
    else:
        columns = [values] * len(reduction.columns)
    columns = [list(map(tuple, one.tolist())) if one.ndim > 1 else one for one in columns]
    return Columns(_native(keys), [_native(column) for column in columns])


def _native(column: Any) -> Any:
    """Return ints as int64, doubles as they are, and all else as a list."""
    if isinstance(column, list):
        return column
    if column.dtype.kind == "i" or (column.dtype.kind == "u" and column.dtype.itemsize < 8):
        return column.astype("int64")
    if column.dtype.kind == "f" and column.dtype.itemsize == 8:
        return column.astype("float64")
    return _listed(column)


def _read_arrow(data: Any, producer: type[Any], reduction: Reduction) -> Columns:

    table = as_table(data)
    names = producer.KEY
    if names is None:
        raise UsageError(
            f"{producer.__name__}.map_fn yielded an Arrow table: name its key column, such as KEY = "
            f"{table.column_names[0] if table.column_names else 'name'!r:.60}"
        )
    keys = [names] if isinstance(names, str) else list(names)
    rest = [name for name in table.column_names if name not in keys]
    wanted: list[str] = []
    _check_columns("KEY", keys, table)
    for column in reduction.columns:
        if column is None and len(rest) != 1:
            raise UsageError(
                f"{reduction.name} does not say of which column: the table has {rest!r:.200} besides the key. Name it, "
                "as in Sum('amount')"
            )
        wanted.append(rest[0] if column is None else column)
    _check_columns(reduction.name, wanted, table)
    values = [_ArrowColumn(table.column(name)) for name in wanted]
    key: Any = _ArrowColumn(table.column(keys[0])) if len(keys) == 1 else None
    return Columns(key, values, table.select([*dict.fromkeys((*keys, *wanted))]), keys)


def _check_columns(by: str, names: Sequence[str], table: Any) -> None:
    for name in names:
        if name not in table.column_names:
            raise no_column(by, [name], dict.fromkeys(table.column_names))


class _ArrowColumn:
    """A column of Arrow, which becomes a list once it is needed."""

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def tolist(self) -> list[Any]:
        """Return its values."""
        found: list[Any] = self.column.to_pylist()
        return found


def combined(found: Columns, reduction: Reduction) -> tuple[list[Any], list[list[Any]]] | None:
    """Return the keys of a batch, in the order in which they come, and the states of each aggregation for them.

    Returns:
        None if the library cannot do it as Python would: then the batch is taken as lists.
    """
    if reduction.function is not None:
        return None
    if found.table is not None:
        return _combined_arrow(found, reduction)
    return _combined_numpy(found, reduction)


def _combined_numpy(found: Columns, reduction: Reduction) -> tuple[list[Any], list[list[Any]]] | None:
    numpy: Any = sys.modules["numpy"]
    if not is_int64(found.keys) or any(type(one) not in (Sum, Count, Mean) for one in reduction.aggregations):
        return None
    if any(isinstance(column, list) for column in found.values):
        return None
    unique, first, inverse = numpy.unique(found.keys, return_index=True, return_inverse=True)
    order = numpy.argsort(first, kind="stable")
    counts = numpy.bincount(inverse, minlength=len(unique))
    by_column: dict[Any, list[Any]] = {}
    for column, values in zip(reduction.columns, found.values, strict=True):
        if is_int64(values):
            largest = max(int(values.max()), -int(values.min()))
            if largest * len(values) >= 1 << 63:
                return None  # it would wrap, in silence
            by_key = numpy.argsort(inverse, kind="stable")
            starts = numpy.concatenate(([0], numpy.cumsum(counts)[:-1]))
            sums = numpy.add.reduceat(values[by_key], starts)
        else:
            sums = numpy.bincount(inverse, weights=values, minlength=len(unique))  # adds from left to right
        by_column[column] = sums[order].tolist()
    how_many = counts[order].tolist()
    states: list[list[Any]] = []
    for one in reduction.aggregations:
        if type(one) is Count:
            states.append(how_many)
        else:
            sums = by_column[one.column]
            states.append(sums if type(one) is Sum else list(zip(sums, how_many, strict=True)))
    return unique[order].tolist(), states


def _combined_arrow(found: Columns, reduction: Reduction) -> tuple[list[Any], list[list[Any]]] | None:
    import pyarrow.compute as pc

    table = found.table
    wanted: list[tuple[Any, str, Any]] = []
    for one in reduction.aggregations:
        kind = type(one)
        if kind is Count and one.column is None:
            wanted.append(([], "count_all", None))
            continue
        name = _column_name(one, found)
        column = table.column(name)
        if kind is Count:
            wanted.append((name, "count", pc.CountOptions(mode="only_valid")))
        elif kind in (Sum, Mean) and _adds_exactly(column):
            wanted.append((name, "sum", pc.ScalarAggregateOptions(min_count=0)))
            if kind is Mean:
                wanted.append((name, "count", pc.CountOptions(mode="only_valid")))
        elif kind in (Min, Max) and _is_ordered(column):
            wanted.append((name, kind.__name__.lower(), pc.ScalarAggregateOptions(min_count=1)))
        else:
            return None
    # With threads, groups come in another order each time, and sums of floats with other last bits.
    grouped = table.group_by(list(found.names), use_threads=False).aggregate(wanted)
    width = len(found.names)
    names = grouped.column_names
    is_first = names[0] == found.names[0]  # before pyarrow 14 the keys came last
    columns = grouped.columns[width:] if is_first else grouped.columns[:-width]
    key_columns = [grouped.column(name).to_pylist() for name in found.names]
    keys = key_columns[0] if width == 1 else list(zip(*key_columns, strict=True))
    lists = iter([column.to_pylist() for column in columns])
    states: list[list[Any]] = []
    for one in reduction.aggregations:
        sums = next(lists)
        states.append(list(zip(sums, next(lists), strict=True)) if type(one) is Mean else sums)
    return keys, states


def _column_name(one: Aggregation, found: Columns) -> str:
    if one.column is not None:
        return str(one.column)
    return str(next(name for name in found.table.column_names if name not in found.names))


def _adds_exactly(column: Any) -> bool:
    """True if Arrow adds a column as Python does: floats from left to right, ints where the sum cannot wrap."""
    import pyarrow
    import pyarrow.compute as pc

    kind = column.type
    if pyarrow.types.is_float64(kind):
        return True
    if not pyarrow.types.is_integer(kind) or len(column) == 0:
        return False
    bounds = pc.min_max(column).as_py()
    largest = max(abs(bounds["min"] or 0), abs(bounds["max"] or 0))
    return bool(largest * len(column) < 1 << 63)


def _is_ordered(column: Any) -> bool:
    """True if Arrow orders a column as Python does: floats only without NaN."""
    import pyarrow
    import pyarrow.compute as pc

    kind = column.type
    if pyarrow.types.is_floating(kind):
        return not pc.any(pc.is_nan(column)).as_py()
    return bool(pyarrow.types.is_integer(kind) or pyarrow.types.is_date(kind))
