"""Tables of PostgreSQL by their heap pages (ranges of `ctid`), under one snapshot for all parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pymar.exceptions import SourceError
from pymar.sources.sql.connection import alchemy, engine, literal, translated

_PAGES = """
WITH RECURSIVE tree AS (
    SELECT CAST(to_regclass(:name) AS oid) AS oid
    UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid
)
SELECT n.nspname, c.relname, c.relkind, c.relrowsecurity,
       pg_relation_size(c.oid) / CAST(current_setting('block_size') AS bigint)
FROM tree JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1, 2
"""
_PATIENT = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(:names)"
#: What would end the connection that holds a snapshot; PostgreSQL has the last one since version 17.
_TIMEOUTS = ["idle_in_transaction_session_timeout", "transaction_timeout"]
#: Seconds that a part waits while a statement waits to rewrite its table: the statement may give up.
LOCK_PATIENCE = 10.0
#: Kinds of relations (pg_class.relkind): those that have pages, and partitioned tables, which have none themselves.
_MATERIALISED = "m"
_HEAPS, _PARENTS = {"r", _MATERIALISED}, {"p"}


# The connections of this process whose transactions hold snapshots.
_held: dict[tuple[str, str], Any] = {}


def pages(connection: Any, schema: str | None, name: str) -> list[list[Any]] | None:
    """Return [schema, table, pages] of a table and all its partitions.

    None if it cannot be read by pages: it is a view, say, or has row security.
    """
    sqlalchemy = alchemy()
    found = [
        list(row) for row in connection.execute(sqlalchemy.text(_PAGES), {"name": _quoted(connection, schema, name)})
    ]
    kinds = {kind.decode() if isinstance(kind, bytes) else kind for _, _, kind, _, _ in found}
    # Policies that hide rows belong to the table that was named; a partition read directly would not apply them.
    if not found or not kinds <= _HEAPS | _PARENTS or any(is_secured for _, _, _, is_secured, _ in found):
        return None
    return [[space, table, count] for space, table, _, _, count in found if count]


def _quoted(connection: Any, schema: str | None, name: str) -> str:
    return ".".join(map(connection.dialect.identifier_preparer.quote_identifier, filter(None, (schema, name))))


def take_snapshot(url: str, session: Sequence[str], schema: str | None, name: str) -> tuple[str, list[list[Any]]]:
    """Return the id of a new snapshot, held until `release_snapshot`; and the pages that it can see.

    The table is locked first: statements that replace its pages (TRUNCATE, VACUUM FULL, CLUSTER) ignore snapshots, but
    wait for locks of readers (https://www.postgresql.org/docs/current/mvcc-caveats.html).
    """
    sqlalchemy = alchemy()
    with translated(url):
        connection = engine(url, session).execution_options(isolation_level="REPEATABLE READ").connect()
        try:
            # Take it out of the pool, whose only connection is needed if parts are computed in this process.
            connection.detach()
            _lock(connection, schema, name)
            connection.execute(sqlalchemy.text(_PATIENT), {"names": _TIMEOUTS})
            snapshot: str = connection.execute(sqlalchemy.text("SELECT pg_export_snapshot()")).scalar()
            tables = pages(connection, schema, name) or []
            # What cannot be read has 0 pages too, such as an unlogged table on a standby: the database says so.
            connection.execute(sqlalchemy.text(literal(f"SELECT 1 FROM {_quoted(connection, schema, name)} LIMIT 0")))
        except BaseException:  # an interrupt too: nothing else closes this connection yet
            connection.close()
            raise
    _held[url, snapshot] = connection
    return snapshot, tables


def _lock(connection: Any, schema: str | None, name: str) -> None:
    """Begin a transaction for which statements that rewrite the table, or one of its partitions, have to wait."""
    sqlalchemy = alchemy()
    table = _quoted(connection, schema, name)
    kind = connection.execute(
        sqlalchemy.text("SELECT relkind FROM pg_class WHERE oid = to_regclass(:name)"), {"name": table}
    )
    if kind.scalar() in (_MATERIALISED, _MATERIALISED.encode()):
        lock = f"SELECT 1 FROM {table} LIMIT 0"  # LOCK TABLE refuses materialized views
    else:
        lock = f"LOCK TABLE {table} IN ACCESS SHARE MODE"
    connection.rollback()  # the query above has fixed what that transaction sees; begin another after the lock
    connection.execute(sqlalchemy.text(literal(lock)))


def release_snapshot(url: str, snapshot: str) -> None:
    """Close the connection that holds a snapshot: the job is over."""
    connection = _held.pop((url, snapshot), None)
    if connection is not None:
        with suppress(alchemy().exc.DBAPIError):  # the database has ended it already
            connection.close()


def enter(connection: Any, snapshot: str) -> None:
    """Begin a transaction that sees the snapshot.

    Raises:
        SourceError: the snapshot does not exist any more.
    """
    sqlalchemy = alchemy()
    if not re.fullmatch(r"[0-9A-Fa-f-]+", snapshot):
        raise SourceError(f"{snapshot!r} is not the id of a snapshot")
    connection.execute(sqlalchemy.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
    try:
        connection.execute(sqlalchemy.text(f"SET TRANSACTION SNAPSHOT '{snapshot}'"))
    except sqlalchemy.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        raise SourceError(
            f"the snapshot {snapshot} of this job is lost ({str(error.orig).strip()}): the database was restarted, or "
            "the producer's connection to it was ended. Run the job again"
        ) from None
    # A statement that waits to rewrite the table waits for the producer, and that waits for us: never wait for it.
    connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE:g}s'"))


def within(statement: Any, relation: Any, low: int, high: int) -> Any:
    """Return the statement for the pages `low` to `high` of a table, without those of its partitions."""
    sqlalchemy = alchemy()
    range_ = sqlalchemy.text("ctid >= CAST(:low AS tid) AND ctid < CAST(:high AS tid)")
    return statement.with_hint(relation, "ONLY", "postgresql").where(
        range_.bindparams(low=f"({low},0)", high=f"({high},0)")
    )
