"""What is published, and when: modes, two jobs at once, targets that are sources, and jobs that end at any moment."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from threading import Event, Thread

import click
import pytest
from conftest import wait_until

from pymar.cli import main
from pymar.datasource import DataSourceFactory
from pymar.exceptions import CheckpointMismatch, PartFailed, SinkError, SourceError
from pymar.parts import Part
from pymar.producer import Producer
from pymar.sinks import CSVSink, Files, JSONLinesSink, ParquetSink, Sink, TextSink, Written
from pymar.sinks import targets as targets_module
from pymar.sources import JSONLines, TextLines


class Same(Producer):
    WORKERS_NUMBER = 7

    @staticmethod
    def map_fn(records):
        yield from records


def read(folder):
    return list(DataSourceFactory(JSONLines, path=str(folder)).build_data_source())


def write(folder, records, **settings):
    return Same().write(DataSourceFactory(records), JSONLinesSink(folder, **settings))


def left(folder):
    """Names in the folder of a target, besides the target."""
    return sorted(path.name for path in folder.parent.iterdir() if path.name != folder.name)


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "out"
    write(target, range(100))
    return target


def test_a_target_that_has_data_is_refused_before_the_job_begins(folder):
    class Never(Same):
        @staticmethod
        def map_fn(records):
            raise AssertionError("the job has begun")

    with pytest.raises(SinkError, match="mode='overwrite'"):
        Never().write(DataSourceFactory([1]), JSONLinesSink(folder))
    assert read(folder) == list(range(100))
    assert left(folder) == []


def test_an_empty_folder_is_a_new_target(tmp_path):
    (tmp_path / "out").mkdir(mode=0o750)
    write(tmp_path / "out", [1, 2])
    assert read(tmp_path / "out") == [1, 2]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


def test_what_is_no_data_stays_in_a_folder_that_is_not_new(tmp_path):
    (tmp_path / "out" / ".git").mkdir(parents=True)
    (tmp_path / "out" / ".git" / "HEAD").write_text("mine")
    write(tmp_path / "out", [1, 2])
    assert read(tmp_path / "out") == [1, 2]
    assert (tmp_path / "out" / ".git" / "HEAD").read_text() == "mine"
    assert left(tmp_path / "out") == []


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_is_no_data_stays_when_a_folder_is_replaced(folder, exchanges, monkeypatch):
    if not exchanges:
        monkeypatch.setattr(targets_module, "_exchanged", lambda one, other: False)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("mine")
    (folder / "_metadata").write_text("of another writer")
    write(folder, ["a"], mode="overwrite")
    assert read(folder) == ["a"]
    assert (folder / ".git" / "HEAD").read_text() == "mine"
    assert not (folder / "_metadata").exists()
    assert left(folder) == []


def test_of_a_link_the_folder_that_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    write(tmp_path / "disk" / "real", ["before"])
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    write(tmp_path / "out", ["after"], mode="overwrite")
    assert (tmp_path / "out").is_symlink()
    assert read(tmp_path / "disk" / "real") == ["after"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


def test_the_working_folder_is_not_overwritten(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    for path in (".", "..", "/"):
        with pytest.raises(SinkError, match="working folder"):
            write(path, [1], mode="overwrite")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_a_file_is_no_target(tmp_path):
    (tmp_path / "out").write_text("mine")
    for mode in ("new", "overwrite", "append"):
        with pytest.raises(SinkError, match="is a file"):
            write(tmp_path / "out", [1], mode=mode)
    assert (tmp_path / "out").read_text() == "mine"


def test_overwrite_replaces_all(folder):
    write(folder, ["a", "b"], mode="overwrite")
    assert read(folder) == ["a", "b"]
    assert len(list(folder.iterdir())) == 2
    assert left(folder) == []


def test_overwrite_where_folders_cannot_be_exchanged(folder, monkeypatch):
    monkeypatch.setattr(targets_module, "_exchanged", lambda one, other: False)
    write(folder, ["a", "b"], mode="overwrite")
    assert read(folder) == ["a", "b"]
    assert left(folder) == []


def test_append_adds_behind_what_was_there(folder):
    write(folder, ["a"], mode="append")
    write(folder, ["b"], mode="append")
    assert read(folder) == [*range(100), "a", "b"]


def test_append_to_files_of_somebody_else(tmp_path):
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "mine.jsonl").write_text('"mine"\n')
    (folder / "_SUCCESS").write_text("")
    write(folder, ["a"], mode="append")
    assert read(folder) == ["mine", "a"]


def test_a_target_that_is_the_source(folder):
    factory = DataSourceFactory(JSONLines, path=str(folder))

    class Twice(Same):
        @staticmethod
        def map_fn(records):
            for record in records:
                yield record * 2

    Twice().write(factory, JSONLinesSink(folder, mode="overwrite"))
    assert read(folder) == [n * 2 for n in range(100)]
    Same().write(factory, JSONLinesSink(folder, mode="append"))
    assert read(folder) == [n * 2 for n in range(100)] * 2


def test_a_job_that_fails_leaves_the_target_as_it_was(folder):
    class Failing(Same):
        @staticmethod
        def map_fn(records):
            for record in records:
                if record == 60:
                    raise ValueError("sixty")
                yield record

    for mode in ("overwrite", "append"):
        with pytest.raises(PartFailed, match="sixty"):
            Failing().write(DataSourceFactory(range(100)), JSONLinesSink(folder, mode=mode))
        assert read(folder) == list(range(100))
        assert left(folder) == []


def test_late_workers_leave_nothing_while_the_job_is_given_up(tmp_path):
    """Attempts that are still running make files as fast as they can, while the staging folder is removed."""
    for number in range(20):
        target = tmp_path / f"out{number}"
        sink = TextSink(target).for_a_job()
        sink.begin(None)
        begun, refused = Event(), []

        def late(sink=sink, begun=begun, refused=refused):
            for index in range(100_000):
                try:
                    sink.write(Part(index, 0, 0, 0), iter(["x"]))
                except SinkError as error:
                    refused.append(error)
                    return
                begun.set()

        thread = Thread(target=late)
        thread.start()
        assert begun.wait(30)
        sink.abort()
        thread.join(30)
        assert len(refused) == 1
        assert list(tmp_path.iterdir()) == []


def test_what_was_left_of_a_removal_is_cleaned(tmp_path):
    (tmp_path / ".out.pymar.0123abcd" / "parts").mkdir(parents=True)
    (tmp_path / ".out.pymar.mine").mkdir()
    main.main(["clean", str(tmp_path / "out")], standalone_mode=False)
    assert [path.name for path in tmp_path.iterdir()] == [".out.pymar.mine"]


def test_two_jobs_into_one_target(tmp_path):
    second = []

    class Slow(Same):
        @staticmethod
        def map_fn(records):
            yield from records

    def listen(event):
        if type(event).__name__ == "JobStarted":
            with pytest.raises(SinkError, match=f"process {os.getpid()}") as raised:
                write(tmp_path / "out", ["second"])
            second.append(raised.value)

    Slow(listeners=[listen]).write(DataSourceFactory(["first"]), JSONLinesSink(tmp_path / "out"))
    assert len(second) == 1
    assert read(tmp_path / "out") == ["first"]


def test_what_somebody_else_writes_meanwhile_is_not_lost(tmp_path):
    def listen(event):
        if type(event).__name__ == "JobStarted":
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "mine.jsonl").write_text('"mine"\n')

    with pytest.raises(SinkError, match="somebody else"):
        Same(listeners=[listen]).write(DataSourceFactory([1]), JSONLinesSink(tmp_path / "out"))
    assert read(tmp_path / "out") == ["mine"]
    assert left(tmp_path / "out") == []


def test_files_that_the_manifest_does_not_name_are_no_data(folder, caplog):
    (folder / "mine.jsonl").write_text('"mine"\n')
    assert read(folder) == list(range(100))
    assert "mine.jsonl" in caplog.text
    (name,) = (path for path in folder.iterdir() if path.name.startswith("part-"))
    name.write_text("7\n")
    with pytest.raises(SourceError, match="2 bytes instead of"):
        read(folder)
    name.unlink()
    with pytest.raises(SourceError, match="is missing"):
        read(folder)
    (folder / "_pymar.json").write_text("{}")
    with pytest.raises(SourceError, match="no manifest"):
        read(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python 3.12, about a fork beside threads
def test_a_folder_without_permission_is_named(tmp_path):
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(SinkError, match="no permission"):
            write(tmp_path / "out", [1])
        return
    with tempfile.TemporaryDirectory() as folder:  # root may write everywhere: a fork of this process becomes nobody
        os.chmod(folder, 0o755)
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.setuid(65534)
                TextSink(f"{folder}/out").begin(None)
            except BaseException as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
    assert text.startswith("SinkError")
    assert f"{folder}/out: Permission denied: this user has no permission" in text


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    """/dev/full stands for the disk: each write to it fails as on a full one."""

    class Full(TextSink):
        def writer(self, file):
            class Writer:
                pending = 0

                def fits(self, unit):
                    return True

                def write(self, unit):
                    with open("/dev/full", "wb", buffering=0) as full:
                        return full.write(b"x")

                def flush(self):
                    pass

                def close(self):
                    return None

            return Writer()

    with pytest.raises(PartFailed, match="No space left") as raised:
        Same().write(DataSourceFactory(["x"]), Full(tmp_path / "t"))
    assert "Make room" in str(raised.value)
    assert str(tmp_path / "t") in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_writes_only_what_is_missing(tmp_path):
    calls, broken = tmp_path / "calls", tmp_path / "broken"
    calls.mkdir()
    broken.touch()
    target, checkpoint = tmp_path / "out", tmp_path / "run.ckpt"
    folder_of_calls, switch = str(calls), str(broken)

    class Noting(Producer):
        WORKERS_NUMBER = 10

        @staticmethod
        def map_fn(records):
            records = list(records)
            if records[0] == 90 and os.path.exists(switch):
                raise ValueError("not yet")
            with open(os.path.join(folder_of_calls, f"{records[0]}-{time.monotonic_ns()}"), "x"):
                yield from records

    with pytest.raises(PartFailed, match="not yet"):
        # With one slot, the part that fails begins when all others are done.
        Noting(engine="processes://1").write(
            DataSourceFactory(range(100)), JSONLinesSink(target), checkpoint=checkpoint
        )
    assert not target.exists()
    assert len(list(calls.iterdir())) == 9
    broken.unlink()
    Noting(engine="processes://1").write(DataSourceFactory(range(100)), JSONLinesSink(target), checkpoint=checkpoint)
    assert len(list(calls.iterdir())) == 10
    assert read(target) == list(range(100))
    assert left(target) == ["broken", "calls", "run.ckpt"] or left(target) == ["calls", "run.ckpt"]


def test_a_checkpoint_whose_files_are_gone_says_so(tmp_path):
    class Failing(Same):
        @staticmethod
        def map_fn(records):
            for record in records:
                if record == 99:
                    time.sleep(0.5)
                    raise ValueError("not yet")
                yield record

    for _ in range(2):
        with contextlib.suppress(PartFailed):
            Failing().write(DataSourceFactory(range(100)), JSONLinesSink(tmp_path / "out"), checkpoint=tmp_path / "c")
    done = main.main(["clean", str(tmp_path / "out")], standalone_mode=False)
    assert done is None
    assert not list(tmp_path.glob(".out*"))


SCRIPT = """
import sys, time
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
from pymar.sinks import JSONLinesSink

