"""Connections to databases: one a process, addresses with variables of its environment, errors without passwords."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from pymar.exceptions import SourceError, SourceUnavailable
from pymar.sources.extras import needed

#: Seconds that a database which does not answer is tried again.
PATIENCE = 20.0
_VARIABLE = re.compile(r"\$\{(\w+)\}")
#: What SQLAlchemy calls the drivers that come with `pymar[sql]`, by the name of the database alone.
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}

# The engine of each address; workers compute one part at a time, so each holds one connection.
_engines: dict[str, Any] = {}


def alchemy() -> Any:
    """SQLAlchemy."""
    return needed("sqlalchemy", "sql", "SQLRows")


def expanded(url: str) -> str:
    """The address with `${VARIABLE}`s of this process's environment in their places.

    Raises:
        SourceError: one is not set here.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise SourceError(f"url has ${{{name}}}, and the environment variable {name} is not set on this host")
        return os.environ[name]

    found = _VARIABLE.sub(value, url)
    kind, _, rest = found.partition("://")
    return f"{_DRIVERS.get(kind, kind)}://{rest}"


def engine(url: str) -> Any:
    """The engine of this process for an address, made when it is first asked for.

    Raises:
        SourceError: this is no address.
        MissingExtra: its driver is not installed.
    """
    found = _engines.get(url)
    if found is None:
        sqlalchemy = alchemy()
        try:
            found = sqlalchemy.create_engine(expanded(url), pool_size=1, max_overflow=-1, pool_pre_ping=True)
        except ModuleNotFoundError as error:
            needed(error.name or "psycopg", "sql", url.partition("://")[0])
            raise
        except sqlalchemy.exc.ArgumentError:
            raise SourceError(
                f"url={redacted(url, url)!r} is no database address: postgresql://host/name, say"
            ) from None
        _engines[url] = found
    return found


def redacted(text: str, url: str) -> str:
    """A text without the password of an address."""
    with_values = _VARIABLE.sub(lambda match: os.environ.get(match[1], ""), url)
    found = re.match(r"[^:/]+://[^:/@]*:([^@]*)@", with_values)
    if found and found[1]:
        text = text.replace(found[1], "***")
    return text


@contextmanager
def told(url: str) -> Iterator[None]:
    """Errors of the database as ours.

    Raises:
        SourceUnavailable: it cannot be reached, or has ended the connection.
        SourceError: it refuses.
    """
    exc = alchemy().exc
    try:
        yield
    except exc.DBAPIError as error:
        text = redacted(str(error.orig or error).strip(), url)
        if error.connection_invalidated or _is_absent(text):
            raise SourceUnavailable(f"the database at {redacted(expanded(url), url)}: {text}") from None
        raise SourceError(f"the database at {redacted(expanded(url), url)}: {text}") from None


def _is_absent(text: str) -> bool:
    signs = ("connection refused", "could not connect", "starting up", "shutting down", "server closed", "terminating")
    return any(sign in text.lower() for sign in signs)


@contextmanager
def connected(url: str, patience: float = PATIENCE) -> Iterator[Any]:
    """A connection; a database that is not there is tried again for so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with told(url):
                connection = engine(url).connect()
            break
        except SourceUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # it may be starting again
    with told(url), connection:
        yield connection


def named(table: str) -> tuple[str | None, str]:
    """Schema and name of `schema.table`."""
    schema, _, name = table.rpartition(".")
    return schema or None, name


def near(wanted: str, there: list[str]) -> str:
    """What there is, the most alike first."""
    alike = get_close_matches(wanted, there, 3, 0.5) or sorted(there)[:20]
    return f"there is {', '.join(alike)}" if alike else "there is none"
