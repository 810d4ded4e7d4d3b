"""Rows of a database: each once, on PostgreSQL all as of one moment, and errors that say what to do."""

import gc
import os
import socket
import sqlite3
import threading

import pytest
from conftest import PATIENCE, needed, wait_until
from postgres import Postgres
from sql_jobs import Rows, rows

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, SourceError, SourceUnavailable, UsageError
from pymar.parts import Lost
from pymar.sources import SQLRows
from pymar.testing import check_source

needed("sqlalchemy")
psycopg = needed("psycopg")


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    server.execute(
        "CREATE TABLE numbers (id int, word text)",  # without a key, with NULLs
        "INSERT INTO numbers SELECT nullif(n % 1000, 7), 'word ' || n FROM generate_series(1, 50000) n",
        "CREATE TABLE days (day date, n int) PARTITION BY RANGE (day)",
        "CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        "CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')",
        "INSERT INTO days SELECT date '2026-01-01' + n % 59, n FROM generate_series(1, 20000) n",
        "CREATE TABLE named (a text, b int, value int, PRIMARY KEY (a, b))",
        "INSERT INTO named SELECT chr(97 + n % 26), n, n * n FROM generate_series(1, 5000) n",
        "CREATE TABLE loose (id int UNIQUE, twice int)",
        "INSERT INTO loose SELECT nullif(n, 500), n / 2 FROM generate_series(1, 3000) n",
        "INSERT INTO loose VALUES (NULL, 7)",
        "CREATE VIEW squares AS SELECT b, value FROM named",
        'CREATE TABLE "odd; name" ("select" int PRIMARY KEY, "b""c" text)',
        """INSERT INTO "odd; name" VALUES (1, 'x'), (2, 'y')""",
        "CREATE TABLE empty (id int PRIMARY KEY)",
        "CREATE TABLE holes (a int, b int, UNIQUE (a, b))",
        "INSERT INTO holes SELECT n / 10, nullif(n % 10, 3) FROM generate_series(1, 3000) n",
        "CREATE TABLE mixed (x int, y int) PARTITION BY RANGE (x)",
        "CREATE TABLE mixed_2 (y int, x int)",
        "ALTER TABLE mixed ATTACH PARTITION mixed_2 FOR VALUES FROM (10) TO (20)",
        "INSERT INTO mixed VALUES (11, 200)",
        "CREATE TABLE top (id int)",
        "CREATE TABLE one_side (extra text) INHERITS (top)",
        "CREATE TABLE other_side () INHERITS (top)",
        "CREATE TABLE bottom () INHERITS (one_side, other_side)",
        "INSERT INTO bottom VALUES (7)",
        "CREATE TABLE hidden (id int PRIMARY KEY)",
        "INSERT INTO hidden SELECT generate_series(1, 10)",
        "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY few ON hidden USING (id < 4)",
        "CREATE ROLE reader LOGIN PASSWORD 'another-secret'",
        "GRANT SELECT ON hidden TO reader",
    )
    yield server
    server.remove()


def test_a_table_without_a_key_is_read_whole_by_worker_processes(postgres):
    expected = sorted(postgres.execute("SELECT * FROM numbers"), key=str)
    assert rows("processes://2", url=postgres.url, table="numbers") == expected
    assert len(expected) == 50_000


def test_partitions_columns_and_conditions(postgres):
    expected = sorted(postgres.execute("SELECT n, day FROM days WHERE n % 3 = 1"), key=str)
    assert rows(url=postgres.url, table="public.days", columns=("n", "day"), where="n % 3 = 1") == expected


@pytest.mark.parametrize(
    ("settings", "query"),
    [
        ({"table": "named", "key": ("a", "b")}, "SELECT * FROM named"),
        ({"table": "named", "key": ("b", "a")}, "SELECT * FROM named"),
        ({"table": "loose", "key": "id"}, "SELECT * FROM loose"),
        ({"table": "squares", "key": "b"}, "SELECT * FROM squares"),
        ({"query": "SELECT b, value FROM named WHERE b > 17", "key": "b"}, "SELECT b, value FROM named WHERE b > 17"),
        ({"table": "loose", "key": "id", "where": "twice > 100 OR id IS NULL"},
         "SELECT * FROM loose WHERE twice > 100 OR id IS NULL"),
        ({"table": "odd; name"}, 'SELECT * FROM "odd; name"'),
        ({"table": "odd; name", "key": "select"}, 'SELECT * FROM "odd; name"'),
        ({"table": "empty"}, "SELECT * FROM empty"),
        ({"table": "empty", "key": "id"}, "SELECT * FROM empty"),
        ({"table": "holes", "key": ("a", "b")}, "SELECT * FROM holes"),
        ({"table": "mixed"}, "SELECT * FROM mixed"),
        ({"table": "top"}, "SELECT * FROM top"),
        ({"table": "numbers", "where": "word NOT LIKE 'a :b%' AND word::text > ''"}, "SELECT * FROM numbers"),
        ({"query": "SELECT b, ':x'::text FROM named", "key": "b"}, "SELECT b, ':x'::text FROM named"),
    ],
)  # fmt: skip
def test_ranges_of_keys_of_every_kind(postgres, settings, query):
    assert rows(url=postgres.url, **settings) == sorted(postgres.execute(query), key=str)


