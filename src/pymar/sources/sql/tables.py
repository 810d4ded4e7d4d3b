"""A table as SQLAlchemy needs it: its columns and its primary key, found in the database."""

from __future__ import annotations

import re
from typing import Any

from pymar.exceptions import SourceError
from pymar.sources.sql.connection import alchemy, literal, near
from pymar.sources.sql.words import MYSQL

#: SQLite's names of the number that each row has; a column of the same name hides one
#: (https://www.sqlite.org/rowidtable.html).
_ROWIDS = ("rowid", "_rowid_", "oid")
#: With which quotes names begin, and end.
_QUOTES = {"sqlite": {'"': '"', "`": "`", "[": "]"}, **{name: {'"': '"', "`": "`"} for name in MYSQL}}


def named(connection: Any, table: str) -> tuple[str | None, str]:
    """Return schema and name of `schema.table`; if there is none, of a table whose own name has that dot.

    What is within the database's quotes is taken as it is.

    Raises:
        SourceError: there are more than two names.
    """
    sqlalchemy = alchemy()
    pieces = _pieces(table, connection.dialect.name)
    if connection.dialect.name == "sqlite":  # its names are the same in any case, but not for SQLAlchemy
        *schemas, wanted = pieces or [table]
        inspector, schema = sqlalchemy.inspect(connection), _schema(table, schemas)
        names = inspector.get_table_names(schema) + inspector.get_view_names(schema)
        for name in [name for name in names if name == wanted] or [name for name in names if _alike(name, wanted)]:
            return schema, name
    if pieces:
        return _schema(table, pieces[:-1]), pieces[-1]
    schema, _, name = table.rpartition(".")
    if schema and connection.dialect.name in ("postgresql", *MYSQL):
        inspector = sqlalchemy.inspect(connection)
        if not inspector.has_table(name, schema) and inspector.has_table(table):
            return None, table
    return schema or None, name


def _pieces(table: str, dialect: str) -> list[str]:
    """Return the names, separated by dots, of a table of which one is within quotes; [] if none is."""
    ends = _QUOTES.get(dialect, {'"': '"'})
    quoted = [rf"{re.escape(a)}(?:[^{re.escape(b)}]|{re.escape(b + b)})+{re.escape(b)}" for a, b in ends.items()]
    starts = re.escape("".join(ends))
    piece = rf"(?:{'|'.join(quoted)}|[^.{starts}][^.]*)"
    if not re.fullmatch(rf"{piece}(?:\.{piece})*", table):
        return []
    found = re.findall(piece, table)
    bare = [one[1:-1].replace(ends[one[0]] * 2, ends[one[0]]) if one[0] in ends else one for one in found]
    return bare if bare != found else []


def _schema(table: str, schemas: list[str]) -> str | None:
    if len(schemas) > 1:
        raise SourceError(
            f"table is {table!r}: it has to be a table, or a schema and a table; give the database in url. A name that "
            "has a dot or a quote has to be within quotes"
        )
    return schemas[0] if schemas else None


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
            name,
            sqlalchemy.MetaData(),
            schema=schema,
            autoload_with=connection,
            resolve_fks=False,
            listeners=[("column_reflect", _unquoted)] if is_mysql else [],
        )
    except sqlalchemy.exc.NoSuchTableError:
        inspector = sqlalchemy.inspect(connection)
        there = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
        raise SourceError(f"there is no table {name!r}; {near(name, there)}") from None
    for column in table.columns:
        if is_mysql and type(column.type).__name__ == "FLOAT":
            column.info["exact"] = True  # as text it has six digits of its seven to nine
        if connection.dialect.name != "postgresql" and isinstance(column.type, changed):
            column.type = kinds.NullType()
    return table


