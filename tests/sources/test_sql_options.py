"""Options of SQLRows: rowids, sessions, quoted names; and queries that do not give the same rows to each part."""

import datetime
import os
import random
import sqlite3

import pytest
from conftest import needed
from mariadb import MariaDB
from postgres import Postgres
from sql_jobs import rows

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, SourceError, SourceUnavailable
from pymar.sources import SQLRows
from pymar.sources.sql.connection import literal
from pymar.sources.sql.session import masked, without_values
from pymar.sources.sql.unstable import unstable
from pymar.sources.sql.words import words
from pymar.testing import check_source

sqlalchemy = needed("sqlalchemy")
needed("psycopg")
needed("pymysql")
duckdb = needed("duckdb")
needed("duckdb_engine")


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    server.execute(
        "CREATE TABLE plain (id int PRIMARY KEY, word text)",
        "INSERT INTO plain SELECT n, 'word ' || n FROM generate_series(1, 3000) n",
        "CREATE SCHEMA here",
        "CREATE SCHEMA there",
        "CREATE TABLE here.words (id int PRIMARY KEY, word text)",
        "CREATE TABLE there.words (id int PRIMARY KEY, word text)",
        "INSERT INTO here.words SELECT n, 'here' FROM generate_series(1, 50) n",
        "INSERT INTO there.words SELECT n, 'there' FROM generate_series(1, 70) n",
        "CREATE ROLE clerk",
        "CREATE ROLE stranger",
        "GRANT SELECT ON plain TO clerk",
        "CREATE VIEW who AS SELECT id, current_user::text AS name, current_setting('work_mem') AS memory FROM plain",
        "GRANT SELECT ON who TO clerk",
        "CREATE VIEW recent AS SELECT id FROM plain WHERE now() > '2000-01-01'",
        "CREATE VIEW few AS SELECT id FROM plain LIMIT 100",
        "CREATE MATERIALIZED VIEW kept AS SELECT id, now() AS made FROM plain LIMIT 100",
        "CREATE TABLE switch (turned int)",
        # As many rows as before, or fewer, by what is not in the database: a setting of the session.
        "CREATE FUNCTION limited() RETURNS int LANGUAGE sql VOLATILE AS "
        "$$SELECT CASE WHEN current_setting('application_name') = 'less' THEN 1000 ELSE 3000 END$$",
        "CREATE FUNCTION dice() RETURNS double precision LANGUAGE sql VOLATILE AS 'SELECT random()'",
    )
    yield server
    server.remove()


@pytest.fixture(scope="module")
def mariadb():
    server = MariaDB()
    server.execute(
        "CREATE TABLE plain (id INT PRIMARY KEY, word VARCHAR(20))",
        f"INSERT INTO plain VALUES {','.join(f'({n}, {n % 7})' for n in range(3000))}",
        "CREATE DATABASE other",
        "CREATE TABLE other.apart (id INT PRIMARY KEY)",
        "INSERT INTO other.apart VALUES (1), (2)",
    )
    yield server
    server.remove()


@pytest.fixture
def database(tmp_path):
    """A function that makes an SQLite database of statements, and returns its address."""

    def made(*statements, many=()):
        with sqlite3.connect(tmp_path / "data.db") as connection:
            for statement in statements:
                connection.execute(statement)
            for statement, values in many:
                connection.executemany(statement, values)
        connection.close()
        return f"sqlite:///{tmp_path / 'data.db'}"

    return made


def stored(url, sql):
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    found = connection.execute(sql).fetchall()
    connection.close()
    return found


def checked(**settings):
    """Check every cut, and return the rows of a whole job."""
    factory = DataSourceFactory(SQLRows, as_tuples=True, **settings)
    found = rows(**settings)
    assert check_source(factory, seed=1, cuts=2, joined=lambda some: sorted(some, key=repr)) == len(found)
    return found


# Tables without a primary key


