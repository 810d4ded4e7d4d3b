"""Fixtures and functions that several tests use: scripts in new processes, a broker and its agents, waiting."""

import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
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

# A cluster of whoever runs the tests is not theirs.
os.environ["PYMAR_CLUSTER"] = ""

#: Seconds that a test waits at most for what must happen.
PATIENCE = 30


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left():
    """When the tests of a process have ended, its worker processes have too."""
    # A job in a shell's background ignores SIGINT, and worker processes would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    shutdown()
    assert not [pid for pid in children_of("self") if "pymar.slots.child" in command_of(pid)]


@pytest.fixture(scope="session", autouse=True)
def a_cache_of_its_own(tmp_path_factory):
    """Workers unpack the modules of jobs into a folder of the tests, not into the user's cache."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["XDG_CACHE_HOME"]
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True)
def main_is_left_as_it_was():
    """Put `__main__` back: a job file that a test loads takes its place, and `multiprocessing` would import that."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """A private RabbitMQ node of this process; a test may kill it, and must leave it running."""
    from broker import Broker

    one = Broker(tmp_path_factory.mktemp("rabbitmq"))
    yield one
    from pymar.amqp.producer.engine import end_all

    end_all()
    one.stop()


@pytest.fixture
def agents(broker, tmp_path, monkeypatch):
    """Starts agents that are stopped after the test; the times of the protocol are short, there and here."""
    from broker import Agents, shorten_times

    shorten_times(monkeypatch)
    started = Agents(broker, tmp_path)
    yield started
    started.stop()


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """The folder in which the job of the tests over AMQP notes its executions."""
    from amqp_jobs import Watched

    folder = tmp_path / "executions"
    folder.mkdir()
    monkeypatch.setattr(Watched, "folder", str(folder))
    return folder


@pytest.fixture
def temporary_files(monkeypatch):
    """The temporary files that were made; closed at the end."""
    made, make = [], tempfile.TemporaryFile

    def noted(**given):
        made.append(make(**given))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    yield made
    for file in made:
        file.close()


@pytest.fixture
def settings(monkeypatch):
    """Set attributes of that job."""
    from amqp_jobs import Watched

    def put(**values):
        for name, value in values.items():
            monkeypatch.setattr(Watched, name, value)

    return put


@pytest.fixture
def empty_queue(broker):
    """Deletes the work queue: an earlier test that cut a producer off may have left parts in it."""
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
    """A proxy in front of the broker, on a port of its own."""
    from proxy import Proxy

    one = Proxy(broker.port)
    yield one
    one.stop()


@pytest.fixture
def hosts(tmp_path):
    """Hosts with an sshd each: `hosts.host("node1")` starts one; all end with the test."""
    from sshd import Bed

    folder = tmp_path / "bed"
    folder.mkdir()
    bed = Bed(folder)
    yield bed
    bed.close()


@pytest.fixture
def fake_scheduler(tmp_path, monkeypatch):
    """Programs of Slurm's and PBS's names, first on the PATH; their folder."""
    program = Path(__file__).parent / "support" / "fake_scheduler.py"
    home, bins = tmp_path / "fake", tmp_path / "bin"
    (home / "jobs").mkdir(parents=True)
    bins.mkdir()
    for name in ("sbatch", "srun", "squeue", "scancel", "qsub", "qstat", "qdel"):
        # Not exec'd by a link: its name is how it knows what it is.
        (bins / name).write_text(f"#!{sys.executable}\n{program.read_text()}")
        (bins / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bins}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SCHEDULER", str(home))
    yield home
    for path in (home / "jobs").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


@pytest.fixture
def pymar(hosts):
    """Run the command `pymar` as a user who reaches the hosts; whatever is up at the end is taken down."""
    from clusters import clusters

    def run(*words, check=True, **options):
        done = hosts.run(sys.executable, "-m", "pymar", *words, **{"timeout": 100, **options})
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    yield run
    for name in clusters(hosts):
        run("down", "--name", name, "--forget", check=False)


@pytest.fixture
def begun(hosts, tmp_path):
    """Start a script as that user, without waiting for it; what still runs is ended."""
    started = []

    def start(*command, **options):
        started.append(
            subprocess.Popen(list(map(str, command)), env=hosts.environ, text=True, stdin=subprocess.DEVNULL, **options)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()


@pytest.fixture
def script(tmp_path):
    """Run a script in a new interpreter, in the test's folder."""

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
    """Print, after everything else, what was not tested, and why."""
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
        texts = ", ".join(f"{file} ({count})" if count else file for file, count in sorted(files.items()))
        terminalreporter.write_line(f"{reason}: {texts}")


def need(present, what):
    """Skip a test (or a whole module) if what it needs is not present; in CI, fail."""
    if not present and os.getenv("CI"):
        pytest.fail(f"{what} is not installed")
    if not present:
        pytest.skip(f"{what} is not installed", allow_module_level=True)


def needed(module):
    """Import an optional library; see `need`."""
    need(find_spec(module.partition(".")[0]), f"{module} (make stores)")
    return import_module(module)


def free_port():
    """Return a free port, below those that the system assigns to connections."""
    for _ in range(100):
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def wait_until(condition, what, patience=PATIENCE):
    """Wait until a condition is true, and return its value; fail after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < deadline, f"still waiting for: {what}"
        time.sleep(0.01)  # between two looks; the deadline is above
    return result


def is_running(pid):
    """True if a process runs; a zombie does not."""
    try:
        return _state(Path(f"/proc/{pid}")) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_stopped(pid):
    """True if all threads of a process are stopped by SIGSTOP."""
    return all(_state(thread) == "T" for thread in Path(f"/proc/{pid}/task").iterdir())


def _state(proc):
    return (proc / "stat").read_text().rpartition(")")[2].split()[0]


def children_of(pid):
    """Return the ids of the processes that a process has started, in any of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of a thread that has just ended
            found += task.read_text().split()
    return found


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
