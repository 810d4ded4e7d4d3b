"""Reduce by key beside its alternatives: J5, J6 and K1 to K4. Interleaved rounds, a new process each, medians.

    python benchmarks/keyed.py [--rounds 3] [--scale 0.1] [--only Pool] [--large] [J5 J6 K1 K2 K3 K4 join sort]

J5    200 MB of words counted, into a dict at the producer
J6    10,000,000 (int, int) pairs, 2,000,000 keys, 16 parts, summed into a dict at the producer
K1    200 MB of words counted, to the hundred most frequent ones at the producer
K2    mean and count by two columns over 10,000,000 rows of Parquet
K3    20,000,000 pairs with 10,000,000 texts as keys, summed into files; with --large, five times as many
K4    J6 without a dict, as it is, and with one key that half of all pairs have
join  the rows of K2 with 100,000 others, beside K2 itself
sort  10,000,000 ints, and pairs of ints, in order, beside `sorted` in one process

Needs requirements-all.txt and a Java. Workers are started before the clock, and what each gives is checked after it.
Memory is the most that was resident (VmHWM): of the producer when the clock stops, and of its largest worker.

K3 has a limit of memory, --limit, shared evenly by those that have several processes. It is each library's own limit:
DuckDB's memory_limit, that of Dask's workers (their nanny kills at 95% of it), and Ray's memory monitor (which kills
workers once the host has so much less memory, beside Ray's smallest object store, 80 MB). Ours has none: see its sizes.
"""

import argparse
import contextlib
import itertools
import json
import operator
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import jobs
import keyed_jobs
from keyed_jobs import PARTS
from on_this_host import WORKERS

HERE = Path(__file__).parent
ENGINE = f"processes://{WORKERS}"
#: Seconds of one contender, at most.
PATIENCE = 600
#: Contenders for which numpy cannot be imported, in any process.
WITHOUT_NUMPY = "without numpy"


# Ours


def ours(producer, source, finish=None, **settings):
    """A contender: map with a producer of keyed_jobs; `finish` makes of its result what is wanted."""

    @contextlib.contextmanager
    def contender():
        from pymar.datasource import DataSourceFactory
        from pymar.slots.pool import shutdown

        one = getattr(keyed_jobs, producer)(engine=ENGINE)
        kind = getattr(keyed_jobs, source) if isinstance(source, str) else source()
        start(producer)
        factory = DataSourceFactory(kind, **settings)
        yield lambda: (finish or (lambda result: result))(one.map(factory))
        shutdown()

    return contender


def start(producer):
    """Start our workers, with the libraries that the job needs."""
    from pymar.datasource import DataSourceFactory

    keyed_jobs.PairsSummed(engine=ENGINE).map(DataSourceFactory([(n, n) for n in range(64)])).close()
    if producer == "ByTwo":
        keyed_jobs.ByTwo(engine=ENGINE).map(DataSourceFactory([keyed_jobs.some_rows()] * 64)).close()


def to_dict(result):
    return result.to_dict()


def summed_as_read(result):
    return sum(result.values()), result


def text_lines():
    from pymar.sources import TextLines

    return TextLines


def parquet_batches():
    from pymar.sources import ParquetBatches

    return ParquetBatches


def groups_of(table):
    return list(zip(table["n"].to_pylist(), table["mean"].to_pylist(), strict=True))


# The alternatives


@contextlib.contextmanager
def a_pool():
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        pool.map(jobs.trivial_part, range(4))
        yield pool


@contextlib.contextmanager
def pool_of_pairs():
    with a_pool() as pool:
        yield lambda: jobs.added(pool.imap_unordered(jobs.pairs_part, jobs.ranges(jobs.PAIRS, PARTS)))


@contextlib.contextmanager
def pool_of_words():
    parts = [(jobs.WORDS, low, high) for low, high in jobs.ranges(os.path.getsize(jobs.WORDS), PARTS)]
    with a_pool() as pool:
        yield lambda: jobs.merged(pool.imap_unordered(jobs.words_part, parts))


@contextlib.contextmanager
def dask_cluster(**settings):
    from distributed import Client, LocalCluster

    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, local_directory=folder, **settings
        ) as cluster,
        Client(cluster) as client,
    ):
        assert client.gather(client.map(jobs.trivial_part, range(4))) == [0, 1, 2, 3]
        yield folder