@pytest.mark.parametrize(
    "hidden", [(), ("rowid",), ("ROWID", "_rowid_"), ("_rowid_", "Oid"), ("oid",)], ids=lambda names: "-".join(names)
)
def test_a_table_of_sqlite_without_a_key_is_read_by_a_rowid_that_no_column_hides(database, hidden):
    columns = ["word", "n", *hidden]
    values = [(f"w{n % 5}", n % 3, *[n % 2] * len(hidden)) for n in range(2_500)]
    places = ", ".join("?" * len(columns))
    url = database(
        f"CREATE TABLE loose ({', '.join(columns)})", many=[(f"INSERT INTO loose VALUES ({places})", values)]
    )
    assert checked(url=url, table="loose") == sorted(values, key=str)
    assert checked(url=url, table="LOOSE", columns=["n"], where="n > 0") == sorted(
        [row[1:2] for row in values if row[1] > 0], key=str
    )
    dicts = list(DataSourceFactory(SQLRows, url=url, table="loose").build_data_source())
    assert [tuple(row) for row in dicts] == [tuple(columns)] * 2_500
    assert len(rows("processes://2", url=url, table="loose")) == 2_500


def test_a_table_of_which_all_names_of_the_rowid_are_hidden_needs_a_key(database):
    url = database("CREATE TABLE loose (rowid, _rowid_, OID)", "INSERT INTO loose VALUES (1, 2, 3)")
    with pytest.raises(SourceError, match="loose has no primary key: set key="):
        rows(url=url, table="loose")
    assert rows(url=url, table="loose", key="rowid") == [(1, 2, 3)]


def test_a_view_has_no_rowid_and_a_rowid_is_no_column(database):
    url = database("CREATE TABLE loose (a)", "INSERT INTO loose VALUES (1)", "CREATE VIEW seen AS SELECT a FROM loose")
    with pytest.raises(SourceError, match="seen has no primary key: set key="):
        rows(url=url, table="seen")
    with pytest.raises(SourceError, match="has no column 'rowid'; there is a"):
        rows(url=url, table="loose", columns=["rowid"])


def test_rowids_with_holes_and_of_any_sign_are_read_once(database):
    url = database(
        "CREATE TABLE loose (a)",
        many=[
            ("INSERT INTO loose (rowid, a) VALUES (?, ?)", [((n - 1_000) ** 3, n) for n in range(2_000)]),
            ("INSERT INTO loose (rowid, a) VALUES (?, ?)", [(2**63 - 1, "last"), (-(2**63), "first")]),
        ],
    )
    assert checked(url=url, table="loose") == sorted([(n,) for n in range(2_000)] + [("first",), ("last",)], key=str)


def test_a_table_without_rowid_and_a_table_for_search_are_read(database):
    url = database(
        "CREATE TABLE fixed (a TEXT PRIMARY KEY) WITHOUT ROWID",
        "INSERT INTO fixed VALUES ('x'), ('y')",
        "CREATE VIRTUAL TABLE searched USING fts5(title, body)",
        "INSERT INTO searched VALUES ('a', 'b'), ('a', 'b')",
    )
    assert checked(url=url, table="fixed") == [("x",), ("y",)]
    assert checked(url=url, table="searched") == [("a", "b"), ("a", "b")]


@pytest.mark.parametrize("key", ["a PRIMARY KEY", "a TEXT COLLATE NOCASE PRIMARY KEY", "a INT PRIMARY KEY"])
def test_a_primary_key_of_sqlite_may_have_several_nulls_and_values_of_every_kind(database, key):
    chance = random.Random(1)
    kinds = [lambda n: n, lambda n: n + 0.5, lambda n: f"w{n}", lambda n: f"W{n}x", lambda n: bytes([n % 256, n >> 8])]
    values = [(chance.choice(kinds)(n), n) for n in range(1_500)] + [(None, n) for n in range(40)]
    chance.shuffle(values)
    url = database(f"CREATE TABLE mixed ({key}, n)", many=[("INSERT INTO mixed VALUES (?, ?)", values)])
    assert checked(url=url, table="mixed") == sorted(stored(url, "SELECT * FROM mixed"), key=str)
    assert len(rows(url=url, table="mixed", where="a IS NULL")) == 40


