"""SQLSink: each part once, all rows or none, on PostgreSQL, MariaDB and SQLite."""

import datetime
import os
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Event

import pytest
from conftest import needed
from mariadb import MariaDB
from postgres import Postgres

from pymar.cli import main
from pymar.datasource import DataSourceFactory
from pymar.exceptions import CheckpointMismatch, PartFailed, SinkError, UsageError
from pymar.parts import Part
from pymar.producer import Producer
from pymar.sinks import SQLSink
from pymar.sources import SQLRows
from pymar.sources.sql.connection import connected
from pymar.testing import check_sink

sqlalchemy = needed("sqlalchemy")
needed("psycopg")
needed("pymysql")


class Same(Producer):
    WORKERS_NUMBER = 6

    @staticmethod
    def map_fn(records):
        yield from records


@pytest.fixture(scope="module")
def servers():
    started = {}
    yield started
    for server in started.values():
        server.remove()


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def database(request, servers, tmp_path):
    """A database without tables: its URL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/rows.db"
    if request.param not in servers:
        servers[request.param] = {"postgresql": Postgres, "mariadb": MariaDB}[request.param]()
    url = servers[request.param].url
    execute(url, "DROP VIEW IF EXISTS seen")
    for name in tables(url):
        drop(url, name)
    return url


def drop(url, name):
    with connected(url) as connection:
        sqlalchemy.Table(name, sqlalchemy.MetaData()).drop(connection)
        connection.commit()


def execute(url, *statements):
    with connected(url) as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
        connection.commit()


def rows(url, statement):
    with connected(url) as connection:
        return [tuple(row) for row in connection.execute(sqlalchemy.text(statement))]


def tables(url):
    with connected(url) as connection:
        return sqlalchemy.inspect(connection).get_table_names()


def create(url, *statements):
    if url.startswith("sqlite"):
        open(url.removeprefix("sqlite:///"), "ab").close()
    execute(url, *statements)


TEXTS = ["plain", "", None, 'a,b "c"', "line\nend\r\n", "\\N", "\\", "tab\t", "é 'x' %s :y", "NULL"]


def test_records_read_back(database):
    records = [{"id": n, "text": TEXTS[n % len(TEXTS)], "half": n / 4, "big": n * 10**15} for n in range(997)]
    if database.startswith("sqlite"):
        create(database)
    factory = DataSourceFactory(SQLRows, url=database, table="t", key="id")
    assert check_sink(SQLSink(database, "t"), factory, records, joined=by_id) == (997, 0, 0)
    assert tables(database) == ["t"]


def by_id(records):
    return sorted(records, key=lambda record: record["id"])


def test_types_of_a_new_table(database):
    record = {
        "b": True, "i": -(2**63), "f": 0.1, "t": "x", "d": datetime.date(2020, 2, 29), "y": b"\0\xff",
        "at": datetime.datetime(2020, 1, 2, 3, 4, 5, 678901), "c": datetime.time(1, 2, 3, 4),
    }  # fmt: skip
    Same().write(DataSourceFactory([record]), SQLSink(database, "t"))
    (found,) = DataSourceFactory(SQLRows, url=database, table="t", key="i").build_data_source()
    if database.startswith("sqlite"):  # it has none of these types
        record |= {"b": 1, "d": "2020-02-29", "at": "2020-01-02 03:04:05.678901", "c": "01:02:03.000004"}
    elif database.startswith("mysql"):
        record |= {"b": 1, "c": datetime.timedelta(hours=1, minutes=2, seconds=3, microseconds=4)}
    assert found == record


def test_types_of_postgresql(servers):
    servers.setdefault("postgresql", servers.get("postgresql") or Postgres())
    url = servers["postgresql"].url
    execute(url, "DROP TABLE IF EXISTS typed")
    zone = datetime.timezone(datetime.timedelta(hours=5))
    records = [
        {"u": uuid.UUID(int=7), "n": Decimal("1.50"), "j": {"a": [1, None]},
         "at": datetime.datetime(2020, 1, 1, tzinfo=zone), "span": datetime.timedelta(days=-1, microseconds=1),
         "x": float("nan"), "y": float("-inf")},
        {"u": None, "n": Decimal("NaN"), "j": [], "at": None, "span": None, "x": None, "y": 1.0},
    ]  # fmt: skip
    Same().write(DataSourceFactory(records), SQLSink(url, "typed"))
    found = rows(url, "SELECT u, n, j, at, span, x, y FROM typed ORDER BY u")
    assert repr(found[0]).lower().count("nan") == 1
    assert found[0][:5] == tuple(records[0].values())[:5]
    assert found[0][6] == float("-inf")
    assert str(found[1][1]) == "NaN"
    assert (found[1][0], *found[1][2:]) == (None, [], None, None, None, 1.0)


def test_modes(database):
    Same().write(DataSourceFactory([{"id": 1, "t": "a"}, {"id": 2, "t": "b"}]), SQLSink(database, "t"))
    with pytest.raises(SinkError, match="has rows already"):
        Same().write(DataSourceFactory([{"id": 3, "t": "c"}]), SQLSink(database, "t"))
    Same().write(DataSourceFactory([{"id": 3, "t": "c"}]), SQLSink(database, "t", mode="append"))
    assert rows(database, "SELECT id, t FROM t ORDER BY id") == [(1, "a"), (2, "b"), (3, "c")]
    Same().write(DataSourceFactory([{"id": 9, "t": "z"}]), SQLSink(database, "t", mode="overwrite"))
    assert rows(database, "SELECT id, t FROM t") == [(9, "z")]
    Same().write(DataSourceFactory([]), SQLSink(database, "t", mode="overwrite"))
    assert rows(database, "SELECT id, t FROM t") == []
    Same().write(DataSourceFactory([{"id": 1, "t": "e"}]), SQLSink(database, "t"))  # it is empty
    assert rows(database, "SELECT id, t FROM t") == [(1, "e")]
    assert tables(database) == ["t"]


def test_upsert(database):
    first = [{"id": n, "t": "old", "kept": n} for n in range(100)]
    create(database, "CREATE TABLE t (id int PRIMARY KEY, t varchar(9), kept int)")
    Same().write(DataSourceFactory(first), SQLSink(database, "t", mode="upsert", key="id"))
    second = [{"id": n, "t": "new"} for n in range(90, 110)]
    Same().write(DataSourceFactory(second), SQLSink(database, "t", mode="upsert", key=["id"]))
    found = rows(database, "SELECT id, t, kept FROM t ORDER BY id")
    assert found == [(n, "old" if n < 90 else "new", n if n < 100 else None) for n in range(110)]
    twice = [{"id": 1, "t": "x"}, {"id": 1, "t": "y"}]
    with pytest.raises(SinkError, match="two records have the key id"):
        Same().write(DataSourceFactory(twice), SQLSink(database, "t", mode="upsert", key="id"))
    assert rows(database, "SELECT t FROM t WHERE id = 1") == [("old",)]
    assert tables(database) == ["t"]


def test_an_existing_table_keeps_what_it_is(database):
    serial = {"p": "int GENERATED ALWAYS AS IDENTITY", "m": "int AUTO_INCREMENT", "s": "integer"}[database[0]]
    create(
        database,
        f"CREATE TABLE t (n {serial} PRIMARY KEY, word varchar(9) NOT NULL UNIQUE, more int DEFAULT 7)",
        "CREATE VIEW seen AS SELECT word FROM t",
    )
    Same().write(DataSourceFactory([{"word": f"w{n}"} for n in range(50)]), SQLSink(database, "t"))
    assert rows(database, "SELECT count(DISTINCT n), count(DISTINCT word), min(more) FROM t") == [(50, 50, 7)]
    with pytest.raises(SinkError):
        Same().write(DataSourceFactory([{"word": "w1"}]), SQLSink(database, "t", mode="append"))
    with pytest.raises((SinkError, PartFailed), match="word"):
        Same().write(DataSourceFactory([{"word": None}]), SQLSink(database, "t", mode="overwrite"))
    assert rows(database, "SELECT count(*) FROM seen") == [(50,)]
    execute(database, "DROP VIEW seen")
    assert tables(database) == ["t"]


def test_odd_names(database):
    name, column = 'odd "t" `x` % :y é', 'sel"ect %s :z'
    sink = SQLSink(database, name)
    Same().write(DataSourceFactory([{column: 1, "order": "x"}, {column: 2, "order": "y"}]), sink)
    Same().write(DataSourceFactory([{column: 3, "order": "z"}]), SQLSink(database, name, mode="append"))
    assert tables(database) == [name]
    found = DataSourceFactory(SQLRows, url=database, table=name, key=column).build_data_source()
    assert sorted(found, key=lambda row: row[column]) == [
        {column: 1, "order": "x"},
        {column: 2, "order": "y"},
        {column: 3, "order": "z"},
    ]
    drop(database, name)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"id": 1}, "'t'"),
        ({"id": 1, "t": "x", "u": 2}, "'u'"),
        ({"id": "one", "t": "x"}, "'one'"),
        ({"id": 1, "t": 7}, "'t'"),
        ({"id": 1, "t": {1, 2}}, "'t'"),
        ((1, "x"), "dict"),
        (None, "None"),
    ],
)
def test_a_record_that_does_not_fit_is_named(database, record, told):
    class One(Same):
        WORKERS_NUMBER = 1

    records = [{"id": n, "t": "x"} for n in range(5_000)]
    records[3_333] = record
    with pytest.raises(PartFailed, match="record 3333 of part 0") as raised:
        One().write(DataSourceFactory(records), SQLSink(database, "t"))
    assert told in str(raised.value)
    assert tables(database) == []


def test_a_value_that_the_database_refuses_is_named(database):
    create(database, "CREATE TABLE t (id int, n numeric(4, 1) CHECK (n < 50))")
    records = [{"id": n, "n": float(n)} for n in range(60)]
    with pytest.raises((PartFailed, SinkError)):
        Same().write(DataSourceFactory(records), SQLSink(database, "t", mode="append"))
    assert rows(database, "SELECT count(*) FROM t") == [(0,)]
    assert tables(database) == ["t"]


def test_postgresql_names_the_record_that_it_refuses(servers):
    servers.setdefault("postgresql", servers.get("postgresql") or Postgres())
    url = servers["postgresql"].url
    execute(url, "DROP TABLE IF EXISTS small", "CREATE TABLE small (n smallint)")

    class One(Same):
        WORKERS_NUMBER = 1

    records = [{"n": n} for n in range(10_000)]
    records[7_777] = {"n": 70_000}
    with pytest.raises(PartFailed, match="record 7777") as raised:
        One().write(DataSourceFactory(records), SQLSink(url, "small"))
    assert "70000" in str(raised.value)
    assert Postgres.password not in str(raised.value)


def test_parts_of_other_types_are_named_when_they_meet(database):
    records = [{"n": 1}] * 5 + [{"n": "x"}] * 5
    with pytest.raises((SinkError, PartFailed), match="n"):
        Same().write(DataSourceFactory(records), SQLSink(database, "t"))
    assert tables(database) == []


def test_a_column_of_none_alone_needs_a_type(database):
    with pytest.raises(PartFailed, match="schema="):
        Same().write(DataSourceFactory([{"a": None, "b": 1}]), SQLSink(database, "t"))
    sink = SQLSink(database, "t", schema={"a": "varchar(5)", "b": "int"})
    Same().write(DataSourceFactory([{"a": None, "b": 1}, {"a": "x", "b": None}]), sink)
    assert sorted(rows(database, "SELECT a, b FROM t"), key=repr) == [("x", None), (None, 1)]


def test_no_records_make_an_empty_table_with_the_schema(database):
    assert Same().write(DataSourceFactory([]), SQLSink(database, "t", schema={"a": "int"})).records == 0
    assert rows(database, "SELECT a FROM t") == []


def test_a_job_that_fails_leaves_nothing(database):
    class Failing(Same):
        @staticmethod
        def map_fn(records):
            for record in records:
                if record["id"] == 55:
                    raise ValueError("fifty-five")
                yield record

    create(database, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (7)")
    for mode in ("append", "overwrite"):
        with pytest.raises(PartFailed, match="fifty-five"):
            Failing().write(DataSourceFactory([{"id": n} for n in range(60)]), SQLSink(database, "t", mode=mode))
        assert rows(database, "SELECT id FROM t") == [(7,)]
        assert tables(database) == ["t"]


def test_workers_that_are_killed_at_any_moment_write_once(database, tmp_path):
    once = tmp_path / "once"
    once.mkdir()
    place = str(once)

    class Dying(Producer):
        WORKERS_NUMBER = 10

        @staticmethod
        def map_fn(records):
            for n in records:
                yield {"id": n}
                if n in (0, 2_500, 3_999, 8_001):
                    try:
                        with open(os.path.join(place, str(n)), "x"):
                            os.kill(os.getpid(), signal.SIGKILL)
                    except FileExistsError:
                        pass

    written = Dying(engine="processes://2").write(DataSourceFactory(range(40_000)), SQLSink(database, "t"))
    assert len(list(once.iterdir())) == 4
    assert written.records == 40_000
    assert rows(database, "SELECT count(*), count(DISTINCT id), sum(id) FROM t") == [(40_000, 40_000, 799_980_000)]
    assert tables(database) == ["t"]


def test_an_attempt_whose_report_was_lost_counts(database):
    sink = SQLSink(database, "t", schema={"id": "int"}).for_a_job()
    sink.begin(None)
    first = sink.write(Part(0, 0, 0, 0), iter([{"id": 1}, {"id": 2}]))
    again = sink.write(Part(0, 1, 0, 0), iter([{"id": 1}, {"id": 2}]))
    assert first[:2] == again[:2] == [0, 2]
    assert sink.commit([again], []).records == 2
    assert rows(database, "SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_a_producer_that_was_killed_leaves_what_clean_removes(database):
    sink = SQLSink(database, "t").for_a_job()
    sink.begin(None)
    sink.write(Part(0, 0, 0, 0), iter([{"id": 1}]))
    assert len(tables(database)) == 2
    main.main(["clean", database], standalone_mode=False)
    assert tables(database) == []
    with pytest.raises(SinkError):
        sink.commit([[0, 1, {"id": "int"}]], [])
    assert tables(database) == []


def test_a_checkpoint_writes_only_what_is_missing(database, tmp_path):
    calls, switch = tmp_path / "calls", tmp_path / "broken"
    calls.mkdir()
    switch.touch()
    places = str(calls), str(switch)

    class Noting(Producer):
        WORKERS_NUMBER = 6

        @staticmethod
        def map_fn(records):
            records = list(records)
            if records[-1] == 59 and os.path.exists(places[1]):
                raise ValueError("not yet")
            open(os.path.join(places[0], f"{records[0]}-{os.urandom(4).hex()}"), "x").close()
            return [{"id": n} for n in records]

    with pytest.raises(PartFailed, match="not yet"):
        # With one slot, the part that fails begins when all others are done.
        Noting(engine="processes://1").write(
            DataSourceFactory(range(60)), SQLSink(database, "t"), checkpoint=tmp_path / "c"
        )
    assert "t" not in tables(database)
    switch.unlink()
    Noting().write(DataSourceFactory(range(60)), SQLSink(database, "t"), checkpoint=tmp_path / "c")
    assert len(list(calls.iterdir())) == 6
    assert rows(database, "SELECT count(*), sum(id) FROM t") == [(60, 1770)]
    assert tables(database) == ["t"]


def test_a_table_that_is_the_source(database):
    Same().write(DataSourceFactory([{"id": n, "t": "x"} for n in range(50)]), SQLSink(database, "t"))

    class Twice(Same):
        @staticmethod
        def map_fn(records):
            for record in records:
                yield {**record, "id": record["id"] * 2}

    settings = {} if database.startswith("postgresql") else {"key": "id"}
    factory = DataSourceFactory(SQLRows, url=database, table="t", **settings)
    Twice().write(factory, SQLSink(database, "t", mode="overwrite"))
    assert rows(database, "SELECT id FROM t ORDER BY id") == [(n * 2,) for n in range(50)]


def test_readers_see_all_or_nothing(database):
    if database.startswith("sqlite"):
        pytest.skip("its readers wait for the one that writes")
    Same().write(DataSourceFactory([{"id": n} for n in range(1_000)]), SQLSink(database, "t"))
    seen = set()

    def listen(event):
        seen.add(rows(database, "SELECT count(*), coalesce(min(id), -1) FROM t")[0])

    records = [{"id": n} for n in range(5_000, 7_000)]
    Same(listeners=[listen]).write(DataSourceFactory(records), SQLSink(database, "t", mode="overwrite"))
    assert seen == {(1_000, 0), (2_000, 5_000)} or seen == {(1_000, 0)}
    assert rows(database, "SELECT count(*), min(id) FROM t") == [(2_000, 5_000)]


def test_secrets_are_not_shown(servers, monkeypatch):
    servers.setdefault("postgresql", servers.get("postgresql") or Postgres())
    url = servers["postgresql"].url
    monkeypatch.setenv("THE_PASSWORD", "wrong-secret")
    with pytest.raises(SinkError) as raised:
        Same().write(
            DataSourceFactory([{"a": 1}]), SQLSink(url.replace(Postgres.password, "${THE_PASSWORD}"), "secret_t")
        )
    assert "wrong-secret" not in str(raised.value)
    monkeypatch.setenv("THE_PASSWORD", Postgres.password)
    sink = SQLSink(url.replace(Postgres.password, "${THE_PASSWORD}"), "secret_t")
    assert Same().write(DataSourceFactory([{"a": 1}]), sink).records == 1
    execute(url, "DROP TABLE secret_t")


def test_settings_are_checked():
    for make in (
        lambda: SQLSink("", "t"),
        lambda: SQLSink("sqlite:///x.db", ""),
        lambda: SQLSink("sqlite:///x.db", "t", mode="insert"),
        lambda: SQLSink("sqlite:///x.db", "t", mode="upsert"),
        lambda: SQLSink("sqlite:///x.db", "t", key="id"),
        lambda: SQLSink("sqlite:///x.db", "t", columns="abc"),
    ):
        with pytest.raises(UsageError):
            make()


def test_duckdb_is_refused_with_a_remedy(tmp_path):
    duckdb = needed("duckdb")
    needed("duckdb_engine")
    duckdb.connect(str(tmp_path / "x.duckdb")).close()
    with pytest.raises(SinkError, match="write Parquet"):
        Same().write(DataSourceFactory([{"a": 1}]), SQLSink(f"duckdb:///{tmp_path}/x.duckdb", "t"))


def test_batches_of_arrow(database):
    arrow = needed("pyarrow")
    odd = ["plain", "", None, 'a "q", b', "line\nend", "\\N", "\\", "é", "NULL", " x "]
    columns = {
        "id": arrow.array(range(10), arrow.int32()),
        "t": arrow.array(odd),
        "f": arrow.array([None, 0.1, -0.0, 1e300, 5e-324, 2.0, 1.0, 1.0, 1.0, 1.0]),
        "b": arrow.array([True, False, None] * 3 + [True]),
        "d": arrow.array([datetime.date(2020, 1, n + 1) for n in range(9)] + [None]),
        "at": arrow.array(
            [datetime.datetime(2020, 1, 1, 2, 3, 4, n) for n in range(9)] + [None], arrow.timestamp("us")
        ),
    }
    batch = arrow.record_batch(columns)
    records = [batch, arrow.Table.from_batches([batch, batch]).slice(0, 3), batch.slice(0, 0)]

    class One(Same):
        WORKERS_NUMBER = 1

    assert One().write(DataSourceFactory(records), SQLSink(database, "t")).records == 13
    found = rows(database, "SELECT id, t, f, b, d, at FROM t")
    expected = [tuple(row.values()) for row in [*batch.to_pylist(), *batch.slice(0, 3).to_pylist()]]
    if database.startswith("sqlite"):
        expected = [(*row[:4], row[4] and row[4].isoformat(), row[5] and row[5].isoformat(" ")) for row in expected]
    assert sorted(found, key=repr) == sorted(expected, key=repr) or sorted(map(tuple, found)) == sorted(expected)


def test_batches_and_dicts_in_one_part_and_single_columns(database):
    arrow = needed("pyarrow")
    records = [{"t": ""}, {"t": None}, arrow.record_batch({"t": ["", None, "x"]}), {"t": "y"}]

    class One(Same):
        WORKERS_NUMBER = 1

    assert One().write(DataSourceFactory(records), SQLSink(database, "t")).records == 6
    assert sorted(rows(database, "SELECT t FROM t"), key=repr) == [("",), ("",), ("x",), ("y",), (None,), (None,)]


def test_batches_whose_types_have_another_text(database):
    arrow = needed("pyarrow")
    zone = datetime.timezone(datetime.timedelta(hours=5))
    batch = arrow.record_batch({"y": [b"\0\xff"], "n": arrow.array([None], arrow.int64())})
    sink = SQLSink(database, "t", schema={"y": {"p": "bytea", "m": "blob", "s": "blob"}[database[0]], "n": "bigint"})
    Same().write(DataSourceFactory([batch]), sink)
    assert rows(database, "SELECT y, n FROM t") == [(b"\0\xff", None)]
    if database.startswith("postgresql"):
        at = datetime.datetime(2020, 1, 1, tzinfo=zone)
        batch = arrow.record_batch({"at": arrow.array([at], arrow.timestamp("us", "+05:00")), "j": [{"a": [1]}]})
        Same().write(DataSourceFactory([batch]), SQLSink(database, "u"))
        assert rows(database, "SELECT at, j FROM u") == [(at, {"a": [1]})]


def create_typed(url, columns):
    create(url, f"CREATE TABLE t ({columns})")


def refused(url, records, says, **settings):
    with pytest.raises((PartFailed, SinkError), match=says):
        Same().write(DataSourceFactory(records), SQLSink(url, "t", **settings))


def test_a_later_type_that_the_new_table_would_round_is_an_error(database):
    first, later = [{"a": n} for n in range(3_000)], [{"a": 1.5}]
    refused(database, first + later, "schema=")
    refused(database, [{"a": 1}] * 5 + [{"a": 1.5}] * 5, "schema=|give|type")
    assert tables(database) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("bigint", 1.5),
        ("bigint", "1"),
        ("date", datetime.datetime(2020, 1, 1, 5)),
        ("varchar(20)", 7),
        ("varchar(20)", True),
    ],
)
def test_what_an_existing_column_would_change_is_an_error(database, column, value):
    create_typed(database, f"a {column}")
    refused(database, [{"a": value}], "column 'a' of the table is", mode="append")
    assert rows(database, "SELECT count(*) FROM t") == [(0,)]


def test_times_with_a_zone_need_a_column_with_one(servers):
    servers.setdefault("postgresql", servers.get("postgresql") or Postgres())
    url = servers["postgresql"].url
    execute(url, "DROP TABLE IF EXISTS t", "CREATE TABLE t (a timestamp, b timestamptz)")
    naive, aware = datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    refused(url, [{"a": aware, "b": aware}], "column 'a' of the table is datetime", mode="append")
    refused(url, [{"a": naive, "b": naive}], "column 'b' of the table is datetime with", mode="append")
    Same().write(DataSourceFactory([{"a": naive, "b": aware}]), SQLSink(url, "t", mode="append"))
    assert rows(url, "SELECT a, b FROM t") == [(naive, aware)]
    execute(url, "DROP TABLE t")


def test_a_key_is_unique_and_never_none(database):
    create_typed(database, "id int, part int, v int, PRIMARY KEY (id, part)")
    refused(database, [{"id": 1, "part": 1, "v": 1}], "no unique key", mode="upsert", key="id")
    refused(database, [{"id": 1, "part": None, "v": 1}], "of the key, is None", mode="upsert", key=["id", "part"])
    Same().write(
        DataSourceFactory([{"id": 1, "part": 1, "v": 2}]), SQLSink(database, "t", mode="upsert", key=["part", "id"])
    )
    assert rows(database, "SELECT id, part, v FROM t") == [(1, 1, 2)]
    drop(database, "t")
    refused(database, [{"id": None, "v": 1}], "of the key, is None", mode="upsert", key="id")
    assert tables(database) == []


def test_an_upsert_replaces_rows_of_its_key_alone(database):
    create_typed(database, "id int PRIMARY KEY, mail varchar(20) UNIQUE, v int")
    execute(database, "INSERT INTO t VALUES (1, 'a', 1)")
    refused(database, [{"id": 3, "mail": "a", "v": 9}], "unique|UNIQUE", mode="upsert", key="id")
    assert rows(database, "SELECT id, mail, v FROM t") == [(1, "a", 1)]


def test_rows_of_other_tables_are_not_deleted(database):
    if database.startswith("sqlite"):
        pytest.skip("it keeps foreign keys only if a connection asks it to")
    create_typed(database, "id int PRIMARY KEY")
    execute(
        database,
        "INSERT INTO t VALUES (1)",
        "CREATE TABLE child (id int, CONSTRAINT c FOREIGN KEY (id) REFERENCES t (id) ON DELETE CASCADE)",
        "INSERT INTO child VALUES (1)",
    )
    refused(database, [{"id": 1}], "child", mode="overwrite")
    assert rows(database, "SELECT id FROM child") == [(1,)]
    drop(database, "child")


def test_nan_where_the_database_has_none(database):
    if database.startswith("postgresql"):
        pytest.skip("it has NaN")
    refused(database, [{"a": 1.0}, {"a": float("nan")}], "column 'a' is nan")
    assert tables(database) == []


def test_a_name_that_is_too_long_and_a_database_in_memory(servers):
    servers.setdefault("postgresql", servers.get("postgresql") or Postgres())
    with pytest.raises(SinkError, match="longer than"):
        Same().write(DataSourceFactory([{"a": 1}]), SQLSink(servers["postgresql"].url, "x" * 80))
    with pytest.raises(SinkError, match="in memory"):
        Same().write(DataSourceFactory([{"a": 1}]), SQLSink("sqlite://", "t"))


@pytest.mark.parametrize("url", ["mysql://u:hun@ter2/x@127.0.0.1:1/db", "postgresql://u:hun/ter2@127.0.0.1:1/db"])
def test_a_password_that_ends_the_address_is_not_shown(url):
    for call in (
        lambda: Same().write(DataSourceFactory([{"a": 1}]), SQLSink(url, "t")),
        lambda: DataSourceFactory(SQLRows, url=url, table="t").length(),
    ):
        with pytest.raises(UsageError, match="%2F") as raised:
            call()
        assert "ter2" not in str(raised.value)


def two_at_once(url, mode):
    """Two jobs that have written their parts publish at the same moment; returns what their commits gave."""
    sinks = [SQLSink(url, "t", mode=mode).for_a_job() for _ in range(2)]
    wrote = []
    for number, sink in enumerate(sinks):
        sink.begin(None)
        wrote.append([sink.write(Part(0, 0, 0, 0), iter([{"id": number, "v": n} for n in range(3)]))])
        sink.arrived(wrote[-1][0])
    with ThreadPoolExecutor(2) as pool:
        return [future.exception() for future in [pool.submit(sinks[k].commit, wrote[k], []) for k in range(2)]]


@pytest.mark.parametrize("mode", ["new", "overwrite"])
def test_of_two_jobs_at_once_the_table_has_one(database, mode):
    for _ in range(3):
        create_typed(database, "id int, v int")
        errors = two_at_once(database, mode)
        found = rows(database, "SELECT id, count(*) FROM t GROUP BY id")
        assert len(found) == 1
        assert found[0][1] == 3
        assert [isinstance(error, SinkError) for error in errors].count(True) == (1 if mode == "new" else 0), errors
        drop(database, "t")


def test_an_attempt_that_never_ends_does_not_lock_the_tables(database):
    sink = SQLSink(database, "t").for_a_job()
    sink.begin(None)
    begun, ends = Event(), Event()

    def records():
        for n in range(5_000):
            yield {"id": n}
        begun.set()
        assert ends.wait(60)

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(sink.write, Part(0, 0, 0, 0), records())
        assert begun.wait(60)
        wrote = sink.write(Part(0, 1, 0, 0), iter([{"id": 1}]))
        sink.arrived(wrote)
        assert sink.commit([wrote], []).records == 1
        ends.set()
        assert isinstance(late.exception(60), SinkError)
    assert tables(database) == ["t"]
    assert rows(database, "SELECT count(*) FROM t") == [(1,)]


def test_clean_finds_tables_in_every_schema(servers):
    servers.setdefault("postgresql", servers.get("postgresql") or Postgres())
    url = servers["postgresql"].url
    execute(url, "CREATE SCHEMA IF NOT EXISTS other")
    sink = SQLSink(url, "other.t", schema={"a": "int"}).for_a_job()
    sink.begin(None)
    main.main(["clean", url], standalone_mode=False)
    assert rows(url, "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'other'") == [(0,)]


def test_integers_that_floats_do_not_hold(database):
    refused(database, [{"a": 0.5}, {"a": 2**53 + 1}], "exactly|schema=")
    refused(database, [{"a": 0.5}] * 3_000 + [{"a": 2**53 + 1}] * 3_000, "exactly|schema=")
    create_typed(database, "a double precision" if database[0] != "m" else "a double")
    refused(database, [{"a": 2**53 + 1}], "exactly", mode="append")
    arrow = needed("pyarrow")
    refused(database, [arrow.record_batch({"a": [1, -(2**53) - 1]})], "exactly", mode="append")
    Same().write(
        DataSourceFactory([arrow.record_batch({"a": [1, 2**53, None]})]), SQLSink(database, "t", mode="append")
    )
    assert sorted(rows(database, "SELECT a FROM t WHERE a IS NOT NULL")) == [(1.0,), (2.0**53,)]


def test_keys_of_json_are_text(database):
    refused(database, [{"a": {"b": [{1: 2}]}}], "keys that are not text")


def test_a_published_checkpoint_is_refused(database, tmp_path):
    create_typed(database, "v int")
    Same().write(DataSourceFactory([{"v": 1}]), SQLSink(database, "t", mode="append"), checkpoint=tmp_path / "c")
    with pytest.raises(CheckpointMismatch, match="has been published"):
        Same().write(DataSourceFactory([{"v": 1}]), SQLSink(database, "t", mode="append"), checkpoint=tmp_path / "c")
    assert rows(database, "SELECT v FROM t") == [(1,)]
