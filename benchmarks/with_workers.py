"""Contenders whose workers are started separately and connect to a broker: Pymar over AMQP, dramatiq, celery."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from on_this_host import WORKERS, Serial
from pymars import OnAnEngine

HERE = Path(__file__).parent
PORT = os.environ.get("PYMAR_BENCH_AMQP", "5672")


class Workers(Serial):
    """Starts `commands`, the workers; `prepare` connects a producer to them."""

    commands: Sequence[Sequence[str]] = ()
    environ: Mapping[str, str] = MappingProxyType({})

    def __enter__(self):
        os.environ.update(self.environ)
        with open(os.devnull, "w") as null:
            self.workers = [subprocess.Popen(command, cwd=HERE, stdout=null, stderr=null) for command in self.commands]
        self.prepare()
        assert self.J4() == 6
        time.sleep(1)  # until all workers are up: only J4 measures a start
        return self

    def __exit__(self, *error):
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait()


def agent(producer):
    return [sys.executable, "-c", "from pymar.cli import main; main()", "worker", "with_pymar.py"] + [
        *("-p", producer, "-w", str(WORKERS), "-q", f"127.0.0.1:{PORT}")
    ]


class Amqp(Workers, OnAnEngine):
    """Pymar, plain data."""

    engine = f"amqp://127.0.0.1:{PORT}"
    commands = tuple(agent(name) for name in ("Integral", "Squares", "Trivial", "WordCount", "SumByKey"))

    def prepare(self):
        self.attach(self.engine)


class Signed(Amqp):
    """Pymar, with a key: values are pickled, messages signed."""

    environ = MappingProxyType({"PYMAR_KEY": "a key for the benchmark: 32 characters and more"})


class Dramatiq(Workers):
    commands = ((sys.executable, "-m", "dramatiq", "task_queues", "--processes", str(WORKERS), "--threads", "1"),)
    environ = MappingProxyType({"PYMAR_BENCH_WORKER": "dramatiq"})

    def prepare(self):
        import task_queues

        self.actors = task_queues.actors

    def each(self, function, parts):
        import dramatiq

        group = dramatiq.group([self.actors[function].message(part) for part in parts]).run()
        return group.get_results(block=True, timeout=300_000)

    def one(self, function, part):
        return self.actors[function].send(part).get_result(block=True, timeout=60_000)


class Celery(Workers):
    commands = (
        (sys.executable, "-m", "celery", "-A", "task_queues", "worker", "-c", str(WORKERS), "-l", "ERROR")
        + ("--without-gossip", "--without-mingle", "--without-heartbeat"),
    )
    environ = MappingProxyType({"PYMAR_BENCH_WORKER": "celery", "C_FORCE_ROOT": "1"})

    def prepare(self):
        import task_queues

        self.tasks = task_queues.tasks

    def each(self, function, parts):
        from celery import group

        return group([self.tasks[function].s(part) for part in parts]).apply_async().get(disable_sync_subtasks=False)

    def one(self, function, part):
        return self.tasks[function].delay(part).get()
