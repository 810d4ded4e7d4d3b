"""Faults of keyed jobs: the exact answer, or a clear error; nothing is computed twice without need, nothing is left."""

import gc
import os
import random
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE, wait_until
from exchanges import left_empty

from pymar import DataSourceFactory
from pymar.events import Exchanged
from pymar.exceptions import ExchangeError, JobError, PartFailed, UsageError
from pymar.keyed import CountDistinct, KeyedProducer, Sum
from pymar.sinks import JSONLinesSink

SEEDS = range(int(os.environ.get("PYMAR_SEEDS", "2")))
ENGINES = ["serial", "processes://2"]


class Totals(KeyedProducer):
    WORKERS_NUMBER = 5
    PARTITIONS = 8
    folder = ""
    deadly: frozenset[int] = frozenset()

    @staticmethod
    def map_fn(records):
        for n in records:
            Totals.die(f"map {n}")
            yield f"key-{n % 9_000}", n

    @staticmethod
    def finish_fn(key, value):
        Totals.die(key)
        return value

    reduce_fn = Sum()

    @staticmethod
    def die(what):
        """Kill this process, the first time that it comes here, if this is one of the places where it has to die."""
        if what in Totals.deadly and not os.path.exists(path := os.path.join(Totals.folder, what)):
            open(path, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)


class Few(Totals):
    PARTITIONS = 1


class Distinct(Totals):
    reduce_fn = CountDistinct()
    finish_fn = None


class Changing(Totals):
    @staticmethod
    def map_fn(records):
        return ((f"key-{n}", int.from_bytes(os.urandom(3), "big")) for n in records)


DATA = range(12_000)
EXPECTED = {f"key-{n}": n + (n + 9_000 if n < 3_000 else 0) for n in range(9_000)}


@pytest.fixture(autouse=True)
def exchange(tmp_path, monkeypatch):
    """A folder for the exchange, which is empty after each test."""
    yield from left_empty(tmp_path, monkeypatch)


def answer(producer, fault=None, engine="serial", run=lambda producer: producer.map(DataSourceFactory(DATA)).to_dict()):
    """What a job gives if a fault comes between its stages, once."""
    faults = [fault] if fault else []

    def between(event):
        if isinstance(event, Exchanged) and faults:
            faults.pop()()

    found = run(producer(engine=engine, listeners=[between]))
    assert not faults
    return found


def files(exchange):
    found = sorted(exchange.glob("*/*-*"))
    assert found
    return found


