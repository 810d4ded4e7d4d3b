"""Queries 1, 3 and 6 of TPC-H on generated Parquet files: the answers are DuckDB's.

Money is in cents, discounts and taxes in hundredths, as ints: sums are exact on both sides, in any order. An average
is one division of two ints below 2**53, which IEEE 754 rounds in one way only: so all answers are equal, not nearly.
"""

import random
from datetime import date, timedelta

import pytest
from conftest import needed

from pymar import DataSourceFactory
from pymar.keyed import Count, KeyedProducer, Mean, Sum, join
from pymar.sources import ParquetBatches, ParquetRows

SEED = 22
CUSTOMERS, ORDERS = 300, 6_000
SEGMENTS = ["AUTOMOBILE", "BUILDING", "FURNITURE", "HOUSEHOLD", "MACHINERY"]
FIRST, DAYS = date(1992, 1, 1), 2_400
CURRENT = date(1995, 6, 17)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The files customer, orders and lineitem, with the columns that the queries read; about 24,000 lines."""
    pyarrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    customer = [{"c_custkey": key, "c_mktsegment": draw.choice(SEGMENTS)} for key in range(1, CUSTOMERS + 1)]
    orders, lineitem = [], []
    for key in range(1, ORDERS + 1):
        ordered = FIRST + timedelta(draw.randrange(DAYS))
        orders.append(
            {"o_orderkey": key, "o_custkey": draw.randint(1, CUSTOMERS), "o_orderdate": ordered, "o_shippriority": 0}
        )
        for _ in range(draw.randint(1, 7)):
            shipped = ordered + timedelta(draw.randint(1, 121))
            received = shipped + timedelta(draw.randint(1, 30))
            quantity = draw.randint(1, 50)
            lineitem.append(
                {
                    "l_orderkey": key,
                    "l_quantity": quantity,
                    "l_extendedprice": quantity * draw.randint(90_000, 200_000),
                    "l_discount": draw.randint(0, 10),
                    "l_tax": draw.randint(0, 8),
                    "l_returnflag": draw.choice("AR") if received <= CURRENT else "N",
                    "l_linestatus": "O" if shipped > CURRENT else "F",
                    "l_shipdate": shipped,
                }
            )
    folder = tmp_path_factory.mktemp("tpch")
    paths = {}
    for name, rows in {"customer": customer, "orders": orders, "lineitem": lineitem}.items():
        paths[name] = str(folder / f"{name}.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), paths[name], row_group_size=4_000)
    return paths


def answer_of_duckdb(tables, query):
    with needed("duckdb").connect() as connection:
        for name, path in tables.items():
            connection.execute(f"create view {name} as select * from '{path}'")
        return connection.execute(query).fetchall()


class PricingSummary(KeyedProducer):
    """Query 1: what was billed, shipped and returned."""

    KEY = ("l_returnflag", "l_linestatus")
    reduce_fn = {  # noqa: RUF012 - never changed
        "sum_qty": Sum("l_quantity"),
        "sum_base_price": Sum("l_extendedprice"),
        "sum_disc_price": Sum("disc_price"),
        "sum_charge": Sum("charge"),
        "avg_qty": Mean("l_quantity"),
        "avg_price": Mean("l_extendedprice"),
        "avg_disc": Mean("l_discount"),
        "count_order": Count(),
    }

    @staticmethod
    def map_fn(rows):
        for row in rows:
            if row["l_shipdate"] <= date(1998, 9, 2):
                price = row["l_extendedprice"] * (100 - row["l_discount"])
                yield {**row, "disc_price": price, "charge": price * (100 + row["l_tax"])}


class PricingSummaryOfBatches(PricingSummary):
    """The same, of Arrow record batches."""

    @staticmethod
    def map_fn(batches):
        from pyarrow import Table, compute, scalar

        for batch in batches:
            table = Table.from_batches([batch])
            table = table.filter(compute.less_equal(table["l_shipdate"], scalar(date(1998, 9, 2))))
            price = compute.multiply(table["l_extendedprice"], compute.subtract(100, table["l_discount"]))
            charge = compute.multiply(price, compute.add(100, table["l_tax"]))
            yield table.append_column("disc_price", price).append_column("charge", charge)


QUERY_1 = """
    select l_returnflag, l_linestatus, sum(l_quantity), sum(l_extendedprice),
           sum(l_extendedprice * (100 - l_discount)),
           sum(l_extendedprice * (100 - l_discount) * (100 + l_tax)),
           avg(l_quantity), avg(l_extendedprice), avg(l_discount), count(*)
    from lineitem where l_shipdate <= date '1998-12-01' - interval 90 day
    group by l_returnflag, l_linestatus order by l_returnflag, l_linestatus
