"""Connections to databases: one a process, addresses with environment variables, errors without passwords."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

from pymar.exceptions import MissingExtra, SourceError, SourceUnavailable
from pymar.sources.extras import needed
from pymar.sources.sql.session import masked, without_values
from pymar.sources.sql.words import MYSQL

#: Seconds during which connecting to a database that does not answer is tried again.
PATIENCE = 20.0
#: What SQLAlchemy takes for a parameter, and for a colon that begins none. No more must be escaped: a backslash would
#: stay before the `:a` of `:a::int`.
_PARAMETER = re.compile(r"(?<![:\w\\]):(?=\w+(?![:\w]))")
_ESCAPED = re.compile(r"\\(?=:\w*(?![:\w]))")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
#: SQLAlchemy's names of the drivers that our extras install, for addresses that name only the database.
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
#: Modules of drivers, with the extra that installs each.
_EXTRAS = {"psycopg": "sql", "pymysql": "mysql", "duckdb": "duckdb", "duckdb_engine": "duckdb"}
#: SQLAlchemy's names of databases that are files, with the ends of their names.
_FILES = {"sqlite": (".db", ".sqlite", ".sqlite3"), "duckdb": (".db", ".duckdb", ".ddb")}
#: What databases that are files say while another process writes to them.
_BUSY = {"sqlite": ("database is locked",), "duckdb": ("Could not set lock", "Conflicting lock")}
#: What our message adds to errors of the database, by their SQLSTATE.
_HINTS = {
    "55P03": ". A statement waits to rewrite the table (TRUNCATE, VACUUM FULL, CLUSTER, ALTER, REFRESH), and until "
    "it is done no new reader is let in: run the job again afterwards"
}
_NO_DATE = (
    ". Python has no such date (infinity, BC, after 9999): leave the column out with columns=, or cast it to text"
)
#: The same, by what they say.
_ADVICE = dict.fromkeys(("too large (after year 10K)", "too small (before year 1)"), f"{_NO_DATE} in query=")
#: Packages whose name is not that of their module.
_PACKAGES = {"MySQLdb": "mysqlclient", "psycopg2": "psycopg2-binary"}

# The SQLAlchemy engine of each expanded address and session in this process. A worker process computes one part at a
# time, so each engine holds one connection. Sources with other sessions never share one: SET outlives a part.
_engines: dict[tuple[str, tuple[str, ...]], Any] = {}


def alchemy() -> Any:
    """Import SQLAlchemy, and return it."""
    return needed("sqlalchemy", "sql", "SQLRows")


def literal(sql: str) -> str:
    """Return the user's SQL for `sqlalchemy.text`, which takes `:name` for a parameter, and `\\:` for a colon."""
    return _PARAMETER.sub(r"\\:", _ESCAPED.sub(r"\\\\", sql))


def condition(where: str) -> Any:
    """Return the user's condition for SQLAlchemy's `where`."""
    return alchemy().text(f"({literal(where)}\n)")  # it may end in a comment