def changed(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a file is missing": lambda folder: files(folder)[0].unlink(),
    "all files are missing": lambda folder: [path.unlink() for path in files(folder)],
    "a block is damaged": lambda folder: changed(files(folder)[1], 100),
    "an index is damaged": lambda folder: changed(files(folder)[-1], -5),
    "a file is cut off": lambda folder: os.truncate(files(folder)[2], 20_000),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_lost_between_the_stages_is_mapped_again(exchange, engine, damage):
    expected = [*answer(Totals).items()]
    assert [*answer(Totals, lambda: DAMAGES[damage](exchange), engine).items()] == expected
    assert dict(expected) == EXPECTED


def test_what_was_lost_changes_no_byte_of_what_is_written(exchange, tmp_path):
    def written(name):
        def run(producer):
            producer.write(DataSourceFactory(DATA), JSONLinesSink(tmp_path / name))
            return [path.read_bytes() for path in sorted((tmp_path / name).glob("part-*"))]

        return run

    expected = answer(Totals, run=written("one"))
    for number, at in enumerate((100, 5_000, 30_000)):
        found = answer(Totals, lambda at=at: changed(files(exchange)[0], at), run=written(f"two-{number}"))
        assert found == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_sets_that_are_encoded_again_are_the_same(exchange, engine):
    found = answer(Distinct, lambda: DAMAGES["a block is damaged"](exchange), engine)
    assert found == {f"key-{n}": 1 + (n < 3_000) for n in range(9_000)}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_map_fn_that_gives_other_pairs_when_it_runs_again_is_refused(exchange, engine):
    with pytest.raises(JobError, match="gave other pairs for part 0"):
        answer(Changing, lambda: DAMAGES["a file is missing"](exchange), engine)


def test_a_folder_that_is_gone_is_an_error_that_names_it(exchange):
    with pytest.raises(ExchangeError, match=str(exchange)):
        answer(Totals, lambda: subprocess.run(["rm", "-r", *exchange.iterdir()], check=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_workers_that_are_killed_in_both_stages_cost_nothing_but_time(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    print("seed", seed)
    deadly = {f"map {rng.randrange(12_000)}", f"map {rng.randrange(12_000)}", f"key-{rng.randrange(9_000)}"}
    monkeypatch.setattr(Totals, "folder", str(tmp_path))
    monkeypatch.setattr(Totals, "deadly", frozenset(deadly))
    assert answer(Totals, engine="processes://2") == EXPECTED
    assert all((tmp_path / name).exists() for name in deadly)


SCRIPT = """
import os, sys, time
from pymar import DataSourceFactory
from pymar.keyed import KeyedProducer, Sum

def note(name, what):
    with open(name + os.environ.get("NOTES", ""), "a") as file:
        file.write(f"{what}\\n")

class Work(KeyedProducer):
    WORKERS_NUMBER = 12
    PARTITIONS = 16
    BACKUPS = 0
    reduce_fn = Sum()

    @staticmethod
    def map_fn(records):
        first, *_ = records
        note("maps", first)
        time.sleep(0.03)  # the work of a part
        for n in range(4_000 if first % 20 else 300):  # some travel with their reports, others are in files
            yield f"{first % 30} {n}", n

    @staticmethod
    def finish_fn(key, value):
        note("keys", key)
        return value

with Work(engine="processes://2").map(DataSourceFactory(range(120)), checkpoint=sys.argv[1] or None) as found:
    print(len(found), sum(found.values()))
"""


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def started(folder, checkpoint, notes=""):
    (folder / "job.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "job.py", checkpoint],
        cwd=folder,
        env={**os.environ, "NOTES": notes},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def killed(folder, checkpoint, name, count):
    """Start the job, and kill its process once so many lines are in a file."""
    first = started(folder, checkpoint)
    wait_until(lambda: len(lines(folder / name)) >= count, "a part of the work")
    first.kill()
    first.communicate()


@pytest.mark.parametrize(("name", "count"), [("maps", 9), ("keys", 10_000)])
def test_a_job_whose_producer_was_killed_computes_only_what_is_missing(tmp_path, exchange, name, count):
    killed(tmp_path, "run.ckpt", name, count)
    found, _ = started(tmp_path, "run.ckpt", notes="-again").communicate(timeout=PATIENCE)
    assert found.split() == ["12000", str(6 * (sum(range(4_000)) + sum(range(300))))]
    again = lines(tmp_path / f"{name}-again")
    assert len(again) < (12 if name == "maps" else 12_000)
    assert name == "maps" or not lines(tmp_path / "maps-again")
    assert started(tmp_path, "run.ckpt", notes="-third").communicate(timeout=PATIENCE)[0] == found
    assert not lines(tmp_path / "maps-third")
    assert not lines(tmp_path / "keys-third")
    for one in exchange.iterdir():
        subprocess.run(["rm", "-r", one], check=True)


@pytest.mark.parametrize(("name", "count"), [("maps", 8), ("keys", 4_000)])
def test_what_a_killed_producer_leaves_is_removed_by_the_next_job(tmp_path, exchange, name, count):
    killed(tmp_path, "", name, count)
    assert os.listdir(exchange)
    assert answer(Totals) == EXPECTED


@pytest.mark.parametrize(("name", "count"), [("maps", 8), ("keys", 4_000)])
def test_an_interrupt_leaves_nothing(tmp_path, exchange, name, count):
    job = started(tmp_path, "")
    wait_until(lambda: len(lines(tmp_path / name)) >= count, "a part of the work")
    os.kill(job.pid, signal.SIGINT)
    job.communicate(timeout=PATIENCE)
    assert job.returncode != 0


def test_a_full_disk_is_named_with_the_remedy(script):
    done = script(
        """
import resource, signal
from pymar import DataSourceFactory
from pymar.keyed import Collect, KeyedProducer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
class Work(KeyedProducer):
    reduce_fn = Collect()
    WORKERS_NUMBER = 2
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    Work(engine="serial").map(DataSourceFactory([(n, "x" * 100) for n in range(20_000)]))
""",
        check=False,
    )
    assert "ExchangeError" in done.stderr
    assert "File too large" in done.stderr


@pytest.mark.parametrize("stage", ["map_fn", "finish_fn"])
def test_the_error_of_either_stage_is_replayed(stage):
    class Fails(KeyedProducer):
        reduce_fn = Sum()

        @staticmethod
        def map_fn(records):
            return ((n, n if stage != "map_fn" or n != 5 else 1 / 0) for n in records)

        @staticmethod
        def finish_fn(key, value):
            return value if stage != "finish_fn" or key != 5 else 1 / 0

    producer = Fails(engine="serial")
    with pytest.raises(PartFailed) as failed:
        producer.map(DataSourceFactory(range(10)))
    with pytest.raises(ZeroDivisionError):
        producer.replay(failed.value)


def test_a_closed_result_says_so_and_others_live_on(exchange):
    one, other = (Few(engine="serial").map(DataSourceFactory(DATA)) for _ in range(2))
    assert len(os.listdir(exchange)) == 2
    one.close()
    with pytest.raises(UsageError, match="closed"):
        one.to_dict()
    assert other.to_dict() == EXPECTED
    del other
    gc.collect()
    assert os.listdir(exchange) == []


def test_a_folder_for_the_exchange_that_cannot_be_one_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        monkeypatch.setenv("PYMAR_EXCHANGE", str(tmp_path / name))
        with pytest.raises(ExchangeError, match=name):
            answer(Totals)
