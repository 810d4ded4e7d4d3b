"""Disks that are full or read-only, folders that change hands, and jobs that end in the middle or run at once."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from conftest import PATIENCE, need

from pymar import DataSourceFactory
from pymar.cli import main
from pymar.events import Exchanged
from pymar.exceptions import ExchangeError, JobTimeout, PartFailed
from pymar.keyed import Collect, KeyedProducer, Sum, jobs, join, joining, reducing, sort

ENGINES = ["serial", "processes://2"]


class Totals(KeyedProducer):
    WORKERS_NUMBER = 6
    PARTITIONS = 2
    reduce_fn = Sum()

    @staticmethod
    def map_fn(records):
        return ((f"key {n % 9_000}", n) for n in records)


class Long(KeyedProducer):
    WORKERS_NUMBER = 4
    PARTITIONS = 2
    reduce_fn = Collect()

    @staticmethod
    def map_fn(records):
        return ((n % 2_000, bytes([n % 256]) * 100) for n in records)


class Longer(Long):
    @staticmethod
    def finish_fn(key, values):
        return [value * 40 for value in values]


class HotKey(Long):
    @staticmethod
    def map_fn(records):
        return ((n % 2, bytes([n % 256]) * 100) for n in records)


DATA = range(30_000)
EXPECTED = {f"key {n}": sum(range(n, 30_000, 9_000)) for n in range(9_000)}


def mounted(folder, options):
    """Mount a file system in memory on a folder."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    need(done.returncode == 0, "the right to mount")


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MB, on which nothing is left."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted(folder, "size=2m,mode=0700")
    yield folder
    gc.collect()
    left = [name for name in os.listdir(folder) if name != "ballast"]
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    assert left == []


@pytest.fixture
def exchange(tmp_path, monkeypatch):
    """A folder for the exchange."""
    folder = tmp_path / "exchange"
    folder.mkdir()
    monkeypatch.setenv("PYMAR_EXCHANGE", str(folder))
    return folder


