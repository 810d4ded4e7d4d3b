"""What writing through a sink costs, compared with the library alone, pandas and Dask: Parquet, dicts, PostgreSQL.

    python benchmarks/sinks.py [--rounds 5] [parquet dicts postgres]      needs `make stores clusters` and a PostgreSQL

Rounds of all in turn, medians. Worker processes, and those of the others, are started before.
"""

import argparse
import glob
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sinks_jobs

sys.path += [str(Path(__file__).parent.parent / "tests" / name) for name in ("", "support")]
WORKERS = 2
ENGINE = f"processes://{WORKERS}"


def in_turn(rounds, folder, calls):
    """Print the median of each call, which writes to a folder of its own; return the medians."""
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            target = f"{folder}/target"
            shutil.rmtree(target, ignore_errors=True)
            began = time.perf_counter()
            call(target)
            seconds[name].append(time.perf_counter() - began)
    first = next(iter(calls))
    for name, found in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(found, seconds[first], strict=True))
        print(f"  {name:46} {statistics.median(found):7.3f} s   {ratio:5.2f} of the first", flush=True)


def largest_worker():
    """The largest memory that a worker process of this one has had, in MB."""
    sizes = [0]
    for path in glob.glob("/proc/[0-9]*/status"):
        try:
            fields = dict(line.partition(":")[::2] for line in Path(path).read_text().splitlines())
        except OSError:
            continue
        if fields.get("PPid", "").strip() == str(os.getpid()) and "VmHWM" in fields:
            sizes.append(int(fields["VmHWM"].split()[0]) // 1024)
    return max(sizes)


def parquet(rounds):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pymar.datasource import DataSourceFactory
    from pymar.sinks import ParquetSink
    from pymar.sources import ParquetBatches

    print(f"parquet: 10,000,000 rows in 10 files to Parquet, as batches, {WORKERS} processes")
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/source")
        for number in range(10):
            columns = {
                "id": np.arange(number * 1_000_000, (number + 1) * 1_000_000),
                "x": rng.random(1_000_000),
                "y": rng.integers(0, 1_000, 1_000_000, dtype="i4"),
                "text": pa.array([f"text {n}" for n in rng.integers(0, 500, 1_000_000)]),
            }
            pq.write_table(pa.table(columns), f"{folder}/source/{number}.parquet", row_group_size=250_000)
        producer = sinks_jobs.Same(engine=ENGINE)
        factory = DataSourceFactory(ParquetBatches, path=f"{folder}/source")
        written = producer.write(factory, ParquetSink(f"{folder}/first"))
        assert written.records == 10_000_000
        print(f"  largest worker process: {largest_worker()} MB; {written.files} files, {written.bytes / 1e6:.0f} MB")
        with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:

            def by_hand(target):
                os.mkdir(target)
                pool.map(
                    sinks_jobs.copied,
                    [(f"{folder}/source/{number}.parquet", f"{target}/{number}.parquet") for number in range(10)],
                    chunksize=1,
                )

            by_hand(f"{folder}/warm")
            calls = {
                "pyarrow, by hand": by_hand,
                "ParquetBatches to ParquetSink": lambda target: producer.write(factory, ParquetSink(target)),
            }
            in_turn(rounds, folder, calls)


def dicts(rounds):
    import pandas as pd
    from dask import bag
    from distributed import Client, LocalCluster

    from pymar.datasource import DataSourceFactory
    from pymar.sinks import CSVSink, JSONLinesSink, ParquetSink

    count = 1_000_000
    print(f"dicts: {count:,} dicts of five fields, made by each, {WORKERS} processes (pandas: one)")
    producer = sinks_jobs.Dicts(engine=ENGINE)
    factory = DataSourceFactory(range(count))
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        records = bag.range(count, npartitions=32).map(sinks_jobs.record)
        meta = pd.DataFrame([sinks_jobs.record(0)]).iloc[:0]

        def framed():
            return pd.DataFrame([sinks_jobs.record(n) for n in range(count)])

        def to_file(write):
            def call(target):
                os.mkdir(target)
                write(framed(), f"{target}/all")

            return call

        producer.write(factory, ParquetSink(f"{folder}/warm"))
        forms = {
            "Parquet": (
                lambda target: producer.write(factory, ParquetSink(target)),
                lambda target: records.to_dataframe(meta=meta).to_parquet(target),
                to_file(lambda frame, path: frame.to_parquet(path)),
            ),
            "CSV": (
                lambda target: producer.write(factory, CSVSink(target)),
                lambda target: records.to_dataframe(meta=meta).to_csv(f"{target}/*.csv", index=False),
                to_file(lambda frame, path: frame.to_csv(path, index=False)),
            ),
            "JSON Lines": (
                lambda target: producer.write(factory, JSONLinesSink(target)),
                lambda target: records.map(json.dumps).to_textfiles(f"{target}/*.jsonl"),
                to_file(lambda frame, path: frame.to_json(path, orient="records", lines=True)),
            ),
        }
        for form, (ours, dask, pandas) in forms.items():
            in_turn(rounds, folder, {f"{form}: sink": ours, f"{form}: Dask bag": dask, f"{form}: pandas": pandas})


def postgres(rounds):
    import psycopg
    import pyarrow as pa
    import pyarrow.parquet as pq
    from postgres import Postgres

    from pymar.datasource import DataSourceFactory
    from pymar.sinks import SQLSink
    from pymar.sources import ParquetBatches

    count = 4_000_000
    print(f"postgres: {count:,} rows of four columns, {WORKERS} processes")
    server = Postgres()
    try:
        with tempfile.TemporaryDirectory() as folder:
            halves = []
            for number in range(WORKERS):
                path = f"{folder}/{number}.csv"
                Path(path).write_text(sinks_jobs.csv_of(number * count // WORKERS, (number + 1) * count // WORKERS))
                halves.append(path)
            create = "CREATE TABLE rows (id bigint, carrier text, delay double precision, distance bigint)"

            def execute(*statements):
                with psycopg.connect(server.url, autocommit=True) as connection:
                    for statement in statements:
                        connection.execute(statement)

            def by_psql(target):
                execute("DROP TABLE IF EXISTS rows", create)
                started = [
                    subprocess.Popen(
                        [server.bin / "psql", "-q", server.url, "-c", f"\\copy rows FROM '{path}' WITH (FORMAT csv)"]
                    )
                    for path in halves
                ]
                assert [process.wait() for process in started] == [0] * WORKERS

            producer = sinks_jobs.Rows(engine=ENGINE)
            sink = SQLSink(server.url, "rows", columns=sinks_jobs.COLUMNS)

            def ours(target):
                execute("DROP TABLE IF EXISTS rows")
                assert producer.write(DataSourceFactory(range(count)), sink).records == count

            columns = zip(*map(sinks_jobs.row, range(count)), strict=True)
            table = pa.table({name: list(column) for name, column in zip(sinks_jobs.COLUMNS, columns, strict=True)})
            pq.write_table(table, f"{folder}/rows.parquet", row_group_size=count // 16)
            copies = sinks_jobs.Same(engine=ENGINE)
            batches = DataSourceFactory(ParquetBatches, path=f"{folder}/rows.parquet")

            def of_parquet(target):
                execute("DROP TABLE IF EXISTS rows")
                assert copies.write(batches, SQLSink(server.url, "rows")).records == count

            ours(""), of_parquet("")
            calls = {
                "psql \\copy of two files of CSV": by_psql,
                "ParquetBatches to SQLSink": of_parquet,
                "tuples that map_fn makes to SQLSink": ours,
            }
            in_turn(rounds, folder, calls)
            with psycopg.connect(server.url) as connection:
                found = connection.execute("SELECT count(*), count(DISTINCT id), sum(distance) FROM rows").fetchone()
            assert found[:2] == (count, count), found
    finally:
        server.remove()


KINDS = {"parquet": parquet, "dicts": dicts, "postgres": postgres}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="|".join(KINDS))
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        KINDS[kind](arguments.rounds)