def expanded(url: str) -> str:
    """Return the address with each `${VARIABLE}` replaced by its value in the environment of this process.

    Raises:
        SourceError: a variable is not set here.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise SourceError(
                f"url has ${{{name}}}, but the environment variable {name} is not set on this host: set it there"
            )
        in_userinfo = match.end() <= url.rfind("@")
        return quote(os.environ[name], safe="") if in_userinfo else os.environ[name]

    found = _VARIABLE.sub(value, url)
    if re.search(r"://[^/?#]+/[^?#]*@", found):  # a password with a slash, which ends the address
        raise SourceError(
            "url has an @ behind its first /: write / and @ in a password as %2F and %40, or give it as ${NAME}"
        )
    kind, _, rest = found.partition("://")
    return f"{_DRIVERS.get(kind, kind)}://{rest}"


def engine(url: str, session: Sequence[str] = ()) -> Any:
    """Return this process's SQLAlchemy engine for an address; it is made on the first call.

    Each of its connections begins with the statements of `session`.

    Raises:
        SourceError: this is not an address.
        MissingExtra: its driver is not installed.
    """
    sqlalchemy = alchemy()
    here = expanded(url)
    key = (here, tuple(session))
    found = _engines.get(key)
    if found is None:
        try:
            address = sqlalchemy.make_url(here)
            found = sqlalchemy.create_engine(here, **_options(address))
        except ModuleNotFoundError as error:
            if error.name in _EXTRAS:
                needed(error.name, _EXTRAS[error.name], f"a database at {url.partition('://')[0]}://")
            driver = _PACKAGES.get(str(error.name), error.name)
            raise MissingExtra(f"{url.partition('://')[0]} needs its driver: pip install {driver}") from error
        except sqlalchemy.exc.NoSuchModuleError:
            if url.startswith("duckdb"):
                needed("duckdb_engine", "duckdb", "a database at duckdb://")
            raise SourceError(
                f"SQLAlchemy has no driver for {url.partition(':')[0]!r}: install one, or correct the name"
            ) from None
        except sqlalchemy.exc.ArgumentError:
            raise SourceError("url is not a database address such as postgresql://user:${PASSWORD}@host/name") from None
        if found.dialect.name in MYSQL and not session:
            sqlalchemy.event.listen(found, "connect", _in_utc)
        if session:
            # Before SQLAlchemy asks which schema is the default one.
            sqlalchemy.event.listen(found, "connect", _beginning(url, key[1], found.dialect), insert=True)
        _engines[key] = found
    _check_file(found.url)
    return found


def dialect_of(url: str) -> str:
    """Return SQLAlchemy's name of the database at an address."""
    return str(engine(url).dialect.name)


def _beginning(url: str, session: Sequence[str], dialect: Any) -> Callable[[Any, Any], None]:
    """Return what executes the statements of a session on a new connection of the driver."""

    def begin(connection: Any, record: Any) -> None:
        if dialect.name in MYSQL:
            _in_utc(connection, record)  # it is first, so that a session may choose another time zone
        for number, statement in enumerate(session):
            try:
                cursor = connection.cursor()
                cursor.execute(statement)
                if cursor.description:
                    cursor.fetchall()  # a PRAGMA may do its work only while its rows are read
                cursor.close()
                if dialect.name != "duckdb":  # which is in no transaction here
                    connection.commit()  # PostgreSQL undoes a SET whose transaction is rolled back
            except dialect.loaded_dbapi.Error as error:
                is_lost = dialect.is_disconnect(error, connection, None) or _is_busy(str(error), url)
                text = without_values(redacted(str(error).strip(), url), statement, dialect.name)
                connection.close()
                raise (SourceUnavailable if is_lost else SourceError)(
                    f"the database at {shown(url)} refuses session[{number}], {masked(statement, dialect.name)}: {text}"
                ) from None

    return begin


def _is_busy(text: str, url: str) -> bool:
    return any(phrase in text for phrase in _BUSY.get(re.split(r"\W", url)[0], ()))


def _in_utc(connection: Any, _record: Any) -> None:
    """Let a session of MySQL give TIMESTAMPs in UTC: local times are ambiguous in the hour that clocks repeat."""
    with connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")


def _options(address: Any) -> dict[str, Any]:
    """Return the arguments with which an engine is made."""
    if address.get_backend_name() in _FILES:
        # A new connection for each part: a file may be replaced by another of the same name at any time.
        options: dict[str, Any] = {"poolclass": alchemy().pool.NullPool}
        if _file_of(address) and address.get_backend_name() == "duckdb":  # which lets one process write, or many read
            options["connect_args"] = {"read_only": True}
        return options
    options = {"pool_size": 1, "max_overflow": -1, "pool_pre_ping": True}
    if address.get_backend_name() == "postgresql" and "connect_timeout" not in address.query:
        options["connect_args"] = {"connect_timeout": int(PATIENCE)}
    return options


