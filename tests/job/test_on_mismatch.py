"""on_mismatch="keep": what is finished counts although the job differs; the file says which code computed what."""

import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from conftest import PATIENCE, wait_until

from pymar.datasource import DataSourceFactory
from pymar.exceptions import CheckpointMismatch, PartFailed, PartsFailed, UsageError
from pymar.job.checkpoint import Journal, contents
from pymar.parts import Part
from pymar.producer import Producer
from pymar.sinks import JSONLinesSink
from pymar.testing import Numbers


class Noted(Producer):
    """Lists of the records, each times a factor; a note for each part that is computed."""

    WORKERS_NUMBER = 10
    factor = 1
    bad = ()
    notes = ""

    @staticmethod
    def map_fn(data_source):
        with open(Noted.notes, "a") as file:
            print(data_source.offset, file=file)
        if data_source.offset in Noted.bad:
            raise ValueError(f"no {data_source.offset}")
        return [number * Noted.factor for number in data_source]

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


class Growing(Noted):
    _grows = True

    def workers_number(self):
        return 1 << 40  # each record is a part


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setattr(Noted, "notes", str(path))

    def offsets():
        found = sorted(map(int, path.read_text().split()))
        path.write_text("")
        return found

    return offsets


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.ckpt"


def run(path, data=Numbers, cls=Noted, on_mismatch="keep", engine="serial"):
    return cls(engine=engine).map(DataSourceFactory(data), checkpoint=path, on_mismatch=on_mismatch)


def codes(path):
    with closing(sqlite3.connect(path)) as file:
        return dict(file.execute("SELECT part, code FROM partial"))


def test_finished_parts_of_other_code_are_kept_and_the_file_says_whose_they_are(path, notes, monkeypatch, caplog):
    monkeypatch.setattr(Noted, "bad", (300,))
    monkeypatch.setattr(Noted, "MAX_FAILED", 1)
    with pytest.raises(PartsFailed):
        run(path)
    notes()
    monkeypatch.setattr(Noted, "bad", ())
    monkeypatch.setattr(Noted, "factor", 2)
    assert run(path) == 499_500 + sum(range(300, 400))
    assert notes() == [300]
    assert codes(path) == {part: 2 if part == 3 else 1 for part in range(10)}
    assert "Noted.factor (1 before, 2 now)" in caplog.text


def test_a_mismatch_is_refused_without_it_and_the_message_names_it(path, monkeypatch):
    run(path)
    monkeypatch.setattr(Noted, "factor", 2)
    with pytest.raises(CheckpointMismatch, match=r'on_mismatch="keep".*delete the file'):
        run(path, on_mismatch="refuse")


def test_a_job_that_was_taken_over_goes_on_without_it(path, notes, monkeypatch, caplog):
    run(path)
    monkeypatch.setattr(Noted, "factor", 2)
    run(path)
    caplog.clear()
    assert run(path, on_mismatch="refuse") == 499_500
    assert [one.number for one in contents(path).versions] == [1, 2]
    assert "differs" not in caplog.text
    monkeypatch.setattr(Noted, "factor", 1)
    with pytest.raises(CheckpointMismatch, match="factor"):
        run(path, on_mismatch="refuse")


def test_the_same_job_with_it_is_as_without(path, notes, caplog):
    run(path)
    notes()
    assert run(path) == 499_500
    assert notes() == []
    assert [one.number for one in contents(path).versions] == [1]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_parts_of_other_records_are_computed_again_and_replaced(path, notes):
    data = list(range(1_000))
    run(path, data)
    notes()
    data[555] = 0
    with pytest.raises(CheckpointMismatch, match=r'data of part 5 .*on_mismatch="keep"'):
        run(path, data, on_mismatch="refuse")
    assert run(path, data) == sum(data)
    assert notes() == [500]
    assert run(path, data, on_mismatch="refuse") == sum(data)
    assert notes() == []