def test_every_cut_gives_the_same_rows(postgres):
    for settings in ({"table": "numbers"}, {"table": "named", "key": ("a", "b")}, {"table": "loose", "key": "id"}):
        factory = DataSourceFactory(SQLRows, url=postgres.url, as_tuples=True, **settings)
        assert check_source(factory, cuts=3, seed=1, joined=lambda found: sorted(found, key=str)) > 3_000


class Meanwhile(SQLRows):
    """Executes `statements` between the snapshot and the reading."""

    statements = ()

    @classmethod
    def full_length(cls):
        with psycopg.connect(cls.url, autocommit=True) as connection:
            for statement in cls.statements:
                connection.execute(statement)
        return super().full_length()


def test_what_is_written_meanwhile_changes_nothing(postgres):
    postgres.execute("CREATE TABLE busy AS SELECT n AS id, n AS value FROM generate_series(1, 20000) n")
    before = sorted(postgres.execute("SELECT * FROM busy"), key=str)
    statements = (
        "UPDATE busy SET value = -1 WHERE id % 2 = 0",
        "DELETE FROM busy WHERE id % 3 = 0",
        "INSERT INTO busy SELECT n, n FROM generate_series(20001, 30000) n",
        "VACUUM busy",
    )
    factory = DataSourceFactory(Meanwhile, url=postgres.url, table="busy", as_tuples=True, statements=statements)
    assert Rows(engine="processes://2").map(factory) == before
    assert len(rows(url=postgres.url, table="busy")) > len(before)


REWRITES = {
    "TRUNCATE": "TRUNCATE rewritten",
    "TRUNCATE of a partition": "TRUNCATE rewritten_1",
    "VACUUM FULL": "VACUUM FULL rewritten_1",
    "CLUSTER": "CLUSTER rewritten_1 USING by_value",
    "REFRESH": "REFRESH MATERIALIZED VIEW kept",
}


@pytest.fixture(scope="module")
def rewritten(postgres):
    postgres.execute(
        "CREATE TABLE rewritten (id int, value int) PARTITION BY RANGE (id)",
        "CREATE TABLE rewritten_1 PARTITION OF rewritten FOR VALUES FROM (0) TO (100000)",
        "CREATE INDEX by_value ON rewritten_1 (value)",
        "INSERT INTO rewritten SELECT n, 20001 - n FROM generate_series(1, 20000) n",
        "DELETE FROM rewritten WHERE id % 5 = 0",
        "CREATE MATERIALIZED VIEW kept AS SELECT * FROM rewritten",
    )
    return postgres


@pytest.mark.parametrize("statement", REWRITES.values(), ids=REWRITES)
def test_what_would_replace_the_pages_waits_for_the_job(rewritten, statement):
    """Such statements ignore snapshots: rows would be missing, or read twice."""
    table = "kept" if "kept" in statement else "rewritten"
    statements = ("SET lock_timeout = '100ms'", statement)
    with pytest.raises(UsageError, match="LockNotAvailable"):
        rows(url=rewritten.url, table=table, source=Meanwhile, statements=statements)
    assert len(rows(url=rewritten.url, table=table)) == 16_000


class WaitedFor(SQLRows):
    """After the first part a statement waits to empty the table; later parts must not wait for it."""

    waiting = None

    def __iter__(self):
        yield from super().__iter__()
        if WaitedFor.waiting is None:
            WaitedFor.waiting = threading.Thread(target=self.empty)
            WaitedFor.waiting.start()
            with psycopg.connect(self.url, autocommit=True) as connection:
                locks = "SELECT count(*) FROM pg_locks WHERE NOT granted"
                wait_until(lambda: connection.execute(locks).fetchone()[0], "a statement that waits")

    def empty(self):
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("TRUNCATE waited_for")


