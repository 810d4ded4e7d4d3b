"""Keys and values of MariaDB and DuckDB: each row once in any number of parts, with the values that were put in."""

import datetime
import random
import sqlite3
import subprocess
import sys

import pytest
from conftest import needed
from mariadb import MariaDB
from sql_jobs import rows

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError, SourceUnavailable
from pymar.sources import SQLRows
from pymar.testing import check_source

needed("sqlalchemy")
needed("pymysql")
duckdb = needed("duckdb")
needed("duckdb_engine")

START = 1_603_584_000  # 2020-10-25 00:00 UTC: one hour before clocks in Berlin repeat theirs
UTC = datetime.UTC


@pytest.fixture(scope="module")
def mariadb():
    server = MariaDB()
    values = ",".join(f"({n % 3 + 1}, {n})" for n in range(30))
    server.execute(
        "CREATE TABLE sizes (size ENUM('small', 'medium', 'big'), id INT UNIQUE, PRIMARY KEY (size, id))",
        f"INSERT INTO sizes VALUES {values}",
        "CREATE TABLE sets (colours SET('red', 'green', 'blue') PRIMARY KEY)",
        "INSERT INTO sets VALUES (1), (2), (3), (4), (5), (6), (7)",
        "CREATE TABLE bits (k BIT(8) PRIMARY KEY)",
        f"INSERT INTO bits VALUES {','.join(f'({n})' for n in range(40, 60))}",
        "CREATE TABLE numbers (id INT PRIMARY KEY, x DOUBLE, r FLOAT, d DECIMAL(30, 20))",
        "INSERT INTO numbers VALUES (1, 1e-12, 0.5, 0.12345678901234567890), (2, 0.12345678901234566, 2, -1), "
        "(3, 1.7976931348623157e308, -1, 0)",
        "CREATE TABLE times (k TIME(6) PRIMARY KEY)",
        "INSERT INTO times VALUES ('-10:00:00'), ('-05:00:00'), ('01:00:00.000001'), ('23:00:00'), ('838:00:00')",
        "CREATE TABLE moments (k TIMESTAMP NOT NULL PRIMARY KEY, n INT)",
        "SET time_zone = '+00:00'",
        f"INSERT INTO moments VALUES {','.join(f'(from_unixtime({START + 60 * n}), {n})' for n in range(180))}",
        "CREATE TABLE words (word VARCHAR(20) PRIMARY KEY, n INT) CHARACTER SET utf8mb4",
        "INSERT INTO words VALUES ('Zoë', 1), ('ape', 2), ('Ape tree', 3), ('éclair', 4), ('eclipse', 5), ('日本', 6)",
        "CREATE TABLE orders (id INT PRIMARY KEY, n INT, FOREIGN KEY (n) REFERENCES numbers (id))",
        "INSERT INTO orders VALUES (1, 1), (2, 3)",
    )
    yield server
    server.remove()


@pytest.mark.parametrize("settings", [{"table": "sizes"}, {"query": "SELECT * FROM sizes", "key": ("size", "id")},
                                      {"table": "sets"}])  # fmt: skip
def test_keys_that_are_sorted_by_number_and_compared_as_text_are_refused(mariadb, settings):
    with pytest.raises(SourceError, match="set key= to columns of numbers, text or dates"):
        rows(url=mariadb.url, **settings)


def test_a_table_whose_primary_key_is_refused_is_read_by_another(mariadb):
    found = rows(url=mariadb.url, table="sizes", key="id")
    assert found == sorted([(("small", "medium", "big")[n % 3], n) for n in range(30)], key=str)


def test_bits_are_a_key_of_a_table(mariadb):
    assert sorted(n for (n,) in rows(url=mariadb.url, table="bits")) == list(range(40, 60))


def test_bits_of_a_query_are_whole_or_refused(mariadb):
    with pytest.raises(SourceError, match="the key k does not cut the rows"):
        rows(url=mariadb.url, query="SELECT * FROM bits", key="k")


@pytest.mark.parametrize("settings", [{"table": "numbers"}, {"query": "SELECT * FROM numbers", "key": "id"}])
def test_numbers_are_those_that_were_put_in(mariadb, settings):
    found = rows(url=mariadb.url, **settings)
    assert [(i, x, r) for i, x, r, _ in found] == [
        (1, 1e-12, 0.5),
        (2, 0.12345678901234566, 2.0),
        (3, 1.7976931348623157e308, -1.0),
    ]
    assert str(found[0][3]) == "0.12345678901234567890"


def test_times_are_durations_of_any_length_and_a_key(mariadb):
    hours = [datetime.timedelta(hours=n) for n in (-10, -5, 23, 838)]
    expected = [*hours, datetime.timedelta(hours=1, microseconds=1)]
    assert sorted(k for (k,) in rows("processes://2", url=mariadb.url, table="times")) == sorted(expected)


def test_time_stamps_are_read_in_utc_also_while_clocks_repeat_an_hour(mariadb):
    zone = mariadb.execute("SELECT @@system_time_zone, from_unixtime(0)")
    assert zone == (("CET", datetime.datetime(1970, 1, 1, 1)),)  # the server's own sessions are not in UTC
    found = rows("processes://2", url=mariadb.url, table="moments")
    expected = [(datetime.datetime.fromtimestamp(START + 60 * n, UTC).replace(tzinfo=None), n) for n in range(180)]
    assert sorted(found) == expected


def test_text_is_a_key_by_the_collation_of_the_database(mariadb):
    assert sorted(n for _, n in rows(url=mariadb.url, table="words")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("table", "count"), [("bits", 20), ("times", 5), ("moments", 180), ("words", 6)])
def test_every_cut_gives_the_same_rows(mariadb, table, count):
    factory = DataSourceFactory(SQLRows, url=mariadb.url, table=table, as_tuples=True)
    assert check_source(factory, joined=sorted) == count