def test_a_primary_key_of_two_columns_may_have_nulls_in_either(database):
    values = [(n % 30 or None, n // 30 % 40 or None, n) for n in range(1_200)] + [(None, None, n) for n in range(9)]
    url = database(
        "CREATE TABLE pairs (a, b, n, PRIMARY KEY (a, b))", many=[("INSERT INTO pairs VALUES (?, ?, ?)", values)]
    )
    assert checked(url=url, table="pairs") == sorted(values, key=str)
    assert checked(url=url, query="SELECT * FROM pairs", key=("a", "b")) == sorted(values, key=str)


# Sessions


def test_a_session_holds_for_the_producer_and_for_each_part(postgres):
    for engine in ("serial", "processes://2"):
        found = rows(engine, url=postgres.url, table="words", session=["SET search_path TO there"])
        assert found == sorted([(n, "there") for n in range(1, 71)], key=str)  # by pages, under a snapshot
        by_key = {"query": "SELECT * FROM words", "key": "id"}
        assert rows(engine, url=postgres.url, session=["SET search_path TO there"], **by_key) == found


def test_a_session_does_not_leak_to_other_sources_of_the_same_address(postgres):
    for schema, count in [("here", 50), ("there", 70), ("here", 50)]:
        found = rows(url=postgres.url, table="words", session=[f"SET search_path TO {schema}"])
        assert found == sorted([(n, schema) for n in range(1, count + 1)], key=str)
        with pytest.raises(SourceError, match="no table 'words'"):
            rows(url=postgres.url, table="words")


def test_every_statement_of_a_session_holds_in_each_transaction_that_reads(postgres):
    session = ["SET ROLE clerk", "SET work_mem = '7777kB'", "SELECT set_config('extra_float_digits', '0', false)"]
    settings = {"url": postgres.url, "table": "who", "key": "id", "session": session}
    assert {row[1:] for row in rows("processes://2", **settings)} == {("clerk", "7777kB")}
    assert {row[1:] for row in rows(**{**settings, "session": ()})} == {("pymar", "4MB")}


def test_a_role_that_must_not_read_is_refused_although_the_user_may(postgres):
    assert len(rows(url=postgres.url, table="plain", session=["SET ROLE clerk"])) == 3_000
    for settings in ({}, {"key": "id"}):
        with pytest.raises(SourceError, match="permission denied"):
            rows(url=postgres.url, table="plain", session=["SET ROLE stranger"], **settings)
    assert len(rows(url=postgres.url, table="plain")) == 3_000


def test_a_time_limit_of_a_session_is_met_by_each_statement(postgres):
    where = "id > 0 AND (pg_sleep(0.05) IS NOT NULL)"
    with pytest.raises(PartFailed, match="statement timeout"):
        rows(url=postgres.url, table="plain", where=where, session=["SET statement_timeout = '500ms'"])


def test_a_limit_for_idle_transactions_does_not_end_the_snapshot(postgres):
    class Waiting(SQLRows):
        @classmethod
        def full_length(cls):
            postgres.execute("SELECT pg_sleep(0.6)")
            return super().full_length()

    session = ["SET idle_in_transaction_session_timeout = '200ms'"]
    assert len(rows(url=postgres.url, table="plain", source=Waiting, session=session)) == 3_000


def test_a_connection_that_was_ended_begins_its_session_anew(postgres):
    settings = {"url": postgres.url, "table": "words", "session": ["SET search_path TO there"]}
    assert len(rows(**settings)) == 70
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()")
    assert len(rows(**settings)) == 70


def test_a_session_of_mariadb_chooses_database_and_time_zone(mariadb):
    session = ["USE other"]
    assert rows("processes://2", url=mariadb.url, table="apart", session=session) == [(1,), (2,)]
    with pytest.raises(SourceError, match="no table 'apart'"):
        rows(url=mariadb.url, table="apart")
    query = {"query": "SELECT id, @@time_zone AS zone FROM plain WHERE id < 2", "key": "id"}
    assert rows(url=mariadb.url, **query) == rows(url=mariadb.url, session=["SET NAMES utf8mb4"], **query)
    assert rows(url=mariadb.url, **query) == [(0, "+00:00"), (1, "+00:00")]
    assert rows(url=mariadb.url, session=["SET time_zone = '+02:00'"], **query) == [(0, "+02:00"), (1, "+02:00")]


def test_a_session_of_sqlite_attaches_other_files(database, tmp_path):
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE apart (a)")
        connection.executemany("INSERT INTO apart VALUES (?)", [(n,) for n in range(50)])
    connection.close()
    url = database("CREATE TABLE here (a)")
    session = ["PRAGMA query_only = ON", f"ATTACH DATABASE '{tmp_path / 'other.db'}' AS other"]
    found = sorted([(n,) for n in range(50)], key=str)
    for table in ("other.apart", '"other"."apart"', "[other].[apart]"):
        assert rows("processes://2", url=url, table=table, session=session) == found
    assert rows(url=url, query="SELECT * FROM other.apart", key="a", session=session) == found
    with pytest.raises(SourceError, match="other"):
        rows(url=url, table="other.apart")


def test_a_session_of_duckdb(tmp_path):
    path = tmp_path / "data.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA there")
        connection.execute("CREATE TABLE there.words AS SELECT n AS id FROM range(100) r(n)")
        connection.execute("ALTER TABLE there.words ADD PRIMARY KEY (id)")
    found = rows("processes://2", url=f"duckdb:///{path}", table="words", session=["SET search_path = 'there'"])
    assert sorted(found) == [(n,) for n in range(100)]


@pytest.mark.parametrize(
    ("session", "says"),
    [
        ("SET ROLE clerk", "session is str: it has to be a list of SQL statements"),
        (5, "session is int: it has to be a list of SQL statements"),
        (["SET ROLE clerk", 7], "session is list: it has to be a list of SQL statements"),
        ([" -- nothing"], r"session\[0\] is empty"),
        (["SET ROLE clerk", "SET LOCAL work_mem = '9MB'"], r"session\[1\], SET local work_mem=\*\*\*, .* Use SET"),
        (["BEGIN"], "one transaction only"),
        (["/* first */ set transaction read only"], "one transaction only"),
        (["SET ROLE clerk", "SET nothing_such = 'a'"], r'session\[1\], SET nothing_such=\*\*\*: .*"nothing_such"'),
        (["SET statement_timeout = 'Zwölf'"], r"session\[0\], SET statement_timeout=\*\*\*: invalid value"),
    ],
)
def test_a_session_that_makes_no_sense_is_refused_by_its_number(postgres, session, says):
    with pytest.raises(SourceError, match=says) as refused:
        rows(url=postgres.url, table="plain", session=session)
    assert not isinstance(refused.value, SourceUnavailable)
    assert "Zwölf" not in str(refused.value)


@pytest.mark.parametrize(
    "statement",
    [
        "SET app.password TO hunter2word",
        "SET app.note = 'hunter2word'",
        "SET app.note = $x$hunter2word$x$",
        "SELECT set_config('nothing such', 'hunter2word', false), 'hunter2word'::int",
        "ALTER ROLE nobody_such PASSWORD 'hunter2word'",
        "SELECT dblink('postgresql://a:hunter2word@host/b')",
    ],
)
def test_no_secret_of_a_session_is_in_an_error(postgres, statement):
    """Given a session whose last statement fails, what stands in it is in no message."""
    with pytest.raises(SourceError) as refused:
        rows(url=postgres.url, table="plain", session=[statement, f"{statement} and an error"])
    assert "hunter2word" not in str(refused.value)
    assert "session[" in str(refused.value)
    shown = without_values(f"error near {statement}", statement, "postgresql") + masked(statement, "postgresql")
    assert "hunter2word" not in shown


def test_a_locked_database_of_sqlite_makes_its_session_wait(database):
    url = database("CREATE TABLE a (n)")
    writer = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SourceUnavailable, match=r"session\[0\].*locked"):
        rows(url=f"{url}?timeout=0.1", table="a", session=["PRAGMA user_version = 3"])
    writer.close()