def test_a_part_does_not_wait_for_a_statement_that_waits_for_the_job(postgres, monkeypatch):
    monkeypatch.setattr("pymar.sources.sql.pages.LOCK_PATIENCE", 0.2)
    monkeypatch.setattr(WaitedFor, "waiting", None)  # the source sets it
    postgres.execute("CREATE TABLE waited_for AS SELECT n FROM generate_series(1, 20000) n")
    with pytest.raises(PartFailed, match=r"TRUNCATE.*run the job again"):
        rows(url=postgres.url, table="waited_for", source=WaitedFor)
    WaitedFor.waiting.join(PATIENCE)
    assert postgres.execute("SELECT count(*) FROM waited_for") == [(0,)]


def test_uuids_are_a_key(postgres):
    postgres.execute("CREATE TABLE ids AS SELECT md5(n::text)::uuid AS id, n FROM generate_series(1, 3000) n")
    for settings in ({"table": "ids"}, {"query": "SELECT * FROM ids"}):
        found = rows("processes://2", url=postgres.url, key="id", **settings)
        assert [n for _, n in sorted(found, key=lambda row: row[1])] == [*range(1, 3_001)]


def test_a_condition_may_name_the_table_whose_partitions_are_read(postgres):
    assert len(rows(url=postgres.url, table="days", where="days.n > 19990")) == 10


def test_intervals_are_no_key(postgres):
    postgres.execute(
        "CREATE TABLE spans (span interval PRIMARY KEY)",
        "INSERT INTO spans SELECT n * interval '1 year' FROM generate_series(1, 20) n",
    )
    with pytest.raises(SourceError, match=r"key span .*intervals"):
        rows(url=postgres.url, table="spans", key="span")


def test_a_query_may_end_in_a_comment_or_a_semicolon(postgres):
    for end in (";", " -- all of them", " ;\n"):
        query = "SELECT id FROM empty UNION ALL SELECT b FROM named" + end
        assert len(rows(url=postgres.url, query=query, key="id", where="id > 10 -- not the first")) == 4_990


def test_a_server_that_never_answers_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr("pymar.sources.sql.connection.PATIENCE", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"postgresql://nobody@127.0.0.1:{listener.getsockname()[1]}/none"
        with pytest.raises(SourceUnavailable, match="timeout"):
            rows(url=url, table="named")


def test_a_password_with_an_at_sign_that_is_not_quoted_is_not_shown():
    url = "postgresql://pymar:a-s@SEKRET@127.0.0.1:1/postgres"
    with pytest.raises(SourceUnavailable) as refused:
        rows(url=url, table="named")
    assert "SEKRET" not in str(refused.value)
    assert "127.0.0.1:1" in str(refused.value)


def test_the_snapshot_ends_with_the_job_and_after_asking_for_the_length(postgres):
    rows(url=postgres.url, table="numbers")
    assert DataSourceFactory(SQLRows, url=postgres.url, table="numbers").length() > 1
    held = "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid != pg_backend_pid()"
    wait_until(lambda: postgres.execute(held) == [(0,)], "the end of the snapshot")


def test_a_worker_process_has_one_connection(postgres):
    rows("processes://2", url=postgres.url, table="numbers")
    count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pymar' AND pid != pg_backend_pid()"
    assert postgres.execute(count)[0][0] <= 3  # of two worker processes, and of the producer


def test_passwords_come_from_the_environment_and_are_never_shown(postgres, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", postgres.password)
    url = postgres.url.replace(postgres.password, "${DB_PASSWORD}")
    assert len(rows("processes://1", url=url, table="named")) == 5_000
    monkeypatch.setenv("DB_PASSWORD", "wrong-password")
    with pytest.raises(SourceError, match="authentication") as refused:
        rows(url=url + "?connect_timeout=5", table="named")
    assert "wrong-password" not in str(refused.value)
    monkeypatch.delenv("DB_PASSWORD")
    with pytest.raises(SourceError, match="environment variable DB_PASSWORD"):
        rows(url=url + "?connect_timeout=6", table="named")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"table": "nmubers"}, "no table 'nmubers'.*numbers"),
        ({"table": "numbers", "columns": ("wrod",)}, "numbers has no column 'wrod'.*word"),
        ({"table": "numbers", "key": "id"}, "key id of numbers .*unique"),
        ({"table": "numbers", "key": "idd"}, "no column 'idd' for its key.*id"),
        ({"table": "squares"}, "squares .*primary key.*key="),
        ({"query": "SELECT 1 AS one"}, "query .*primary key.*key="),
        ({"query": "SELECT nothing FROM nowhere", "key": "x"}, 'relation "nowhere"'),
        ({}, "SQLRows .*url.*table or query"),
        ({"table": "numbers", "where": "id = = 3"}, "syntax error"),
    ],
)
def test_what_is_not_there_is_named(postgres, settings, says):
    with pytest.raises((SourceError, PartFailed), match=says):
        rows(url=postgres.url, **settings)


