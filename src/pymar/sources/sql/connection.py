"""Connections to databases: one a process, addresses with variables of its environment, errors without passwords."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

from pymar.exceptions import MissingExtra, SourceError, SourceUnavailable
from pymar.sources.extras import needed

#: Seconds that a database which does not answer is tried again.
PATIENCE = 20.0
_VARIABLE = re.compile(r"\$\{(\w+)\}")
#: What SQLAlchemy calls the drivers that come with `pymar[sql]`, by the name of the database alone.
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
#: What there is to say besides about errors of the database, by their code.
_HINTS = {
    "55P03": ". Somebody waits to rewrite the table (TRUNCATE, VACUUM FULL, CLUSTER, ALTER, REFRESH), and until then "
    "nobody may begin to read it: run the job again afterwards"
}
#: Packages that are not called as the module in them.
_PACKAGES = {"MySQLdb": "mysqlclient", "psycopg2": "psycopg2-binary"}

# The engine of each address as it is in this process; workers compute one part at a time, so each holds one connection.
_engines: dict[str, Any] = {}


def alchemy() -> Any:
    """SQLAlchemy."""
    return needed("sqlalchemy", "sql", "SQLRows")


def literal(sql: str) -> str:
    """SQL of the user's for `sqlalchemy.text`, which takes a colon for the beginning of a parameter."""
    return re.sub(r"(?<!:):(?!:)", r"\\:", sql)


def condition(where: str) -> Any:
    """The user's condition."""
    return alchemy().text(f"({literal(where)}\n)")  # it may end in a comment


def expanded(url: str) -> str:
    """The address with `${VARIABLE}`s of this process's environment in their places.

    Raises:
        SourceError: one is not set here.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise SourceError(f"url has ${{{name}}}, and the environment variable {name} is not set on this host")
        in_userinfo = match.end() <= url.rfind("@")
        return quote(os.environ[name], safe="") if in_userinfo else os.environ[name]

    found = _VARIABLE.sub(value, url)
    kind, _, rest = found.partition("://")
    return f"{_DRIVERS.get(kind, kind)}://{rest}"


def engine(url: str) -> Any:
    """The engine of this process for an address, made when it is first asked for.

    Raises:
        SourceError: this is no address.
        MissingExtra: its driver is not installed.
    """
    sqlalchemy = alchemy()
    here = expanded(url)
    found = _engines.get(here)
    if found is None:
        try:
            address = sqlalchemy.make_url(here)
            found = sqlalchemy.create_engine(here, **_options(address))
        except ModuleNotFoundError as error:
            if error.name == "psycopg":
                needed("psycopg", "sql", "PostgreSQL")
            driver = _PACKAGES.get(str(error.name), error.name)
            raise MissingExtra(f"{url.partition('://')[0]} needs its driver: pip install {driver}") from error
        except sqlalchemy.exc.NoSuchModuleError:
            raise SourceError(
                f"SQLAlchemy has no driver for {url.partition(':')[0]!r}: is one to be installed?"
            ) from None
        except sqlalchemy.exc.ArgumentError:
            raise SourceError("url is no database address; one is postgresql://user:${PASSWORD}@host/name") from None
        _engines[here] = found
    _check_file(found.url)
    return found


def _options(address: Any) -> dict[str, Any]:
    """How an engine is made."""
    if _file_of(address):
        # A connection for each part: a file may be replaced by another of its name at any time.
        return {"poolclass": alchemy().pool.NullPool}
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": -1, "pool_pre_ping": True}
    if address.get_backend_name() == "postgresql" and "connect_timeout" not in address.query:
        options["connect_args"] = {"connect_timeout": int(PATIENCE)}
    return options


def _file_of(address: Any) -> str:
    """The file of SQLite's that is meant; empty if it is none."""
    path = address.database or ":memory:"
    is_file = address.get_backend_name() == "sqlite" and path != ":memory:" and not path.startswith("file:")
    return str(path) if is_file else ""


def located(url: str) -> str:
    """The address with the path of an SQLite file as it is from here; others are what they were."""
    if "${" in url:  # of the environment of whoever connects
        return url
    try:
        address = alchemy().make_url(url)
    except alchemy().exc.ArgumentError:
        return url
    path = _file_of(address)
    return address.set(database=os.path.abspath(path)).render_as_string(hide_password=False) if path else url


def _check_file(address: Any) -> None:
    """SQLite would make an empty database of a path that is not there."""
    path = _file_of(address)
    if path and not os.path.exists(path):
        path = os.path.abspath(path)
        folder = os.path.dirname(path)
        raise SourceError(f"{path} is not there; {near(path, _databases(folder))}")


def _databases(folder: str) -> list[str]:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if name.endswith((".db", ".sqlite", ".sqlite3"))]


def shown(url: str) -> str:
    """An address without user, password and options."""
    try:
        parsed = alchemy().make_url(expanded(url))
    except (SourceError, alchemy().exc.ArgumentError):
        return "url"
    host = (parsed.host or "").rpartition("@")[2]  # behind a password with an @ that was not quoted
    return f"{parsed.drivername}://{host}{f':{parsed.port}' if parsed.port else ''}/{parsed.database or ''}"


def redacted(text: str, url: str) -> str:
    """What a driver says, without what is secret of an address."""
    parsed = alchemy().make_url(expanded(url))
    secrets = {parsed.password, *(value for name, value in parsed.query.items() if "pass" in name.lower())}
    secrets.add((parsed.host or "").rpartition("@")[0])
    secrets |= {os.environ.get(name) for name in _VARIABLE.findall(url)}
    for secret in map(str, filter(None, secrets)):
        text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return text


@contextmanager
def told(url: str, is_connecting: bool = False) -> Iterator[None]:
    """Errors of the database as ours.

    Raises:
        SourceUnavailable: it cannot be reached, or has ended the connection.
        SourceError: it refuses.
    """
    exc = alchemy().exc
    try:
        yield
    except exc.DBAPIError as error:
        text = redacted(str(error.orig or error).strip(), url) + _HINTS.get(_code(error), "")
        is_absent = is_connecting and isinstance(error, exc.OperationalError) and not _refuses(error, text, url)
        is_busy = "database is locked" in text and url.startswith("sqlite")
        kind = SourceUnavailable if error.connection_invalidated or is_absent or is_busy else SourceError
        raise kind(f"the database at {shown(url)}: {text}") from None


def _code(error: Any) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _refuses(error: Any, text: str, url: str) -> bool:
    """Whether it has answered, and will answer so again: by its code (class 28, or 3D), or its words."""
    words = ("authentication failed", "does not exist", "no password supplied")
    return url.startswith("sqlite") or _code(error)[:2] in ("28", "3D") or any(sign in text for sign in words)


@contextmanager
def connected(url: str, patience: float = PATIENCE) -> Iterator[Any]:
    """A connection; a database that is not there is tried again for so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with told(url, is_connecting=True):
                connection = engine(url).connect()
            break
        except SourceUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # between two attempts, until the deadline: it may be starting again
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
