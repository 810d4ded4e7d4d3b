"""Class attributes, globals, seeds and the environment reach the workers, as they are when the job begins."""

import os
import random
import subprocess
import sys
import threading
import time
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
import usermodule
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed
from pymar.producer import Producer
from pymar.serialization.settings import collected, is_plain, put, put_back, splitmix64
from pymar.testing import Numbers, Total

SCALE = 1


class Look(Producer):
    """The values of settings, variables and the environment on the workers."""

    WORKERS_NUMBER = 4
    number = 1
    text = "as written"

    @staticmethod
    def map_fn(data_source):
        return [Look.look(data_source)]

    @staticmethod
    def look(data_source):
        return (Look.number, Look.text, data_source.length, SCALE, os.environ.get("PYMAR_TEST"), os.getcwd())

    @staticmethod
    def reduce_fn(data_source):
        return {item for found in data_source for item in (found if isinstance(found, set) else [found])}


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_what_was_changed_at_run_time_reaches_the_workers(engine, monkeypatch, tmp_path):
    job = Look(engine=engine)
    (before,) = job.map(DataSourceFactory(Numbers))
    assert before[:5] == (1, "as written", 1_000, 1, None)
    monkeypatch.setattr(Look, "number", 2)
    monkeypatch.setattr(Numbers, "length", 500)
    monkeypatch.setattr(f"{__name__}.SCALE", 3)
    monkeypatch.setenv("PYMAR_TEST", "yes")
    monkeypatch.chdir(tmp_path)
    (after,) = job.map(DataSourceFactory(Numbers))
    assert after == (2, "as written", 500, 3, "yes", str(tmp_path))
    (again,) = job.map(DataSourceFactory(Numbers, length=250))
    assert again[2] == 250
    assert Numbers.length == 500


class Moving(Total):
    @staticmethod
    def map_fn(data_source):
        os.chdir("/")
        return data_source


def test_a_job_that_changes_the_folder_changes_it_for_no_other():
    assert Moving(engine="processes://2").map(DataSourceFactory(Numbers)) == 499_500
    found = Look(engine="processes://2").map(DataSourceFactory(Numbers))
    assert {folder for *_, folder in found} == {os.getcwd()}


def test_only_public_plain_data_travels():
    class Settings(Numbers):
        plain = (1, [2.5, {"a": {b"x"}}], None)
        rich = Decimal("1.5"), date(2026, 1, 1)
        array = np.arange(3)
        _private = 1
        function = print
        objects = np.array([object()])

    assert set(collected(Settings)) == {"plain", "rich", "array"}


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers()))
def test_put_back_undoes_put(values):
    class Base:
        a = 1

    class Derived(Base):
        b = 2

    before = dict(vars(Derived))
    saved = put(Derived, values)
    assert all(getattr(Derived, name) == value for name, value in values.items())
    put_back(Derived, saved)
    assert dict(vars(Derived)) == before


def test_is_plain_accepts_data_and_refuses_code():
    assert all(map(is_plain, [1, True, None, 1.5, "x", b"x", (1,), {1: [2]}, {1}, range(3), np.float64(1)]))
    assert not any(map(is_plain, [object(), print, (1, print), {1: open}, Total, type("I", (int,), {})()]))


