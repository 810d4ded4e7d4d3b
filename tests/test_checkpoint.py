"""A run that ended goes on where it was; another job's journal is refused, with what differs."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import usermodule
from conftest import PATIENCE, wait_until

from pymar.datasource import DataSourceFactory
from pymar.exceptions import CheckpointMismatch, NotPicklable, PartFailed
from pymar.producer import Producer
from pymar.testing import Numbers

FACTOR = 1


class Counted(Producer):
    """A sum that notes each part that is computed in a file."""

    WORKERS_NUMBER = 10
    notes = ""
    scale = 1
    fails_at = 10_000

    @staticmethod
    def map_fn(data_source):
        if data_source.offset >= Counted.fails_at:
            raise RuntimeError("power cut")
        with open(Counted.notes, "a") as file:
            print(data_source.offset, file=file)
        return [number * Counted.scale * FACTOR for number in data_source]

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


@pytest.fixture
def notes(tmp_path, monkeypatch):
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setattr(Counted, "notes", str(path))
    return lambda: sorted(map(int, path.read_text().split()))


def counted(path, data=Numbers, engine="processes://2", **settings):
    return Counted(engine=engine).map(DataSourceFactory(data, **settings), checkpoint=path)


def test_only_what_is_missing_is_computed(tmp_path, notes, monkeypatch):
    path = tmp_path / "run.ckpt"
    monkeypatch.setattr(Counted, "fails_at", 700)
    with pytest.raises(PartFailed, match="power cut"):
        counted(path, engine="serial")
    assert notes() == list(range(0, 700, 100))
    description(path, "Counted.fails_at", "10000")  # the remedy for what broke it is not another job
    monkeypatch.setattr(Counted, "fails_at", 10_000)
    assert counted(path) == 499_500
    assert notes() == list(range(0, 1_000, 100))
    assert counted(path) == 499_500
    assert notes() == list(range(0, 1_000, 100))


def description(path, name, value):
    """Change one entry of what a journal says of its job."""
    with sqlite3.connect(path) as file:
        (text,) = file.execute("SELECT description FROM job").fetchone()
        import json

        told = json.loads(text)
        told[name] = value
        file.execute("UPDATE job SET description = ?", (json.dumps(told),))
    file.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda patch: patch.setattr(Counted, "scale", 2), "Counted.scale (1 before, 2 now)"),
        (lambda patch: patch.setattr(Numbers, "length", 999), "Numbers.length (1000 before, 999 now)"),
        (lambda patch: patch.setattr(Counted, "WORKERS_NUMBER", 5), "the parts (length 1000, in 10 parts before"),
        (lambda patch: patch.setattr(Counted, "SEED", 5), "SEED (0 before, 5 now)"),
        (lambda patch: patch.setattr(f"{__name__}.FACTOR", 2), "FACTOR (1 before, 2 now)"),
        (lambda patch: patch.setattr(Counted, "map_fn", staticmethod(lambda source: source)), "the code of "),
    ],
)
def test_a_changed_job_is_refused_with_what_changed(tmp_path, notes, monkeypatch, change, says):
    path = tmp_path / "run.ckpt"
    counted(path, engine="serial")
    change(monkeypatch)
    with pytest.raises(CheckpointMismatch) as refused:
        counted(path)
    assert says in str(refused.value)
    assert "delete the file" in str(refused.value)


@pytest.mark.usefixtures("notes")
def test_changed_data_is_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    data = list(range(1_000))
    assert counted(path, data) == 499_500
    assert counted(path, data) == 499_500
    data[555] = 0
    with pytest.raises(CheckpointMismatch, match="the data of part 5"):
        counted(path, data)


@pytest.mark.usefixtures("notes")
def test_data_of_unknown_length_can_go_on_too(tmp_path, notes):
    path = tmp_path / "run.ckpt"
    assert counted(path, iter(range(5_000))) == sum(range(5_000))
    first = notes()
    assert counted(path, iter(range(5_000))) == sum(range(5_000))
    assert notes() == first


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, notes):
    path = tmp_path / "run.ckpt"
    path.write_text("something else, and long enough to be no database header at all " * 10)
    with pytest.raises(CheckpointMismatch, match="no checkpoint"):
        counted(path)
    assert path.read_text().startswith("something else")


def test_a_journal_in_use_is_refused(tmp_path, notes):
    path = tmp_path / "run.ckpt"
    partials = Counted(engine="processes://2").partials(DataSourceFactory(Numbers), checkpoint=path)
    next(partials)
    with pytest.raises(CheckpointMismatch, match="another run uses it"):
        counted(path)
    partials.close()
    assert counted(path) == 499_500


SCRIPT = """
import sys, time
from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer

class Slow(Producer):
    WORKERS_NUMBER = 40

    @staticmethod
    def map_fn(data_source):
        time.sleep(0.02)  # the work of a part
        with open("notes", "a") as file:
            print(data_source.offset, file=file)
        return data_source

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)

print(Slow().map(DataSourceFactory(range(400)), checkpoint="run.ckpt"))
"""


def test_after_kill_9_of_the_producer_only_what_is_missing_is_computed(tmp_path):
    (tmp_path / "job.py").write_text(SCRIPT)
    notes = tmp_path / "notes"
    notes.touch()
    first = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, start_new_session=True)
    wait_until(lambda: len(notes.read_text().split()) >= 15, "a part of the work")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_until(lambda: not (tmp_path / "run.ckpt-lock").exists(), "the lock")
    done = subprocess.run([sys.executable, "job.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == f"{sum(range(400))}\n", done.stderr
    computed = notes.read_text().split()
    assert set(computed) == {str(offset) for offset in range(0, 400, 10)}
    assert len(computed) <= 40 + 6  # what ran, or was not yet written down, when the producer was killed


def test_a_changed_closure_and_a_changed_helper_class_are_refused(tmp_path, monkeypatch):
    usermodule.closing_over(1)(engine="serial").map(DataSourceFactory(Numbers), checkpoint=tmp_path / "one")
    with pytest.raises(CheckpointMismatch, match=r"factor .*1 before, 2 now"):
        usermodule.closing_over(2)(engine="serial").map(DataSourceFactory(Numbers), checkpoint=tmp_path / "one")
    usermodule.OfHelper(engine="serial").map(DataSourceFactory(Numbers), checkpoint=tmp_path / "two")
    monkeypatch.setattr(usermodule.Config, "scale", 2)
    with pytest.raises(CheckpointMismatch, match=r"Config\.scale .*1 before, 2 now"):
        usermodule.OfHelper(engine="serial").map(DataSourceFactory(Numbers), checkpoint=tmp_path / "two")


def test_a_function_as_a_default_is_the_same_in_every_process(tmp_path, script):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import usermodule
from pymar.datasource import DataSourceFactory
from pymar.testing import Numbers
print(usermodule.OfDefault(engine="serial").map(DataSourceFactory(Numbers), checkpoint="run.ckpt"))
"""
    assert script(code).stdout == script("padding = [object() for _ in range(99)]\n" + code).stdout == "499500\n"


def test_a_job_that_could_not_start_leaves_its_journal_free(tmp_path, notes):
    lock = threading.Lock()

    class Holding(Counted):
        @staticmethod
        def map_fn(data_source):
            return [lock.locked()]

    path = tmp_path / "run.ckpt"
    with pytest.raises(NotPicklable):
        Holding(engine="processes://2").map(DataSourceFactory(Numbers), checkpoint=path)
    with pytest.raises(CheckpointMismatch, match="belongs to a job"):  # and not: in use
        counted(path)


def test_a_checkpoint_in_no_folder_is_refused_as_that(tmp_path):
    with pytest.raises(CheckpointMismatch, match="there is no folder"):
        counted(tmp_path / "nowhere" / "run.ckpt")


class Secretive(Counted):
    password = "SEKRET-1"
    storage = {"key": "id", "secret": "SEKRET-2"}  # noqa: RUF012 - as users write it


def test_secrets_stand_in_no_checkpoint_and_in_no_message(tmp_path, notes, monkeypatch):
    path = tmp_path / "job.ckpt"
    Secretive(engine="serial").map(DataSourceFactory(Numbers), checkpoint=path)
    assert b"SEKRET" not in path.read_bytes()
    for change in ({"password": "SEKRET-3"}, {"storage": {"key": "id", "secret": "SEKRET-4"}}):
        with monkeypatch.context() as patch:
            for name, value in change.items():
                patch.setattr(Secretive, name, value)
            with pytest.raises(CheckpointMismatch, match=f"Secretive.{next(iter(change))}") as refused:
                Secretive(engine="serial").map(DataSourceFactory(Numbers), checkpoint=path)
        assert "SEKRET" not in str(refused.value)
