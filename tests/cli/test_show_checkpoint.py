"""`pymar checkpoint` shows what is finished in a file, what has failed, and which code computed what."""

import contextlib
import re
import sqlite3

import pytest
from click.testing import CliRunner

from pymar.cli import main
from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, PartsFailed
from pymar.keyed import KeyedProducer, Sum
from pymar.producer import Producer
from pymar.sinks import JSONLinesSink
from pymar.testing import Numbers


class Mine(Producer):
    WORKERS_NUMBER = 50
    MAX_FAILED = 50
    bad = 0
    factor = 1

    @staticmethod
    def map_fn(data_source):
        if data_source.offset < Mine.bad * 20:
            raise ValueError(f"no \x1b[31m{data_source.offset}")
        return [number * Mine.factor for number in data_source]

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


class ByDigit(KeyedProducer):
    WORKERS_NUMBER = 5
    PARTITIONS = 2
    reduce_fn = Sum()

    @staticmethod
    def map_fn(data_source):
        return ((number % 10, number) for number in data_source)


def shown(path, code=0):
    done = CliRunner().invoke(main, ["checkpoint", str(path)])
    assert done.exit_code == code, done.output
    return done.output


def run(path, on_mismatch="refuse"):
    return Mine(engine="serial").map(DataSourceFactory(Numbers), checkpoint=path, on_mismatch=on_mismatch)


def test_it_shows_what_is_done_and_by_which_version(tmp_path, monkeypatch):
    path = tmp_path / "run.ckpt"
    monkeypatch.setattr(Mine, "bad", 25)
    with pytest.raises(PartsFailed):
        run(path)
    text = shown(path)
    assert text.startswith("Mine: 25 of 50 parts are done\n25 failed")
    assert re.search(r"part 0 at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d by version 1: ValueError: no \\x1b\[31m0\n", text)
    assert "part 19 " in text
    assert "part 20 " not in text
    assert "and 5 more" in text
    monkeypatch.setattr(Mine, "bad", 0)
    monkeypatch.setattr(Mine, "factor", 2)
    run(path, "keep")
    first, *versions = shown(path).splitlines()
    assert first == "Mine: 50 of 50 parts are done"
    assert re.fullmatch(r"version 1 of the job, begun at .* UTC: 25 parts", versions[0])
    assert re.search(r"version 2 .*: 25 parts; it differs .* in: .*Mine\.bad, .*Mine\.factor", versions[1])


def test_it_changes_nothing(tmp_path):
    path = tmp_path / "run.ckpt"
    run(path)
    before = path.read_bytes()
    path.chmod(0o400)
    shown(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["run.ckpt"]


def test_a_damaged_description_is_said_in_one_line(tmp_path):
    path = tmp_path / "run.ckpt"
    run(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("UPDATE job SET description = '{'")
    assert "damaged" in shown(path, code=1)


def test_a_published_sink_is_shown_as_that(tmp_path):
    path = tmp_path / "run.ckpt"
    Mine(engine="serial").write(DataSourceFactory(Numbers), JSONLinesSink(str(tmp_path / "out")), checkpoint=path)
    assert shown(path).startswith("Mine (JSONLinesSink): 50 of 50 parts are done, and published\n")


def test_a_keyed_job_has_a_file_for_each_stage(tmp_path, monkeypatch):
    path = tmp_path / "run.ckpt"
    ByDigit(engine="serial").map(DataSourceFactory(Numbers), checkpoint=path).close()
    text = shown(path)
    assert text.startswith("ByDigit (MapStage): 5 of 5 parts are done\n")
    assert re.search(r"run\.ckpt\.reduce-[0-9a-f]+, of the same job:\nByDigit \(ReduceStage\): ", text)
    assert text.count("parts are done") == 2


def test_a_file_in_use_is_said_to_be(tmp_path):
    path = tmp_path / "run.ckpt"
    partials = Mine(engine="serial").partials(DataSourceFactory(Numbers), checkpoint=path)
    next(partials)
    assert "in use" in shown(path, code=1)
    partials.close()
    assert "1 of 50" in shown(path)


def no_file(path):
    pass


def text(path):
    path.write_text("something else " * 100)


def empty(path):
    path.touch()


def folder(path):
    path.mkdir()


def another_database(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("CREATE TABLE job (name TEXT)")


@pytest.mark.parametrize("make", [no_file, text, empty, folder, another_database])
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path, make):
    path = tmp_path / "run.ckpt"
    make(path)
    found = shown(path, code=1)
    assert "no checkpoint" in found
    assert len(found.splitlines()) == 1


def test_an_error_without_max_failed_is_shown_too(tmp_path, monkeypatch):
    path = tmp_path / "run.ckpt"
    monkeypatch.setattr(Mine, "bad", 1)
    monkeypatch.setattr(Mine, "MAX_FAILED", 0)
    with pytest.raises(PartFailed):
        run(path)
    assert "1 failed" in shown(path)
