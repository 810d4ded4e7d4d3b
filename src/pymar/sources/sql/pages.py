"""PostgreSQL: a table by its heap pages (ranges of `ctid`), under one snapshot for all parts."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from pymar.exceptions import SourceError
from pymar.sources.sql.connection import alchemy, engine, literal, told

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
#: Seconds that a part waits for whoever waits to rewrite its table: they may give up.
LOCK_PATIENCE = 10.0
#: Kinds of relations: those whose rows lie in pages, and those that have none of their own.
_MATERIALISED = "m"
_HEAPS, _PARENTS = {"r", _MATERIALISED}, {"p"}


# The connections of this process whose transactions hold snapshots.
_held: dict[tuple[str, str], Any] = {}


def pages(connection: Any, schema: str | None, name: str) -> list[list[Any]] | None:
    """[schema, table, pages] of a table and all its partitions; None if it is a view, say, which has no
    pages, or has row security."""
    sqlalchemy = alchemy()
    found = [
        list(row) for row in connection.execute(sqlalchemy.text(_PAGES), {"name": _quoted(connection, schema, name)})
    ]
    kinds = {kind.decode() if isinstance(kind, bytes) else kind for _, _, kind, _, _ in found}
    # Where rows are hidden from some users, only the table that was named knows from whom.
    if not found or not kinds <= _HEAPS | _PARENTS or any(is_secured for _, _, _, is_secured, _ in found):
        return None
    return [[space, table, count] for space, table, _, _, count in found if count]


def _quoted(connection: Any, schema: str | None, name: str) -> str:
    return ".".join(map(connection.dialect.identifier_preparer.quote_identifier, filter(None, (schema, name))))


def take_snapshot(url: str, schema: str | None, name: str) -> tuple[str, list[list[Any]]]:
    """A snapshot's id, held until `let_go`; and the pages that it can see.

    The table is locked before: what replaces its pages (TRUNCATE, VACUUM FULL, CLUSTER) minds no snapshot, but waits
    for those who read (https://www.postgresql.org/docs/current/mvcc-caveats.html).
    """
    sqlalchemy = alchemy()
    with told(url):
        connection = engine(url).execution_options(isolation_level="REPEATABLE READ").connect()
        try:
            # A connection of its own, so that the one of the pool is free for serial work here.
            connection.detach()
            _lock(connection, schema, name)
            connection.execute(sqlalchemy.text("SET idle_in_transaction_session_timeout = 0"))
            snapshot: str = connection.execute(sqlalchemy.text("SELECT pg_export_snapshot()")).scalar()
            tables = pages(connection, schema, name) or []
        except BaseException:  # an interrupt too: nobody else knows of this connection yet
            connection.close()
            raise
    _held[url, snapshot] = connection
    return snapshot, tables


def _lock(connection: Any, schema: str | None, name: str) -> None:
    """Have whoever wants to rewrite the table, or one of its partitions, wait for the transaction that begins now."""
    sqlalchemy = alchemy()
    table = _quoted(connection, schema, name)
    kind = connection.execute(
        sqlalchemy.text("SELECT relkind FROM pg_class WHERE oid = to_regclass(:name)"), {"name": table}
    )
    if kind.scalar() in (_MATERIALISED, _MATERIALISED.encode()):
        lock = f"SELECT 1 FROM {table} LIMIT 0"  # LOCK does not take those
    else:
        lock = f"LOCK TABLE {table} IN ACCESS SHARE MODE"
    connection.rollback()  # that transaction has seen something already
    connection.execute(sqlalchemy.text(literal(lock)))


def let_go(url: str, snapshot: str) -> None:
    """The job is over: the database may forget the snapshot."""
    connection = _held.pop((url, snapshot), None)
    if connection is not None:
        with suppress(alchemy().exc.DBAPIError):  # the database has ended it already
            connection.close()


def enter(connection: Any, snapshot: str) -> None:
    """Begin a transaction that sees the snapshot.

    Raises:
        SourceError: there is no such snapshot any more.
    """
    sqlalchemy = alchemy()
    if not re.fullmatch(r"[0-9A-Fa-f-]+", snapshot):
        raise SourceError(f"{snapshot!r} is no snapshot")
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
    # Whoever waits to rewrite the table waits for the producer, which waits for us: we must not wait for them.
    connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{LOCK_PATIENCE:g}s'"))


def within(statement: Any, relation: Any, low: int, high: int) -> Any:
    """The statement for the pages `low` to `high` of a table, without its partitions."""
    sqlalchemy = alchemy()
    range_ = sqlalchemy.text("ctid >= CAST(:low AS tid) AND ctid < CAST(:high AS tid)")
    return statement.with_hint(relation, "ONLY", "postgresql").where(
        range_.bindparams(low=f"({low},0)", high=f"({high},0)")
    )