def _file_of(address: Any) -> str:
    """Return the path of a database that is a file; "" for one in memory, or on a server."""
    path = address.database or ":memory:"
    is_file = address.get_backend_name() in _FILES and not path.startswith((":memory:", "file:", "md:"))
    return str(path) if is_file else ""


def located(url: str) -> str:
    """Return the address with the path of a database that is a file made absolute; other addresses as they are."""
    if "${" in url:  # only the process that connects has its value
        return url
    try:
        address = alchemy().make_url(url)
    except alchemy().exc.ArgumentError:
        return url
    path = _file_of(address)
    return address.set(database=os.path.abspath(path)).render_as_string(hide_password=False) if path else url


def _check_file(address: Any) -> None:
    """Raise SourceError if the file of a database does not exist: SQLite itself would create an empty one."""
    path = _file_of(address)
    if path and not os.path.exists(path):
        path = os.path.abspath(path)
        folder = os.path.dirname(path)
        raise SourceError(
            f"{path} does not exist; {near(path, _databases(folder, _FILES[address.get_backend_name()]))}"
        )


def _databases(folder: str, ends: tuple[str, ...]) -> list[str]:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if name.endswith(ends)]


def shown(url: str) -> str:
    """Return an address without user, password and options, for messages."""
    try:
        parsed = alchemy().make_url(expanded(url))
    except (SourceError, alchemy().exc.ArgumentError):
        return "url"
    host = (parsed.host or "").rpartition("@")[2]  # after the last @: an unquoted password may contain one
    return f"{parsed.drivername}://{host}{f':{parsed.port}' if parsed.port else ''}/{parsed.database or ''}"


def redacted(text: str, url: str) -> str:
    """Return a driver's message without the secrets of an address."""
    parsed = alchemy().make_url(expanded(url))
    secrets = {parsed.password, *(value for name, value in parsed.query.items() if "pass" in name.lower())}
    secrets.add((parsed.host or "").rpartition("@")[0])
    secrets |= {os.environ.get(name) for name in _VARIABLE.findall(url)}
    for secret in map(str, filter(None, secrets)):
        text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return text


@contextmanager
def translated(url: str, is_connecting: bool = False) -> Iterator[None]:
    """Translate errors of the database into those of pymar.exceptions.

    Raises:
        SourceUnavailable: the database cannot be reached, or has ended the connection.
        SourceError: it has refused.
    """
    exc = alchemy().exc
    try:
        yield
    except exc.DBAPIError as error:
        text = redacted(str(error.orig or error).strip(), url) + _HINTS.get(_code(error), "")
        text += next((hint for phrase, hint in _ADVICE.items() if phrase in text), "")
        is_absent = is_connecting and isinstance(error, exc.OperationalError) and not _refuses(error, text, url)
        is_away = error.connection_invalidated or is_absent or _is_busy(text, url)
        kind = SourceUnavailable if is_away else SourceError
        raise kind(f"the database at {shown(url)}: {text}") from None


def _code(error: Any) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _refuses(error: Any, text: str, url: str) -> bool:
    """True if the database has answered, and would answer so again: by its SQLSTATE (class 28, 3D) or text."""
    phrases = ("authentication failed", "does not exist", "no password supplied", "Access denied", "Unknown database")
    return (
        url.startswith(tuple(_FILES)) or _code(error)[:2] in ("28", "3D") or any(phrase in text for phrase in phrases)
    )


@contextmanager
def connected(url: str, session: Sequence[str] = (), patience: float = PATIENCE) -> Iterator[Any]:
    """Open a connection, which begins with `session`; if the database does not answer, try for `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with translated(url, is_connecting=True):
                connection = engine(url, session).connect()
            break
        except SourceUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # between two attempts: the database may be restarting
    with translated(url), connection:
        yield connection


def near(wanted: str, there: list[str]) -> str:
    """Return a text that lists what there is: the names most similar to `wanted`, or the first twenty."""
    alike = get_close_matches(wanted, there, 3, 0.5) or sorted(there)[:20]
    return f"there is {', '.join(alike)}" if alike else "there is none"
