"""Pymar over AMQP beside its own processes, dramatiq and celery: the same broker, two workers each, rounds interleaved.

    PYMAR_BENCH_AMQP=5672 PYMAR_BENCH_REDIS=6379 python benchmarks/over_amqp.py [--rounds 5] [jobs] [--only names]

`python benchmarks/over_amqp.py NAME job ...` with PYMAR_BENCH_INNER set measures one contender, a line of JSON a job.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jobs
from bench import shown
from contenders import Pymar, Serial, measure

HERE = Path(__file__).parent
PORT = os.environ.get("PYMAR_BENCH_AMQP", "5672")
JOBS = ("J1", "J2", "J3", "J3L", "J4", "stop")
UNITS = {"J1": "s", "J2": "s", "J3": "parts/s", "J3L": "ms", "J4": "s", "stop": "s"}


class Workers(Serial):
    """A contender whose workers are processes of their own."""

    commands: Sequence[Sequence[str]] = ()
    environ: Mapping[str, str] = MappingProxyType({})

    def __enter__(self):
        environ = {**os.environ, **self.environ}
        os.environ.update(self.environ)
        with open(os.devnull, "w") as null:
            self.workers = [
                subprocess.Popen(command, cwd=HERE, env=environ, stdout=null, stderr=null) for command in self.commands
            ]
        self.prepare()
        return self

    def __exit__(self, *error):
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait()


def agent(producer):
    return [sys.executable, "-c", "from pymar.cli import main; main()", "worker", "with_pymar.py"] + [
        *("-p", producer, "-w", "2", "-q", f"127.0.0.1:{PORT}")
    ]


class OverAmqp(Workers):
    """Pymar, plain data."""

    commands = tuple(agent(name) for name in ("Integral", "Squares", "Trivial"))

    def prepare(self):
        Pymar.attach(self, f"amqp://127.0.0.1:{PORT}")


class Signed(OverAmqp):
    """Pymar, with a key: values are pickled, messages signed."""

    environ = MappingProxyType({"PYMAR_KEY": "a key for the benchmark: 32 characters and more"})


class OwnProcesses(Workers):
    """Pymar on this host, without a broker."""

    def prepare(self):
        Pymar.attach(self, "processes://2")


class Dramatiq(Workers):
    commands = ((sys.executable, "-m", "dramatiq", "task_queues", "--processes", "2", "--threads", "1"),)
    environ = MappingProxyType({"PYMAR_BENCH_WORKER": "dramatiq"})

    def prepare(self):
        import task_queues

        self.actors = task_queues.actors

    def each(self, function, parts):
        import dramatiq

        group = dramatiq.group([self.actors[function].message(part) for part in parts]).run()
        return group.get_results(block=True, timeout=300_000)

    def J3L(self, number):
        return self.actors[jobs.trivial_part].send(number).get_result(block=True, timeout=60_000)


class Celery(Workers):
    commands = (
        (sys.executable, "-m", "celery", "-A", "task_queues", "worker", "-c", "2", "-l", "ERROR")
        + ("--without-gossip", "--without-mingle", "--without-heartbeat"),
    )
    environ = MappingProxyType({"PYMAR_BENCH_WORKER": "celery", "C_FORCE_ROOT": "1"})

    def prepare(self):
        import task_queues

        self.tasks = task_queues.tasks

    def each(self, function, parts):
        from celery import group

        return group([self.tasks[function].s(part) for part in parts]).apply_async().get(disable_sync_subtasks=False)

    def J3L(self, number):
        return self.tasks[jobs.trivial_part].delay(number).get()


CONTENDERS = {
    "processes": OwnProcesses,
    "amqp": OverAmqp,
    "amqp-signed": Signed,
    "dramatiq": Dramatiq,
    "celery": Celery,
}


def inner(name, wanted):
    """Measure one contender in this process."""
    contender = CONTENDERS[name]()
    with contender:
        assert contender.J4() == 6
        if contender.commands:
            time.sleep(1)  # all workers are up: none of the jobs but J4 is to measure a start
        for job in wanted:
            if job == "J4":
                command = [sys.executable, __file__, name]
                began = time.perf_counter()
                subprocess.run(command, check=True, env={**os.environ, "PYMAR_BENCH_INNER": "J4"})
                value = time.perf_counter() - began
            elif job != "stop":
                value = measure(contender, job)
            else:
                continue
            print(json.dumps({"job": job, "value": value}), flush=True)
        began = time.perf_counter()
    if "stop" in wanted:
        print(json.dumps({"job": "stop", "value": time.perf_counter() - began}), flush=True)


def only_j4(name):
    """A producer's process whose workers are there: start, four parts, exit."""
    contender = CONTENDERS[name]()
    os.environ.update(contender.environ)
    contender.prepare()
    assert contender.J4() == 6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", default=JOBS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    options = parser.parse_args()
    figures = {name: {job: [] for job in options.jobs} for name in options.only}
    for number in range(options.rounds):
        for name in options.only:
            done = subprocess.run(
                [sys.executable, __file__, name, *options.jobs],
                env={**os.environ, "PYMAR_BENCH_INNER": "jobs"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            for told in map(json.loads, done.stdout.splitlines()):
                figures[name][told["job"]].append(told["value"])
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    print("| | " + " | ".join(f"{job} {UNITS[job]}" for job in options.jobs) + " |")
    print("|---" * (len(options.jobs) + 1) + "|")
    for name, found in figures.items():
        print(f"| {name} | " + " | ".join(shown(statistics.median(found[job])) for job in options.jobs) + " |")


if __name__ == "__main__":
    match os.environ.get("PYMAR_BENCH_INNER"):
        case "jobs":
            inner(sys.argv[1], sys.argv[2:])
        case "J4":
            only_j4(sys.argv[1])
        case _:
            main()