# Names

NAMES = ["My Table", "my.table", 'qu"ote', "back`tick", "it's", "50%", "%(x)s", ":p", "a::b", "SELECT", "ключ", "日本",
         "a;b--c", "pymar_row", "$1", "back\\slash", "[x]", "?"]  # fmt: skip


def quoted(name, mark='"'):
    return mark + name.replace(mark, mark * 2) + mark


def _odd(execute, mark, schema):
    """Make a table for each name, which its columns have too; return the names as `table=` takes them."""
    execute(f"CREATE SCHEMA {quoted(schema, mark)}")
    tables = []
    for number, name in enumerate(NAMES):
        full = f"{quoted(schema, mark)}.{quoted(name, mark)}"
        column, other = quoted(name, mark), quoted(NAMES[number - 1], mark)
        execute(f"CREATE TABLE {full} ({column} INT PRIMARY KEY, {other} VARCHAR(20))")
        execute(f"INSERT INTO {full} VALUES {','.join(f'({n}, {n % 3})' for n in range(30))}")
        tables.append((full, name, NAMES[number - 1]))
    return tables


def _read_by_odd_names(url, tables, mark):
    for full, name, other in tables:
        where = f"{quoted(other, mark)} <> '2' AND {quoted(name, mark)} < 20 AND ':x%' <> '%s :y' -- a : and a %"
        expected = sorted([(str(n % 3), n) for n in range(20) if n % 3 != 2], key=str)
        for what in ({"table": full}, {"table": full, "key": name}, {"query": f"SELECT * FROM {full}", "key": [name]}):
            factory = DataSourceFactory(SQLRows, url=url, columns=[other, name], where=where, as_tuples=True, **what)
            assert sorted(factory.build_data_source(), key=str) == expected, what
        found = list(DataSourceFactory(SQLRows, url=url, table=full, key=name).build_data_source())
        assert sorted(found, key=lambda row: row[name]) == [{name: n, other: str(n % 3)} for n in range(30)]


