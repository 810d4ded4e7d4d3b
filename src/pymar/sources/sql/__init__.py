"""SQLRows: rows of a database. A part is a range of a table's pages, or of its key; never LIMIT and OFFSET.

connection     one connection a process, addresses with ${VARIABLES}, errors without passwords
session        statements that each connection begins with
tables         a table's name, columns, primary key or rowid
pages          tables of PostgreSQL by their pages, under one snapshot
keyranges      everything else by ranges of a unique key
unstable       queries that are known to give other rows to each part
counts         rows of a range at the producer and at its part, and what a difference proves
words          SQL as a list of words
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar

from pymar.datasource import DataSource
from pymar.exceptions import SourceError
from pymar.sources.checks import check_settings
from pymar.sources.sql import counts, keyranges
from pymar.sources.sql import pages as postgres
from pymar.sources.sql.connection import alchemy, condition, connected, dialect_of, literal, located, near
from pymar.sources.sql.session import check_session
from pymar.sources.sql.tables import add_rowid, definition, exact, named, own_columns, reflected, rowid_of
from pymar.sources.sql.unstable import is_random_choice, unstable

#: Number of rows that are fetched at a time.
_FETCHED = 5_000


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
    key meanwhile is read once or not at all. A table of SQLite without a primary key is read by its rowid.

    **A query that gives other rows each time** would lose rows or read them twice, as each part runs it anew. Refused
    are the functions that are known to do so (`random()`, `now()`), LIMIT, DISTINCT ON and `row_number()` without ORDER
    BY, in a query, a condition and the view that is read. Of others the numbers of rows tell: the producer knows how
    many each range has. A part that finds another number fails if nothing was written to the database meanwhile, or if
    the query gives yet another number in the same transaction. (A condition such as `random() < 0.1` on a table of
    PostgreSQL by its pages is a sample: each row is asked once.)

    Class attributes:
        url: of the database, as SQLAlchemy takes it; `${NAME}` is an environment variable of the process that
            connects, so that no password is sent.
        table, or query: `table` or `schema.table`; or a SELECT. Of a table, a name within the database's quotes is
            taken as it is: `"My Schema"."my.table"`.
        columns: names of the columns to read; all by default.
        where: a condition in SQL.
        session: a list of SQL statements that each connection executes first, at the producer and where parts are
            read: `SET search_path TO x`. They hold for this source alone. They travel with the job, so give no secrets.
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
    session: ClassVar[Sequence[str]] = ()
    key: ClassVar[str | Sequence[str]] = ()
    as_tuples: ClassVar[bool] = False
    #: What `prepare` found: a snapshot, and [schema, table, pages] of each table; or the key and its bounds.
    snapshot: ClassVar[str] = ""
    tables: ClassVar[Sequence[Sequence[Any]]] = ()
    bounds: ClassVar[Sequence[Sequence[Any]]] = ()
    #: How many rows the ranges had, and the state of the database; () if another number proves nothing.
    counted: ClassVar[Sequence[Any]] = ()

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        lists = ("columns",) if isinstance(cls.key, str) else ("columns", "key")
        check_settings(cls, flags=("as_tuples",), texts=("url", "table", "query", "where"), names=lists)
        if not cls.url or bool(cls.table) == bool(cls.query):
            raise SourceError(f"{cls.__name__} needs url, and either table or query")
        dialect = dialect_of(cls.url)
        check_session(cls.__name__, cls.session, dialect)
        cls._check_stable("the query", cls.query, dialect)
        with connected(cls.url, cls.session, 0.0) as connection:
            relation = cls._relation(connection)
            cls._selected(relation)
            schema, name = named(connection, cls.table) if cls.table else (None, "")
            if cls.table and dialect == "postgresql" and not cls.key:
                tables = postgres.pages(connection, schema, name)
                if tables is not None:
                    if not is_random_choice(cls.where, dialect):  # one statement asks each row, in whatever part it is
                        cls._check_stable("where", cls.where, dialect)
                    snapshot, tables = postgres.take_snapshot(cls.url, cls.session, schema, name)
                    names = list(cls.columns) or own_columns(relation)
                    return {"snapshot": snapshot, "tables": tables, "bounds": (), "columns": names, "counted": ()}
            cls._check_stable("where", cls.where, dialect)
            view = definition(connection, schema, name) if cls.table else ""
            cls._check_stable(f"the view {cls.table}", view, dialect)
            key = cls._key(connection, relation)
            # A foreign table may change while the database does not: of a table alone no number is wrong.
            is_counted = bool(cls.query or cls.where or view)
            keyranges.begin(connection)
            before = counts.state(connection)
            bounds, counted = keyranges.bounds(connection, relation, key, cls.where, is_counted)
            after = counts.state(connection)
        found = {"url": located(cls.url), "key": key, "bounds": bounds, "snapshot": "", "tables": ()}
        return {**found, "counted": (*counted, before if before == after else "") if is_counted else ()}

    @classmethod
    def _check_stable(cls, what: str, sql: str, dialect: str) -> None:
        if sql and (why := unstable(sql, dialect)):
            raise SourceError(f"{what} of {cls.__name__} gives other rows each time: it has {why}")

    @classmethod
    def full_length(cls) -> int:
        return sum(pages for _, _, pages in cls.tables) if cls.snapshot else len(cls.bounds) + 1

    @classmethod
    def release_prepared(cls) -> None:
        postgres.release_snapshot(cls.url, cls.snapshot)

    def __iter__(self) -> Iterator[Any]:
        with connected(self.url, self.session) as connection:
            if self.snapshot:
                postgres.enter(connection, self.snapshot)
                for statement in self._page_ranges(connection):
                    yield from self._rows(connection, statement)
                return
            statement = self._key_range(connection)
            if not self.counted:
                yield from self._rows(connection, statement)
                return
            keyranges.begin(connection)
            before, found = counts.state(connection), 0
            for row in self._rows(connection, statement):
                found += 1
                yield row
            expected = counts.of_range(self.counted, self.offset, self.offset + self.limit)
            counts.check(connection, self.counted, before, expected, found, statement)

    def _rows(self, connection: Any, statement: Any) -> Iterator[Any]:
        options = {"stream_results": True, "yield_per": _FETCHED}
        with closing(connection.execute(statement, execution_options=options)) as rows:
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
            table = reflected(connection, *named(connection, cls.table))
            add_rowid(connection, table)
            return table
        sqlalchemy = alchemy()
        query = literal(cls.query).strip().rstrip(";") + "\n"  # it may end in a comment
        text = sqlalchemy.text(f"SELECT * FROM ({query}) AS pymar_query WHERE 1 = 0")
        names = list(connection.execute(text).keys())
        connection.rollback()
        return sqlalchemy.text(query).columns(*map(sqlalchemy.column, names)).subquery("pymar_query")

    @classmethod
    def _selected(cls, relation: Any) -> list[Any]:
        for name in cls.columns:
            if name not in own_columns(relation):
                raise SourceError(
                    f"{cls.table or 'the query'} has no column {name!r}; {near(name, own_columns(relation))}"
                )
        return [exact(relation.c[name]) for name in cls.columns or own_columns(relation)]

    @classmethod
    def _key(cls, connection: Any, relation: Any) -> list[str]:
        wanted = [cls.key] if cls.key and isinstance(cls.key, str) else list(cls.key)
        what = cls.table or "the query"
        if not wanted:
            wanted = [column.name for column in getattr(relation, "primary_key", ())]
        if not wanted and rowid_of(relation):
            wanted = [rowid_of(relation)]
        if not wanted:
            raise SourceError(
                f"{what} has no primary key: set key= to a column, or columns, that are unique and indexed"
            )
        for name in wanted:
            if name not in relation.c:
                raise SourceError(f"{what} has no column {name!r} for its key; {near(name, own_columns(relation))}")
        if not keyranges.is_unique(connection, relation, wanted, *named(connection, cls.table)):
            raise SourceError(
                f"the key {', '.join(wanted)} of {what} is not unique: set key= to a unique column, or to several "
                "columns that are unique together"
            )
        return wanted