class Slow(Producer):
    WORKERS_NUMBER = 20

    @staticmethod
    def map_fn(records):
        for record in records:
            time.sleep(0.002)
            yield record

Slow(engine="processes://2").write(
    DataSourceFactory(range(100)), JSONLinesSink(sys.argv[1], mode=sys.argv[2], records_a_file=10)
)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("mode", ["new", "overwrite", "append"])
def test_a_producer_that_is_killed_at_any_moment(tmp_path, script, mode):
    """Ten moments in each mode, over the whole run: the target is as before, or whole, and can be cleaned."""
    before = [] if mode == "new" else ["before"]
    whole = {"new": list(range(100)), "overwrite": list(range(100)), "append": ["before", *range(100)]}[mode]
    seen = set()
    began = time.monotonic()
    subprocess.run([sys.executable, script, tmp_path / "whole", "new"], check=True)
    seconds = time.monotonic() - began
    for moment in range(10):
        target = tmp_path / f"out{moment}"
        if before:
            write(target, before)
        process = subprocess.Popen([sys.executable, script, target, mode], start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds * (moment + 1) / 10)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = read(target) if target.exists() else []
        assert found in (before, whole)
        seen.add(len(found))

        def is_clean(target=target):
            try:
                main.main(["clean", str(target)], standalone_mode=False)
            except (
                SinkError,
                click.ClickException,
            ):  # a worker of the job that was killed may hold its file for a moment
                return False
            return not (target.parent / f".{target.name}.pymar").exists()

        wait_until(is_clean, 10)
        assert (read(target) if target.exists() else []) in (before, whole)
        write(target, ["again"], mode="append")
        assert read(target)[-1] == "again"
    assert len(before) in seen