def test_names_within_quotes_are_taken_as_they_are_in_postgres(postgres):
    _read_by_odd_names(postgres.url, _odd(postgres.execute, '"', "My. Schema"), '"')


def test_names_within_quotes_are_taken_as_they_are_in_mariadb(mariadb):
    tables = _odd(lambda sql: mariadb.execute("SET NAMES utf8mb4", sql), "`", "My. Schema")
    _read_by_odd_names(mariadb.url + "?charset=utf8mb4", tables, "`")


def test_names_within_quotes_are_taken_as_they_are_in_duckdb(tmp_path):
    with duckdb.connect(str(tmp_path / "data.duckdb")) as connection:
        tables = _odd(connection.execute, '"', "My Schema")
    _read_by_odd_names(f"duckdb:///{tmp_path / 'data.duckdb'}", tables, '"')


def test_a_schema_of_duckdb_with_a_dot_is_refused(tmp_path):
    with duckdb.connect(str(tmp_path / "data.duckdb")) as connection:
        _odd(connection.execute, '"', "my.schema")
    with pytest.raises(SourceError, match=r"schema 'my\.schema' has a dot.*query="):
        rows(url=f"duckdb:///{tmp_path / 'data.duckdb'}", table='"my.schema"."My Table"')


@pytest.mark.parametrize("mark", ['"', "`"])
def test_names_within_quotes_are_taken_as_they_are_in_sqlite(database, mark):
    names = [name for name in NAMES if "[" not in name]
    made = [f"CREATE TABLE {quoted(name)} ({quoted(name)} INT, {quoted(name + ' 2')})" for name in names]
    filled = [f"INSERT INTO {quoted(name)} VALUES (1, 'x'), (2, 'y'), (NULL, 'z')" for name in names]
    url = database(*made, *filled)
    for name in names:
        for table in (quoted(name, mark), f"main.{quoted(name, mark)}", quoted(name.lower(), mark)):
            where = f"{quoted(name + ' 2')} <> 'y:%'"
            for key in ((), name):
                assert rows(url=url, table=table, where=where, key=key) == [(1, "x"), (2, "y"), (None, "z")], table


def test_colons_and_backslashes_reach_the_database_as_they_are():
    chance = random.Random(3)
    for _ in range(5_000):
        sql = "".join(chance.choice("ab:\\ %1'[]=$") for _ in range(chance.randrange(1, 10)))
        assert str(sqlalchemy.text(literal(sql)).compile()) == sql


def test_texts_with_colons_are_compared_as_they_are(postgres):
    texts = [":a::b", "a\\:b", "\\:c", "::", "a :b", ":a"]
    found = rows(
        url=postgres.url,
        query="SELECT id, (ARRAY[" + ", ".join(f"'{text}'" for text in texts) + "])[id:id::int] AS t FROM plain",
        key="id",
        where="id <= 6",
        columns=["t"],
    )
    assert sorted(text for ([text],) in found) == sorted(texts)
    for text in texts:
        assert len(rows(url=postgres.url, table="plain", where=f"'{text}' || id = '{text}' || 7")) == 1


def test_a_name_of_three_pieces_and_one_with_a_quote_in_it(postgres):
    with pytest.raises(SourceError, match="a schema and a table"):
        rows(url=postgres.url, table='"postgres"."public"."plain"')
    postgres.execute('CREATE TABLE "say ""x""" AS SELECT 1 AS id')
    assert rows(url=postgres.url, table='say "x"') == rows(url=postgres.url, table='"say ""x"""') == [(1,)]


# Queries that give other rows each time

