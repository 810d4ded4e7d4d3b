"""A table as SQLAlchemy needs it: its columns and its primary key, found in the database."""

from __future__ import annotations

from typing import Any

from pymar.exceptions import SourceError
from pymar.sources.sql.connection import MYSQL, alchemy, literal, near


def named(connection: Any, table: str) -> tuple[str | None, str]:
    """Return schema and name of `schema.table`; if there is none, of a table whose own name has that dot."""
    sqlalchemy = alchemy()
    if connection.dialect.name == "sqlite":  # its names are the same in any case, but not for SQLAlchemy
        names = sqlalchemy.inspect(connection).get_table_names() + sqlalchemy.inspect(connection).get_view_names()
        for name in [name for name in names if name == table] or [name for name in names if _alike(name, table)]:
            return None, name
    schema, _, name = table.rpartition(".")
    if schema and connection.dialect.name in ("postgresql", *MYSQL):
        inspector = sqlalchemy.inspect(connection)
        if not inspector.has_table(name, schema) and inspector.has_table(table):
            return None, table
    return schema or None, name


def _alike(name: str, other: str) -> bool:
    return name.isascii() and name.lower() == other.lower()


def reflected(connection: Any, schema: str | None, name: str) -> Any:
    """Return the table as SQLAlchemy finds it, with columns whose values come as the driver gives them.

    SQLAlchemy converts by the types that columns declare. Columns of SQLite hold values of any type; MySQL's DOUBLE
    would be cut to ten places, and its TIME, up to 838 hours, would lose its days.

    Raises:
        SourceError: there is no such table.
    """
    sqlalchemy = alchemy()
    if connection.dialect.name == "duckdb":
        return _reflected_duckdb(connection, schema, name)
    kinds = sqlalchemy.types
    is_mysql = connection.dialect.name in MYSQL
    changed = (kinds.Numeric, kinds.Float, kinds.Time) if is_mysql else kinds.TypeEngine
    try:
        table = sqlalchemy.Table(
            name, sqlalchemy.MetaData(), schema=schema, autoload_with=connection, resolve_fks=False
        )
    except sqlalchemy.exc.NoSuchTableError:
        inspector = sqlalchemy.inspect(connection)
        there = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
        raise SourceError(f"there is no table {name!r}; {near(name, there)}") from None
    for column in table.columns:
        if connection.dialect.name != "postgresql" and isinstance(column.type, changed):
            column.type = kinds.NullType()
    return table


def _reflected_duckdb(connection: Any, schema: str | None, name: str) -> Any:
    """Return a table of DuckDB with its primary key; SQLAlchemy's own reflection asks for catalogs that it lacks."""
    sqlalchemy = alchemy()
    primary = sqlalchemy.text(
        "SELECT unnest(constraint_column_names) FROM duckdb_constraints() WHERE constraint_type = 'PRIMARY KEY' "
        "AND database_name = current_database() AND schema_name = coalesce(:schema, current_schema()) "
        "AND table_name = :name"
    )
    keys = set(connection.execute(primary, {"schema": schema, "name": name}).scalars())
    quoted = connection.dialect.identifier_preparer.format_table(sqlalchemy.table(name, schema=schema))
    names = connection.execute(sqlalchemy.text(literal(f"SELECT * FROM {quoted} LIMIT 0"))).keys()
    columns = [sqlalchemy.Column(one, sqlalchemy.types.NullType(), primary_key=one in keys) for one in names]
    return sqlalchemy.Table(name, sqlalchemy.MetaData(), *columns, schema=schema)
