"""How many slots one producer and one broker feed: simulated agents whose parts sleep, and what a part costs.

    python benchmarks/scaling.py [--agents 200] [--slots 16] [--seconds 1] [--parts 64000] [--json FILE]

The agents are real except for their pool, which sleeps instead of computing: a slot is busy while it sleeps. CPU
seconds are read from /proc for the producer, the broker and the agents.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from pymar.datasource import DataSource, DataSourceFactory
from pymar.parts import Done, Running
from pymar.producer import Producer
from pymar.serialization import plain

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


class Numbers(DataSource):
    """Parts of one number each; they are never read, since the agents only sleep."""

    length = 0

    @classmethod
    def full_length(cls):
        return cls.length

    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))


class Sleeping(Producer):
    BACKUPS = 0

    @staticmethod
    def map_fn(data_source):
        return data_source

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


class SleepingPool:
    """Replaces an agent's pool of worker processes: `seconds` a part, as many at once as the agent has slots."""

    def __init__(self, seconds):
        from pymar.slots.loop import Loop

        self.seconds = seconds
        self.loop = Loop("sleeping")
        self.loop.start()
        #: Seconds that slots were busy.
        self.busy = 0.0

    def warm(self, slots, processes):
        pass

    def start(self, work, slots, processes, reports):
        return SleepingRun(self, reports)

    def health(self):
        from pymar.slots.supervisor import Health

        return Health(living=0, is_up=True, failures=0, keeps_failing=False, why="")

    def shutdown(self):
        self.loop.stop(5)


class SleepingRun:
    def __init__(self, pool, reports):
        self._pool, self._reports = pool, reports

    def submit(self, parts):
        seconds = self._pool.seconds
        self._reports.put_without_waking(Running(parts[0].index, "simulated"))
        for number, part in enumerate(parts, 1):
            self._pool.loop.call_later(number * seconds, partial(self._done, part.index))

    def _done(self, index):
        self._pool.busy += self._pool.seconds
        self._reports.put([Done(index, ONE, self._pool.seconds)])

    def cancel(self, index):
        pass

    def close(self):
        pass


ONE = plain.dumps(1, "one")


def agents(count, slots, seconds, port):
    """Serve with `count` agents in this process until stdin ends; then print how long their slots were busy."""
    import resource
    import socket
    from unittest.mock import patch

    from pymar.amqp.address import parse
    from pymar.amqp.agent.agent import Serving, Settings, WorkerAgent
    from pymar.amqp.keys import keys_of
    from pymar.serialization.jobfile import code_of

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    serving = Serving("Sleeping", code_of(__file__), str(Path(__file__).resolve()))
    address = parse(f"amqp://127.0.0.1:{port}")
    host, running = socket.gethostname(), []
    for number in range(count):
        # A producer counts slots by the names of agents, which are those of host and process.
        with patch("socket.gethostname", return_value=f"{host}-{number}"):
            running.append(WorkerAgent(address, keys_of(), serving, Settings(slots), pool=SleepingPool(seconds)))
        running[-1].start()
        time.sleep(0.01)  # two connections each: not all at the same instant
    print("started", flush=True)
    sys.stdin.read()
    print(json.dumps(sum(one.pool.busy for one in running)), flush=True)
    os._exit(0)


def cpu_of(pids):
    """Return user and system seconds of processes, and of their child processes that have ended."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / TICKS


def session_of(pid):
    """Return the processes of the session of a process: the broker itself is started by a shell."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if path.read_text().rpartition(")")[2].split()[3] == str(pid):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found


def traffic(broker):
    """Return the bytes that the broker has received and sent, over all open connections."""
    of_all = "lists:sum([Bytes || [{{_, Bytes}}] <- rabbit_networking:connection_info_all([{}])])"
    return tuple(int(broker.eval(of_all.format(what))) for what in ("recv_oct", "send_oct"))


class Meter:
    """Records when the first and the last part were done, at the producer."""

    def __init__(self):
        self.first = self.last = None

    def __call__(self, event):
        if isinstance(event, Done):
            self.last = time.perf_counter()
            self.first = self.first or self.last


def measured(options, broker):
    from pymar.amqp.producer.engine import end_all

    per_process = options.agents // options.processes
    command = [sys.executable, __file__, "--serve", str(per_process), "--slots", str(options.slots)]
    command += ["--seconds", str(options.seconds), "--port", str(broker.port)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    fleet = [subprocess.Popen(command, cwd=HERE, **pipes) for _ in range(options.processes)]
    try:
        for process in fleet:
            assert process.stdout.readline() == "started\n"
        slots = per_process * options.processes * options.slots
        sys.path.insert(0, str(HERE))
        from scaling import Numbers as Source
        from scaling import Sleeping as Job

        Job.WORKERS_NUMBER = options.parts
        meter = Meter()
        producer = Job(engine=f"amqp://127.0.0.1:{broker.port}", listeners=[meter])
        time.sleep(2)  # all are connected and idle
        of_the_broker = session_of(broker.process.pid)
        groups = {"producer": [os.getpid()], "broker": of_the_broker, "agents": [one.pid for one in fleet]}
        before = {name: cpu_of(pids) for name, pids in groups.items()}
        began = time.perf_counter()
        assert producer.map(DataSourceFactory(Source, length=options.parts)) == options.parts
        wall = time.perf_counter() - began
        spent = {name: cpu_of(pids) - before[name] for name, pids in groups.items()}
        received, sent = traffic(broker)
        end_all()
        for process in fleet:
            process.stdin.close()
        busy = sum(json.loads(process.stdout.readline()) for process in fleet)
    finally:
        for process in fleet:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return {
        "agents": per_process * options.processes,
        "slots": slots,
        "part seconds": options.seconds,
        "parts": options.parts,
        "wall seconds": round(wall, 2),
        "busy": round(busy / (slots * wall), 4),
        "parts a second": round(options.parts / wall, 1),
        "CPU microseconds a part": {name: round(1e6 * seconds / options.parts) for name, seconds in spent.items()},
        "bytes a part into the broker": round(received / options.parts),
        "bytes a part out of the broker": round(sent / options.parts),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0, help="that each part sleeps")
    parser.add_argument("--parts", type=int, default=64_000)
    parser.add_argument("--processes", type=int, default=2, help="that the agents are spread over")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        agents(options.serve, options.slots, options.seconds, options.port)
    from servers import a_broker

    with a_broker() as broker:
        found = measured(options, broker)
    print(json.dumps(found, indent=1))
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.exists() else []
        options.json.write_text(json.dumps([*known, found], indent=1) + "\n")


if __name__ == "__main__":
    main()