UNSTABLE = [
    ("SELECT id FROM plain WHERE random() < 0.5", "random"),
    ("SELECT id, RANDOM ( ) AS x FROM plain", "random"),
    ("SELECT id, pg_catalog.random() FROM plain", "random"),
    ("SELECT id FROM plain TABLESAMPLE SYSTEM (10)", "TABLESAMPLE"),
    ("SELECT nextval('s') AS id FROM plain", "nextval"),
    ("SELECT id FROM plain WHERE made > now() - interval '1 day'", "now"),
    ("SELECT id FROM plain WHERE day = CURRENT_DATE", "CURRENT_DATE"),
    ("SELECT id FROM plain WHERE day = 'today'::date", "TODAY"),
    ("SELECT id FROM plain WHERE day > CAST('yesterday' AS date)", "YESTERDAY"),
    ("SELECT id FROM plain WHERE age(day) < '1 day'", "age"),
    ("SELECT * FROM (SELECT id FROM plain LIMIT 100) AS a", "LIMIT"),
    ("SELECT * FROM (SELECT id FROM plain ORDER BY id) AS a LIMIT 100", "LIMIT"),
    ("SELECT id FROM plain WHERE id IN (SELECT id FROM plain FETCH FIRST 5 ROWS ONLY) ORDER BY id", "FETCH"),
    ("WITH a AS (SELECT id FROM plain OFFSET 10) SELECT * FROM a", "OFFSET"),
    ("SELECT DISTINCT ON (word) id FROM plain", "DISTINCT ON"),
    ("SELECT row_number() OVER () AS id FROM plain", "row_number"),
    ("SELECT row_number() OVER (PARTITION BY word) AS id FROM plain ORDER BY 1", "row_number"),
]


@pytest.mark.parametrize(("query", "says"), UNSTABLE)
def test_what_is_known_to_give_other_rows_each_time_is_refused_with_a_remedy(postgres, query, says):
    with pytest.raises(SourceError, match=rf"(?i)gives other rows each time: it has '?{says}") as refused:
        rows(url=postgres.url, query=query, key="id")
    assert any(word in str(refused.value) for word in ("write", "order them"))


STABLE = [
    "SELECT id, word AS random FROM plain WHERE word <> 'random() now()' -- now()",
    'SELECT id, $$now()$$ AS "now()" /* now() /* random() */ now() */ FROM plain',
    "SELECT id, E'it\\'s now()' AS x FROM plain",
    "SELECT * FROM (SELECT id FROM plain ORDER BY id LIMIT 1000) AS a",
    "SELECT id FROM plain p WHERE EXISTS (SELECT 1 FROM plain q WHERE q.id = p.id LIMIT 1)",
    "SELECT id, date_trunc('day', timestamp '2026-01-01') AS date, 'today' AS x FROM plain",
    "SELECT DISTINCT ON (word) id FROM plain ORDER BY word, id",
    "SELECT row_number() OVER (ORDER BY id) AS id FROM plain",
    "SELECT id, age(timestamp '2026-01-01', timestamp '2025-01-01') AS age FROM plain OFFSET 0",
    "SELECT id FROM plain TABLESAMPLE BERNOULLI (50) REPEATABLE (3)",
]


@pytest.mark.parametrize("query", STABLE)
def test_what_only_looks_so_is_read(postgres, query):
    expected = sorted(postgres.execute(query), key=str)
    assert expected
    assert rows(url=postgres.url, query=query, key="id") == expected


@pytest.mark.parametrize(
    ("dialect", "sql", "is_unstable"),
    [
        ("sqlite", "SELECT date('now')", True),
        ("sqlite", "SELECT date(day, 'now')", False),
        ("sqlite", "SELECT datetime()", True),
        ("sqlite", "SELECT strftime('%s', 'now')", True),
        ("sqlite", "SELECT strftime('%s', day) FROM [now()] WHERE a = 'now'", False),
        ("sqlite", "SELECT hex(randomblob(8))", True),
        ("sqlite", "SELECT localtime, t.current_date, offset FROM t", False),
        ("mysql", "SELECT `now()`, \"rand()\", 'it\\'s now()' FROM a # now()", False),
        ("mysql", "SELECT 1--now()", True),
        ("mysql", "SELECT /*! now() */ 1", True),
        ("mariadb", "SELECT @n := @n + 1 AS id FROM a, (SELECT @n := 0) b", True),
        ("mariadb", "SELECT unix_timestamp(day) FROM a", False),
        ("mariadb", "SELECT unix_timestamp() - 5", True),
        ("duckdb", "SELECT * FROM a USING SAMPLE 10", True),
        ("duckdb", "SELECT uuid() AS id", True),
        ("duckdb", "SELECT CAST(a AS uuid), today FROM a", False),
        ("postgresql", "SELECT 'now' AS date", False),
        ("postgresql", "SELECT a FROM b LIMIT ALL", False),
    ],
)
def test_each_database_has_its_own_words(dialect, sql, is_unstable):
    assert bool(unstable(sql, dialect)) == is_unstable