def test_parts_of_another_slice_are_computed_again(path, notes, monkeypatch):
    run(path)
    notes()
    monkeypatch.setattr(Noted, "WORKERS_NUMBER", 3)
    assert run(path) == 499_500
    assert notes() == [0, 333, 666]
    assert contents(path).done == contents(path).total == 3
    monkeypatch.setattr(Noted, "WORKERS_NUMBER", 10)
    assert run(path) == 499_500
    assert notes() == [0, 100, 200], "the others are there still"


def test_a_longer_list_keeps_its_finished_parts_if_each_part_has_its_own_record(path, notes):
    assert run(path, list(range(5)), Growing, "refuse") == 10
    assert notes() == list(range(5))
    assert run(path, list(range(8)), Growing, "refuse") == 28
    assert notes() == [5, 6, 7]
    with pytest.raises(CheckpointMismatch, match="data of part 0"):
        run(path, [9, 1, 2], Growing, "refuse")
    assert run(path, [9, 1, 2], Growing) == 12
    assert notes() == [0]


def test_a_longer_list_that_is_cut_is_another_job(path):
    run(path, list(range(5)))
    with pytest.raises(CheckpointMismatch, match="length 5, in 5 parts before, length 8"):
        run(path, list(range(8)), on_mismatch="refuse")


def test_a_failed_part_is_noted_until_it_is_done(path, monkeypatch):
    monkeypatch.setattr(Noted, "bad", (300,))
    with pytest.raises(PartFailed):
        run(path)
    (failed,) = contents(path).failed
    assert failed[0] == 3
    assert failed[2:] == ("ValueError: no 300", 1)
    monkeypatch.setattr(Noted, "bad", ())
    run(path)
    assert contents(path).failed == []


def test_a_part_of_other_records_that_fails_is_not_finished_any_more(path, monkeypatch):
    data = list(range(1_000))
    run(path, data)
    data[555] = 0
    monkeypatch.setattr(Noted, "bad", (500,))
    with pytest.raises(PartFailed):
        run(path, data)
    found = contents(path)
    assert found.done == 9
    assert [failed[0] for failed in found.failed] == [5]


@pytest.mark.parametrize("value", ["kep", None, True, "KEEP"])
def test_another_value_is_refused(path, value):
    with pytest.raises(UsageError, match=r"on_mismatch=.*'refuse'.*'keep'"):
        run(path, on_mismatch=value)
    assert not path.exists()


@pytest.mark.parametrize(
    "call",
    [
        Noted.map,
        lambda *arguments, **options: Noted.submit(*arguments, **options).result(),
        lambda *arguments, **options: list(Noted.partials(*arguments, **options)),
    ],
)
def test_it_needs_a_checkpoint(call):
    with pytest.raises(UsageError, match="without checkpoint="):
        call(Noted(engine="serial"), DataSourceFactory(Numbers), on_mismatch="keep")


def test_a_sink_with_it_needs_a_checkpoint_before_it_begins(tmp_path):
    with pytest.raises(UsageError, match="without checkpoint="):
        Noted(engine="serial").write(
            DataSourceFactory(Numbers), JSONLinesSink(str(tmp_path / "out")), on_mismatch="keep"
        )
    assert os.listdir(tmp_path) == ["notes"]


# Files of the format before