def test_seeds_of_parts_are_those_of_the_paper():
    # The first outputs of SplitMix64 seeded with 1234567, as its authors' reference code prints them.
    state, golden = 1234567, 0x9E3779B97F4A7C15
    assert [splitmix64(state + step * golden) for step in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


class Draw(Producer):
    WORKERS_NUMBER = 50
    SEED = 1

    @staticmethod
    def map_fn(data_source):
        import random

        import numpy as np

        return [(random.random(), float(np.random.random()), data_source.part_seed)]

    @staticmethod
    def reduce_fn(data_source):
        return [item for found in data_source for item in (found if isinstance(found, list) else [found])]


def test_random_numbers_belong_to_the_part_and_the_seed(monkeypatch):
    random.seed(7)
    np.random.seed(7)
    ours = random.getstate(), np.random.get_state()[1].tolist()
    drawn = [
        Draw(engine=engine).map(DataSourceFactory(Numbers)) for engine in ("serial", "processes://2", "processes://1")
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    for column in zip(*drawn[0], strict=True):
        assert len(set(column)) == 50
    assert (random.getstate(), np.random.get_state()[1].tolist()) == ours
    monkeypatch.setattr(Draw, "SEED", 2)
    other = Draw(engine="processes://2").map(DataSourceFactory(Numbers))
    assert not set(other) & set(drawn[0])


class Heavy(Total):
    WORKERS_NUMBER = 100
    setups = ""

    @classmethod
    def setup_fn(cls):
        cls.model = 1
        with open(cls.setups, "a") as file:
            print(os.getpid(), file=file)

    @staticmethod
    def map_fn(data_source):
        return [Heavy.model * number for number in data_source]


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_setup_happens_once_in_each_process(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(Heavy, "setups", str(tmp_path / "pids"))
    assert Heavy(engine=engine).map(DataSourceFactory(Numbers)) == 499_500
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == len(set(pids)) <= 2


class BadSetup(Total):
    @staticmethod
    def setup_fn():
        raise FileNotFoundError("model.bin")


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_a_setup_that_raises_fails_the_job(engine):
    with pytest.raises(PartFailed, match=r"FileNotFoundError: model\.bin"):
        BadSetup(engine=engine).map(DataSourceFactory(Numbers))


class Ordered(Total):
    @staticmethod
    def map_fn(data_source):
        return [{(hash("a string"), len({"OMP_NUM_THREADS"} & set(os.environ)), int(os.environ["OMP_NUM_THREADS"]))}]

    @staticmethod
    def reduce_fn(data_source):
        return set().union(*data_source)


def test_worker_processes_hash_alike_and_share_the_cores():
    ((_, count, threads),) = Ordered(engine="processes://2").map(DataSourceFactory(Numbers))
    assert count == 1
    assert 1 <= threads <= max(1, (os.cpu_count() or 1) // 2)


def test_the_variable_names_the_engine(monkeypatch):
    seen = []
    monkeypatch.setenv("PYMAR_ENGINE", "serial")
    Total(listeners=[seen.append]).map(DataSourceFactory(Numbers))
    assert seen[0].engine == "serial"
    assert "PYMAR_ENGINE" in seen[0].why
    Total(engine="processes://2", listeners=[seen.append]).map(DataSourceFactory(Numbers))
    assert "processes" in {getattr(event, "engine", None) for event in seen}


@pytest.mark.parametrize(
    "module", ["rich", "cloudpickle", "logging", "sqlite3", "subprocess", "random", "numpy", "inspect"]
)
def test_to_import_pymar_imports_nothing_heavy(module):
    code = f"import pymar, pymar.producer, pymar.datasource, sys; sys.exit({module!r} in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-S" if module != "numpy" else "-E", "-c", code],
            env={"PYTHONPATH": "src"},
            cwd=ROOT,
        ).returncode
        == 0
    )


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
@pytest.mark.parametrize(
    ("producer", "place"),
    [
        ("OfBase", "usermodule.Base.scale"),
        ("OfMixin", "usermodule.Mixin.mixed"),
        ("OfHelper", "usermodule.Config.scale"),
        ("OfCache", "usermodule.SCALE"),
        ("OfPartial", "usermodule.SCALE"),
        ("OfPackage", "userpackage.config.SCALE"),
    ],
)
def test_what_was_changed_anywhere_that_the_code_reads_reaches_the_workers(engine, producer, place, monkeypatch):
    job = getattr(usermodule, producer)(engine=engine)
    assert job.map(DataSourceFactory(Numbers)) == 499_500
    monkeypatch.setattr(place, 2)
    assert job.map(DataSourceFactory(Numbers)) == 999_000


class Slow(Total):
    WORKERS_NUMBER = 5

    @staticmethod
    def map_fn(data_source):
        time.sleep(0.05)  # the work of a part
        return data_source


def test_a_serial_job_in_a_thread_changes_nothing_for_others(monkeypatch):
    monkeypatch.setattr(Total, "WORKERS_NUMBER", 5)
    job = threading.Thread(target=lambda: Slow(engine="serial").map(DataSourceFactory(Numbers, length=10)))
    job.start()
    answers = [Total(engine="processes://2").map(DataSourceFactory(Numbers)) for _ in range(5)]
    assert list(Numbers(0, 3)) == [0, 1, 2]
    job.join()
    assert answers == [499_500] * 5


class Another(Total):
    @staticmethod
    def map_fn(data_source):
        return [sum(Numbers(0, 3)), *data_source]


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_a_part_may_read_another_source_of_its_class(engine):
    assert Another(engine=engine).map(DataSourceFactory(Numbers)) == 499_500 + 30


class Declared(Total):
    model = None

    @classmethod
    def setup_fn(cls):
        cls.model = 2

    @staticmethod
    def map_fn(data_source):
        return [Declared.model * number for number in data_source]


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_what_setup_fn_sets_stays_set(engine, monkeypatch):
    monkeypatch.setattr(Declared, "model", None)
    answers = [Declared(engine=engine).map(DataSourceFactory(Numbers)) for _ in range(3)]
    assert answers == [999_000] * 3
    Total(engine=engine).map(DataSourceFactory(Numbers))  # another job in between
    assert Declared(engine=engine).map(DataSourceFactory(Numbers)) == 999_000


class NotSetUp(Total):
    @staticmethod
    def setup_fn():
        raise ValueError("no model")


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_what_setup_fn_raises_is_shown_from_its_own_line_on(engine):
    with pytest.raises(PartFailed, match="ValueError: no model") as failed:
        NotSetUp(engine=engine).map(DataSourceFactory(Numbers))
    lines = failed.value.traceback.splitlines()
    assert "in setup_fn" in lines[1], lines


class Inner(Producer):
    map_fn = staticmethod(list)
    reduce_fn = staticmethod(sum)


class Around(Producer):
    """Each part runs a job of its own where it is, and draws a number before and after."""

    WORKERS_NUMBER = 4

    @staticmethod
    def map_fn(records):
        before = random.random()
        Inner(engine="serial").map(DataSourceFactory([1]))
        yield [(before, random.random())]

    @staticmethod
    def reduce_fn(lists):
        return [pair for pairs in lists for pair in pairs]


def test_a_job_within_a_part_changes_no_random_numbers():
    drawn = Around(engine="serial").map(DataSourceFactory(range(4)))
    assert len({number for pair in drawn for number in pair}) == 8
    assert Around(engine="processes://1").map(DataSourceFactory(range(4))) == drawn
