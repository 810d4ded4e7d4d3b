"""Calls and datasets beside their alternatives. Interleaved rounds, a new process each, medians.

    python benchmarks/calls.py [--rounds 5] [--scale 0.1] [--only Pool] [map cold J1 J5 J6 K2 J4 import]

map     10,000 trivial items on workers that are running
cold    the same with the start of the workers, without imports
J1      integral of exp, 9,000,000 evaluations, 8 parts: a dataset beside producers, one with exactly its function
J5      200 MB of words counted, 16 parts, into a dict: a dataset beside a producer and a keyed one
J6      10,000,000 pairs, 2,000,000 keys, 16 parts, summed into a dict: likewise
K2      mean and count by two columns over 10,000,000 rows of Parquet, columns throughout
J4      a whole process with four trivial parts, start to exit
import  `import pymar`, start to exit of a process, less one that imports nothing: the median of 15

What is not installed is left out. Two workers each; except for cold, J4 and import they are started before the clock.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import calls_jobs
import jobs
import keyed
import keyed_jobs
from keyed import ENGINE, PATIENCE, prepare
from on_this_host import WORKERS

HERE = Path(__file__).parent
IMPORTS = 15


class Seconds(float):
    """What a contender has measured itself."""


# Ours


def ours(call, warm=True, like=""):
    """A contender: a function without arguments. `like` is a producer of keyed_jobs whose libraries workers load."""

    @contextlib.contextmanager
    def contender():
        import pymar.calls
        import pymar.datasets
        from pymar.slots.pool import shutdown

        if like:
            keyed.start(like)
        elif warm:
            pymar.map(jobs.trivial_part, range(64), engine=ENGINE)
            pymar.dataset(range(64), engine=ENGINE).map(jobs.trivial_part).group_by().count().map(len).sum()
        yield call
        shutdown()

    return contender


def producer(cls, source, value=lambda found: found):
    """Return a function that maps with a producer of with_pymar or calls_jobs."""

    def call():
        import with_pymar

        from pymar.datasource import DataSourceFactory

        found = {**vars(with_pymar), **vars(calls_jobs)}
        return value(found[cls](engine=ENGINE).map(DataSourceFactory(found[source])))

    return call


def mapped():
    import pymar

    return sum(pymar.map(jobs.trivial_part, range(jobs.TRIVIAL), engine=ENGINE))


def integral():
    import pymar

    return pymar.dataset(range(jobs.EVALUATIONS), parts=8, engine=ENGINE).map(calls_jobs.area).sum()


def words(encoding, split):
    def call():
        import pymar

        lines = pymar.read_text(jobs.WORDS, encoding=encoding, parts=16, engine=ENGINE)
        return lines.flat_map(split).group_by().count().to_dict()

    return call


def pairs():
    import pymar

    return pymar.dataset(keyed_jobs.Pairs, parts=16, engine=ENGINE).group_by(calls_jobs.key_of).sum(1).to_dict()


def by_hand(source, function):
    """A dataset of what a function makes of each part, summed by key."""

    def call():
        import pymar

        parts = pymar.dataset(getattr(keyed_jobs, source), parts=16, engine=ENGINE).map_parts(function)
        return parts.group_by(calls_jobs.key_of).sum(1).to_dict()

    return call


def rows():
    import pymar
    from pymar.keyed import Count, Mean

    groups = pymar.read_parquet(keyed_jobs.ROWS_FOLDER, engine=ENGINE).group_by(("a", "b"))
    return keyed.groups_of(groups.aggregate(n=Count(), mean=Mean("x")).to_arrow())


# The alternatives, of 10,000 trivial items: each with its workers, if it is `warm`, started before


def a_pool(chunksize=None):
    import multiprocessing

    context = multiprocessing.get_context("fork")

    @contextlib.contextmanager
    def workers():
        with context.Pool(WORKERS) as pool:
            yield lambda: sum(pool.map(jobs.trivial_part, range(jobs.TRIVIAL), chunksize))

    return workers


@contextlib.contextmanager
def an_executor():
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as pool:
        yield lambda: sum(pool.map(jobs.trivial_part, range(jobs.TRIVIAL)))


@contextlib.contextmanager
def a_parallel():
    import joblib
    from joblib.externals.loky import get_reusable_executor

    task = joblib.delayed(jobs.trivial_part)
    with joblib.Parallel(n_jobs=WORKERS) as parallel:
        yield lambda: sum(parallel(task(number) for number in range(jobs.TRIVIAL)))
    get_reusable_executor().shutdown(wait=True)


@contextlib.contextmanager
def a_ray():
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    from systems import ARayCluster

    with ARayCluster() as cluster:
        task = cluster.ray.remote(jobs.trivial_part)
        yield lambda: sum(cluster.ray.get([task.remote(number) for number in range(jobs.TRIVIAL)]))


def warm(workers):
    @contextlib.contextmanager
    def contender():
        with workers() as call:
            call()  # all its processes have worked
            yield call

    return contender


def cold(workers, library=""):
    @contextlib.contextmanager
    def contender():
        if library:
            __import__(library)

        def call():
            return stack.enter_context(workers())()

        with contextlib.ExitStack() as stack:
            yield call

    return contender


# Whole processes


def script(code):
    """A contender: a script, from start to exit."""

    @contextlib.contextmanager
    def contender():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "script.py")
            path.write_text(code)

            def call():
                done = subprocess.run([sys.executable, path], capture_output=True, text=True)
                assert done.stdout == "6\n", done.stderr
                return 6

            yield call

    return contender


def imported(code):
    """A contender: the median of what processes with this code take longer than those with none."""

    @contextlib.contextmanager
    def contender():
        def seconds(code):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            return time.perf_counter() - began

        yield lambda: Seconds(statistics.median(seconds(code) - seconds("") for _ in range(IMPORTS)))

    return contender


CALL = f"""
import jobs
import pymar
print(sum(pymar.map(jobs.trivial_part, range(4), engine={ENGINE!r})))
"""
PRODUCER = f"""
from with_pymar import Trivial, Trivials
from pymar.datasource import DataSourceFactory
print(Trivial(engine={ENGINE!r}).map(DataSourceFactory(Trivials, limit=4)))
"""
POOL = f"""
import multiprocessing
import jobs
with multiprocessing.get_context("fork").Pool({WORKERS}) as pool:
    print(sum(pool.map(jobs.trivial_part, range(4))))
