"""Pymar beside the alternatives: interleaved rounds, a fresh process for each contender and round, medians.

make bench                                   all contenders, five rounds
python benchmarks/bench.py --rounds 9 J3 J3L  some jobs
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jobs
from contenders import CONTENDERS

HERE = Path(__file__).parent
JOBS = ("J1", "J2", "J3", "J3L", "J4", "J5")
UNITS = {"J1": "s", "J2": "s", "J3": "parts/s", "J3L": "ms", "J4": "s", "J5": "s"}


def run(name, wanted):
    """The figures of one contender in one process; J4 is the whole of another."""
    figures = {}
    inner = [job for job in wanted if job != "J4"]
    command = [sys.executable, str(HERE / "contenders.py"), name]
    if inner:
        done = subprocess.run([*command, *inner], capture_output=True, text=True, check=True)
        figures = {told["job"]: told["value"] for told in map(json.loads, done.stdout.splitlines())}
    if "J4" in wanted:
        began = time.perf_counter()
        subprocess.run(command, check=True)
        figures["J4"] = time.perf_counter() - began
    return figures


def table(medians, wanted):
    rows = [["", *(f"{job} {UNITS[job]}" for job in wanted)]]
    for name, figures in medians.items():
        rows.append([name, *(shown(figures[job]) for job in wanted)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)


def shown(value):
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", default=JOBS, help=f"of {', '.join(JOBS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    if "J5" in options.jobs and not os.path.exists(jobs.WORDS + ".count"):
        jobs.make_words()
    figures = {name: [] for name in options.only}
    for number in range(options.rounds):
        for name in options.only:
            figures[name].append(run(name, options.jobs))
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    medians = {
        name: {job: statistics.median(told[job] for told in rounds) for job in options.jobs}
        for name, rounds in figures.items()
    }
    versions = {name: version(name) for name in ("pymar", "joblib", "mpire")}
    machine = f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores"
    print(table(medians, options.jobs))
    print(f"\nMedians of {options.rounds} rounds; {machine}; {versions}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "versions": versions, "rounds": figures}, indent=1))


if __name__ == "__main__":
    main()