def as_format_2(path):
    """Make a checkpoint what the version before wrote."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        for statement in (
            "CREATE TABLE old (format INTEGER, description TEXT, checksum BLOB)",
            "INSERT INTO old SELECT 2, description, checksum FROM job",
            "DROP TABLE job",
            "DROP TABLE failed",
            "ALTER TABLE old RENAME TO job",
            "ALTER TABLE partial DROP COLUMN code",
        ):
            file.execute(statement)


def test_a_file_of_format_2_goes_on(path, notes, monkeypatch):
    run(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("DELETE FROM partial WHERE part = 4")
    as_format_2(path)
    found = contents(path)
    assert (found.done, found.total, found.versions[0].began) == (9, 10, "")
    notes()
    monkeypatch.setattr(Noted, "factor", 2)
    with pytest.raises(CheckpointMismatch, match="factor"):
        run(path, on_mismatch="refuse")
    assert run(path) == 499_500 + sum(range(400, 500))
    assert notes() == [400]
    assert codes(path)[4] == 2
    assert codes(path)[5] == 1


def test_a_damaged_file_of_format_2_is_repaired(path, notes, caplog):
    run(path)
    as_format_2(path)
    whole = path.read_bytes()
    with closing(sqlite3.connect(path)) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'partial'").fetchone()
        (size,) = file.execute("PRAGMA page_size").fetchone()
    damaged = bytearray(whole)
    damaged[root * size - 20 : root * size] = b"\xff" * 20  # the row that was written first
    path.write_bytes(damaged)
    assert run(path, on_mismatch="refuse") == 499_500
    assert "damaged" in caplog.text


def test_a_file_of_a_later_format_is_refused(path):
    run(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("UPDATE job SET format = 4")
    for look in (lambda: run(path), lambda: contents(path)):
        with pytest.raises(CheckpointMismatch, match="another version of Pymar"):
            look()


def test_a_column_whose_name_is_damaged_is_refused(path):
    run(path)
    whole = path.read_bytes()
    assert whole.count(b"value BLOB") == 1
    path.write_bytes(whole.replace(b"value BLOB", b"valve BLOB"))
    with pytest.raises(CheckpointMismatch, match="the columns of its table partial have other names"):
        run(path)


def test_a_damaged_schema_that_is_no_text_is_refused(path):
    run(path)
    whole = path.read_bytes()
    assert whole.count(b"CREATE TABLE partial") == 1
    path.write_bytes(whole.replace(b"CREATE TABLE partial", b"CREATE TABLE \xbe\xff\xcbtial"))
    with pytest.raises(CheckpointMismatch, match="cannot be used as a checkpoint"):
        run(path)


def test_whatever_byte_is_damaged_what_is_kept_is_right_or_refused(path, monkeypatch):
    run(path)
    whole = path.read_bytes()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    monkeypatch.setattr(Noted, "SEED", 1)  # of which no partial depends here
    for _ in range(40):
        damaged = bytearray(whole)
        start = dice.randrange(len(damaged))
        damaged[start : start + dice.choice([1, 8, 100])] = dice.randbytes(dice.choice([1, 8, 100]))
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        path.write_bytes(damaged)
        try:
            found = run(path)
        except CheckpointMismatch:
            continue
        assert found == 499_500


# The journal alone


def test_a_late_partial_of_a_part_that_failed_removes_the_note(path):
    part = Part(0, 0, 0, 10)
    journal = Journal(path, {"the producer": "P"})
    assert list(journal.fresh(iter([part]))) == [part]
    journal.note_failed([PartFailed(part[:4], "slot 1", "ValueError: no\nand more")])
    journal.write([(0, b"\x80\x04K\x05.")])
    journal.close()
    found = contents(path)
    assert (found.done, found.failed) == (1, [])


SCRIPT = """
import time
from pymar import DataSourceFactory, Producer

class Slow(Producer):
    MAX_FAILED = 40

    @staticmethod
    def map_fn(data_source):
        (number,) = data_source
        time.sleep(0.02)  # the work of a part
        if number % 4 == 0 and not MENDED:
            raise ValueError(f"no {number}")
        with open("computed", "a") as file:
            print(number, file=file)
        return [number]

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)

print(Slow(engine="processes://2").map(DataSourceFactory(range(40)), checkpoint="run.ckpt", on_mismatch="keep"))
"""


def test_after_kill_9_the_mended_code_computes_what_failed_and_what_is_missing(tmp_path, path):
    (tmp_path / "job.py").write_text(SCRIPT.replace("MENDED", "False"))
    computed = tmp_path / "computed"
    computed.touch()
    first = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, start_new_session=True)
    try:
        wait_until(lambda: len(computed.read_text().split()) >= 12, "a part of the work")
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    before = contents(path)
    assert before.failed
    (tmp_path / "job.py").write_text(SCRIPT.replace("MENDED", "True"))
    done = subprocess.run([sys.executable, "job.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == f"{sum(range(40))}\n", done.stderr
    after = contents(path)
    assert (after.done, after.failed) == (40, [])
    assert [one.computed for one in after.versions] == [before.done, 40 - before.done]
