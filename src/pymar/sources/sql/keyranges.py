"""A table by ranges of its key: bounds come from the data; the first and the last range have no outer bound."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pymar.exceptions import SourceError
from pymar.serialization.settings import is_plain
from pymar.sources.sql.connection import alchemy, condition
from pymar.sources.sql.tables import rowid_of
from pymar.sources.sql.words import MYSQL

#: Number of ranges that a table is cut into, at most: several for each of many workers.
RANGES = 1_024


def is_unique(connection: Any, relation: Any, key: Sequence[str], schema: str | None, name: str) -> bool:
    """True if a primary key or a unique index guarantees that the key is unique; or if its values are unique now."""
    sqlalchemy = alchemy()
    primary = {column.name for column in getattr(relation, "primary_key", ())}
    if (primary and primary <= set(key)) or rowid_of(relation) in key:
        return True
    if name and connection.dialect.name != "duckdb":  # it cannot tell its indexes to SQLAlchemy
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


def begin(connection: Any) -> None:
    """Begin a transaction that sees the rows at one moment, where the database has such transactions."""
    connection.rollback()
    if connection.dialect.name in ("postgresql", *MYSQL):
        connection.execution_options(isolation_level="REPEATABLE READ")
    elif connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")  # its driver begins none before a SELECT


def bounds(
    connection: Any, relation: Any, key: Sequence[str], where: str, is_query: bool = False
) -> tuple[list[list[Any]], tuple[int, int, int]]:
    """Return the keys at which all ranges but the first begin; and how many rows the ranges have.

    That is three numbers: of rows in each range (in the last one what remains), of rows whose key has no NULL, and of
    rows whose key has one. For a query, which is all but a table alone, the keys are asked for once more, and must be
    the same: of few rows, other ones might be in the ranges of their places by chance.
    """
    sqlalchemy = alchemy()
    columns = [relation.c[name] for name in key]
    wanted = [condition(where)] if where else []
    present = [column.is_not(None) for column in _untyped(columns)]
    total = sqlalchemy.func.count()
    if is_query:
        whole = sqlalchemy.func.count(sqlalchemy.case((sqlalchemy.and_(*present), 1)))
        both = sqlalchemy.select(total, whole).select_from(relation).where(*wanted)
        every, count = connection.execute(both).one()
    else:  # of a table alone, whose rows with NULLs nobody counts: an index may have the answer
        every = count = connection.execute(sqlalchemy.select(total).select_from(relation).where(*present)).scalar()
    step = -(-count // _most_ranges(connection, key))
    counted = (step, count, every - count)
    if step == 0:
        return [], counted
    wanted += present
    number = sqlalchemy.func.row_number().over(order_by=columns).label("pymar_row")
    labels = [column.label(f"pymar_key_{place}") for place, column in enumerate(columns)]  # a rowid has no name outside
    numbered = sqlalchemy.select(*labels, number).select_from(relation).where(*wanted).subquery("pymar_rows")
    keys = [numbered.c[label.name] for label in labels]
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
    _check_places(connection, relation, key, wanted, found, counted, is_query)
    if is_query and repr([list(row) for row in connection.execute(chosen)]) != repr(found):  # NaN is not itself
        raise SourceError(
            f"the keys of {', '.join(key)} were others when they were asked for once more in the same transaction: the "
            "query gives other rows each time. Write them to a table first (CREATE TABLE ... AS SELECT ...)"
        )
    return found, counted


def _most_ranges(connection: Any, key: Sequence[str]) -> int:
    dialect = connection.dialect
    if dialect.name == "sqlite" and dialect.dbapi.sqlite_version_info < (3, 32):
        return 999 // len(key)  # it takes so many parameters (https://www.sqlite.org/limits.html)
    return RANGES


def _check_places(
    connection: Any,
    relation: Any,
    key: Sequence[str],
    wanted: Sequence[Any],
    limits: Sequence[Any],
    counted: tuple[int, int, int],
    is_query: bool,
) -> None:
    """Raise SourceError unless each row is in the range of its place, by the comparisons that parts will ask for.

    A database may sort and compare differently (an ENUM by its number, and as text), a bound may come back as another
    value than it went, and a query may give other rows each time: parts would miss rows, or read them twice.
    """
    step, rows, _ = counted
    if rows <= 1:  # there is one range, which nothing cuts
        return
    sqlalchemy = alchemy()
    columns = [relation.c[name] for name in key]
    compared = _compared(columns)

    def first(low: int, high: int) -> Any:
        """The number of the first row of the range that a row is in, one of `low` to `high`: by bisection."""
        if low == high:
            return sqlalchemy.literal_column(str(low * step))
        middle = (low + high) // 2
        return sqlalchemy.case(
            (compared < _bound(columns, limits[middle]), first(low, middle)), else_=first(middle + 1, high)
        )

    number = sqlalchemy.func.row_number().over(order_by=columns).label("pymar_row")
    range_ = first(0, len(limits)).label("pymar_range")
    both = sqlalchemy.select(range_, number).select_from(relation).where(*wanted).subquery("pymar_places")
    place = both.c.pymar_row - 1
    is_elsewhere = sqlalchemy.case((both.c.pymar_range != place - place % step, 1), else_=0)
    asked = sqlalchemy.select(sqlalchemy.func.count(), sqlalchemy.func.sum(is_elsewhere)).select_from(both)
    count, elsewhere = (int(one or 0) for one in connection.execute(asked).one())
    if is_query:  # tables without transactions (MyISAM) may have been written to meanwhile
        elsewhere = elsewhere or abs(count - rows)
    if elsewhere:
        raise SourceError(
            f"the key {', '.join(key)} does not cut the rows: {elsewhere:,} of them would be missed or read twice. Its "
            "order is not that of its values (an ENUM or SET is sorted by number, but compared as text; a FLOAT comes "
            "rounded): set key= to columns of numbers, text or dates. Or the query gives other rows each time: write "
            "them to a table first"
        )


def _compared(columns: Sequence[Any]) -> Any:
    """Return what is compared with a bound."""
    return _together(_untyped(columns))


def _bound(columns: Sequence[Any], values: Sequence[Any]) -> Any:
    return _together([alchemy().literal(value, column.type) for value, column in zip(values, columns, strict=True)])


def _untyped(columns: Sequence[Any]) -> list[Any]:
    """Return the columns without types, by which SQLAlchemy would choose operators: it has none for MySQL's BIT."""
    sqlalchemy = alchemy()
    return [sqlalchemy.type_coerce(column, sqlalchemy.types.NullType()) for column in columns]


def _together(elements: Sequence[Any]) -> Any:
    return elements[0] if len(elements) == 1 else alchemy().tuple_(*elements)


def within(statement: Any, columns: Sequence[Any], limits: Sequence[Sequence[Any]], start: int, end: int) -> Any:
    """Return the statement for the ranges `start` to `end`; rows with a NULL in the key belong to the first one."""
    sqlalchemy = alchemy()
    key = _compared(columns)
    conditions = []
    if start > 0:
        conditions.append(key >= _bound(columns, limits[start - 1]))
    if end <= len(limits):
        conditions.append(key < _bound(columns, limits[end - 1]))
    if not conditions:
        return statement
    # (1, NULL) >= (0, 5) is true, as the first column decides: all other ranges exclude rows with a NULL in the key.
    columns = _untyped(columns)
    whole = sqlalchemy.and_(*conditions, *(column.is_not(None) for column in columns))
    return statement.where(sqlalchemy.or_(whole, *(column.is_(None) for column in columns)) if start == 0 else whole)
