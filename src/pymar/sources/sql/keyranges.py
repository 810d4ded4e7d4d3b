"""A table by ranges of its key: bounds come from the data; the first and the last range have no outer bound."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pymar.exceptions import SourceError
from pymar.serialization.settings import is_plain
from pymar.sources.sql.connection import alchemy, condition

#: Number of ranges that a table is cut into, at most: several for each of many workers.
RANGES = 1_024


def is_unique(connection: Any, relation: Any, key: Sequence[str], schema: str | None, name: str) -> bool:
    """True if a primary key or a unique index guarantees that the key is unique; or if its values are unique now."""
    sqlalchemy = alchemy()
    primary = {column.name for column in getattr(relation, "primary_key", ())}
    if primary and primary <= set(key):
        return True
    if name:
        inspector = sqlalchemy.inspect(connection)
        try:
            sets = [index["column_names"] for index in inspector.get_indexes(name, schema) if index.get("unique")]
            sets += [one["column_names"] for one in inspector.get_unique_constraints(name, schema)]
        except (NotImplementedError, sqlalchemy.exc.NoSuchTableError):
            sets = []
        if any(set(columns) <= set(key) for columns in sets if columns):
            return True
    columns = [relation.c[one] for one in key]
    count = sqlalchemy.func.count()
    present = [column.is_not(None) for column in columns]
    twice = sqlalchemy.select(count).select_from(relation).where(*present).group_by(*columns).having(count > 1).limit(1)
    return connection.execute(twice).first() is None


def bounds(connection: Any, relation: Any, key: Sequence[str], where: str) -> list[list[Any]]:
    """Return the keys at which all ranges but the first begin; all have equally many rows, the last may have fewer."""
    sqlalchemy = alchemy()
    columns = [relation.c[name] for name in key]
    wanted = [column.is_not(None) for column in columns]
    if where:
        wanted.append(condition(where))
    count = connection.execute(sqlalchemy.select(sqlalchemy.func.count()).select_from(relation).where(*wanted)).scalar()
    step = -(-count // RANGES)
    if step == 0:
        return []
    number = sqlalchemy.func.row_number().over(order_by=columns).label("pymar_row")
    numbered = sqlalchemy.select(*columns, number).select_from(relation).where(*wanted).subquery("pymar_rows")
    keys = [numbered.c[name] for name in key]
    place = numbered.c.pymar_row - 1
    chosen = sqlalchemy.select(*keys).where(place > 0, place % step == 0).order_by(numbered.c.pymar_row)
    found = [list(row) for row in connection.execute(chosen)]
    if found and not is_plain(found[0]):
        raise SourceError(
            f"the key {', '.join(key)} has values such as {found[0]!r}, which are not plain data: set key= to "
            "columns of numbers, text or dates"
        )
    if connection.dialect.name == "postgresql" and any(isinstance(value, timedelta) for row in found for value in row):
        raise SourceError(
            f"the key {', '.join(key)} has intervals, whose years PostgreSQL sorts as 360 days, but which arrive as "
            "365 days: set key= to another column"
        )
    return found


def within(statement: Any, columns: Sequence[Any], limits: Sequence[Sequence[Any]], start: int, end: int) -> Any:
    """Return the statement for the ranges `start` to `end`; rows with a NULL in the key belong to the first one."""
    sqlalchemy = alchemy()
    key = columns[0] if len(columns) == 1 else sqlalchemy.tuple_(*columns)

    def bound(place: int) -> Any:
        values = limits[place - 1]
        typed = [sqlalchemy.literal(value, column.type) for value, column in zip(values, columns, strict=True)]
        return typed[0] if len(typed) == 1 else sqlalchemy.tuple_(*typed)

    conditions = []
    if start > 0:
        conditions.append(key >= bound(start))
    if end <= len(limits):
        conditions.append(key < bound(end))
    if not conditions:
        return statement
    # (1, NULL) >= (0, 5) is true, as the first column decides: all other ranges exclude rows with a NULL in the key.
    whole = sqlalchemy.and_(*conditions, *(column.is_not(None) for column in columns))
    return statement.where(sqlalchemy.or_(whole, *(column.is_(None) for column in columns)) if start == 0 else whole)
