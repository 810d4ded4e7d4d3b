"""`pymar worker --log-file`: all that is said there is in the file, and stderr is quiet, except for a failed start."""

import subprocess
import sys
from pathlib import Path

import loud_jobs
from broker import SERVES
from conftest import wait_until
from loud_jobs import FACTORY, Loud, Numbers

from pymar.amqp.producer.engine import end_all

FILE = Path(loud_jobs.__file__)


def test_the_log_and_what_parts_print_are_in_the_file_and_stderr_is_quiet(broker, agents, monkeypatch, tmp_path):
    monkeypatch.setattr(Loud, "how", "hello")
    path = tmp_path / "worker.log"
    agent = agents.start(FILE, "-p", "Loud", "-w", "2", "--log-file", path, wait=False)
    wait_until(lambda: path.exists() and SERVES in path.read_text(), "the worker to serve")
    assert Loud(engine=broker.engine()).map(FACTORY) == sum(range(Numbers.length))
    end_all()
    assert agent.stop() == 0
    said = path.read_text()
    for text in ("[part 3] hello from 3", "[part 3] C wrote 3", "INFO    connected to"):
        assert any(line[20:].startswith(text) for line in said.splitlines()), said
    assert path.stat().st_mode & 0o777 == 0o600
    assert agent.said() == ""


def test_a_failed_start_is_on_stderr_and_in_the_file(tmp_path):
    path = tmp_path / "worker.log"
    command = [sys.executable, "-m", "pymar", "worker", tmp_path / "absent.py", "--log-file", path, "-q", "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "absent.py" in done.stderr
    assert "absent.py" in path.read_text()


def test_a_log_file_that_cannot_be_opened_is_a_failed_start(tmp_path):
    command = [sys.executable, "-m", "pymar", "worker", FILE, "--log-file", tmp_path / "no" / "w.log"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "--log-file" in done.stderr
    assert "Traceback" not in done.stderr
