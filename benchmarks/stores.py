"""What reading through a source costs, compared with the library alone: text, Parquet, SQL, many small files.

    python benchmarks/stores.py [--rounds 5] [text words parquet sql files]      needs `make stores` and a PostgreSQL

Rounds of both in turn, medians.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jobs

sys.path += [str(Path(__file__).parent.parent / "tests" / name) for name in ("", "support")]
WORKERS = 2
ROWS = 10_000_000
CARRIERS = ("UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN", "VX")


def timed(call):
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


def medians(rounds, **calls):
    """Print the median of each call, and that of its ratios to the first; all have to return equal values."""
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        values = {}
        for name, call in calls.items():
            took, values[name] = timed(call)
            seconds[name].append(took)
        assert len({repr(value) for value in values.values()}) == 1, values
    first = next(iter(calls))
    for name, found in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(found, seconds[first], strict=True))
        print(f"  {name:42} {statistics.median(found):7.3f} s   {ratio:5.2f} of the first")


def text(rounds):
    from pymar.datasource import DataSourceFactory
    from pymar.sources import TextLines

    if not os.path.exists(jobs.WORDS + ".count"):
        jobs.make_words()
    size = os.path.getsize(jobs.WORDS)
    print(f"text: {size:,} bytes, in one process")

    def bare():
        count = 0
        with open(jobs.WORDS, "rb") as file:
            for _ in file:
                count += 1
        return count

    def through(encoding):
        factory = DataSourceFactory(TextLines, path=jobs.WORDS, encoding=encoding).for_a_job()

        def read():
            from pymar.serialization.settings import applied

            count = 0
            with applied(TextLines, factory.prepared):
                for _ in TextLines(0, size):
                    count += 1
            return count

        return read

    calls = {"for line in open(path, 'rb')": bare, "TextLines, encoding=None": through(None)}
    medians(rounds, **calls, **{"TextLines, encoding='utf-8'": through("utf-8")})


def words(rounds):
    import multiprocessing

    from stores_jobs import WordCount

    from pymar.datasource import DataSourceFactory
    from pymar.sources import TextLines

    print(f"words: J5, the word count of that file, {WORKERS} processes, 16 parts")
    parts = [(jobs.WORDS, low, high) for low, high in jobs.ranges(os.path.getsize(jobs.WORDS), 16)]
    producer = WordCount(engine=f"processes://{WORKERS}")
    factory = DataSourceFactory(TextLines, path=jobs.WORDS, encoding=None)
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:

        def by_hand():
            return jobs.merged(pool.imap_unordered(jobs.words_part, parts)).total()

        medians(rounds, **{"multiprocessing.Pool": by_hand, "TextLines": lambda: producer.map(factory).total()})


def parquet(rounds):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from stores_jobs import MeanByCarrier

    from pymar.datasource import DataSourceFactory
    from pymar.sources import ParquetBatches

    rng = np.random.default_rng(1)
    print(f"Parquet: mean by carrier over {ROWS:,} rows, {WORKERS} cores")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/flights.parquet"
        carriers = pa.DictionaryArray.from_arrays(rng.integers(0, 10, ROWS, dtype="i4"), CARRIERS).cast(pa.string())
        delays = rng.integers(-30, 300, ROWS).astype("f8")
        pq.write_table(pa.table({"carrier": carriers, "delay": delays}), path, row_group_size=500_000)

        def by_arrow(threads):
            pa.set_cpu_count(threads), pa.set_io_thread_count(threads)
            table = pq.read_table(path, use_threads=threads > 1)
            grouped = table.group_by("carrier", use_threads=threads > 1)
            found = grouped.aggregate([("delay", "sum"), ("delay", "count")]).to_pydict()
            sums = zip(found["carrier"], found["delay_sum"], found["delay_count"], strict=True)
            return {carrier: (total, count) for carrier, total, count in sorted(sums)}

        producer = MeanByCarrier(engine=f"processes://{WORKERS}")
        factory = DataSourceFactory(ParquetBatches, path=path, columns=("carrier", "delay"))
        producer.map(factory)  # starts the worker processes, which load Arrow
        calls = {
            "pyarrow's group-by, one core": lambda: by_arrow(1),
            "pyarrow's group-by, its threads": lambda: by_arrow(WORKERS),
            "ParquetBatches": lambda: producer.map(factory),
        }
        medians(rounds, **calls)


def sql(rounds):
    import psycopg
    from postgres import Postgres
    from stores_jobs import Counting

    from pymar.datasource import DataSourceFactory
    from pymar.parts import Done
    from pymar.sources import SQLRows

    print(f"SQL: {ROWS:,} rows of a table of PostgreSQL without a key, 32 parts, {WORKERS} worker processes")
    server = Postgres()
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            columns = "n AS id, 'UA' AS carrier, n % 300 AS delay"
            connection.execute(f"CREATE TABLE flights AS SELECT {columns} FROM generate_series(1, {ROWS}) n")
        first, last = [], []
        for _ in range(rounds):
            events = []
            producer = Counting(engine=f"processes://{WORKERS}", listeners=[events.append])
            began = time.perf_counter()
            count = producer.map(DataSourceFactory(SQLRows, url=server.url, table="flights", as_tuples=True))
            took = time.perf_counter() - began
            assert count == ROWS
            seconds = {event.index: event.seconds for event in events if isinstance(event, Done)}
            first.append(statistics.median(seconds[index] for index in range(1, 5)))
            last.append(statistics.median(seconds[index] for index in range(27, 31)))
            print(f"  {took:.1f} s; parts 1 to 4 took {first[-1]:.3f} s, parts 27 to 30 {last[-1]:.3f} s")
        ratio = statistics.median(one / other for one, other in zip(last, first, strict=True))
        print(f"  last / first: {ratio:.2f}")
        from pymar.slots.pool import shutdown

        shutdown()
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"  peak memory of a worker process: {peak:.0f} MB")
    finally:
        server.remove()


def files(rounds):
    from stores_jobs import Counting

    from pymar.datasource import DataSourceFactory
    from pymar.sources import TextLines

    print("files: 10,000 small ones; time until the first part is done, and until all are")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(10_000):
            Path(folder, f"{number}.txt").write_text("one\n")
        producer = Counting(engine=f"processes://{WORKERS}")
        factory = DataSourceFactory(TextLines, path=f"{folder}/*.txt")
        assert producer.map(factory) == 10_000
        until_first, whole = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            partials = producer.partials(factory)
            next(partials)
            until_first.append(time.perf_counter() - began)
            assert len(list(partials)) == 31
            whole.append(time.perf_counter() - began)
        first, every = statistics.median(until_first), statistics.median(whole)
        print(f"  first part done: {first:.3f} s; all: {every:.3f} s")


KINDS = {"text": text, "words": words, "parquet": parquet, "sql": sql, "files": files}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for kind in options.kinds:
        # Each in a new process: what one has loaded and allocated must not be in the figures of another.
        if len(options.kinds) > 1:
            subprocess.run([sys.executable, __file__, kind, "--rounds", str(options.rounds)], check=True)
        else:
            KINDS[kind](options.rounds)


if __name__ == "__main__":
    main()