@pytest.mark.parametrize(
    "sql", ["", "'", "/*", "SELECT 'a", "$$", "$a$ b", 'x "y', "((", "))", "/* /* */", "E'\\", "\\"]
)
@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "sqlite", "duckdb", "oracle"])
def test_sql_that_does_not_end_is_left_to_the_database(dialect, sql):
    assert isinstance(words(sql, dialect), list)
    assert unstable(sql, dialect) == ""


@pytest.mark.parametrize(("view", "says"), [("recent", "now"), ("few", "LIMIT")])
def test_the_view_that_is_read_is_looked_into(postgres, view, says):
    with pytest.raises(SourceError, match=f"the view {view} of SQLRows gives other rows each time: it has {says}"):
        rows(url=postgres.url, table=view, key="id")


def test_a_materialized_view_has_rows_whatever_made_them(postgres):
    assert len(rows(url=postgres.url, table="kept")) == len(rows(url=postgres.url, table="kept", key="id")) == 100


def test_conditions_are_looked_into_and_a_sample_of_pages_is_one(postgres):
    for settings in ({}, {"key": "id"}):
        with pytest.raises(SourceError, match="where of SQLRows gives other rows each time: it has now"):
            rows(url=postgres.url, table="plain", where="now() > '2000-01-01'", **settings)
    with pytest.raises(SourceError, match="random"):
        rows(url=postgres.url, table="plain", where="random() < 0.5", key="id")
    with pytest.raises(SourceError, match="random"):
        rows(url=postgres.url, table="plain", where="id IN (SELECT id FROM plain ORDER BY random() LIMIT 5)")
    found = rows(url=postgres.url, table="plain", where="random() < 0.5")
    assert 1_000 < len(found) == len(set(found)) < 2_000


def test_chance_within_a_function_is_noticed_by_the_producer(postgres):
    for query in ("SELECT id FROM plain WHERE dice() < 0.9", "SELECT id FROM plain ORDER BY dice() LIMIT 3"):
        for _ in range(20):
            with pytest.raises(SourceError, match="gives other rows each time"):
                DataSourceFactory(SQLRows, url=postgres.url, query=query, key="id").length()


class Meanwhile(SQLRows):
    """Executes `statement` between the look of the producer and the reading."""

    statement = ""

    @classmethod
    def full_length(cls):
        if cls.url.startswith("sqlite"):
            with sqlite3.connect(cls.url.removeprefix("sqlite:///")) as connection:
                connection.execute(cls.statement)
            connection.close()
        elif cls.url.startswith("postgresql"):
            import psycopg

            with psycopg.connect(cls.url, autocommit=True) as connection:
                connection.execute(cls.statement)
        else:
            MARIADB[0].execute(cls.statement)
        return super().full_length()


MARIADB = []


@pytest.mark.parametrize("what", [{"table": "busy"}, {"table": "busy", "where": "id >= 0"}, {"table": "seen"},
                                  {"query": "SELECT * FROM busy WHERE id >= 0"}])  # fmt: skip
@pytest.mark.parametrize("kind", ["postgres", "mariadb", "sqlite"])
def test_rows_that_are_written_meanwhile_are_no_error(kind, what, request, database):
    make = ("DROP TABLE IF EXISTS busy", "CREATE TABLE busy (id INT PRIMARY KEY)",
            f"INSERT INTO busy VALUES {','.join(f'({10 * n})' for n in range(2_000))}",
            "CREATE VIEW seen AS SELECT * FROM busy")  # fmt: skip
    if kind == "sqlite":
        url = database(*make)
    else:
        server = request.getfixturevalue(kind)
        server.execute("DROP VIEW IF EXISTS seen", *make)
        url, MARIADB[:] = server.url, [server]
    for statement, count in [
        ("INSERT INTO busy VALUES (5), (15), (99999)", 2_003),
        ("DELETE FROM busy WHERE id < 100", 1_991),
    ]:
        found = rows(url=url, key="id", source=Meanwhile, statement=statement, **what)
        assert len(found) == len(set(found)) == count


class Less(SQLRows):
    """Its parts ask in another session than the producer, so that a function has another value, without any writing."""

    @classmethod
    def full_length(cls):
        cls.session = ["SET application_name = 'less'"]
        return super().full_length()


