"""How many rows each range had when the producer looked, and what another number proves.

A part that finds another number of rows than the producer did is no error by itself: the tables may have been written
to meanwhile, and a row that is inserted or deleted meanwhile is read once or not at all. It is one

- if the database is, to its last byte, what it was (`state`): then the rows were other ones for another reason;
- if the same question, asked again in the same transaction, has another answer.

Both are asked only when the numbers differ: a query that is what it should be costs no more. What cannot be told apart
from writing is not noticed: on MariaDB, which has no cheap `state`, and on a database that is written to, a query that
depends on more than the rows (through a function of the user's own, say), and changes from part to part but not within
one transaction. The pages of PostgreSQL have no such numbers: to count their rows the producer would have to
read the whole table, and one snapshot, one lock, and ranges that neither overlap nor leave gaps prove the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pymar.exceptions import SourceError
from pymar.sources.sql.connection import alchemy

#: Ends of names of the files in which a database of SQLite or DuckDB keeps what is committed.
_FILES = {"sqlite": ("", "-wal", "-journal"), "duckdb": ("", ".wal")}


def state(connection: Any) -> str:
    """Return a text that is the same as long as nothing is written to the database; "" if it has no such text.

    In PostgreSQL it is that of the transaction, if it is one of REPEATABLE READ.
    """
    sqlalchemy = alchemy()
    name = connection.dialect.name
    if name == "postgresql" and connection.dialect.server_version_info >= (13,):
        return str(connection.execute(sqlalchemy.text("SELECT CAST(pg_current_snapshot() AS text)")).scalar())
    if name not in _FILES:
        return ""
    if name == "sqlite":
        paths = [row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] != "temp"]
    else:
        listed = sqlalchemy.text("SELECT path FROM duckdb_databases() WHERE NOT internal")
        paths = list(connection.execute(listed).scalars())
    if not all(paths):  # one of them is in memory
        return ""
    return ",".join(filter(None, (_file(f"{path}{end}") for path in paths for end in _FILES[name])))


def _file(path: str) -> str:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ""
    return f"{found.st_size}:{found.st_mtime_ns}"


def of_range(counted: Sequence[Any], start: int, end: int) -> int:
    """Return how many rows the ranges `start` to `end` had at the producer, of `[step, rows, nulls, state]`.

    Each range has `step` of the rows, the last one what remains; rows with a NULL in the key belong to the first.
    """
    step, rows, nulls, _ = counted
    return int(min(end * step, rows) - min(start * step, rows) + (nulls if start == 0 else 0))


def check(connection: Any, counted: Sequence[Any], before: str, expected: int, found: int, statement: Any) -> None:
    """Raise SourceError if a part that read `found` rows instead of `expected` has read what is no stable query.

    Args:
        connection: within the transaction in which the rows were read.
        counted: what the producer found.
        before: the state before the rows were read.
        expected, found: numbers of rows.
        statement: what was asked.
    """
    if found == expected:
        return
    sqlalchemy = alchemy()
    rows = f"a part of the query has {found:,} rows, where there were {expected:,} when the job began"
    remedy = (
        "The query gives other rows each time, or reads what is outside of the database: write its rows to a table "
        "first (CREATE TABLE ... AS SELECT ...), and read that"
    )
    if before and before == counted[-1] == state(connection):
        raise SourceError(f"{rows}, and nothing was written to the database meanwhile. {remedy}")
    again = sqlalchemy.select(sqlalchemy.func.count()).select_from(statement.subquery("pymar_again"))
    count = connection.execute(again).scalar()
    if count != found:
        raise SourceError(f"{rows}, and {count:,} when it was asked once more in the same transaction. {remedy}")