"""


@pytest.mark.parametrize(
    ("producer", "source"), [(PricingSummary, ParquetRows), (PricingSummaryOfBatches, ParquetBatches)]
)
def test_query_1_gives_the_answer_of_duckdb(tables, producer, source):
    found = producer(engine="processes://2").map(DataSourceFactory(source, path=tables["lineitem"]))
    assert len(found) == 4
    assert sorted((*key, *value.values()) for key, value in found.items()) == answer_of_duckdb(tables, QUERY_1)


class Revenue(KeyedProducer):
    """Query 6: what some discounts cost, under the key None, since there is one group."""

    reduce_fn = Sum()

    @staticmethod
    def map_fn(rows):
        for row in rows:
            in_1994 = date(1994, 1, 1) <= row["l_shipdate"] < date(1995, 1, 1)
            if in_1994 and 5 <= row["l_discount"] <= 7 and row["l_quantity"] < 24:
                yield None, row["l_extendedprice"] * row["l_discount"]


def test_query_6_gives_the_answer_of_duckdb(tables):
    found = Revenue(engine="processes://2").map(DataSourceFactory(ParquetRows, path=tables["lineitem"]))
    assert [(found[None],)] == answer_of_duckdb(
        tables,
        """
        select sum(l_extendedprice * l_discount) from lineitem
        where l_shipdate >= date '1994-01-01' and l_shipdate < date '1995-01-01'
          and l_discount between 5 and 7 and l_quantity < 24
        """,
    )


class RevenueByOrder(KeyedProducer):
    """Query 3's last step: of joined rows."""

    KEY = ("o_orderkey", "o_orderdate", "o_shippriority")
    reduce_fn = Sum("revenue")


def of_the_segment(rows):
    return (row for row in rows if row["c_mktsegment"] == "BUILDING")


def before(rows):
    for row in rows:
        if row["o_orderdate"] < date(1995, 3, 15):
            yield {"c_custkey": row["o_custkey"], **row}


def shipped_later(rows):
    for row in rows:
        if row["l_shipdate"] > date(1995, 3, 15):
            revenue = row["l_extendedprice"] * (100 - row["l_discount"])
            yield {"o_orderkey": row["l_orderkey"], "revenue": revenue}


def test_query_3_gives_the_answer_of_duckdb(tables):
    rows = {name: DataSourceFactory(ParquetRows, path=path) for name, path in tables.items()}
    orders = join(
        rows["orders"],
        rows["customer"],
        on="c_custkey",
        how="semi",
        left_fn=before,
        right_fn=of_the_segment,
        engine="processes://2",
    )
    lines = join(rows["lineitem"], orders, on="o_orderkey", left_fn=shipped_later, engine="processes://2")
    found = RevenueByOrder(engine="processes://2").map(DataSourceFactory(lines))
    best = sorted(((key[0], revenue, *key[1:]) for key, revenue in found.items()), key=lambda row: (-row[1], row[2]))
    wanted = answer_of_duckdb(
        tables,
        """
        select l_orderkey, sum(l_extendedprice * (100 - l_discount)) as revenue, o_orderdate, o_shippriority
        from customer, orders, lineitem
        where c_mktsegment = 'BUILDING' and c_custkey = o_custkey and l_orderkey = o_orderkey
          and o_orderdate < date '1995-03-15' and l_shipdate > date '1995-03-15'
        group by l_orderkey, o_orderdate, o_shippriority
        order by revenue desc, o_orderdate limit 10
        """,
    )
    assert len(wanted) == 10
    assert best[:10] == wanted