class Gone(BaseException):
    """Stands for the end of the process."""


def end_at(step, patched):
    """Let the process be gone at a step of the commit: at a call of the system that renames. It does nothing more."""
    steps = iter(range(100))

    def ends(call):
        def wrapped(*arguments, **named):
            if next(steps) == step:
                raise Gone
            return call(*arguments, **named)

        return wrapped

    for name in ("rename", "replace"):
        patched.setattr(targets_module.os, name, ends(getattr(os, name)))
    patched.setattr(JSONLinesSink, "abort", lambda self: None)
    patched.setattr(targets_module.Folder, "_recover", lambda self: None)


@pytest.mark.parametrize("mode", ["overwrite", "append"])
@pytest.mark.parametrize("step", range(6))
def test_a_commit_that_ends_between_any_two_steps(tmp_path, monkeypatch, mode, step):
    """Each step of a commit is a call of the system; at the given one the process is gone."""
    target = tmp_path / "out"
    write(target, ["before"])
    whole = list(range(30)) if mode == "overwrite" else ["before", *range(30)]

    sink = JSONLinesSink(target, mode=mode, records_a_file=10).for_a_job()
    sink.begin(None)
    wrote = [sink.write(Part(number, 0, 0, 0), iter(range(number * 10, number * 10 + 10))) for number in range(3)]
    with monkeypatch.context() as patched:
        patched.setattr(targets_module, "_exchanged", lambda one, other: False)
        end_at(step, patched)
        with contextlib.suppress(Gone):
            sink.commit(wrote, [])
    os.close(sink._target()._lock) if sink._target()._lock is not None else None
    found = read(target) if target.exists() else None
    assert found in (["before"], whole, None)
    main.main(["clean", str(target)], standalone_mode=False)
    assert read(target) in (["before"], whole)
    assert left(target) == []
    write(target, ["after"], mode="append")
    assert read(target) in (["before", "after"], [*whole, "after"])
    assert sorted(path.name for path in target.iterdir() if path.suffix == ".jsonl") == sorted(
        path.rpartition("/")[2]
        for path in (row[0] for row in DataSourceFactory(TextLines, path=str(target)).prepared["files"])
    )


