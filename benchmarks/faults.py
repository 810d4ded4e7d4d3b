"""What faults cost over AMQP: the time of a job with a fault, and of the same job without. `faults.py --rounds 5`.

Parts sleep, so that sixteen slots fit on two cores. PYMAR_BENCH_AMQP is the port of the broker on 127.0.0.1.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer

PORT = os.environ.get("PYMAR_BENCH_AMQP", "5672")


class Numbers(DataSource):
    length = 400

    @classmethod
    def full_length(cls):
        return cls.length

    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))


class Sleeping(Producer):
    """Parts of half a second; on the slot whose process id is `slow`, ten times that."""

    WORKERS_NUMBER = 400
    seconds = 0.5
    slow = 0
    folder = ""

    @staticmethod
    def map_fn(data_source):
        job = Sleeping
        if job.folder:
            Path(job.folder, f"{data_source.offset}-{time.monotonic_ns()}").touch()
        time.sleep(job.seconds * (10 if os.getpid() == job.slow else 1))  # the work of a part
        yield from data_source

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


def agent(slots):
    command = [sys.executable, "-c", "from pymar.cli import main; main()", "worker", __file__]
    with open(os.devnull, "w") as null:
        return subprocess.Popen([*command, "-w", str(slots), "-q", f"127.0.0.1:{PORT}"], stderr=null)


def worker_processes(process):
    """Return the ids of the processes that an agent has started."""
    found = []
    for task in Path(f"/proc/{process.pid}/task").glob("*/children"):
        found += [int(pid) for pid in task.read_text().split()]
    return found


def run(agents, fault=None, parts=400, after=3.0, **settings):
    """Return the seconds of a job; a fault, if given, happens `after` seconds."""
    for name, value in settings.items():
        setattr(Sleeping, name, value)
    Sleeping.WORKERS_NUMBER = parts
    producer = Sleeping(mq_server=f"127.0.0.1:{PORT}")
    began = time.perf_counter()
    future = producer.submit(DataSourceFactory(Numbers, length=parts))
    if fault is not None:
        time.sleep(after)  # the moment of the fault
        fault(agents)
    assert future.result() == sum(range(parts))
    return time.perf_counter() - began


def kill_two_slots(agents):
    for process in agents[:2]:
        os.kill(worker_processes(process)[0], signal.SIGKILL)


def kill_one_agent(agents):
    agents[0].kill()


def stop_one_agent(agents):
    agents[0].send_signal(signal.SIGSTOP)


def with_agents(count, slots, measure):
    agents = [agent(slots) for _ in range(count)]
    time.sleep(3)  # until the agents serve
    try:
        return measure(agents)
    finally:
        for process in agents:
            process.kill()
            process.wait()


def slow_slot(agents):
    """Return the seconds of a job in which one slot is ten times slower, and the number of surplus executions."""
    import tempfile

    with tempfile.TemporaryDirectory(
        ignore_cleanup_errors=True
    ) as folder:  # a backup execution that is being stopped may still write
        seconds = run(agents, parts=200, seconds=0.2, slow=worker_processes(agents[0])[0], folder=folder)
        extra = len(list(Path(folder).iterdir())) - 200
    Sleeping.slow, Sleeping.folder = 0, ""
    return seconds, extra


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    figures = {}
    for number in range(rounds):
        for name, value in {
            "4 agents of 4 slots, 400 parts of 0.5 s": with_agents(4, 4, run),
            "the same, two slots killed": with_agents(4, 4, lambda agents: run(agents, kill_two_slots)),
            "the same, one agent killed": with_agents(4, 4, lambda agents: run(agents, kill_one_agent)),
            "the same, one agent stopped": with_agents(4, 4, lambda agents: run(agents, stop_one_agent)),
            "2 agents of 4 slots, 200 parts of 0.2 s": with_agents(
                2, 4, lambda agents: run(agents, parts=200, seconds=0.2)
            ),
        }.items():
            figures.setdefault(name, []).append(value)
        Sleeping.seconds = 0.2
        seconds, extra = with_agents(2, 4, slow_slot)
        Sleeping.seconds = 0.5
        figures.setdefault("the same, one slot ten times slower", []).append(seconds)
        figures.setdefault("  executions besides the 200", []).append(extra)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    for name, values in figures.items():
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")


if __name__ == "__main__":
    main()
