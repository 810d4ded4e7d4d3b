"""A run goes on where an earlier one ended; the journal of another job is refused, with what differs."""

import contextlib
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import weakref
from pathlib import Path

import numpy
import pytest
import usermodule
from conftest import PATIENCE, wait_until
from places import SUPPORT

from pymar.datasource import DataSourceFactory
from pymar.exceptions import CheckpointMismatch, NotPicklable, PartFailed, UsageError
from pymar.producer import Producer
from pymar.serialization import plain
from pymar.testing import Numbers

FACTOR = 1


class Counted(Producer):
    """A sum that notes each part that is computed in a file."""

    WORKERS_NUMBER = 10
    notes = ""
    scale = 1

    @staticmethod
    def map_fn(data_source):
        if data_source.offset >= 700 and os.path.exists(f"{Counted.notes}.cut"):
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


def test_only_what_is_missing_is_computed(tmp_path, notes):
    path = tmp_path / "run.ckpt"
    cut = tmp_path / "notes.cut"
    cut.touch()
    with pytest.raises(PartFailed, match="power cut"):
        counted(path, engine="serial")
    assert notes() == list(range(0, 700, 100))
    cut.unlink()
    assert counted(path) == 499_500
    computed = notes()
    assert computed[:7] == list(range(0, 700, 100))
    assert set(computed[7:]) == {700, 800, 900}  # a slow one of these may be computed twice
    assert counted(path) == 499_500
    assert notes() == computed


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
    with pytest.raises(CheckpointMismatch, match=r"run\.ckpt.*another run"):
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
sys.path.insert(0, {str(SUPPORT)!r})
import usermodule
from pymar.datasource import DataSourceFactory
from pymar.testing import Numbers
print(usermodule.OfDefault(engine="serial").map(DataSourceFactory(Numbers), checkpoint="run.ckpt"))
"""
    assert script(code).stdout == script("padding = [object() for _ in range(99)]\n" + code).stdout == "499500\n"


def test_a_job_that_could_not_start_leaves_its_journal_free(tmp_path, notes):
    gone = weakref.ref(Divided())

    class Holding(Counted):
        @staticmethod
        def map_fn(data_source):
            return [gone()]

    path = tmp_path / "run.ckpt"
    with pytest.raises(NotPicklable):
        Holding(engine="processes://2").map(DataSourceFactory(Numbers), checkpoint=path)
    with pytest.raises(CheckpointMismatch, match="differs"):  # and not: in use
        counted(path)


def test_a_checkpoint_in_no_folder_is_refused_as_that(tmp_path):
    with pytest.raises(CheckpointMismatch, match=r"no folder .*nowhere"):
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


@pytest.mark.usefixtures("notes")
def test_another_slice_is_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    Counted(engine="serial").map(DataSourceFactory(Numbers, limit=100), checkpoint=path)
    with pytest.raises(CheckpointMismatch, match=r"slice .*offset 0 before, .*offset 100 now"):
        Counted(engine="serial").map(DataSourceFactory(Numbers, limit=100, offset=100), checkpoint=path)


class Divided(Counted):
    pass


@pytest.mark.parametrize("data", [Numbers, list(range(1_000))])
def test_parts_that_are_cut_elsewhere_are_refused(tmp_path, notes, monkeypatch, data):
    path = tmp_path / "run.ckpt"
    place = tmp_path / "place"  # from outside: nothing in the code changes
    monkeypatch.setattr(Divided, "divide", lambda self, factory: cut_at(factory, int(place.read_text())))
    place.write_text("300")
    assert Divided(engine="serial").map(DataSourceFactory(data), checkpoint=path) == 499_500
    place.write_text("400")
    with pytest.raises(CheckpointMismatch, match=r"part 0 .*offset 0, limit 300, .*offset 0, limit 400"):
        Divided(engine="serial").map(DataSourceFactory(data), checkpoint=path)


def cut_at(factory, place):
    yield factory.part(place, 0)
    yield factory.part(factory.length() - place, place)


def change(path, statement, *values):
    with sqlite3.connect(path) as file:
        file.execute(statement, values)
    file.close()


def test_a_damaged_row_is_named_and_its_part_computed_again(tmp_path, notes, caplog):
    path = tmp_path / "run.ckpt"
    assert counted(path) == 499_500
    first = notes()
    change(path, "UPDATE partial SET value = ? WHERE part = 4", plain.dumps(0))
    change(path, 'UPDATE partial SET "limit" = 99 WHERE part = 5')
    assert counted(path) == 499_500
    assert notes() == sorted([*first, 400, 500])
    assert re.search("part 4 .*damaged", caplog.text)


def test_whatever_byte_is_damaged_the_answer_is_right_or_refused(tmp_path, notes):
    path = tmp_path / "run.ckpt"
    assert counted(path, engine="serial") == 499_500
    whole = path.read_bytes()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(60):
        damaged = bytearray(whole)
        match dice.randrange(3):
            case 0:
                damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
            case 1:
                del damaged[dice.randrange(len(damaged)) :]
            case _:
                start = dice.randrange(len(damaged))
                damaged[start : start + 100] = bytes(len(damaged[start : start + 100]))
        for name in ("-wal", "-shm"):
            Path(f"{path}{name}").unlink(missing_ok=True)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointMismatch):
            assert counted(path, engine="serial") == 499_500


def test_a_checkpoint_is_its_owners_alone_and_holds_plain_data_as_that(tmp_path, notes):
    path = tmp_path / "run.ckpt"
    assert counted(path) == 499_500
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with sqlite3.connect(path) as file:
        values = [value for (value,) in file.execute("SELECT value FROM partial")]
    file.close()
    assert sum(map(plain.loads, values)) == 499_500


@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_checkpoint_that_others_may_write_is_refused(tmp_path, notes, place):
    folder = tmp_path / "own"
    folder.mkdir()
    path = folder / "run.ckpt"
    counted(path)
    (path if place == "file" else folder).chmod(0o777)
    with pytest.raises(CheckpointMismatch, match="other users"):
        counted(path)
    if os.geteuid() == 0:
        (path if place == "file" else folder).chmod(0o700)
        os.chown(path if place == "file" else folder, 65534, 65534)
        with pytest.raises(CheckpointMismatch, match="another user"):
            counted(path)


@pytest.mark.usefixtures("notes")
def test_what_cannot_be_described_refuses_the_checkpoint_by_name(tmp_path):
    view = memoryview(b"1")

    class Viewing(Counted):
        @staticmethod
        def map_fn(data_source):
            return [len(view)]

    with pytest.raises(UsageError, match=r"Viewing\.map_fn, view .*memoryview .*checkpoint="):
        Viewing(engine="serial").map(DataSourceFactory(Numbers), checkpoint=tmp_path / "run.ckpt")


def test_dicts_in_another_order_are_warned_about(tmp_path, notes, monkeypatch, caplog):
    path = tmp_path / "run.ckpt"
    monkeypatch.setattr(Counted, "weights", {"a": 1, "b": 2}, raising=False)
    counted(path)
    monkeypatch.setattr(Counted, "weights", {"b": 2, "a": 1}, raising=False)
    assert counted(path) == 499_500
    assert "another order" in caplog.text


@pytest.mark.parametrize("made", [random.Random, numpy.random.default_rng, numpy.random.RandomState])
def test_generators_in_another_state_are_warned_about(tmp_path, notes, monkeypatch, caplog, made):
    path = tmp_path / "run.ckpt"
    for seed, warnings in ((1, 0), (1, 0), (2, 1)):
        monkeypatch.setattr(Counted, "numbers", made(seed), raising=False)
        assert counted(path) == 499_500
        assert caplog.text.count("another state") == warnings


RESUMED = """
import os, sys
from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer
TOP