def test_workers_that_are_killed_cost_nothing(tmp_path):
    once = tmp_path / "once"
    once.mkdir()
    place = str(once)

    class Dying(Producer):
        WORKERS_NUMBER = 10

        @staticmethod
        def map_fn(records):
            for record in records:
                if record in (5, 39, 72):
                    try:
                        with open(os.path.join(place, str(record)), "x"):
                            os.kill(os.getpid(), signal.SIGKILL)
                    except FileExistsError:
                        pass
                yield record

    target = tmp_path / "out"
    written = Dying(engine="processes://2").write(DataSourceFactory(range(100)), JSONLinesSink(target))
    assert len(list(once.iterdir())) == 3
    assert written.records == 100
    assert read(target) == list(range(100))
    assert left(target) == ["once"]


def test_a_file_of_somebody_else_is_not_lost_by_a_job_that_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("mine")
    for _ in range(2):
        with pytest.raises(SinkError, match="is there already"):
            Same().write(
                DataSourceFactory([("b.txt", b"new"), ("a.txt", b"new")]), Files(tmp_path / "out", mode="append")
            )
        assert (tmp_path / "out" / "a.txt").read_text() == "mine"
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.txt"]
        assert left(tmp_path / "out") == []


def test_another_target_within_is_not_replaced(folder):
    write(folder / "day=1", ["inner"])
    with pytest.raises(SinkError, match="another target"):
        write(folder, ["outer"], mode="overwrite")
    assert read(folder / "day=1") == ["inner"]


