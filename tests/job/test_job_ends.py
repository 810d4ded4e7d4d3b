"""How a job ends: the caller receives the error that ended it, whatever reduce_fn does, and nothing waits for ever."""

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import traceback

import pytest

from pymar.datasource import DataSourceFactory
from pymar.exceptions import JobError, JobTimeout, PartFailed, PymarError
from pymar.job.reorder import LARGE
from pymar.parts import Done, Failed, Failure, Joined, Refused
from pymar.producer import Producer
from pymar.serialization.values import dumps


class Swallowing(Producer):
    """Adds values until something is raised."""

    WORKERS_NUMBER = 5
    BACKUPS = 0

    @staticmethod
    def map_fn(data_source):
        return data_source

    @staticmethod
    def reduce_fn(data_source):
        total = 0
        try:
            for value in data_source:
                total += value
        except Exception:  # what users write, and must not hide the end of the job
            return total
        return total


class Scripted:
    """An engine that is its own run: for each part, in order, it reports what a function returns."""

    name = "scripted"
    batch_seconds = 0.002

    def __init__(self, report):
        self._report = report
        self.closed = 0

    def start(self, job):
        self._news = [Joined("one", 1)]
        return self

    def submit(self, parts):
        self._news += [report for report in map(self._report, parts) if report is not None]

    def next(self, timeout):
        news, self._news = self._news, []
        return news

    def cancel(self, index):
        pass

    def close(self):
        self.closed += 1


def computed(part):
    return Done(part.index, dumps(part.index), 1.0)


def computed_but_the_last(part):
    return computed(part) if part.index < 4 else None


def failed_at_3(part):
    return computed(part) if part.index != 3 else Failed(3, "one", Failure("ValueError"))


def unreadable_at_3(part):
    return computed(part) if part.index != 3 else Done(3, b"no pickle", 1.0)


def refused_at_3(part):
    return computed(part) if part.index != 3 else Refused((3,), "another file")


FIVE = DataSourceFactory(range(5))


@pytest.mark.parametrize(
    ("report", "kind", "says"),
    [
        (computed_but_the_last, JobTimeout, "0.01 s"),
        (failed_at_3, PartFailed, "part 3"),
        (unreadable_at_3, JobError, "part 3.* Swallowing.reduce_fn"),
        (refused_at_3, PymarError, "another file"),
    ],
)
def test_a_swallowed_error_is_raised_all_the_same(report, kind, says):
    engine = Scripted(report)
    with pytest.raises(kind, match=says) as caught:
        Swallowing(engine=engine).map(FIVE, timeout=0.01, on_timeout="fail")
    assert not hasattr(caught.value, "__notes__")
    assert engine.closed == 1


class Dividing(Swallowing):
    """Raises an error of its own as a consequence of one that it has caught."""

    @staticmethod
    def reduce_fn(data_source):
        values = []
        try:
            values.extend(data_source)
        except Exception:  # what users write, and must not hide the end of the job
            values.clear()
        return sum(values) * len(values) // len(values)


class Wrapping(Swallowing):
    """Raises an error of its own, from ours."""

    @staticmethod
    def reduce_fn(data_source):
        try:
            return sum(data_source)
        except JobError as error:
            raise LookupError("no answer") from error


def test_an_error_that_came_of_a_swallowed_one_does_not_hide_it():
    with pytest.raises(PartFailed):
        Dividing(engine=Scripted(failed_at_3)).map(FIVE)


def test_reduce_fn_may_raise_an_error_of_its_own_from_ours():
    with pytest.raises(LookupError) as caught:
        Wrapping(engine=Scripted(failed_at_3)).map(FIVE)
    assert isinstance(caught.value.__cause__, PartFailed)
    assert not hasattr(caught.value, "__notes__")


def numbers_then(error):
    yield from range(5)
    raise error


@pytest.mark.parametrize("producer", [Swallowing, Dividing])
def test_what_the_users_generator_of_records_raises_is_no_fault_of_reduce_fn(producer):
    with pytest.raises(ValueError, match="not a number") as caught:
        producer(engine="serial").map(DataSourceFactory(numbers_then(ValueError("not a number"))))
    assert not hasattr(caught.value, "__notes__")


class _Full:
    def seek(self, *where):
        return 0

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self):
        pass


def large_and_backwards(part):
    return Done(part.index, dumps(b"x" * LARGE), 1.0) if part.index else None


def test_a_full_temporary_folder_is_named(monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: _Full())
    with pytest.raises(OSError, match=r"4,194,\d\d\d bytes .* TMPDIR") as caught:
        Swallowing(engine=Scripted(large_and_backwards)).map(FIVE)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == tempfile.gettempdir()
    assert not hasattr(caught.value, "__notes__")


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    connect = sqlite3.connect

    def small(*where, **options):
        file = connect(*where, **options)
        file.execute("PRAGMA max_page_count = 8")
        return file

    monkeypatch.setattr("pymar.job.checkpoint.sqlite3.connect", small)
    path = tmp_path / "run.ckpt"
    with pytest.raises(OSError, match=r"checkpoint .*full") as caught:
        Swallowing(engine=Scripted(lambda part: Done(part.index, dumps(b"x" * 9_000), 1.0))).map(FIVE, checkpoint=path)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert not hasattr(caught.value, "__notes__")


SCRIPT = """
import sys, time
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer

class Slow(Producer):
    WORKERS_NUMBER = 20
    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            if number:
                time.sleep(60)  # ended with the script
            yield number
    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)

job = Slow(engine="processes://2")
if sys.argv[1] == "partials":
    found = job.partials(DataSourceFactory(range(20)))
    print(next(found))
if sys.argv[1] == "submit":
    future = job.submit(DataSourceFactory(range(20)))
if sys.argv[1] == "closed":
    found = job.partials(DataSourceFactory(range(20)))
    print(next(found))
    found.close()
"""


@pytest.mark.parametrize("how", ["partials", "submit", "closed"])
def test_a_script_that_ends_while_its_job_runs_logs_one_line(tmp_path, how):
    path = tmp_path / "job.py"
    path.write_text(SCRIPT)
    done = subprocess.run([sys.executable, path, how], capture_output=True, text=True, timeout=30)
    lines = [line for line in done.stderr.splitlines() if "script" in line and "Slow" in line]
    assert done.returncode == 0
    assert len(lines) == (0 if how == "closed" else 1), done.stderr
    assert done.stderr.splitlines() == lines
    assert done.stdout == ("" if how == "submit" else "0\n")


def test_the_traceback_of_a_swallowed_error_is_short():
    with pytest.raises(PartFailed) as caught:
        Swallowing(engine=Scripted(failed_at_3)).map(FIVE)
    assert len(traceback.extract_tb(caught.value.__traceback__)) < 10
