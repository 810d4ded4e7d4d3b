"""Arrow tables joined with a small side by Arrow itself, in the order of the left side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_JOINS = {"inner": "inner", "left": "left outer", "semi": "left semi", "anti": "left anti"}


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
        #: The table, with its key of the types that a left side has, by those.
        self._tables: dict[Any, Any] = {}

    def joined(self, left: Any, how: str) -> Any | None:
        """Return a table of the left side, joined; None if Arrow would not find the keys equal that Python does."""
        import pyarrow

        kinds = [left.schema.field(name).type for name in self._on]
        right = self._table(tuple(kinds))
        if right is None:
            return None
        renamed = [f"{name}_right" if name in left.column_names else name for name in right.column_names]
        renamed = [name if name in self._on else new for name, new in zip(right.column_names, renamed, strict=True)]
        right = right.rename_columns(renamed)
        place = pyarrow.array(range(len(left)), pyarrow.int64())
        numbered = left.append_column("__left", place)
        if how in ("inner", "left"):
            right = right.append_column("__right", pyarrow.array(range(len(right)), pyarrow.int64()))
        else:
            right = right.select(self._on)
        found = numbered.join(right, self._on, join_type=_JOINS[how], use_threads=False)
        order = [("__left", "ascending")]
        if how in ("inner", "left"):
            order.append(("__right", "ascending"))
        found = found.sort_by(order)
        others = [] if how in ("semi", "anti") else [name for name in renamed if name not in self._on]
        return found.select([*left.column_names, *others])

    def _table(self, kinds: tuple[Any, ...]) -> Any | None:
        if kinds not in self._tables:
            self._tables[kinds] = self._made(kinds)
        return self._tables[kinds]

    def _made(self, kinds: Sequence[Any]) -> Any | None:
        import pyarrow
        from pyarrow import types

        if not all(types.is_integer(kind) or types.is_string(kind) or types.is_date(kind) for kind in kinds):
            return None
        of_key = dict(zip(self._on, kinds, strict=True))
        try:
            columns = {name: pyarrow.array(self._columns[name], of_key.get(name)) for name in self._names}
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            return None
        for name in self._on:  # 1.0 would become 1, and True too: those are equal, and others would be cut
            if {type(value) for value in self._columns[name]} - {int, str, type(None)} and not types.is_date(
                of_key[name]
            ):
                return None
        return pyarrow.table(columns)