def test_addresses_that_lead_to_no_database_are_refused():
    with pytest.raises(SourceError, match=r"database address.*postgresql://user:"):
        rows(url="what is this", table="numbers")
    with pytest.raises(SourceError, match="onnection refused"):
        rows(url="postgresql://127.0.0.1:9/x", table="numbers")


class Slow(SQLRows):
    """Waits, after its first row, for the file `release`; it creates the file `begun` before."""

    begun = release = ""

    def __iter__(self):
        import time

        for number, row in enumerate(super().__iter__()):
            if number == 1 and not os.path.exists(Slow.release):
                os.close(os.open(Slow.begun, os.O_CREAT))
                while not os.path.exists(Slow.release):
                    time.sleep(0.02)  # between two looks
            yield row


def restarted_meanwhile(postgres, tmp_path, monkeypatch, **settings):
    """Begin a job during which the database is restarted; return its future, and the list of its events."""
    monkeypatch.setattr(Slow, "begun", str(tmp_path / "begun"))
    monkeypatch.setattr(Slow, "release", str(tmp_path / "go"))
    heard = []
    factory = DataSourceFactory(Slow, url=postgres.url, as_tuples=True, **settings)
    future = Rows(engine="processes://1", listeners=[heard.append]).submit(factory)
    wait_until((tmp_path / "begun").exists, "the first rows")
    postgres.stop()
    threading.Timer(0.5, postgres.start).start()
    (tmp_path / "go").touch()
    return future, heard


def test_a_database_that_is_restarted_costs_a_part(postgres, tmp_path, monkeypatch):
    postgres.execute("CREATE TABLE large AS SELECT n AS id, repeat('x', 500) AS text FROM generate_series(1, 60000) n")
    postgres.execute("ALTER TABLE large ADD PRIMARY KEY (id)")
    future, heard = restarted_meanwhile(postgres, tmp_path, monkeypatch, table="large", key="id", columns=("id",))
    assert future.result(60) == sorted(((n,) for n in range(1, 60_001)), key=str)
    assert [event.cause.kind for event in heard if isinstance(event, Lost)] == ["source"]
    wait_until(postgres.answers, "the database")


def test_a_snapshot_that_is_lost_ends_the_job_cleanly(postgres, tmp_path, monkeypatch):
    future, _ = restarted_meanwhile(postgres, tmp_path, monkeypatch, table="numbers")
    with pytest.raises(PartFailed, match=r"snapshot .* lost .*Run the job again"):
        future.result(60)
    wait_until(postgres.answers, "the database")


def test_build_data_source_reads_what_a_job_would_and_releases_the_snapshot(postgres):
    factory = DataSourceFactory(SQLRows, url=postgres.url, table="numbers", where="id < 5", columns=["id"])
    assert sorted(row["id"] for row in factory.build_data_source()) == sorted([*range(5)] * 50)
    gc.collect()
    held = "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid != pg_backend_pid()"
    wait_until(lambda: postgres.execute(held) == [(0,)], "the end of the snapshot")


