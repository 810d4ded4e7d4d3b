"""`pymar up` within an allocation, and with workers that a scheduler starts: programs of the schedulers' names run them
here, so no Slurm and no PBS is tested, but what Pymar does with them."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import wait_until
from places import ROOT

SUM = "import pymar\nprint(sum(pymar.map(lambda number: number * number, range(1000))))\n"
ANSWER = sum(number * number for number in range(1000))


@pytest.fixture
def environ(fake_scheduler, tmp_path):
    names = ("XDG_", "PYMAR_", "SLURM_", "PBS_")
    found = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    (tmp_path / "home").mkdir()
    return found | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT / "src")}


@pytest.fixture
def pymar(environ):
    def run(*words, check=True, **options):
        command = [sys.executable, "-m", "pymar", *map(str, words)]
        done = subprocess.run(
            command, env={**environ, **options}, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    yield run
    run("down", "--forget", check=False)


def up(pymar, *words, **options):
    return pymar("up", "--bare", "--python", sys.executable, "--address", "127.0.0.1", *words, **options)


def answer(environ):
    done = subprocess.run([sys.executable, "-c", SUM], env=environ, capture_output=True, text=True, timeout=100)
    return done.stdout.strip()


def calls(fake):
    return [json.loads(line) for line in (fake / "calls").read_text().splitlines()]


def workers(tmp_path):
    """The workers that run for this test, by their arguments."""
    found = subprocess.run(["ps", "-eo", "pid=,args=", "ewww"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if "pymar worker --pool" in line and f"HOME={tmp_path}/home" in line]


def test_within_an_allocation_of_slurm_the_hosts_are_its_own(pymar, environ, fake_scheduler, tmp_path):
    given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_CPUS_PER_NODE": "2,1"}
    said = up(pymar, **given).stdout
    assert re.search(r"^node1 .*2 slots of", said, re.MULTILINE)
    assert re.search(r"^node2  started with 1 slots", said, re.MULTILINE)
    assert {call[0] for call in calls(fake_scheduler)} == {"srun"}
    assert answer(environ) == str(ANSWER)
    assert len(workers(tmp_path)) == 2
    pymar("down", **given)
    assert workers(tmp_path) == []


@pytest.mark.parametrize(("kind", "options"), [("slurm", ["-p", "short", "-t", "10:00"]), ("pbs", ["-q", "short"])])
def test_submitted_workers_join_and_are_cancelled(pymar, environ, fake_scheduler, tmp_path, kind, options):
    said = up(pymar, f"--{kind}", "2", "-w", "1", "--", *options).stdout
    assert re.search(r"2 workers are submitted as \S+", said)
    wait_until(lambda: "2 workers, 2 slots" in pymar("status", check=False).stdout, "the workers to join")
    assert answer(environ) == str(ANSWER)
    (submission, *_) = [call for call in calls(fake_scheduler) if call[0] in ("sbatch", "qsub")]
    assert submission[-3:-1] == options[-2:]
    pymar("down")
    wait_until(lambda: workers(tmp_path) == [], "the workers to end")
    assert not (tmp_path / "home/.local/state/pymar/default").exists()


def test_no_secret_reaches_the_scheduler(pymar, environ, fake_scheduler, tmp_path):
    up(pymar, "--slurm", "1")
    record = json.loads((tmp_path / "home/.local/state/pymar/default/cluster.json").read_text())
    password = record["url"].partition("://")[2].partition("@")[0].partition(":")[2]
    assert len(password) > 20
    seen = (fake_scheduler / "calls").read_text()
    (script,) = (tmp_path / "home/.local/state/pymar/default").glob("worker.slurm")
    wait_until(lambda: "1 workers, " in pymar("status", check=False).stdout, "the worker to join")
    running = "".join(workers(tmp_path))  # with the variables of their environment
    assert running
    for secret in (record["key"], password):
        assert secret not in seen + script.read_text() + running


def test_what_the_scheduler_refuses_leaves_nothing(pymar, fake_scheduler, tmp_path):
    (fake_scheduler / "refuse").write_text("1 sbatch: error: Invalid partition name specified")
    done = up(pymar, "--slurm", "1", "--", "-p", "none", check=False)
    assert "Invalid partition name" in done.stderr
    assert not (tmp_path / "home/.local/state/pymar/default/cluster.json").exists()


def test_options_without_a_scheduler_are_refused(pymar):
    assert "hosts are named by -H" in up(pymar, "node1", check=False).stderr
    assert "choose one" in up(pymar, "--slurm", "1", "--pbs", "1", check=False).stderr
    assert "which hosts?" in up(pymar, check=False).stderr