def test_a_published_checkpoint_is_refused(tmp_path):
    target, checkpoint = tmp_path / "out", tmp_path / "run.ckpt"
    for number in range(2):
        settings = {"checkpoint": checkpoint} if number == 0 else {}
        Same().write(
            DataSourceFactory(range(number * 10, number * 10 + 10)), JSONLinesSink(target, mode="append"), **settings
        )
    with pytest.raises(CheckpointMismatch, match="has been published"):
        Same().write(DataSourceFactory(range(10)), JSONLinesSink(target, mode="append"), checkpoint=checkpoint)
    assert read(target) == list(range(20))
    checkpoint.unlink()
    Same().write(DataSourceFactory(range(10)), JSONLinesSink(target, mode="append"), checkpoint=checkpoint)
    assert read(target) == [*range(20), *range(10)]


@pytest.mark.parametrize("mode", ["new", "overwrite", "append"])
@pytest.mark.parametrize("step", range(7))
def test_a_commit_that_was_cut_short_is_resumed_with_its_checkpoint(tmp_path, monkeypatch, mode, step):
    target = tmp_path / "out"
    if mode != "new":
        write(target, ["before"])
    before = [] if mode == "new" else ["before"]

    def job():
        sink = JSONLinesSink(target, mode=mode, records_a_file=10).for_a_job()
        sink.begin(str(tmp_path / "c"))
        return sink

    sink = job()
    wrote = [sink.write(Part(number, 0, 0, 0), iter(range(number * 10, number * 10 + 10))) for number in range(3)]
    with monkeypatch.context() as patched:
        end_at(step, patched)
        is_over = True
        try:
            sink.commit(wrote, [])
        except Gone:
            is_over = False
    if sink._target()._lock is not None:
        os.close(sink._target()._lock)
    if not is_over:
        found = read(target) if target.exists() else []
        assert found in (before, [*range(30)], [*before, *range(30)])
        if found == before:
            again = job()
            again.commit(wrote, [])
    assert read(target) == (list(range(30)) if mode != "append" else [*before, *range(30)])


def test_csv_without_a_header_has_one_order_of_columns(tmp_path):
    rows = [{"a": 1, "b": 2}] * 5 + [{"b": 4, "a": 3}] * 5
    with pytest.raises(SinkError, match="columns"):
        Same().write(DataSourceFactory(rows), CSVSink(tmp_path / "c", header=False))


def test_records_without_columns_are_refused(tmp_path):
    for sink in (ParquetSink, CSVSink):
        with pytest.raises(PartFailed, match="column"):
            Same().write(DataSourceFactory([{}, {}]), sink(tmp_path / "p"))


def test_a_sink_without_attributes_of_its_own(tmp_path):
    place = str(tmp_path / "list")

    class Listing(Sink):
        def begin(self, checkpoint):
            os.mkdir(place)

        def write(self, part, records):
            return [part.index, list(records)]

        def commit(self, wrote, merged):
            records = [record for _, some in sorted(wrote) for record in some]
            with open(os.path.join(place, "all"), "w") as file:
                file.write(repr(records))
            return Written(len(records), 1, 0)

        def abort(self):
            os.rmdir(place)

    assert Same().write(DataSourceFactory(range(5)), Listing()).records == 5
    assert (tmp_path / "list" / "all").read_text() == "[0, 1, 2, 3, 4]"