@pytest.mark.parametrize(
    "what",
    [{"query": "SELECT id FROM plain WHERE id <= limited()"}, {"table": "plain", "where": "id <= limited()"}],
)
def test_a_part_that_has_other_rows_while_nothing_was_written_fails(postgres, what, monkeypatch):
    monkeypatch.setattr(Less, "session", [])
    with pytest.raises(PartFailed, match=r"has \d+ rows, where there were 333 .*nothing was written.*write its rows"):
        rows(url=postgres.url, key="id", source=Less, **what)


class Moved(SQLRows):
    """Its database is exchanged meanwhile for one with a row less, whose size and time are those of before."""

    fewer = ""

    @classmethod
    def full_length(cls):
        path = cls.url.removeprefix("sqlite:///")
        before = os.stat(path)
        os.replace(cls.fewer, path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert os.stat(path).st_size == before.st_size
        return super().full_length()


def test_a_part_of_sqlite_that_has_other_rows_while_its_file_is_the_same_fails(database, tmp_path):
    url = database(
        "CREATE TABLE a (id INTEGER PRIMARY KEY)", many=[("INSERT INTO a VALUES (?)", [(n,) for n in range(99)])]
    )
    fewer = tmp_path / "fewer.db"
    fewer.write_bytes((tmp_path / "data.db").read_bytes())
    with sqlite3.connect(fewer) as connection:
        connection.execute("DELETE FROM a WHERE id = 50")
    connection.close()
    with pytest.raises(PartFailed, match="nothing was written to the database meanwhile"):
        rows(url=url, query="SELECT * FROM a", key="id", source=Moved, fewer=str(fewer))


def test_a_part_whose_rows_differ_within_one_transaction_fails(mariadb):
    """The producer sees a function as it is; before a part reads, the function becomes one of chance."""
    mariadb.execute(
        "CREATE OR REPLACE FUNCTION chosen(n INT) RETURNS DOUBLE NOT DETERMINISTIC NO SQL RETURN 0.0",
        "GRANT EXECUTE ON *.* TO pymar@'127.0.0.1'",
    )
    MARIADB[:] = [mariadb]
    statement = "CREATE OR REPLACE FUNCTION chosen(n INT) RETURNS DOUBLE NOT DETERMINISTIC NO SQL RETURN rand()"
    query = "SELECT id FROM plain WHERE chosen(id) < 0.5"
    with pytest.raises(PartFailed, match="when it was asked once more in the same transaction"):
        rows(url=mariadb.url, query=query, key="id", source=Meanwhile, statement=statement)


def test_a_query_with_nulls_in_its_key_is_counted_with_them(postgres):
    query = "SELECT nullif(id % 1500, 7) AS k, id FROM plain WHERE id <= 1500 UNION ALL SELECT NULL, -5"
    expected = sorted(postgres.execute(query), key=str)
    assert checked(url=postgres.url, query=query, key="k") == expected
    only = "SELECT NULL::int AS k, id FROM plain"
    assert len(checked(url=postgres.url, query=only, key="k")) == 3_000


def test_what_is_read_by_halves_is_not_counted(postgres):
    """Given a map function that takes the first row of each part, nothing is compared."""
    factory = DataSourceFactory(SQLRows, url=postgres.url, query="SELECT * FROM plain WHERE id > 5", key="id")
    first = next(iter(factory.build_data_source()))
    assert first["id"] > 5


def test_times_of_a_query_may_be_given_as_values(postgres):
    query = "SELECT id, timestamp '2026-01-31 00:00:00' AS at FROM plain WHERE timestamp '2026-01-31' > '2000-01-01'"
    at = datetime.datetime(2026, 1, 31)
    assert rows(url=postgres.url, query=query, key="id") == sorted([(n, at) for n in range(1, 3_001)], key=str)


def test_dates_that_python_does_not_have_are_named_with_a_remedy(postgres):
    postgres.execute("CREATE TABLE far (id int, at timestamp)", "INSERT INTO far VALUES (1, 'infinity')")
    with pytest.raises(SourceError, match="cast it to text in query="):
        list(DataSourceFactory(SQLRows, url=postgres.url, table="far").build_data_source())
    query = "SELECT id, at::text AS at FROM far"
    found = DataSourceFactory(SQLRows, url=postgres.url, query=query, key="id").build_data_source()
    assert list(found) == [{"id": 1, "at": "infinity"}]