"""


def check_six(found):
    assert found == 6, found


def check_nothing(found):
    assert isinstance(found, Seconds), found


def contenders_of_map(started):
    return {
        "Pool.map": (started(a_pool()), jobs.check_trivial),
        "Pool.map, chunksize=1": (started(a_pool(1)), jobs.check_trivial),
        "ProcessPoolExecutor.map": (started(an_executor), jobs.check_trivial),
        "joblib": (started(a_parallel), jobs.check_trivial),
        "ray": (started(a_ray), jobs.check_trivial),
        "Producer": (ours(producer("Trivial", "Trivials"), started is warm), jobs.check_trivial),
        "pymar.map": (ours(mapped, started is warm), jobs.check_trivial),
    }


#: The contenders of each job, the first of which is the yardstick, each with the check of its answer.
JOBS = {
    "map": contenders_of_map(warm),
    "cold": contenders_of_map(cold),
    "J1": {
        "Producer, the same function": (ours(producer("Areas", "Evaluations")), calls_jobs.check_integral),
        "Producer, pairs": (
            ours(producer("Integral", "Points", lambda found: found[1])),
            calls_jobs.check_integral,
        ),
        "dataset": (ours(integral), calls_jobs.check_integral),
    },
    "J5": {
        "Producer, a Counter a part": (ours(producer("WordCount", "Lines")), calls_jobs.check_words),
        "KeyedProducer, pairs": (keyed.ours("Words", "Lines", keyed.to_dict), calls_jobs.check_words),
        "dataset, bytes": (ours(words(None, bytes.split)), calls_jobs.check_words),
        "dataset, text": (ours(words("utf-8", str.split)), calls_jobs.check_words),
        "dataset, map_parts with a Counter": (ours(by_hand("Lines", calls_jobs.counted)), calls_jobs.check_words),
    },
    "J6": {
        "Producer, a dict a part": (ours(producer("SumByKey", "Pairs")), keyed_jobs.check_sums),
        "KeyedProducer, pairs": (keyed.ours("PairsSummed", "Pairs", keyed.to_dict), keyed_jobs.check_sums),
        "dataset": (ours(pairs), keyed_jobs.check_sums),
        "dataset, map_parts with a dict": (ours(by_hand("Pairs", calls_jobs.summed)), keyed_jobs.check_sums),
    },
    "K2": {
        "pyarrow, two threads": (keyed.arrow_groups, keyed_jobs.check_groups),
        "DuckDB": (keyed.duckdb_groups, keyed_jobs.check_groups),
        "Polars": (keyed.polars_groups, keyed_jobs.check_groups),
        "KeyedProducer, ParquetBatches": keyed.our_groups(),
        "dataset": (ours(rows, like="ByTwo"), keyed_jobs.check_groups),
    },
    "J4": {
        "Producer": (script(PRODUCER), check_six),
        "pymar.map": (script(CALL), check_six),
        "Pool.map": (script(POOL), check_six),
    },
    "import": {
        "import pymar": (imported("import pymar"), check_nothing),
        "from pymar import map": (imported("from pymar import map"), check_nothing),
        "from pymar import read_csv": (imported("from pymar import read_csv"), check_nothing),
        "from pymar import Producer": (imported("from pymar import Producer"), check_nothing),
    },
}
#: Libraries that contenders need.
NEEDS = {"joblib": "joblib", "ray": "ray", "DuckDB": "duckdb", "Polars": "polars", "pyarrow, two threads": "pyarrow"}


# The runner


def measure(job, name):
    """Run one contender in this process; print its seconds."""
    contender, check = JOBS[job][name]
    with contender() as call:
        began = time.perf_counter()
        found = call()
        seconds = time.perf_counter() - began
        check(found)
        print(json.dumps(found if isinstance(found, Seconds) else seconds), flush=True)


def run(job, name, patience):
    """Return the seconds of one contender in a process of its own; None if it failed."""
    paths = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(HERE)])}
    command = [sys.executable, str(HERE / "calls.py"), "--measure", job, name]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        print(f"{job}, {name}: no answer after {patience:g} s", file=sys.stderr)
        return None
    if done.returncode:
        print(f"{job}, {name}: {done.stderr[-1_500:]}", file=sys.stderr)
        return None
    return float(done.stdout.splitlines()[-1])


def table(job, rounds):
    """Return the medians of all rounds of a job as a table."""
    extra = {"map": "items/s", "cold": "items/s", "import": "ms"}.get(job, "")
    lines = [f"| {job} | s | of the first |{f' {extra} |' if extra else ''}", f"|---|---|---|{'---|' if extra else ''}"]
    first = next(iter(rounds.values()))
    for name, found in rounds.items():
        if None in found:
            lines.append(f"| {name} | failed | |{' |' if extra else ''}")
            continue
        seconds = statistics.median(found)
        ratio = ""
        if None not in first:
            ratio = f"{statistics.median(one / of for one, of in zip(found, first, strict=True)):.2f}"
        more = f"{seconds * 1_000:.1f}" if extra == "ms" else f"{jobs.TRIVIAL / seconds:,.0f}" if extra else ""
        lines.append(f"| {name} | {seconds:.4g} | {ratio} |{f' {more} |' if extra else ''}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", default=list(JOBS), metavar="|".join(JOBS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1, help="of all data: 0.1 is a tenth")
    parser.add_argument("--only", nargs="*", default=[""], help="contenders with one of these texts in their names")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds of one contender, at most")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    if os.environ.get("PYMAR_BENCH_SCALE", "1") != str(options.scale):  # keyed_jobs has read another
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYMAR_BENCH_SCALE": str(options.scale)})
    prepare(options.jobs)
    for job in options.jobs:
        names = [name for name in JOBS[job] if any(text in name for text in options.only)]
        missing = [name for name in names if name in NEEDS and find_spec(NEEDS[name]) is None]
        rounds = {name: [] for name in names if name not in missing}
        for number in range(options.rounds):
            for name in rounds:
                rounds[name].append(run(job, name, options.patience))
            print(f"{job}: round {number + 1} of {options.rounds} done", file=sys.stderr)
        if rounds:
            print(table(job, rounds), end="\n\n", flush=True)
        if missing:
            print(f"Not installed: {', '.join(missing)}\n")
    print(f"Medians of {options.rounds} rounds; {os.cpu_count()} cores; scale {options.scale:g}")


if __name__ == "__main__":
    main()