@pytest.fixture
def sqlite(tmp_path):
    path = tmp_path / "data.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT UNIQUE, a INT, b INT, UNIQUE (a, b))")
        words = [(n * 7, f"w{n:05}" if n % 10 else None, n // 50, n % 50) for n in range(4_000)]
        connection.executemany("INSERT INTO words VALUES (?, ?, ?, ?)", words)
    connection.close()
    return f"sqlite:///{path}"


def test_an_sqlite_database_that_is_not_there_is_not_made(sqlite, tmp_path):
    path = tmp_path / "dato.db"
    with pytest.raises(SourceError, match=r"dato\.db .*data\.db"):
        rows(url=f"sqlite:///{path}", table="words")
    assert not path.exists()


@pytest.mark.parametrize(("key", "most"), [("id", 999), (("a", "b"), 499)])
def test_an_old_sqlite_that_takes_999_parameters_has_fewer_ranges(sqlite, key, most, monkeypatch):
    connect = sqlite3.connect

    def limited(*arguments, **settings):
        connection = connect(*arguments, **settings)
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        return connection

    monkeypatch.setattr("sqlite3.dbapi2.connect", limited)
    with pytest.raises(SourceError, match="too many SQL variables"):
        rows(url=sqlite, table="words", key=key)
    monkeypatch.setattr("sqlite3.dbapi2.sqlite_version_info", (3, 31, 0))
    assert len(rows(url=sqlite, table="words", key=key)) == 4_000
    factory = DataSourceFactory(SQLRows, url=sqlite, table="words", key=key).for_a_job()
    assert most // 2 < factory.length() <= most


def test_sqlite_finds_tables_in_any_case_and_with_dots(tmp_path):
    with sqlite3.connect(tmp_path / "data.db") as connection:
        connection.execute("CREATE TABLE Track (TrackId INTEGER PRIMARY KEY)")
        connection.execute('CREATE TABLE "a.b" (id INTEGER PRIMARY KEY)')
        connection.execute('CREATE VIEW "Seen" AS SELECT TrackId + 100 AS n FROM Track')
        connection.execute("INSERT INTO Track VALUES (1), (2), (3)")
        connection.execute('INSERT INTO "a.b" VALUES (7), (8)')
    connection.close()
    url = f"sqlite:///{tmp_path / 'data.db'}"
    for table in ("track", "Track", "TRACK", "main.Track"):
        assert rows(url=url, table=table) == [(1,), (2,), (3,)]
    assert rows(url=url, table="a.b") == rows(url=url, table="A.B") == [(7,), (8,)]
    assert rows(url=url, table="seen", key="n") == [(101,), (102,), (103,)]


def test_postgres_finds_tables_with_dots(postgres):
    postgres.execute('CREATE TABLE "a.b" AS SELECT generate_series(1, 5) AS id')
    assert rows(url=postgres.url, table="a.b") == [(1,), (2,), (3,), (4,), (5,)]
    postgres.execute("CREATE SCHEMA a", "CREATE TABLE a.b (id int)")
    assert rows(url=postgres.url, table="a.b") == []
    expected = postgres.execute("SELECT * FROM numbers WHERE id = 1")
    assert rows(url=postgres.url, table="public.numbers", where="id = 1") == sorted(expected, key=str)


def words_of(path, count):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT)")
        connection.executemany("INSERT INTO words VALUES (?, ?)", [(n, path.stem) for n in range(count)])
    connection.close()


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_an_sqlite_database_that_was_replaced_is_read_anew(tmp_path, engine):
    words_of(tmp_path / "old.db", 100)
    words_of(tmp_path / "new.db", 100)
    url = f"sqlite:///{tmp_path / 'old.db'}"
    assert {word for _, word in rows(engine, url=url, table="words")} == {"old"}
    os.replace(tmp_path / "new.db", tmp_path / "old.db")
    assert {word for _, word in rows(engine, url=url, table="words")} == {"new"}


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_each_job_finds_the_database_from_where_it_is(tmp_path, monkeypatch, engine):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        words_of(tmp_path / folder / "words.db", 100)
        with sqlite3.connect(tmp_path / folder / "words.db") as connection:
            connection.execute("UPDATE words SET word = ?", (folder,))
        connection.close()
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setenv("DATABASE", str(tmp_path / folder / "words.db"))
        for url in ("sqlite:///words.db", "sqlite:///${DATABASE}"):
            assert {word for _, word in rows(engine, url=url, table="words")} == {folder}


def test_an_sqlite_database_that_others_write_to_costs_an_attempt(sqlite, monkeypatch):
    import sqlite3

    writer = sqlite3.connect(sqlite.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    heard = []
    full_length = SQLRows.full_length.__func__

    def locked(cls):
        writer.execute("BEGIN EXCLUSIVE")  # after `prepare`, and before a worker has begun
        return full_length(cls)

    def goes_on(event):
        heard.append(event)
        if isinstance(event, Lost):
            writer.execute("ROLLBACK")

    monkeypatch.setattr(SQLRows, "full_length", classmethod(locked))  # in this process, not in the worker processes
    monkeypatch.setattr(Rows, "WORKERS_NUMBER", 1)
    factory = DataSourceFactory(SQLRows, url=f"{sqlite}?timeout=0.1", table="words", as_tuples=True)
    assert len(Rows(engine="processes://1", listeners=[goes_on]).map(factory)) == 4_000
    assert [event.cause.kind for event in heard if isinstance(event, Lost)] == ["source"]
    writer.close()


@pytest.mark.parametrize("key", ["", "id", "word", ("a", "b"), ("b", "a")])
def test_sqlite_by_keys_of_every_kind(sqlite, key):
    found = rows("processes://2", url=sqlite, table="words", key=key)
    assert len(found) == len(set(found)) == 4_000


def test_ranges_are_of_equal_size(sqlite):
    factory = DataSourceFactory(SQLRows, url=sqlite, table="words", as_tuples=True).for_a_job()
    assert factory.length() == 1_000
    counts = [
        len(found) for found in Rows(engine="serial").partials(DataSourceFactory(SQLRows, url=sqlite, table="words"))
    ]
    assert max(counts) - min(counts) <= 4


def test_a_table_that_a_standby_cannot_read_is_not_empty():
    server = Postgres()
    try:
        server.execute(
            "CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 100) id",
            "CREATE TABLE logged AS SELECT generate_series(1, 100) id",
            "CREATE TABLE empty (id int)",
        )
        standby = server.standby()
        try:
            assert len(rows("processes://2", url=standby.url, table="logged")) == 100
            assert rows(url=standby.url, table="empty") == []
            with pytest.raises(SourceError, match="unlogged relations during recovery"):
                rows(url=standby.url, table="unlogged")
        finally:
            standby.remove()
    finally:
        server.remove()


def test_rows_that_a_user_must_not_see_are_not_read(postgres):
    url = postgres.url.replace("pymar", "reader").replace(postgres.password, "another-secret")
    assert rows(url=url, table="hidden") == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    "change", [{"WORKERS_NUMBER": 0}, {"ATTEMPTS": "many"}, {"engine": "spark"}, {"timeout": -1}, {"limit": 10**9}]
)
def test_a_job_that_does_not_begin_releases_its_snapshot(postgres, monkeypatch, change):
    factory = DataSourceFactory(SQLRows, url=postgres.url, table="named", limit=change.get("limit", 0))
    for name in {"WORKERS_NUMBER", "ATTEMPTS"} & change.keys():
        monkeypatch.setattr(Rows, name, change[name])
    with pytest.raises(UsageError):
        Rows(engine=change.get("engine", "serial")).map(factory, timeout=change.get("timeout", 0))
    held = "SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid != pg_backend_pid()"
    wait_until(lambda: postgres.execute(held) == [(0,)], "the end of the snapshot")


def test_secrets_are_shown_in_no_message(postgres, monkeypatch, tmp_path):
    monkeypatch.setenv("PW", "wr0ng@sec/ret")
    port = f"127.0.0.1:{postgres.port}"
    for url in (
        f"postgresql://pymar:${{PW}}@{port}/postgres",
        f"postgresql://{port}/postgres?user=pymar&password=wr0ng-sec",
        "postgresql:/pymar:wr0ng-sec@h/db",
    ):
        with pytest.raises(SourceError) as refused:
            rows(url=url, table="named")
        assert not [part for part in ("wr0ng", "sec/ret") if part in str(refused.value)], refused.value
    Rows(engine="serial").map(
        DataSourceFactory(SQLRows, url=postgres.url, table="loose", key="id", as_tuples=True),
        checkpoint=tmp_path / "run.ckpt",
    )
    assert postgres.password.encode() not in (tmp_path / "run.ckpt").read_bytes()


def test_a_password_from_the_environment_may_have_any_characters(postgres, monkeypatch):
    postgres.execute("CREATE ROLE odd LOGIN PASSWORD 'p%41@/:x'", "GRANT SELECT ON named TO odd")
    monkeypatch.setenv("ODD", "p%41@/:x")
    url = f"postgresql://odd:${{ODD}}@127.0.0.1:{postgres.port}/postgres"
    assert len(rows(url=url, table="named")) == 5_000


def test_sqlite_values_are_what_was_put_in(tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "data.db") as connection:
        connection.execute("CREATE TABLE odd (id INTEGER PRIMARY KEY, v NUMERIC, t DATETIME)")
        connection.execute("INSERT INTO odd VALUES (1, 1e-12, 1700000000), (2, 12345678901234567, 'now')")
    connection.close()
    found = rows(url=f"sqlite:///{tmp_path / 'data.db'}", table="odd")
    assert found == [(1, 1e-12, 1700000000), (2, 12345678901234567, "now")]
