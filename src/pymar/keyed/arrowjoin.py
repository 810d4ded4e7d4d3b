"""Arrow tables joined with a small side by columns, in the order of the left side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

#: Possible keys of which a table with the group of each is made.
_POSSIBLE = 1 << 22


#: Types, by module and name, whose values are the same after a trip through Arrow.
_KEPT_BY_ARROW = {("builtins", name) for name in ("int", "float", "str", "bytes", "bool")} | {("datetime", "date")}


class ArrowSide:
    """The right side of a join as a table, for one task. One thread at a time.

    Args:
        held: the rows of each key, as tuples of the columns in the order of their names.
        names: the columns of the right side, in the order of its rows.
        on: the columns of the key.
    """

    def __init__(self, held: Mapping[Any, list[Any]], names: Sequence[str], on: Sequence[str]) -> None:
        self._on = list(on)
        self._names = list(names)
        stored = sorted(names)
        rows = [row for several in held.values() for row in several]
        columns = list(zip(*rows, strict=True)) if rows else [() for _ in stored]
        self._columns: dict[str, Any] = dict(zip(stored, columns, strict=True))
        #: The indexes of the right side, by the types that the key has on the left.
        self._indexes: dict[Any, _Index | None] = {}

    def joined(self, left: Any, how: str) -> Any | None:
        """Return a table of the left side, joined; None if Arrow would not find the keys equal that Python does."""
        import numpy
        import pyarrow

        kinds = tuple(left.schema.field(name).type for name in self._on)
        if kinds not in self._indexes:
            self._indexes[kinds] = self._index(kinds)
        index = self._indexes[kinds]
        if index is None:
            return None
        groups = index.groups_of(left)
        if how in ("semi", "anti"):
            return left.filter(pyarrow.array((groups >= 0) == (how == "semi")))
        if how == "inner":
            there = numpy.flatnonzero(groups >= 0)
            groups = groups[there]
        else:
            there = numpy.arange(len(groups))
        counts = numpy.where(groups < 0, 1, index.counts[groups]) if len(index.counts) else numpy.ones_like(groups)
        starts = numpy.cumsum(counts) - counts
        within = numpy.arange(int(counts.sum())) - numpy.repeat(starts, counts)
        groups = numpy.repeat(groups, counts)
        places = index.places[index.starts[groups] + within] if len(index.counts) else numpy.zeros_like(groups)
        taken = left.take(pyarrow.array(numpy.repeat(there, counts)))
        of_right = pyarrow.array(places, mask=groups < 0)
        for name in self._names:
            if name not in self._on:
                new = f"{name}_right" if name in left.column_names else name
                taken = taken.append_column(new, index.table.column(name).take(of_right))
        return taken

    def _index(self, kinds: Sequence[Any]) -> _Index | None:
        import pyarrow
        from pyarrow import types

        if not all(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind) for kind in kinds):
            return None
        for name in self._on:  # 1.0 would be cut to 1, True too: they are equal to it, and others would not be
            if {type(value) for value in self._columns[name]} - {int, str, type(None)}:
                return None
        # Columns whose types Arrow would change, or make alike, stay Python's: 1 beside 2.5, tuples, dicts, decimals.
        for column in self._columns.values():
            found = {type(value) for value in column} - {type(None)}
            if len(found) > 1 or not {(one.__module__, one.__name__) for one in found} <= _KEPT_BY_ARROW:
                return None
        of_key = dict(zip(self._on, kinds, strict=True))
        try:
            table = pyarrow.table({name: pyarrow.array(self._columns[name], of_key.get(name)) for name in self._names})
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            return None
        index = _Index(table, self._on)
        return index if index.is_exact else None


class _Index:
    """Which rows of a table have which key: groups of rows with equal ones."""

    def __init__(self, table: Any, on: Sequence[str]) -> None:
        import numpy
        import pyarrow.compute as pc

        self.table: Any = table
        self._on = on
        #: The different values of each column of the key: a key becomes one number by their places.
        self._values = [pc.unique(table.column(name)).drop_null() for name in on]
        possible = prod(map(len, self._values))
        #: False if there are more possible keys than 63 bits can number.
        self.is_exact: bool = possible < 1 << 62
        codes = self._codes(table)
        order = numpy.argsort(codes, kind="stable")
        order = order[int(numpy.searchsorted(codes[order], 0)) :]  # without keys that are null
        self._keys: Any
        #: Of each group: where its rows are in `places`, and how many.
        self.starts: Any
        self.counts: Any
        self._keys, self.starts, self.counts = numpy.unique(codes[order], return_index=True, return_counts=True)
        self.places: Any = order
        #: The group of each key, if there are few possible ones; else None.
        self._groups: Any = None
        if possible <= _POSSIBLE:
            self._groups = numpy.full(possible + 1, -1)  # the last one for -1, a key that is not here
            self._groups[self._keys] = numpy.arange(len(self._keys))

    def groups_of(self, left: Any) -> Any:
        """Return the group of each row of another table: -1 if no row here has its key."""
        import numpy

        codes = self._codes(left)
        if self._groups is not None:
            return self._groups[codes]
        if not len(self._keys):
            return numpy.full(len(codes), -1)
        groups = numpy.searchsorted(self._keys, codes)
        groups[groups == len(self._keys)] = 0
        groups[self._keys[groups] != codes] = -1
        return groups

    def _codes(self, table: Any) -> Any:
        import numpy
        import pyarrow.compute as pc

        codes: Any = None
        for name, values in zip(self._on, self._values, strict=True):
            found = pc.index_in(table.column(name), value_set=values, skip_nulls=True)
            places = pc.fill_null(found, -1).to_numpy().astype(numpy.int64)
            codes = (
                places if codes is None else numpy.where((codes < 0) | (places < 0), -1, codes * len(values) + places)
            )
        return codes
