"""PYMAR_CHECKPOINTS: a script that was killed goes on where it was, exact, without a word about it in the script."""

import signal
import subprocess
import sys
from collections import Counter

import pytest
from conftest import wait_until

#: Each part notes what it computes, in a file whose writes are whole.
HEAD = """
import os, sys, time
import pymar
from pymar import DataSourceFactory, Producer
from pymar.keyed import KeyedProducer, Sum
from pymar.sinks import JSONLinesSink

def note(name):
    with open("notes", "a") as file:
        file.write(name + "\\n")

def double(number):
    note(f"double {number}")
    return 2 * number

def triple(number):
    note(f"triple {number}")
    return 3 * number

class Kept(Producer):
    WORKERS_NUMBER = 4

    @staticmethod
    def map_fn(numbers):
        note("Kept")
        for number in numbers:
            yield {"number": number}

class Thirds(KeyedProducer):
    WORKERS_NUMBER = 4

    @staticmethod
    def map_fn(numbers):
        note("Thirds")
        for number in numbers:
            yield number % 3, number

    reduce_fn = Sum()

NUMBERS = DataSourceFactory(list(range(20)))
"""


@pytest.fixture
def start(script, tmp_path):
    """Start a script, with checkpoints in a folder that all starts have; return what it printed and has computed."""

    def run(code, **environ):
        (tmp_path / "notes").write_text("")
        done = script(
            HEAD + code, PYMAR_CHECKPOINTS=str(tmp_path / "kept"), PYTHONHASHSEED="0", PYMAR_ENGINE="serial", **environ
        )
        return done.stdout, Counter((tmp_path / "notes").read_text().splitlines())

    return run


@pytest.mark.parametrize(
    "job",
    [
        "pymar.map(double, range(5)), pymar.map(double, range(5, 9)), pymar.map(triple, range(5))",
        "list(pymar.imap(double, range(5))), sorted(pymar.imap_unordered(triple, range(5)))",
        "pymar.dataset(range(30), parts=3).map(double).sum()",
        "sorted(pymar.dataset(range(30), parts=3).map(double).group_by(lambda n: n % 4).count().collect())",
        "sorted(Thirds().map(NUMBERS).items())",
        "Kept().write(NUMBERS, JSONLinesSink('out', mode='append')), len(pymar.read_jsonl('out').collect())",
        "Thirds().write(NUMBERS, JSONLinesSink('out', mode='append')), len(pymar.read_jsonl('out').collect())",
    ],
)
def test_a_second_start_computes_nothing_again_and_gives_the_same(start, job):
    first, computed = start(f"print({job})")
    assert sum(computed.values()) >= 4
    assert start(f"print({job})") == (first, Counter())


def test_without_the_variable_there_are_no_checkpoints(script, tmp_path):
    script(HEAD + "print(pymar.map(double, range(3)))")
    assert not list(tmp_path.glob("**/*.ckpt"))


def test_a_script_that_is_killed_goes_on_and_is_exact(start, tmp_path, monkeypatch):
    code = """
def wait(number):
    note(f"last {number}")
    while number == 5 and os.path.exists("wait"):
        time.sleep(0.01)
    return number

print(pymar.map(double, range(5)), Thirds().map(NUMBERS)[1], pymar.map(wait, range(9)))
"""
    (tmp_path / "wait").touch()
    (tmp_path / "job.py").write_text(HEAD + code)
    (tmp_path / "notes").touch()
    monkeypatch.setenv("PYMAR_CHECKPOINTS", str(tmp_path / "kept"))
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setenv("PYMAR_ENGINE", "processes://2")
    with subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: "last 8" in (tmp_path / "notes").read_text(), "the parts behind the one that waits")
        process.send_signal(signal.SIGKILL)
    (tmp_path / "wait").unlink()
    said, computed = start(code)
    assert said == f"{[0, 2, 4, 6, 8]} 70 {list(range(9))}\n"
    assert computed["last 5"] == 1
    assert sum(computed.values()) <= 3  # the one that waited, and what was on its way when the script was killed


def test_jobs_in_another_order_get_nothing_that_is_of_another_one(start):
    code = """
jobs = [lambda: pymar.map(double, range(4)), lambda: pymar.map(double, range(4, 8)), lambda: Thirds().map(NUMBERS)[1],
        lambda: Thirds().map(DataSourceFactory(list(range(30))))[1]]
for number in eval(os.environ["ORDER"]):
    print(number, jobs[number]())
"""
    first, _ = start(code, ORDER="[0, 1, 2, 3]")
    second, _ = start(code, ORDER="[3, 1, 2, 0]")
    assert sorted(first.splitlines()) == sorted(second.splitlines())


def test_what_was_computed_from_other_data_is_computed_again(start):
    start("print(pymar.map(double, [0, 1, 2]))")
    said, computed = start("print(pymar.map(double, [0, 7, 2]))")
    assert (said, computed) == ("[0, 14, 4]\n", Counter({"double 7": 1}))


def test_what_other_code_has_computed_is_computed_again(start):
    start("print(pymar.map(double, [0, 1]), Thirds().map(NUMBERS)[1])")
    other = "def double(number): return 5 * number\n"
    change = "Thirds.map_fn = staticmethod(lambda numbers: ((number % 3, 1) for number in numbers))\n"
    assert start(f"{other}{change}print(pymar.map(double, [0, 1]), Thirds().map(NUMBERS)[1])")[0] == "[0, 5] 7\n"


def test_a_checkpoint_that_a_job_names_is_its_own(start, tmp_path):
    start("print(pymar.map(double, [0, 1], checkpoint='mine'))")
    assert (tmp_path / "mine").exists()
    assert not list((tmp_path / "kept").glob("*"))


def test_calls_of_an_executor_are_computed_again(start, tmp_path):
    code = "from pymar.calls import Executor\nwith Executor() as one: print(one.submit(double, 2).result())"
    assert start(code) == start(code) == ("4\n", Counter({"double 2": 1}))
    assert not list((tmp_path / "kept").glob("*"))


def test_a_disk_that_is_full_ends_no_job(script, tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
    code += "import logging; logging.basicConfig()\n"
    code += "print(sum(map(len, pymar.map(lambda n: os.urandom(20_000), range(20), engine='serial'))))"
    done = script(HEAD + code, PYMAR_CHECKPOINTS=str(tmp_path / "kept"))
    assert done.stdout == "400000\n"
    assert done.stderr.count("nothing more is kept of this job, which goes on") == 1


def test_a_checkpoint_that_is_damaged_is_begun_again(start, tmp_path):
    start("print(pymar.map(double, [0, 1]))")
    (file,) = (tmp_path / "kept").glob("*.ckpt")
    file.write_bytes(b"SQLite format 3\0" + b"x" * 5_000)
    assert start("print(pymar.map(double, [0, 1]))")[0] == "[0, 2]\n"


def test_a_job_that_cannot_be_described_runs_without(start, tmp_path):
    code = "names = (name for name in 'abc')\n"
    code += "def named(number): return next(names)\n"
    code += "print(pymar.map(named, [1, 2]))"
    assert start(code)[0] == "['a', 'b']\n"
    assert not list((tmp_path / "kept").glob("*"))
