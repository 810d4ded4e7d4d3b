"""SQLRows: rows of a database. A part is a range of a table's pages, or of its key; never LIMIT and OFFSET.

connection     one connection a process, addresses with ${VARIABLES}, errors without passwords
tables         a table's columns and primary key
pages          tables of PostgreSQL by their pages, under one snapshot
keyranges      everything else by ranges of a unique key
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pymar.datasource import DataSource
from pymar.exceptions import SourceError
from pymar.sources.checks import check_settings
from pymar.sources.sql import keyranges
from pymar.sources.sql import pages as postgres
from pymar.sources.sql.connection import alchemy, condition, connected, literal, located, near
from pymar.sources.sql.tables import named, reflected

#: Number of rows that are fetched at a time.
_FETCHED = 5_000
_LIMITED = re.compile(r"\bLIMIT\s+\d+(\s*,\s*\d+|\s+OFFSET\s+\d+)?[\s;]*\Z", re.IGNORECASE)
_ORDERED = re.compile(r"\bORDER\s+BY\b", re.IGNORECASE)


class SQLRows(DataSource):
    """Rows of a table or a query, as dicts by the names of their columns; by SQLAlchemy 2.

    **Tables of PostgreSQL** are read by their pages, under one snapshot that the producer takes and each worker uses:
    all parts see the table as it was at one moment, whatever is written meanwhile; no key is needed, and rows with
    NULLs are read like others.
    (https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION) The snapshot lives
    as long as the job, and so does a lock: statements that would replace the pages (TRUNCATE, VACUUM FULL, CLUSTER,
    ALTER) wait until the job is over. While one waits, PostgreSQL lets no new reader in: parts that begin then fail.

    **Other databases, views and queries** are read by ranges of a unique key whose bounds are taken from the data. The
    database is asked, once, whether each row is in the range of its place; a key or query for which that does not hold
    is refused. Each part sees the table at the moment when it is read: a row that is inserted, deleted or given another
    key meanwhile is read once or not at all.

    Class attributes:
        url: of the database, as SQLAlchemy takes it; `${NAME}` is an environment variable of the process that
            connects, so that no password is sent.
        table, or query: `table` or `schema.table`; or a SELECT.
        columns: names of the columns to read; all by default.
        where: a condition in SQL.
        key: the unique key, a name or a list of names; the primary key by default.
        as_tuples: True for rows as tuples.

    Raises:
        SourceError: the database refuses; or a table, a column or a key is missing, or the key is not unique.
        SourceUnavailable: the database cannot be reached; the part is computed again, at most ATTEMPTS times.
    """

    unit: ClassVar[str] = "pages or key ranges"
    url: ClassVar[str] = ""
    table: ClassVar[str] = ""
    query: ClassVar[str] = ""
    columns: ClassVar[Sequence[str]] = ()
    where: ClassVar[str] = ""
    key: ClassVar[str | Sequence[str]] = ()
    as_tuples: ClassVar[bool] = False
    #: What `prepare` found: a snapshot, and [schema, table, pages] of each table; or the key and its bounds.
    snapshot: ClassVar[str] = ""
    tables: ClassVar[Sequence[Sequence[Any]]] = ()
    bounds: ClassVar[Sequence[Sequence[Any]]] = ()

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        lists = ("columns",) if isinstance(cls.key, str) else ("columns", "key")
        check_settings(cls, flags=("as_tuples",), texts=("url", "table", "query", "where"), names=lists)
        if not cls.url or bool(cls.table) == bool(cls.query):
            raise SourceError(f"{cls.__name__} needs url, and either table or query")
        if _LIMITED.search(cls.query) and not _ORDERED.search(cls.query):
            raise SourceError(
                f"the query of {cls.__name__} has LIMIT without ORDER BY: which rows it gives may differ from part to "
                "part. Order it by a unique key"
            )
        with connected(cls.url, 0.0) as connection:
            if cls.table and connection.dialect.name == "postgresql" and not cls.key:
                relation = cls._relation(connection)
                cls._selected(relation)
                schema, name = named(connection, cls.table)
                tables = postgres.pages(connection, schema, name)
                if tables is not None:
                    snapshot, tables = postgres.take_snapshot(cls.url, schema, name)
                    names = list(cls.columns) or list(relation.c.keys())
                    return {"snapshot": snapshot, "tables": tables, "bounds": (), "columns": names}
            relation = cls._relation(connection)
            cls._selected(relation)
            key = cls._key(connection, relation)
            keyranges.begin(connection)
            bounds = keyranges.bounds(connection, relation, key, cls.where)
        return {"url": located(cls.url), "key": key, "bounds": bounds, "snapshot": "", "tables": ()}

    @classmethod
    def full_length(cls) -> int:
        return sum(pages for _, _, pages in cls.tables) if cls.snapshot else len(cls.bounds) + 1

    @classmethod
    def release_prepared(cls) -> None:
        postgres.release_snapshot(cls.url, cls.snapshot)

    def __iter__(self) -> Iterator[Any]:
        with connected(self.url) as connection:
            if self.snapshot:
                postgres.enter(connection, self.snapshot)
                statements = self._page_ranges(connection)
            else:
                statements = iter([self._key_range(connection)])
            options = {"stream_results": True, "yield_per": _FETCHED}
            for statement in statements:
                rows = connection.execute(statement, execution_options=options)
                if self.as_tuples:
                    yield from map(tuple, rows)
                else:
                    names = list(rows.keys())
                    for row in rows:
                        yield dict(zip(names, row, strict=True))

    def _page_ranges(self, connection: Any) -> Iterator[Any]:
        base, end = 0, self.offset + self.limit
        for schema, name, pages in self.tables:
            low, high = max(self.offset - base, 0), min(end - base, pages)
            base += pages
            if low < high:
                # `where` may use the name of the table, whose partition this is.
                relation = reflected(connection, schema, name).alias(named(connection, self.table)[1])
                statement = self._where(alchemy().select(*self._selected(relation)))
                yield postgres.within(statement, relation, low, high)

    def _key_range(self, connection: Any) -> Any:
        relation = self._relation(connection)
        columns = [relation.c[name] for name in self.key]
        statement = self._where(alchemy().select(*self._selected(relation)).select_from(relation))
        return keyranges.within(statement, columns, self.bounds, self.offset, self.offset + self.limit)

    @classmethod
    def _where(cls, statement: Any) -> Any:
        return statement.where(condition(cls.where)) if cls.where else statement

    @classmethod
    def _relation(cls, connection: Any) -> Any:
        """Return the table as SQLAlchemy reflects it; or the query as a subquery."""
        if cls.table:
            return reflected(connection, *named(connection, cls.table))
        sqlalchemy = alchemy()
        query = literal(cls.query).strip().rstrip(";") + "\n"  # it may end in a comment
        text = sqlalchemy.text(f"SELECT * FROM ({query}) AS pymar_query WHERE 1 = 0")
        names = list(connection.execute(text).keys())
        connection.rollback()
        return sqlalchemy.text(query).columns(*map(sqlalchemy.column, names)).subquery("pymar_query")

    @classmethod
    def _selected(cls, relation: Any) -> list[Any]:
        for name in cls.columns:
            if name not in relation.c:
                raise SourceError(
                    f"{cls.table or 'the query'} has no column {name!r}; {near(name, list(relation.c.keys()))}"
                )
        return [relation.c[name] for name in cls.columns] or list(relation.c)

    @classmethod
    def _key(cls, connection: Any, relation: Any) -> list[str]:
        wanted = [cls.key] if cls.key and isinstance(cls.key, str) else list(cls.key)
        what = cls.table or "the query"
        if not wanted:
            wanted = [column.name for column in getattr(relation, "primary_key", ())]
        if not wanted:
            raise SourceError(
                f"{what} has no primary key: set key= to a column, or columns, that are unique and indexed"
            )
        for name in wanted:
            if name not in relation.c:
                raise SourceError(f"{what} has no column {name!r} for its key; {near(name, list(relation.c.keys()))}")
        if not keyranges.is_unique(connection, relation, wanted, *named(connection, cls.table)):
            raise SourceError(
                f"the key {', '.join(wanted)} of {what} is not unique: set key= to a unique column, or to several "
                "columns that are unique together"
            )
        return wanted