class P(Producer):
    WORKERS_NUMBER = 3
    RETRIES = 0

    @staticmethod
    def map_fn(records):
        for record in records:
            value = f(record)
            if value == "no" and not os.path.exists("go"):
                raise ValueError("not yet")
            yield [value]

    @staticmethod
    def reduce_fn(lists):
        return [value for values in lists for value in values]

def f(record):
    if record == 2 and not os.path.exists("go"):
        return "no"
    BODY

def test_it():
    try:
        P(engine="serial").map(DataSourceFactory(DATA), checkpoint=os.environ["CHECKPOINT"])
        print("went on")
    except Exception as error:
        print("not yet" if "not yet" in str(error) else f"refused: {error}")

if __name__ != "test_job":
    test_it()
"""


@pytest.fixture
def resumed(tmp_path):
    """What a script that was interrupted says when it is run again: another version of it, started otherwise."""

    def run(folder, top, body, data, files, command=("job.py",)):
        text = RESUMED.replace("TOP", top).replace("BODY", body.replace("\n", "\n    ")).replace("DATA", data)
        for name, content in {"job.py": text, "test_job.py": text, **files}.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        environ = {**os.environ, "CHECKPOINT": str(tmp_path / "run.ckpt"), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [sys.executable, *command], cwd=folder, env=environ, capture_output=True, text=True, timeout=PATIENCE
        ).stdout

    def resumed(top, body, data="[0, 1, 2]", files=None, again=None, is_moved=False, command=("job.py",)):
        folder = tmp_path / "a"
        folder.mkdir()
        assert "not yet" in run(folder, top, body, data, files or {})
        if is_moved:
            folder = folder.rename(tmp_path / "b")
        (folder / "go").touch()
        new = {"top": top, "body": body, "data": data, "files": files or {}, **(again or {})}
        return run(folder, **new, command=command)

    return resumed


PLACED = {"placed.py": "import os\nHERE = os.path.dirname(__file__)\nclass Place:\n    path = HERE + '/x'\n"}


@pytest.mark.parametrize(
    "command",
    [
        ["job.py"],
        ["-m", "job"],
        ["-c", "import job"],
        ["-c", "import decimal, locale, job"],
        ["-m", "pytest", "-qsp", "no:cacheprovider", "test_job.py"],
    ],
)
def test_an_unchanged_job_goes_on_wherever_its_file_lies_and_however_it_is_run(resumed, command):
    top = "import placed\nTAGS = {'a', 'b', 'c'}\nclass Box:\n    _tags = TAGS\n    def f(self): return len(self._tags)"
    body = "return Box().f(), placed.Place.path[-1:]"
    assert "went on" in resumed(top, body, files=PLACED, is_moved=True, command=command)


LAZY = {
    "lazy/__init__.py": "",
    "lazy/first.py": "from .second import g\nfrom . import third\ndef f(): return g() + third.K\n",
    "lazy/second.py": "def g(): return 1\n",
    "lazy/third.py": "K = 1\n",
    "spaced/out.py": "K = 1\n",
}
IMPORTS = "from lazy import first\nfrom spaced import out\nreturn first.f() + out.K"


def test_whether_a_module_was_imported_before_it_is_used_makes_no_other_job(resumed):
    assert "went on" in resumed("", IMPORTS, files=LAZY, again={"top": "import lazy.first, spaced.out"})


@pytest.mark.parametrize("name", ["lazy/second.py", "lazy/third.py", "spaced/out.py"])
def test_modules_that_are_imported_where_they_are_used_count_with_what_they_import(resumed, name):
    changed = {**LAZY, name: LAZY[name].replace("1", "2")}
    assert "refused" in resumed("", IMPORTS, files=LAZY, again={"files": changed})


@pytest.mark.parametrize(
    ("top", "body"),
    [
        ("import locale\nlocale.setlocale(locale.LC_ALL, ('C', 'C.UTF-8')[NUMBER - 1])", "return 1"),
        ("import decimal\ndecimal.getcontext().prec = 1NUMBER", "return str(decimal.Decimal(1) / 3)"),
        ("import numpy\na = numpy.array([[1, 2], [3, 4]], order='CF'[NUMBER - 1])", "return a.ravel('K').tolist()"),
        ("import contextvars\nv = contextvars.ContextVar('v', default=NUMBER)", "return v.get()"),
    ],
)
def test_what_changes_values_without_a_word_is_refused(resumed, top, body):
    one, two = (top.replace("NUMBER", number) for number in "12")
    assert "refused" in resumed(one, body, again={"top": two})


@pytest.mark.parametrize(
    "top",
    [
        "class Task(int):\n    def run(self): return int(self) * NUMBER\nrecords = list(map(Task, range(3)))",
        "class Task(int):\n    def __init__(self, _): self.run = lambda: NUMBER\nrecords = list(map(Task, range(3)))",
    ],
)
def test_the_code_of_records_counts(resumed, top):
    one, two = (top.replace("NUMBER", number) for number in "12")
    assert "the data of part 0" in resumed(one, "return record.run()", "records", again={"top": two})


def test_the_code_of_equal_records_is_the_same(resumed):
    top = "class Task(int):\n    def run(self): return int(self)\nrecords = list(map(Task, range(3)))"
    assert "went on" in resumed(top, "return record.run()", "records")
