"""Pymar compared with the alternatives: interleaved rounds, a new process for each contender and round, medians.

make bench                                         the most used alternatives, three rounds
make bench-all                                     every alternative, five rounds
python benchmarks/bench.py --rounds 9 J3 J3L --only pool pymar-processes
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jobs
from contenders import CONTENDERS

HERE = Path(__file__).parent
UNITS = {"J1": "s", "J2": "s", "J3": "parts/s", "J3L": "ms", "J4": "s", "J5": "s", "J6": "s", "stop": "s"}
USUAL = ("serial", "pool", "joblib", "dask", "ray", "pymar-processes", "pymar-amqp", "pymar-dask", "pymar-ray")
#: Contenders that need a RabbitMQ, or a Redis.
ON_RABBITMQ = {"celery", "dramatiq", "pymar-amqp", "pymar-amqp-signed"}
ON_REDIS = {"dramatiq"}
PACKAGES = (
    "pymar",
    "joblib",
    "mpire",
    "distributed",
    "ray",
    "celery",
    "dramatiq",
    "redis",
    "pika",
    "mrjob",
    "pyspark",
) + ("numpy", "cloudpickle")
#: Seconds, at most, of one contender in a round.
PATIENCE = 400


def run(name, wanted):
    """Return the figures of one contender in one round, by job; without jobs that did not end in time."""
    command = [sys.executable, str(HERE / "contenders.py"), name, *wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as late:
        output, trouble = (late.stdout or b"").decode(), f"no answer within {PATIENCE} s"
    else:
        output, trouble = done.stdout, done.stderr[-2_000:] if done.returncode else ""
    if trouble:
        print(f"{name}: {trouble}", file=sys.stderr)
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return {figure["job"]: figure["value"] for figure in map(json.loads, lines)}


def medians(rounds):
    """Return the median of each job that was measured in any round."""
    found = {}
    for job in UNITS:
        values = [figures[job] for figures in rounds if job in figures]
        if values:
            found[job] = statistics.median(values)
    return found


def table(figures, wanted):
    rows = [["", *(f"{job} {UNITS[job]}" for job in wanted)]]
    for name, found in figures.items():
        rows.append([name, *(shown(found[job]) if job in found else "" for job in wanted)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)


def shown(value):
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def versions():
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@contextlib.contextmanager
def servers(names):
    """Start the servers that these contenders need; put their ports into the environment."""
    with contextlib.ExitStack() as running:
        if ON_RABBITMQ & set(names) or ON_REDIS & set(names):
            from servers import rabbitmq, redis

            if ON_RABBITMQ & set(names):
                os.environ["PYMAR_BENCH_AMQP"] = str(running.enter_context(rabbitmq()))
            if ON_REDIS & set(names):
                os.environ["PYMAR_BENCH_REDIS"] = str(running.enter_context(redis()))
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", default=[*UNITS], help=f"of {', '.join(UNITS)}; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=USUAL, help=f"of {', '.join(CONTENDERS)}; or all")
    parser.add_argument("--json", type=Path, help="write every figure to this file; add to those in it")
    options = parser.parse_args()
    names = [*CONTENDERS] if options.only == ["all"] else options.only
    if "J5" in options.jobs and not os.path.exists(jobs.WORDS + ".count"):
        jobs.make_words()
    known = json.loads(options.json.read_text()) if options.json and options.json.exists() else {"rounds": {}}
    rounds = known["rounds"]
    with servers(names):
        for number in range(options.rounds):
            for name in names:
                rounds.setdefault(name, []).append(run(name, options.jobs))
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
            if options.json:
                machine = {"cores": os.cpu_count(), "processor": processor(), "system": platform.platform()}
                text = json.dumps({"machine": machine, "versions": versions(), "rounds": rounds}, indent=1)
                options.json.write_text(text + "\n")
    print(table({name: medians(rounds[name]) for name in names}, options.jobs))
    print(f"\nMedians of {options.rounds} rounds; {os.cpu_count()} cores; {versions()}")


if __name__ == "__main__":
    main()
