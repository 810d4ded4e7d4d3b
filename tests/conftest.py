"""What several tests use: scripts in processes of their own, and the end of processes."""

import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

from pymar.slots.pool import shutdown

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")

#: Seconds that a test waits at most for what must happen.
PATIENCE = 30


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left():
    """When the tests of a process have ended, so have its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it, and so would children
    yield
    shutdown()
    assert not [pid for pid in children_of("self") if "pymar.slots.child" in command_of(pid)]


@pytest.fixture(autouse=True)
def main_is_left_as_it_was():
    """A job file that a test loads stands for `__main__`, which what `multiprocessing` spawns would import."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """A RabbitMQ of this process's own, which tests may kill and must leave running."""
    from broker import Broker

    one = Broker(tmp_path_factory.mktemp("rabbitmq"))
    yield one
    from pymar.amqp.producer.engine import end_all

    end_all()
    one.stop()


@pytest.fixture
def agents(broker, tmp_path, monkeypatch):
    """Starts agents that end with the test; the protocol's times are short on both sides."""
    from broker import Agents, shorten_times

    shorten_times(monkeypatch)
    started = Agents(broker, tmp_path)
    yield started
    started.stop()


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """The folder of executions of the job that tests over AMQP watch."""
    from amqp_jobs import Watched

    folder = tmp_path / "executions"
    folder.mkdir()
    monkeypatch.setattr(Watched, "folder", str(folder))
    return folder


@pytest.fixture
def settings(monkeypatch):
    """Say what that job does."""
    from amqp_jobs import Watched

    def put(**values):
        for name, value in values.items():
            monkeypatch.setattr(Watched, name, value)

    return put


@pytest.fixture
def empty_queue(broker):
    """A test that cuts a producer off leaves its parts in the queue."""
    from watching import FILE

    from pymar.amqp.protocol import work_queue
    from pymar.serialization.jobfile import code_of

    with broker.channel() as channel:
        channel.queue_delete(work_queue("Watched", code_of(FILE)))


@pytest.fixture
def log_of_the_producer(caplog):
    caplog.set_level(logging.INFO, logger="pymar")


@pytest.fixture
def proxy(broker):
    """Stands between the broker and whoever connects to its port."""
    from proxy import Proxy

    one = Proxy(broker.port)
    yield one
    one.stop()


@pytest.fixture
def script(tmp_path):
    """Run a script in a fresh interpreter, in a folder of its own."""

    def run(code, *options, name="job.py", check=True, **environ):
        path = tmp_path / name
        path.write_text(code)
        command = [sys.executable, *options, str(path)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=110, cwd=tmp_path, env={**os.environ, **environ}
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Say, behind all else, what was not tested, and why."""
    yield
    skipped = {}
    for report in terminalreporter.stats.get("skipped", ()):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        file, _, test = report.nodeid.partition("::")
        skipped.setdefault(reason.removeprefix("Skipped: "), Counter())[file] += bool(test)
    if not skipped:
        return
    terminalreporter.section("what was not tested, and why")
    for reason, files in sorted(skipped.items()):
        told = ", ".join(f"{file} ({count})" if count else file for file, count in sorted(files.items()))
        terminalreporter.write_line(f"{reason}: {told}")


def need(present, what):
    """Skip at home what needs something that is not there (a whole module too); in CI, fail."""
    if not present and os.getenv("CI"):
        pytest.fail(f"{what} is not installed")
    if not present:
        pytest.skip(f"{what} is not installed", allow_module_level=True)


def needed(module):
    """A library that not everybody has; see `need`."""
    need(find_spec(module.partition(".")[0]), f"{module} (make stores)")
    return import_module(module)


def free_port():
    """A port that nobody uses, and that no connection is given by accident: below those that the system hands out."""
    for _ in range(100):
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def wait_until(condition, what, patience=PATIENCE):
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still waiting for: {what}"
        time.sleep(0.01)  # between two looks; the deadline is above
    return result


def is_running(pid):
    """Whether a process runs; a zombie does not."""
    try:
        return _state(Path(f"/proc/{pid}")) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_stopped(pid):
    """Whether all threads of a process have heard of SIGSTOP."""
    return all(_state(thread) == "T" for thread in Path(f"/proc/{pid}/task").iterdir())


def _state(proc):
    return (proc / "stat").read_text().rpartition(")")[2].split()[0]


def children_of(pid):
    """Processes that any thread of this one has started."""
    return [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