def exact(column: Any) -> Any:
    """Return what to select for a column, so that its values come whole."""
    sqlalchemy = alchemy()
    if not isinstance(column, sqlalchemy.Column) or not column.info.get("exact"):
        return column
    double = sqlalchemy.cast(column, sqlalchemy.types.Double())
    return sqlalchemy.type_coerce(double, sqlalchemy.types.NullType()).label(column.name)


def _unquoted(_inspector: Any, _table: Any, column: Any) -> None:
    """Give a column of MySQL its name: SQLAlchemy finds it as it stands in SHOW CREATE TABLE, backquotes doubled."""
    column["name"] = column["name"].replace("``", "`")


def _reflected_duckdb(connection: Any, schema: str | None, name: str) -> Any:
    """Return a table of DuckDB with its primary key; SQLAlchemy's own reflection asks for catalogs that it lacks."""
    sqlalchemy = alchemy()
    schemas = sqlalchemy.text("SELECT 1 FROM duckdb_schemas() WHERE schema_name = :schema")
    if schema and "." in schema and connection.execute(schemas, {"schema": schema}).first():
        # duckdb_engine takes it for a database and a schema, however it is quoted.
        raise SourceError(
            f"the schema {schema!r} has a dot, which the driver of DuckDB takes for the end of a database's name: read "
            "the table with query= and key="
        )
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


def add_rowid(connection: Any, table: Any) -> None:
    """Give a table of SQLite without a primary key its rowid as one more column; views have none.

    `rowid_of` knows its name. It is under a name that no column hides, if there is one.
    """
    sqlalchemy = alchemy()
    if connection.dialect.name != "sqlite" or list(table.primary_key):
        return
    if not sqlalchemy.inspect(connection).has_table(table.name, table.schema) or _is_view(connection, table):
        return
    quote = connection.dialect.identifier_preparer.quote_identifier
    schema = f"{quote(table.schema)}." if table.schema else ""
    # Columns that SQLAlchemy leaves out, such as those of a virtual table, hide a name too.
    columns = connection.exec_driver_sql(f"PRAGMA {schema}table_xinfo({quote(table.name)})")
    hidden = {str(row[1]).lower() for row in columns}
    free = [name for name in _ROWIDS if name not in hidden]
    if free:
        name = sqlalchemy.sql.quoted_name(free[0], quote=False)  # quoted, it would be a text if there were none
        table.append_column(sqlalchemy.Column(name, sqlalchemy.types.NullType()))
        table.info["rowid"] = free[0]


def _is_view(connection: Any, table: Any) -> bool:
    return table.name in alchemy().inspect(connection).get_view_names(table.schema)


def rowid_of(table: Any) -> str:
    """Return the name of the column that `add_rowid` has added; "" if it has added none."""
    return str(getattr(table, "info", {}).get("rowid", ""))


def own_columns(table: Any) -> list[str]:
    """Return the names of the columns of a table or a query, without a rowid that was added."""
    return [name for name in table.c.keys() if name != rowid_of(table)]  # noqa: SIM118 (its values are no names)


def definition(connection: Any, schema: str | None, name: str) -> str:
    """Return the SELECT of a view; "" if it is none, or if its SELECT must not be seen."""
    sqlalchemy = alchemy()
    if connection.dialect.name == "duckdb":
        sql = sqlalchemy.text(
            "SELECT sql FROM duckdb_views() WHERE database_name = current_database() AND view_name = :name "
            "AND schema_name = coalesce(:schema, current_schema())"
        )
        return str(connection.execute(sql, {"schema": schema, "name": name}).scalar() or "")
    inspector = sqlalchemy.inspect(connection)
    try:
        if connection.dialect.name == "postgresql" and name in inspector.get_materialized_view_names(schema):
            return ""  # its rows are stored
        return str(inspector.get_view_definition(name, schema) or "")
    except (sqlalchemy.exc.NoSuchTableError, NotImplementedError):
        return ""
    except sqlalchemy.exc.DBAPIError:  # MySQL wants the right SHOW VIEW for it
        if connection.dialect.name in MYSQL:
            return ""
        raise
