"""SQLSink: rows of a database table, all of a job or none.

rows           the records of a part as columns, checked        kinds          kinds of values and columns

producer  begin     the table of parts, and, if the columns are known, the staging table
workers   write     one transaction a part: its rows to the staging table (PostgreSQL: COPY), its number to the table
                    of parts, whose key lets each part in once
producer  commit    one transaction: the staging table becomes the target, or its rows go there
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from secrets import token_hex
from tempfile import TemporaryFile
from typing import Any

from pymar.exceptions import SinkError, SinkUnavailable, SourceError, SourceUnavailable, UsageError
from pymar.parts import Part
from pymar.sinks.sink import Sink, Written
from pymar.sinks.sql.kinds import common_kind, kind_of_column, sql_type
from pymar.sinks.sql.rows import Rows
from pymar.sources.sql.connection import alchemy, connected, literal, located, redacted, shown
from pymar.sources.sql.tables import named
from pymar.sources.sql.words import MYSQL

MODES = ("new", "append", "overwrite", "upsert")
#: Seconds that SQLite, which lets one process write, is waited for.
PATIENCE = 60
#: Databases that are written; DuckDB's file can be opened by one process that writes, and no other.
_DATABASES = ("postgresql", *MYSQL, "sqlite")


class SQLSink(Sink):
    """Rows of a table of PostgreSQL, MariaDB or SQLite: records are dicts, tuples (with `columns`), or Arrow batches.

    Nobody sees a row before all are there. A new table is made with the types of the first records, or those of
    `schema`; an existing one keeps its columns, indexes, rights and triggers, whatever the mode.

    Args:
        url: of the database, as SQLAlchemy takes it; `${NAME}` is an environment variable of the process that
            connects, so that no password is sent.
        table: `table` or `schema.table`.
        mode: "new" refuses a table that has rows; "append" adds rows; "overwrite" replaces all rows; "upsert" replaces
            those of the same key, and adds the others.
        key: for "upsert", the columns of a unique key, a name or a list of names.
        columns: names of the columns, in order.
        schema: the types of a new table, `{"name": "varchar(20)"}`, in SQL.

    Raises:
        SinkError: the database refuses; a record has other columns, or a value of another type than those before it.
    """

    def __init__(
        self,
        url: str,
        table: str,
        *,
        mode: str = "new",
        key: str | Sequence[str] = (),
        columns: Sequence[str] = (),
        schema: Mapping[str, str] | None = None,
    ) -> None:
        for name, value in (("url", url), ("table", table)):
            if not isinstance(value, str) or not value:
                raise UsageError(f"SQLSink: {name}={value!r:.100}: give a text")
        if mode not in MODES:
            raise UsageError(f"mode={mode!r:.100}: it has to be one of {', '.join(map(repr, MODES))}")
        if isinstance(columns, str):
            raise UsageError(f"columns={columns!r:.100}: give a list of names")
        self.url: str = located(url)
        self.table: str = table
        self.mode: str = mode
        self.key: tuple[str, ...] = (key,) if isinstance(key, str) else tuple(key)
        if (mode == "upsert") != bool(self.key):
            raise UsageError("mode='upsert' needs key=, the columns of a unique key; other modes take none")
        self.columns: tuple[str, ...] = tuple(columns)
        self.schema: dict[str, str] = dict(schema or {})
        #: Kinds of the columns of an existing table, where they are known.
        self.types: dict[str, str] = {}
        #: Of the job: its id, schema and name of the table, if it was there, its columns, if there is a checkpoint.
        self.job: str = ""
        self.place: tuple[str | None, str] = (None, table)
        self.exists: bool = False
        self.there: tuple[str, ...] = ()
        self.keeps: bool = False

    # At the producer.

    def begin(self, checkpoint: str | None) -> None:
        self.keeps = checkpoint is not None
        self.job = token_hex(4) if checkpoint is None else _digest(f"{os.path.abspath(checkpoint)} {self.table}")
        self._make_file()
        with self._connected() as connection:
            if connection.dialect.name not in _DATABASES:
                raise SinkError(
                    f"{shown(self.url)}: SQLSink writes PostgreSQL, MariaDB and SQLite. For DuckDB write Parquet, and "
                    "load that: CREATE TABLE t AS SELECT * FROM 'folder/*.parquet'"
                )
            self.place = named(connection, self.table)
            self._check_name(connection)
            self.exists = alchemy().inspect(connection).has_table(self.place[1], self.place[0])
            if self.exists and self.mode == "new" and self._has_rows(connection):
                raise SinkError(
                    f"the table {self.table} has rows already: mode='overwrite' replaces them, mode='append' adds to "
                    "them, mode='upsert' does so by a key"
                )
            if self.exists:
                there = self._run(connection, f"SELECT * FROM {self._quoted(connection)} LIMIT 0")
                self.there = tuple(there.keys())
                self._look_at(connection)
            if self.exists and self.schema:
                raise SinkError(f"the table {self.table} exists, and has types already: leave schema= out")
            if not self.keeps:
                self._drop(connection)
            parts = self._quoted(connection, "parts")
            self._run(
                connection,
                f"CREATE TABLE IF NOT EXISTS {parts} "
                "(part BIGINT PRIMARY KEY, records BIGINT NOT NULL, columns_ TEXT NOT NULL)",
            )
            if self.exists:
                target, rows = self._quoted(connection), self._quoted(connection, "rows")
                self._run(connection, f"CREATE TABLE IF NOT EXISTS {rows} AS SELECT * FROM {target} WHERE 1 = 0")
            elif self.schema:
                self._create(connection, self.schema)
            connection.commit()

    def _make_file(self) -> None:
        """Make the file of an SQLite database if there is none: to read one that does not exist is an error."""
        if self.url.startswith("sqlite"):
            path = alchemy().make_url(self.url).database
            if path and os.path.isdir(os.path.dirname(path)):
                with open(path, "ab"):
                    pass

    def _check_name(self, connection: Any) -> None:
        """Refuse a name that the database would cut, and a database that no other process sees.

        Raises:
            SinkError: it is one.
        """
        if connection.dialect.name == "sqlite" and not connection.engine.url.database:
            raise SinkError(
                "sqlite:// is a database in memory, which workers do not see: give a file, sqlite:///name.db"
            )
        longest = connection.dialect.max_identifier_length
        if len(self.place[1].encode()) > longest:
            raise SinkError(
                f"the name of the table {self.table!r:.100} is longer than the database takes: {longest} bytes"
            )

    def _look_at(self, connection: Any) -> None:
        """Note the types of an existing table's columns; refuse what would change other rows than those that are meant.

        Raises:
            SinkError: `key` is no unique key, or not the only one; or rows of other tables would be deleted.
        """
        inspector = alchemy().inspect(connection)
        schema, name = self.place
        self.types = {
            column["name"]: kind for column in inspector.get_columns(name, schema) if (kind := kind_of_column(column))
        }
        if self.mode == "upsert":
            keys = [frozenset(inspector.get_pk_constraint(name, schema)["constrained_columns"])]
            keys += [frozenset(one["column_names"]) for one in inspector.get_unique_constraints(name, schema)]
            keys += [frozenset(one["column_names"]) for one in inspector.get_indexes(name, schema) if one["unique"]]
            unique = set(keys) - {frozenset()}
            if set(self.key) not in unique:
                raise SinkError(
                    f"{', '.join(self.key)} is no unique key of the table {self.table}; "
                    f"{' and '.join(sorted(', '.join(sorted(one)) for one in unique)) or 'none'} is"
                )
            if connection.dialect.name in MYSQL and len(unique) > 1:
                raise SinkError(
                    f"the table {self.table} has several unique keys, and by any of them MariaDB would replace rows of "
                    "other keys: write to a table of its own, and merge that"
                )
        if self.mode == "overwrite":
            for other in inspector.get_table_names(schema):
                for key in inspector.get_foreign_keys(other, schema):
                    rule = (key.get("options") or {}).get("ondelete") or ""
                    if key["referred_table"] == name and rule.upper() in ("CASCADE", "SET NULL", "SET DEFAULT"):
                        raise SinkError(
                            f"to replace the rows of {self.table} would change those of {other} (ON DELETE {rule}): "
                            "use mode='upsert', or drop that rule first"
                        )

    def _has_rows(self, connection: Any) -> bool:
        return self._run(connection, f"SELECT 1 FROM {self._quoted(connection)} LIMIT 1").first() is not None

    def arrived(self, wrote: Any) -> None:
        _, _, kinds = wrote
        known: dict[str, str] = vars(self).setdefault("_kinds", {})
        if known and kinds and set(known) != set(kinds):
            differing = ", ".join(sorted(set(known) ^ set(kinds))[:3])
            raise SinkError(f"SQLSink: part {wrote[0]} has other columns than one before it: {differing}")
        for name, kind in kinds.items():
            wider = common_kind(known.get(name, ""), kind)
            if wider is None:
                raise SinkError(
                    f"SQLSink: part {wrote[0]} has values of type {kind} in the column {name!r}, and one before it has "
                    f"{known[name]}: convert them in map_fn"
                )
            known[name] = wider

    def commit(self, wrote: Sequence[Any], merged: Sequence[Any]) -> Written:
        records = sum(count for _, count, _ in wrote)
        try:
            with self._connected() as connection:
                rows = alchemy().inspect(connection).has_table(self._name("rows"), self.place[0])
                connection.rollback()
                self._lock(connection)
                try:
                    self._check_parts(connection, {part: count for part, count, _ in wrote})
                    if rows:
                        self._publish(connection)
                    self._run(connection, f"DELETE FROM {self._quoted(connection, 'parts')}")
                    if connection.dialect.name in MYSQL:
                        connection.commit()  # its DROP TABLE would do so
                    self._drop(connection)
                    connection.commit()
                finally:
                    self._unlock(connection)
        except BaseException:  # an interrupt too: nobody else removes what was written
            self.abort()
            raise
        return Written(records, 0, 0)

    def _lock(self, connection: Any) -> None:
        """Begin the transaction of the commit; of two jobs that want all of a table, one waits for the other.

        Raises:
            SinkError: the database has locked the table for longer than `PATIENCE`.
        """
        dialect = connection.dialect.name
        if dialect == "sqlite":
            self._run(connection, "BEGIN IMMEDIATE")
        elif dialect == "postgresql":
            self._run(connection, f"SET LOCAL lock_timeout = '{PATIENCE}s'")
            if self.exists and self.mode != "append":
                self._run(connection, f"LOCK TABLE {self._quoted(connection)} IN SHARE ROW EXCLUSIVE MODE")
        elif self._run(connection, f"SELECT GET_LOCK('{self._lock_name()}', {PATIENCE})").scalar() != 1:
            raise SinkError(f"another job publishes to {self.table}, for longer than {PATIENCE} s: run the job again")

    def _unlock(self, connection: Any) -> None:
        """Release the lock of MariaDB, which is one of the connection; others end with the transaction."""
        if connection.dialect.name in MYSQL and not connection.invalidated:
            connection.rollback()
            self._run(connection, f"SELECT RELEASE_LOCK('{self._lock_name()}')")

    def _lock_name(self) -> str:
        return f"pymar.{_digest('.'.join(filter(None, self.place)))}"

    def _check_parts(self, connection: Any, wrote: Mapping[int, int]) -> None:
        parts = self._quoted(connection, "parts")
        there = dict(self._run(connection, f"SELECT part, records FROM {parts} WHERE part >= 0").fetchall())
        if there != wrote:
            raise SinkError(
                f"the rows of {len(wrote.items() - there.items())} parts are gone from the staging table of "
                f"{self.table}. If there is a checkpoint, this job may have been published already: look into the "
                "table, before you delete the checkpoint and run the job again"
            )

    def _publish(self, connection: Any) -> None:
        target, rows = self._quoted(connection), self._quoted(connection, "rows")
        if not self.exists:
            if alchemy().inspect(connection).has_table(self.place[1], self.place[0]):
                raise SinkError(
                    f"the table {self.table} was made by somebody else during the job: nothing was published"
                )
            name = self._name_of(connection, self.place[1])
            if connection.dialect.name in MYSQL:
                self._run(connection, f"RENAME TABLE {rows} TO {target}")
            else:
                self._run(connection, f"ALTER TABLE {rows} RENAME TO {name}")
            return
        if self.mode == "new" and self._has_rows(connection):
            raise SinkError(
                f"the table {self.table} was written by somebody else during the job: nothing was published"
            )
        kinds: dict[str, str] = vars(self).get("_kinds", {})
        names = [self._name_of(connection, name) for name in kinds]
        if self.mode == "overwrite":
            # Not TRUNCATE, nor another table of the name: whoever reads now goes on to see the old rows, and rights,
            # indexes, triggers and views stay.
            self._run(connection, f"DELETE FROM {target}")
        if not names:
            return
        listed = ", ".join(names)
        statement = f"INSERT INTO {target} ({listed}) SELECT {listed} FROM {rows}"
        if self.mode == "upsert":
            self._check_key(connection, rows)
            statement += self._on_conflict(connection, list(kinds))
        self._run(connection, statement)

    def _check_key(self, connection: Any, rows: str) -> None:
        key = ", ".join(self._name_of(connection, name) for name in self.key)
        twice = self._run(connection, f"SELECT {key} FROM {rows} GROUP BY {key} HAVING count(*) > 1 LIMIT 1").first()
        if twice is not None:
            raise SinkError(
                f"two records have the key {', '.join(self.key)} = {tuple(twice)!r:.200}, and which of them counts "
                f"cannot be told: nothing was published. Let map_fn yield one of them"
            )

    def _on_conflict(self, connection: Any, names: Sequence[str]) -> str:
        quoted = [self._name_of(connection, name) for name in names if name not in self.key]
        if connection.dialect.name in MYSQL:
            first = self._name_of(connection, self.key[0])
            changes = ", ".join(f"{name} = VALUES({name})" for name in quoted) or f"{first} = VALUES({first})"
            return f" ON DUPLICATE KEY UPDATE {changes}"
        where = " WHERE true" if connection.dialect.name == "sqlite" else ""  # or ON would be taken for that of a join
        key = ", ".join(self._name_of(connection, name) for name in self.key)
        changes = ", ".join(f"{name} = excluded.{name}" for name in quoted)
        return f"{where} ON CONFLICT ({key}) DO {f'UPDATE SET {changes}' if changes else 'NOTHING'}"

    def abort(self) -> None:
        if not self.keeps and self.job:
            with suppress(SinkError), self._connected() as connection:  # what is left, `pymar clean` removes
                self._drop(connection)
                connection.commit()

    def _drop(self, connection: Any) -> None:
        for what in ("rows", "parts"):
            self._run(connection, f"DROP TABLE IF EXISTS {self._quoted(connection, what)}")

    # In a worker.

    def write(self, part: Part, records: Iterable[Any]) -> Any:
        with self._connected() as connection:
            known = self._known(connection, part)
            if known is not None:
                return known
            dialect = connection.dialect.name
            made = None if self.exists or self.schema else self._made(connection)
        # The records are kept in a file until they are all there: no table is locked as long as map_fn takes, which may
        # be for ever, and a transaction that is begun does not wait for anything but the database.
        rows = Rows(self, part, iter(records), dialect == "postgresql")
        rows.made = made
        with TemporaryFile() as kept:
            for batch in rows:
                pickle.dump(rows.packed(batch, dialect), kept)
            kept.seek(0)
            with self._connected() as connection:
                if rows.count and not self.exists and not self.schema:
                    self._create_from(connection, rows)
                    rows.check_made()
                connection.rollback()
                if dialect == "sqlite":
                    self._run(connection, f"PRAGMA busy_timeout = {PATIENCE * 1000}")
                    self._run(connection, "BEGIN IMMEDIATE")
                if rows.count:
                    (self._copy if dialect == "postgresql" else self._insert)(connection, rows, _loaded(kept))
                try:
                    self._note(connection, part.index, rows.count, rows.kinds)
                except alchemy().exc.IntegrityError:  # another attempt at this part was faster
                    connection.rollback()
                    return self._known(connection, part)
        return [part.index, rows.count, rows.kinds]

    def _known(self, connection: Any, part: Part) -> Any:
        """Return what the first attempt at a part that ended has returned; None if none has."""
        parts = self._quoted(connection, "parts")
        found = self._run(connection, f"SELECT records, columns_ FROM {parts} WHERE part = {part.index}").first()
        connection.rollback()
        return None if found is None else [part.index, found[0], json.loads(found[1])]

    def _create_from(self, connection: Any, rows: Rows) -> None:
        """Make the staging table with the types of the first records of a part: which, says row -1 of the parts."""
        dialect = connection.dialect
        kinds = self._made(connection)
        if kinds is None:
            for name in rows.names:
                if not rows.kinds[name]:
                    raise SinkError(
                        f"SQLSink: the column {name!r} is None in the first {rows.count} records of part "
                        f"{rows.part.index}, which do not show its type: give schema="
                    )
                sql_type(rows.kinds[name], dialect, name, self.key)
            try:
                self._note(connection, -1, 0, rows.kinds)
            except alchemy().exc.IntegrityError:  # another part was faster
                connection.rollback()
            kinds = self._made(connection) or {}
        try:
            self._create(connection, {name: sql_type(kind, dialect, name, self.key) for name, kind in kinds.items()})
            connection.commit()
        except alchemy().exc.DBAPIError:  # PostgreSQL's IF NOT EXISTS is no lock
            connection.rollback()
            if not alchemy().inspect(connection).has_table(self._name("rows"), self.place[0]):
                raise
        rows.made = kinds

    def _made(self, connection: Any) -> dict[str, str] | None:
        """Return the kinds of the columns with which the staging table is made; None if no part has had records."""
        parts = self._quoted(connection, "parts")
        found = self._run(connection, f"SELECT columns_ FROM {parts} WHERE part = -1").scalar()
        connection.rollback()
        return None if found is None else dict(json.loads(found))

    def _note(self, connection: Any, part: int, records: int, kinds: Mapping[str, str]) -> None:
        """Add a row to the parts, and commit.

        Raises:
            sqlalchemy.exc.IntegrityError: it is there.
        """
        insert = alchemy().text(f"INSERT INTO {self._quoted(connection, 'parts')} VALUES (:part, :records, :columns)")
        connection.execute(insert, {"part": part, "records": records, "columns": json.dumps(kinds)})
        connection.commit()

    def _create(self, connection: Any, types: Mapping[str, str]) -> None:
        columns = [
            f"{self._name_of(connection, name)} {kind}{' NOT NULL' if name in self.key else ''}"
            for name, kind in types.items()
        ]
        if self.key:
            columns.append(f"PRIMARY KEY ({', '.join(self._name_of(connection, name) for name in self.key)})")
        rows = self._quoted(connection, "rows")
        letters = " CHARACTER SET utf8mb4" if connection.dialect.name in MYSQL else ""
        self._run(connection, f"CREATE TABLE IF NOT EXISTS {rows} ({', '.join(columns)}){letters}")

    def _copy(self, connection: Any, rows: Rows, batches: Iterator[Any]) -> None:
        """Send rows by COPY (https://www.postgresql.org/docs/current/sql-copy.html), as CSV."""
        import psycopg

        self._run(connection, "SELECT 1")  # begins the transaction that ends with the part
        listed = ", ".join(self._name_of(connection, name) for name in rows.names)
        statement = f"COPY {self._quoted(connection, 'rows')} ({listed})"
        driver = connection.connection.driver_connection
        try:
            with driver.cursor() as cursor:
                for is_arrow, some in groupby(batches, itemgetter(0)):
                    # Text is quoted, and NULL is not, so that no text is taken for it.
                    null = "" if is_arrow else ", NULL '\\N'"
                    with cursor.copy(f"{statement} FROM STDIN (FORMAT csv{null})") as copy:
                        for _, text in some:
                            copy.write(text)
        except psycopg.Error as error:
            is_lost = driver.closed or (error.sqlstate or "")[:2] in ("57", "40", "08", "53")
            kind = SinkUnavailable if is_lost else SinkError
            text = redacted(str(error).strip(), self.url)
            raise kind(f"SQLSink, part {rows.part.index}{rows.place_in(text)}: {text}") from None

    def _insert(self, connection: Any, rows: Rows, batches: Iterator[Any]) -> None:
        dialect = connection.dialect
        listed = ", ".join(self._name_of(connection, name) for name in rows.names)
        mark = "?" if dialect.name == "sqlite" else "%s"
        marks = ", ".join([mark] * len(rows.names))
        table = self._quoted(connection, "rows").replace("%", "%%" if mark == "%s" else "%")
        listed = listed.replace("%", "%%") if mark == "%s" else listed
        statement = f"INSERT INTO {table} ({listed}) VALUES ({marks})"
        try:
            for columns in batches:
                connection.exec_driver_sql(statement, list(zip(*columns, strict=True)))
        except alchemy().exc.DBAPIError as error:
            if error.connection_invalidated:
                raise
            text = redacted(str(error.orig or error), self.url)
            raise SinkError(f"SQLSink, part {rows.part.index}: {text}") from None

    # Names and connections.

    def _name(self, what: str) -> str:
        return f"pymar_{self.job}_{what}"

    def _quoted(self, connection: Any, what: str = "") -> str:
        """Return the name of the table, or of one that the job needs, as SQL."""
        names = (self.place[0], self._name(what) if what else self.place[1])
        return ".".join(self._name_of(connection, name) for name in names if name)

    @staticmethod
    def _name_of(connection: Any, name: str) -> str:
        quoted: str = connection.dialect.identifier_preparer.quote_identifier(name)
        return quoted.replace("%%", "%")  # doubled for statements with parameters

    @staticmethod
    def _run(connection: Any, statement: str) -> Any:
        return connection.execute(alchemy().text(literal(statement)))

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            with connected(self.url) as connection:
                yield connection
        except SinkError:
            raise
        except SourceUnavailable as error:
            raise SinkUnavailable(str(error)) from error.__cause__
        except SourceError as error:
            raise SinkError(str(error)) from error.__cause__

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kinds"}


def cleaned(url: str) -> list[str]:
    """Drop the tables that jobs which did not end have left in a database; return their names.

    Raises:
        SinkError: the database refuses.
    """
    sink = SQLSink(url, "pymar")
    with sink._connected() as connection:
        inspector = alchemy().inspect(connection)
        schemas = inspector.get_schema_names() if connection.dialect.name == "postgresql" else [None]
        left = []
        for schema in schemas:
            for name in inspector.get_table_names(schema):
                if re.fullmatch(r"pymar_[0-9a-f]{8}_(rows|parts)", name):
                    quoted = ".".join(sink._name_of(connection, one) for one in (schema, name) if one)
                    sink._run(connection, f"DROP TABLE {quoted}")
                    left.append(name if schema in (None, "public") else f"{schema}.{name}")
        connection.commit()
    return left


def _loaded(kept: Any) -> Iterator[Any]:
    while True:
        try:
            yield pickle.load(kept)
        except EOFError:
            return


def _digest(text: str) -> str:
    from hashlib import blake2b

    return blake2b(text.encode(), digest_size=4).hexdigest()