def test_the_table_alone_is_looked_at(mariadb):
    """A user may read a table and not the one that its foreign key names."""
    mariadb.execute(
        "CREATE USER clerk@'127.0.0.1' IDENTIFIED BY 'word'", "GRANT SELECT ON test.orders TO clerk@'127.0.0.1'"
    )
    url = mariadb.url.replace(f"pymar:{mariadb.password}", "clerk:word")
    assert rows(url=url, table="orders") == [(1, 1), (2, 3)]


@pytest.mark.parametrize(
    ("change", "says"), [(("a-secret-word", "wrong"), "Access denied"), (("/test", "/tset"), "tset")]
)
def test_what_the_server_refuses_is_said_at_once_without_the_password(mariadb, change, says):
    with pytest.raises(SourceError, match=says) as raised:
        rows(url=mariadb.url.replace(*change), table="numbers")
    assert not isinstance(raised.value, SourceUnavailable)
    assert "wrong" not in str(raised.value)
    assert mariadb.password not in str(raised.value)


@pytest.fixture(scope="module")
def duck(tmp_path_factory):
    path = tmp_path_factory.mktemp("duck") / "data.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TYPE size AS ENUM ('small', 'medium', 'big')")
        connection.execute("CREATE TABLE sizes (size size, id INT, PRIMARY KEY (size, id))")
        connection.execute("INSERT INTO sizes SELECT enum_range(NULL::size)[1 + n % 3], n FROM range(30) r(n)")
        connection.execute('CREATE TABLE odd (id BIGINT PRIMARY KEY, "a b" DOUBLE, t TIME, d DECIMAL(20, 10), u UUID)')
        connection.execute(
            "INSERT INTO odd SELECT n, n / 7, TIME '10:00:00' + to_seconds(n), n / 4, uuid() FROM range(3000) r(n)"
        )
    return f"duckdb:///{path}"


@pytest.mark.parametrize("key", ["", "id", "a b", "u", ("t", "id")])
def test_duckdb_by_keys_of_every_kind(duck, key):
    found = rows("processes://2", url=duck, table="odd", key=key, columns=("id", "a b"))
    assert sorted(found) == [(n, n / 7) for n in range(3000)]


@pytest.mark.parametrize("settings", [{"table": "sizes"}, {"query": "SELECT * FROM sizes", "key": ("size", "id")}])
def test_enums_of_duckdb_are_no_key(duck, settings):
    with pytest.raises(SourceError, match="set key= to columns of numbers, text or dates"):
        rows(url=duck, **settings)


def test_a_database_of_duckdb_that_another_process_writes_to_is_away_for_now(tmp_path):
    path = tmp_path / "busy.duckdb"
    program = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); c.execute('CREATE TABLE a (id INT PRIMARY KEY)');"
        "print('open', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "open\n"
    with pytest.raises(SourceUnavailable, match="lock"):
        rows(url=f"duckdb:///{path}", table="a")
    writer.communicate(timeout=30)
    assert rows(url=f"duckdb:///{path}", table="a") == []


def test_what_duckdb_does_not_have_is_named(duck):
    with pytest.raises(SourceError, match="ood does not exist"):
        rows(url=duck, table="ood")
    with pytest.raises(SourceError, match=r"dato\.duckdb does not exist; there is .*data\.duckdb"):
        rows(url=duck.replace("data.duckdb", "dato.duckdb"), table="odd")


@pytest.mark.parametrize(("module", "url", "extra"), [("pymysql", "mysql://a@127.0.0.1/b", "mysql"),
                                                ("duckdb_engine", "duckdb:///:memory:", "duckdb")])  # fmt: skip
def test_a_missing_driver_is_named_with_its_extra(module, url, extra):
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from pymar.sources import SQLRows\n"
        f"SQLRows.url, SQLRows.table = {url!r}, 'a'\n"
        "SQLRows.prepare()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert f"MissingExtra: a database at {url.partition(':')[0]}:// needs: pip install 'pymar[{extra}]'" in done.stderr


def test_a_query_that_gives_other_rows_each_time_is_refused(duck, tmp_path):
    path = tmp_path / "data.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO a VALUES (?)", [(n,) for n in range(3000)])
    connection.close()
    for url in (f"sqlite:///{path}", duck):
        table = "odd" if url == duck else "a"
        with pytest.raises(SourceError, match="gives other rows each time"):
            rows(url=url, query=f"SELECT random() AS r FROM {table}", key="r")
        with pytest.raises(SourceError, match="LIMIT without ORDER BY"):
            rows(url=url, query=f"SELECT id FROM {table} LIMIT 100", key="id")
        found = rows(url=url, query=f"SELECT id FROM {table} ORDER BY id DESC LIMIT 100", key="id")
        assert sorted(n for (n,) in found) == list(range(2900, 3000))


def test_every_row_is_in_the_range_of_its_place_whatever_the_keys(tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    kinds = [
        lambda: chance.randrange(-50, 50),
        lambda: chance.uniform(-1e3, 1e3),
        lambda: chance.choice(["", "A", "a", "ä", "Ab", "10", "9"]) + str(chance.randrange(99)),
        lambda: chance.randbytes(2),
        lambda: None,
    ]
    made = {(chance.choice(kinds)(), chance.choice(kinds)()) for _ in range(3000)}
    path = tmp_path / "data.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE a (x, y, UNIQUE (x, y))")
        connection.executemany("INSERT INTO a VALUES (?, ?)", made)
        stored = connection.execute("SELECT * FROM a").fetchall()
    connection.close()
    assert rows(url=f"sqlite:///{path}", table="a", key=("x", "y")) == sorted(stored, key=str)