@contextlib.contextmanager
def dask_words():
    from dask import bag

    with dask_cluster():
        size = -(-os.path.getsize(jobs.WORDS) // PARTS)
        words = bag.read_text(jobs.WORDS, blocksize=size).map(str.split).flatten()
        yield lambda: words.frequencies().topk(100, key=1).compute()


@contextlib.contextmanager
def spark_words():
    from systems import Spark

    with Spark() as spark:
        assert spark.context.parallelize(range(4), 4).map(jobs.trivial_part).sum() == 6

        def call():
            lines = spark.context.textFile(jobs.WORDS, PARTS)
            counts = lines.flatMap(str.split).map(lambda word: (word, 1)).reduceByKey(operator.add)
            return counts.top(100, key=lambda pair: pair[1])

        yield call


@contextlib.contextmanager
def mrjob_words():
    from systems import Mrjob

    yield lambda: Mrjob().J5().most_common(100)


@contextlib.contextmanager
def arrow_groups():
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(WORKERS), pa.set_io_thread_count(WORKERS)

    def call():
        table = pq.read_table(keyed_jobs.ROWS_FOLDER, columns=["a", "b", "x"])
        found = table.group_by(["a", "b"]).aggregate([("x", "count"), ("x", "mean")])
        return list(zip(found["x_count"].to_pylist(), found["x_mean"].to_pylist(), strict=True))

    yield call


@contextlib.contextmanager
def duckdb_groups():
    import duckdb

    connection = duckdb.connect(config={"threads": WORKERS})
    query = f"SELECT count(*), avg(x) FROM '{keyed_jobs.ROWS_FOLDER}/*.parquet' GROUP BY a, b"
    yield lambda: connection.execute(query).fetchall()


@contextlib.contextmanager
def polars_groups():
    os.environ["POLARS_MAX_THREADS"] = str(WORKERS)
    import polars as pl

    rows = pl.scan_parquet(f"{keyed_jobs.ROWS_FOLDER}/*.parquet").group_by("a", "b")
    yield lambda: rows.agg(pl.len(), pl.mean("x").alias("mean")).select("len", "mean").collect().rows()


@contextlib.contextmanager
def duckdb_texts():
    import duckdb

    with tempfile.TemporaryDirectory() as folder:
        settings = {"threads": WORKERS, "memory_limit": f"{limit()}MB", "temp_directory": folder}
        connection = duckdb.connect(f"{folder}/db", config={**settings, "preserve_insertion_order": False})
        n, texts = keyed_jobs.TEXT_PAIRS, keyed_jobs.TEXTS
        pairs = f"SELECT 'key ' || (range * {keyed_jobs._SPREAD} % {texts}) AS key, range AS value FROM range({n})"
        target = f"{folder}/result.parquet"

        def call():
            connection.execute(f"COPY (SELECT key, sum(value) AS value FROM ({pairs}) GROUP BY key) TO '{target}'")
            return target

        yield call


@contextlib.contextmanager
def dask_texts():
    import dask.dataframe as dd

    with dask_cluster(memory_limit=limit() * 10**6 // WORKERS) as folder:
        parts = keyed_jobs.Texts.WORKERS_NUMBER
        frame = dd.from_map(keyed_jobs.text_frame, jobs.ranges(keyed_jobs.TEXT_PAIRS, parts))
        target = f"{folder}/result"

        def call():
            frame.groupby("key").value.sum(split_out=parts).to_frame().to_parquet(target)
            return target

        yield call


@contextlib.contextmanager
def ray_texts():
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(memory[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    store = 80 * 10**6
    threshold = (total - free + store + limit() * 10**6) / total
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "1"}
    os.environ |= {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    import ray

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
        ray.init(num_cpus=WORKERS, object_store_memory=store, _temp_dir=folder, **quiet)
        try:
            parts = keyed_jobs.Texts.WORKERS_NUMBER
            ray.data.DataContext.get_current().enable_progress_bars = False
            pairs = ray.data.range(keyed_jobs.TEXT_PAIRS, override_num_blocks=parts).map_batches(keyed_jobs.with_texts)
            target = f"{folder}/result"

            def call():
                pairs.groupby("key").sum("value").write_parquet(target)
                return target

            yield call
        finally:
            ray.shutdown()


def in_one_process(records):
    @contextlib.contextmanager
    def contender():
        yield lambda: sorted(records(range(jobs.PAIRS)))

    return contender


@contextlib.contextmanager
def warm():
    """Start our workers, and end them."""
    from pymar.datasource import DataSourceFactory
    from pymar.slots.pool import shutdown

    start("ByTwo")
    yield DataSourceFactory
    shutdown()


def our_sort(records):
    @contextlib.contextmanager
    def contender():
        from pymar.keyed import sort

        with warm() as factory:
            yield lambda: sort(factory(keyed_jobs.SortedNumbers), map_fn=records, engine=ENGINE)

    return contender


def our_groups():
    """K2 of ours, and the check of its answer."""
    rows = {"path": keyed_jobs.ROWS_FOLDER, "columns": ["a", "b", "x"]}
    return ours("ByTwo", parquet_batches, lambda found: groups_of(found.to_arrow()), **rows), keyed_jobs.check_groups


@contextlib.contextmanager
def our_join():
    from pymar.keyed import join

    with warm() as factory:
        rows = factory(parquet_batches(), path=keyed_jobs.ROWS_FOLDER)
        yield lambda: join(rows, [keyed_jobs.others()], on="id", engine=ENGINE)


def check_words(counts):
    jobs.check_words(Counter(counts))


def check_joined(records):
    assert len(records) == keyed_jobs.ROWS
    assert all(row["name"] == f"other {row['id']}" for row in itertools.islice(records, 100))


def check_sorted(pairs):
    assert all(pair[0] == number for number, pair in enumerate(pairs))


def check_numbers(numbers):
    assert all(one == number for number, one in enumerate(numbers))


def limit():
    """Return the megabytes of memory of K3's alternatives."""
    return int(os.environ["PYMAR_BENCH_LIMIT"])


#: The contenders of each job, the first of which is the yardstick, each with the check of its answer.
JOBS = {
    "J5": {
        "Pool, Counters": (pool_of_words, check_words),
        "pairs, Sum": (ours("Words", "Lines", to_dict), check_words),
        "yield from counter.items()": (ours("WordsCounted", "Lines", to_dict), check_words),
        "pairs, reduce_fn": (ours("WordsByFunction", "Lines", to_dict), check_words),
    },
    "J6": {
        "Pool, merged as they come": (pool_of_pairs, keyed_jobs.check_sums),
        "Sum": (ours("PairsSummed", "Pairs", to_dict), keyed_jobs.check_sums),
        "reduce_fn": (ours("PairsByFunction", "Pairs", to_dict), keyed_jobs.check_sums),
        f"Sum, {WITHOUT_NUMPY}": (ours("PairsSummed", "Pairs", to_dict), keyed_jobs.check_sums),
        "Sum, 256 parts": (ours("PairsInManyParts", "Pairs", to_dict), keyed_jobs.check_sums),
        "Sum, no dict": (ours("PairsSummed", "Pairs"), keyed_jobs.check_sums),
        "numpy batches": (ours("Batches", "Bounds", to_dict), keyed_jobs.check_sums),
        "numpy batches, no dict": (ours("Batches", "Bounds"), keyed_jobs.check_sums),
        "numpy batches, values summed as read": (ours("Batches", "Bounds", summed_as_read), keyed_jobs.check_lazily),
    },
    "K1": {
        "Dask bag, frequencies": (dask_words, keyed_jobs.check_top),
        "PySpark, reduceByKey": (spark_words, keyed_jobs.check_top),
        "mrjob, Counters": (mrjob_words, keyed_jobs.check_top),
        "pairs, Sum": (ours("Words", text_lines, lambda found: found.top(100), path=jobs.WORDS), keyed_jobs.check_top),
        "yield from counter.items()": (
            ours("WordsCounted", text_lines, lambda found: found.top(100), path=jobs.WORDS),
            keyed_jobs.check_top,
        ),
    },
    "K2": {
        "pyarrow, two threads": (arrow_groups, keyed_jobs.check_groups),
        "DuckDB": (duckdb_groups, keyed_jobs.check_groups),
        "Polars": (polars_groups, keyed_jobs.check_groups),
        "ParquetBatches, Count and Mean": our_groups(),
    },
    "join": {
        "K2: ParquetBatches, Count and Mean": our_groups(),
        "join with 100,000 rows": (our_join, check_joined),
    },
    "K3": {
        "DuckDB": (duckdb_texts, keyed_jobs.check_text_files),
        "pairs, Sum": (ours("Texts", "TextNumbers"), keyed_jobs.check_texts),
        "Dask DataFrame": (dask_texts, keyed_jobs.check_text_files),
        "Ray Data": (ray_texts, keyed_jobs.check_text_files),
    },
    "K4": {
        "uniform keys": (ours("AsTheyAre", "Pairs"), keyed_jobs.check_uniform),
        "one key with half of all pairs": (ours("HalfHot", "Pairs"), keyed_jobs.check_hot),
    },
    "sort": {
        "ints, sorted() in one process": (in_one_process(keyed_jobs.sortable_ints), check_numbers),
        "ints, pymar.keyed.sort": (our_sort(keyed_jobs.sortable_ints), check_numbers),
        "pairs, sorted() in one process": (in_one_process(keyed_jobs.sortable), check_sorted),
        "pairs, pymar.keyed.sort": (our_sort(keyed_jobs.sortable), check_sorted),
    },
}


# The runner


def resident(pid):
    """Return the most megabytes that a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0


def measure(job, name):
    """Run one contender in this process; print its figures as one line of JSON."""
    contender, check = JOBS[job][name]
    began = time.perf_counter()
    try:
        with contender() as call:
            began = time.perf_counter()
            found = call()
            seconds = time.perf_counter() - began
            print(json.dumps({"seconds": seconds, "producer": resident("self")}), flush=True)
            check(found)
            del found
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        print(json.dumps({"failed": text, "after": time.perf_counter() - began}), flush=True)
        raise


class Watch(threading.Thread):
    """Looks ten times a second at the processes below one, for the largest of them."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.largest, self.is_over = pid, 0, threading.Event()

    def run(self):
        while not self.is_over.wait(0.1):
            for pid in self.below(self.pid):
                with contextlib.suppress(OSError):
                    self.largest = max(self.largest, resident(pid))

    def below(self, pid):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in path.read_text().split():
                    yield child
                    yield from self.below(child)


def run(job, name, folder, patience):
    """Return the figures of one contender in a process of its own."""
    environment = dict(os.environ)
    paths = [environment["PYTHONPATH"]] if "PYTHONPATH" in environment else []
    if WITHOUT_NUMPY in name:
        paths.insert(0, folder)
    environment["PYTHONPATH"] = os.pathsep.join([*paths, str(HERE)])  # PySpark's workers look for jobs.py
    command = [sys.executable, str(HERE / "keyed.py"), "--measure", job, name]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = Watch(process.pid)
    watch.start()
    try:
        output, trouble = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        for pid in [*watch.below(process.pid), process.pid]:  # a cluster may not end because its driver does
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        output, trouble = process.communicate()
        output += "\n" + json.dumps({"failed": "no answer", "after": patience})
    watch.is_over.set()
    figures = {"worker": watch.largest}
    for line in output.splitlines():
        if line.startswith("{"):
            figures |= json.loads(line)
    if process.returncode and "failed" not in figures:
        figures |= {"failed": f"ended with {process.returncode}", "after": 0}
    if "failed" in figures:
        print(f"{job}, {name}: {figures['failed']}\n{trouble[-1_500:]}", file=sys.stderr)
    return figures


def table(job, rounds):
    """Return the medians of all rounds of a job as a table."""
    lines = [f"| {job} | s | of the first | producer MB | worker MB |", "|---|---|---|---|---|"]
    first = next(iter(rounds.values()))
    for name, found in rounds.items():
        failed = [one for one in found if "failed" in one]
        if failed:
            text = f"{failed[0]['failed'].replace('|', '/')}, after {failed[0]['after']:.0f} s"
            lines.append(f"| {name} | {text} | | | {max(one['worker'] for one in found):.0f} |")
            continue
        seconds = [one["seconds"] for one in found]
        ratio = ""
        if all("seconds" in one for one in first):
            ratio = f"{statistics.median(s / one['seconds'] for s, one in zip(seconds, first, strict=True)):.2f}"
        producer, worker = (statistics.median(one[what] for one in found) for what in ("producer", "worker"))
        lines.append(f"| {name} | {statistics.median(seconds):.2f} | {ratio} | {producer:.0f} | {worker:.0f} |")
    return "\n".join(lines)


def prepare(wanted):
    """Make the data that are not there yet."""
    if {"J5", "K1"} & set(wanted) and not os.path.exists(jobs.WORDS + ".count"):
        jobs.make_words()
    if "K1" in wanted and not os.path.exists(jobs.WORDS + ".top"):
        keyed_jobs.make_top()
    if {"K2", "join"} & set(wanted) and not os.path.exists(f"{keyed_jobs.ROWS_FOLDER}.json"):
        keyed_jobs.make_rows()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", default=list(JOBS), metavar="|".join(JOBS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1, help="of all data: 0.1 is a tenth")
    parser.add_argument("--only", nargs="*", default=[""], help="contenders with one of these texts in their names")
    parser.add_argument("--large", action="store_true", help="K3 with 100,000,000 pairs")
    parser.add_argument("--limit", type=int, default=256, help="megabytes of memory of K3's alternatives")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds of one contender, at most")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    settings = {"PYMAR_BENCH_SCALE": str(options.scale), "PYMAR_BENCH_LIMIT": str(options.limit)}
    settings["PYMAR_BENCH_TEXT_PAIRS"] = str(100e6 if options.large else 20e6)
    if any(os.environ.get(name) != value for name, value in settings.items()):  # keyed_jobs has read others
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | settings)
    prepare(options.jobs)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text("import sys\n\nsys.modules['numpy'] = None\n")
        for job in options.jobs:
            names = [name for name in JOBS[job] if any(text in name for text in options.only)]
            rounds = {name: [] for name in names}
            for number in range(options.rounds):
                for name in names:
                    rounds[name].append(run(job, name, folder, options.patience))
                print(f"{job}: round {number + 1} of {options.rounds} done", file=sys.stderr)
            print(table(job, rounds), end="\n\n", flush=True)
    print(f"Medians of {options.rounds} rounds; {os.cpu_count()} cores; scale {options.scale:g}")


if __name__ == "__main__":
    main()