def filled(disk, leave=0):
    """Take all space of a disk but some bytes."""
    found = os.statvfs(disk)
    with open(disk / "ballast", "xb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leave)


def between(action):
    """A listener that does something once, between the stages."""
    actions = [action]

    def listener(event):
        if isinstance(event, Exchanged) and actions:
            actions.pop()()

    return listener


def check_full(error, folder, variable="PYMAR_EXCHANGE"):
    for what in (str(folder), os.uname().nodename, " MB free", variable):
        assert what in str(error)


JOBS = {
    "map": lambda engine: Long(engine=engine).map(DataSourceFactory(DATA)),
    "sort": lambda engine: sort([f"{n:0100}" for n in DATA], parts=4, engine=engine),
    "join": lambda engine: join([(n, "x" * 100) for n in DATA], [(n, "y" * 100) for n in DATA], parts=4, engine=engine),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("job", JOBS)
def test_a_disk_that_the_exchange_fills_is_named(disk, monkeypatch, job, engine):
    monkeypatch.setenv("PYMAR_EXCHANGE", str(disk))
    with pytest.raises((ExchangeError, PartFailed), match="no space") as failed:
        JOBS[job](engine)
    check_full(failed.value, disk)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_disk_that_the_result_fills_is_named(disk, monkeypatch, engine):
    monkeypatch.setenv("PYMAR_EXCHANGE", str(disk))
    producer = Longer(engine=engine, listeners=[between(lambda: filled(disk, leave=100_000))])
    with pytest.raises((ExchangeError, PartFailed), match="no space") as failed:
        producer.map(DataSourceFactory(DATA[:8_000]))
    check_full(failed.value, disk)


def test_a_disk_that_is_full_before_the_job_gets_no_folder(disk, monkeypatch):
    monkeypatch.setenv("PYMAR_EXCHANGE", str(disk))
    filled(disk)
    open_files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ExchangeError) as failed:
        Totals(engine="serial").map(DataSourceFactory(DATA))
    check_full(failed.value, disk)
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_a_disk_that_small_parts_fill_is_named(disk, monkeypatch):
    monkeypatch.setenv("PYMAR_EXCHANGE", str(disk))
    monkeypatch.setattr(jobs, "HELD", 1 << 20)
    monkeypatch.setattr(Long, "WORKERS_NUMBER", 300)
    with pytest.raises(ExchangeError) as failed:
        Long(engine="serial").map(DataSourceFactory(DATA))
    check_full(failed.value, disk)


SPILLS = {
    "a hot key": lambda: HotKey(engine="serial").map(DataSourceFactory(DATA)),
    "a join": lambda: join(*([(n % 50, n.to_bytes(100, "big")) for n in DATA],) * 2, parts=4, engine="serial"),
}


@pytest.mark.parametrize("job", SPILLS)
def test_a_temporary_folder_that_a_spill_fills_is_named(disk, exchange, monkeypatch, job):
    monkeypatch.setenv("TMPDIR", str(disk))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(reducing, "LARGE", 1_000)
    monkeypatch.setattr(joining, "LARGE", 1_000)
    monkeypatch.setattr(joining, "SMALL_SIDE", 0)
    filled(disk, leave=50_000)
    with pytest.raises((ExchangeError, PartFailed), match="no space") as failed:
        SPILLS[job]()
    check_full(failed.value, disk, "TMPDIR")
    del failed
    gc.collect()
    assert os.listdir(exchange) == []


def test_a_disk_that_is_read_only_is_named(exchange):
    mounted(exchange, "size=1m,ro")
    try:
        with pytest.raises(ExchangeError, match="Read-only") as failed:
            Totals(engine="serial").map(DataSourceFactory(DATA))
        assert str(exchange) in str(failed.value)
    finally:
        subprocess.run(["umount", "--lazy", str(exchange)], check=True)


def replaced_by_a_link(path):
    moved = path.parent / "moved"
    path.rename(moved)
    path.symlink_to(moved)


CHANGES = {
    "a link": (replaced_by_a_link, "is no folder"),
    "readable by all": (lambda path: path.chmod(0o755), "is not private"),
    "another owner": (lambda path: os.chown(path, 12_345, 12_345), "is not private"),
}


@pytest.mark.parametrize("is_given", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_changes_hands_between_the_stages_is_refused(tmp_path, monkeypatch, change, engine, is_given):
    need(change != "another owner" or os.geteuid() == 0, "the right to give files away")
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.setenv("PYMAR_EXCHANGE", str(folder) if is_given else "")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    action, says = CHANGES[change]
    producer = Totals(engine=engine, listeners=[between(lambda: action(next(folder.glob("pymar-exchange-*"))))])
    with pytest.raises((ExchangeError, PartFailed), match=says) as failed:
        producer.map(DataSourceFactory(DATA))
    assert str(folder) in str(failed.value)
    del failed
    gc.collect()
    assert [name for name in os.listdir(folder) if name != "moved"] == []


def test_a_folder_for_the_exchange_may_be_a_link(exchange, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(exchange)
    monkeypatch.setenv("PYMAR_EXCHANGE", str(tmp_path / "link"))
    with Totals(engine="processes://2").map(DataSourceFactory(DATA)) as found:
        assert len(os.listdir(exchange)) == 1
        assert found.to_dict() == EXPECTED
    assert os.listdir(exchange) == []


SCRIPT = """
import os, signal, sys
from pymar import DataSourceFactory
from pymar.events import Exchanged
from pymar.keyed import KeyedProducer, Sum

class Work(KeyedProducer):
    WORKERS_NUMBER = 12
    PARTITIONS = 2
    SORTED = "sorted" in sys.argv
    reduce_fn = Sum()

    @staticmethod
    def map_fn(records):
        with open("maps", "a") as file:
            file.write("x")
        return ((f"key {n % 9_000}", n) for n in records)

def kill(event):
    if isinstance(event, Exchanged) and "kill" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint = "run.ckpt" if "checkpoint" in sys.argv else None
found = Work(engine="processes://2", listeners=[kill]).map(DataSourceFactory(range(30_000)), checkpoint=checkpoint)
print("done", len(found), sum(found.values()), flush=True)
if "hold" in sys.argv:
    sys.stdin.readline()
    print(sum(found.values()), flush=True)
"""


def started(folder, *options):
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(SCRIPT)
    command = [sys.executable, "job.py", *options]
    return subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kind", ["plain", "sorted"])
def test_a_producer_killed_between_the_stages_maps_nothing_again(exchange, tmp_path, kind, capsys):
    folder = tmp_path / "run"
    first = started(folder, "checkpoint", kind, "kill")
    first.communicate(timeout=PATIENCE)
    assert first.returncode == -signal.SIGKILL
    assert len((folder / "maps").read_text()) == 12
    found, _ = started(folder, "checkpoint", kind).communicate(timeout=PATIENCE)
    assert found.split() == ["done", "9000", str(sum(range(30_000)))]
    assert len((folder / "maps").read_text()) == 12

    main(["clean", str(folder / "run.ckpt")], standalone_mode=False)
    assert sorted(os.listdir(folder)) == ["job.py", "maps"]
    assert os.listdir(exchange) == []


def test_what_is_cleaned_is_an_exchange(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "run.exchange").write_text(f"{tmp_path}/precious\n")
    main(["clean", str(tmp_path / "run")], standalone_mode=False)
    assert sorted(os.listdir(tmp_path)) == ["precious", "run.exchange"]


def test_two_producers_in_one_folder_leave_each_other_alone(exchange, tmp_path):
    lives, dies = (started(tmp_path / name, "hold") for name in ("one", "other"))
    assert lives.stdout.readline() == dies.stdout.readline() == f"done 9000 {sum(range(30_000))}\n"
    assert len(os.listdir(exchange)) == 2
    dies.kill()
    dies.communicate()
    with Totals(engine="serial").map(DataSourceFactory(DATA)) as found:
        assert len(os.listdir(exchange)) == 2
        assert found.to_dict() == EXPECTED
    assert lives.communicate("\n", timeout=PATIENCE)[0] == f"{sum(range(30_000))}\n"
    assert os.listdir(exchange) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_two_threads_run_jobs_at_once(exchange, engine):
    found = {}

    def run(name):
        with Totals(engine=engine).map(DataSourceFactory(DATA)) as result:
            found[name] = result.to_dict()

    threads = [threading.Thread(target=run, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: EXPECTED, 1: EXPECTED}
    assert os.listdir(exchange) == []


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)", "del found; gc.collect(); os._exit(0)", "found.close()"])
def test_a_fork_that_ends_leaves_the_files_of_its_parent(exchange, script, end):
    done = script(
        f"""
import gc, os, sys
from pymar import DataSourceFactory
from pymar.keyed import KeyedProducer, Sum
class Work(KeyedProducer):
    reduce_fn = Sum()
found = Work(engine="serial").map(DataSourceFactory([(n, n) for n in range(20_000)]))
child = os.fork()
if not child:
    {end}
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert found.to_dict() == {{n: n for n in range(20_000)}}
print(len(os.listdir(os.environ["PYMAR_EXCHANGE"])))
"""
    )
    assert done.stdout == "1\n"
    assert os.listdir(exchange) == []


def test_a_timeout_names_the_seconds_of_the_call_and_the_stage(exchange):
    class Slow(Totals):
        @staticmethod
        def finish_fn(key, value):
            time.sleep(0.05)  # the work of a key
            return value

    with pytest.raises(JobTimeout, match=r"within 0\.5 s") as failed:
        Slow(engine="serial").map(DataSourceFactory(range(30)), 0.5, "fail")
    assert "reduce stage of Slow" in failed.value.__notes__[0]
    assert os.listdir(exchange) == []


@pytest.mark.parametrize("make", ["numpy.zeros(2, numpy.int64)", "[0, 0]", "bytearray(2)"])
def test_a_value_that_is_changed_and_yielded_again_is_taken_as_it_was(exchange, make):
    numpy = pytest.importorskip("numpy")

    class Reuses(KeyedProducer):
        WORKERS_NUMBER = 3
        reduce_fn = Collect()

        @staticmethod
        def map_fn(records):
            value = eval(make, {"numpy": numpy})
            for n in records:
                value[:] = type(value)([n, n]) if not isinstance(value, numpy.ndarray) else n
                yield n % 2, value

    found = Reuses(engine="serial").map(DataSourceFactory(range(40)))
    assert {key: [list(value) for value in values] for key, values in found.items()} == {
        key: [[n, n] for n in range(key, 40, 2)] for key in range(2)
    }
