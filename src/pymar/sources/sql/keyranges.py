"""A table by ranges of its key: bounds from the data, the first range open below, the last above."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pymar.exceptions import SourceError
from pymar.serialization.settings import is_plain
from pymar.sources.sql.connection import alchemy, condition

#: Ranges that a table is cut into, if it has as many rows: several for each of many workers.
RANGES = 1_024


def is_unique(connection: Any, relation: Any, key: Sequence[str], schema: str | None, name: str) -> bool:
    """Whether the database says so of the key (its primary key, a unique index); or else, whether it is so now."""
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
    """Keys at which ranges begin, but for the first one; each range has as many rows, to within one."""
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
            f"the key {', '.join(key)} has values such as {found[0]!r}, which are no plain data: take a key of "
            "numbers, text or dates"
        )
    if connection.dialect.name == "postgresql" and any(isinstance(value, timedelta) for row in found for value in row):
        raise SourceError(
            f"the key {', '.join(key)} has intervals: PostgreSQL orders a year as 360 days, and tells it as 365. Take "
            "another key"
        )
    return found


def within(statement: Any, columns: Sequence[Any], limits: Sequence[Sequence[Any]], start: int, end: int) -> Any:
    """The statement for the ranges `start` to `end`; rows without a key belong to the first one."""
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
    # (1, NULL) >= (0, 5) is true: the first column decides. So rows without a whole key are kept out of all but one.
    whole = sqlalchemy.and_(*conditions, *(column.is_not(None) for column in columns))
    return statement.where(sqlalchemy.or_(whole, *(column.is_(None) for column in columns)) if start == 0 else whole)
