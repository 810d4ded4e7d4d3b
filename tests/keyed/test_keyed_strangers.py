"""What an unkeyed broker carries may come from anybody: it makes no worker, and no producer, leave its exchange."""

import os
import pickle
import re

import pytest
from conftest import needed

from pymar.exceptions import ExchangeError, UsageError
from pymar.keyed import KeyedProducer, Sum, exchange
from pymar.keyed.columns import Codec, decoded, encoded
from pymar.keyed.exchange import Entry, Exchange, digest_of, seen
from pymar.keyed.result import ResultSource
from pymar.keyed.stages import MapStage, ReduceStage
from pymar.parts import JobSpec, Part
from pymar.serialization import plain
from pymar.serialization.definition import define, spec_of
from pymar.serialization.jobfile import load

TOKEN = "0123456789abcdef" * 2
NAME = "pymar-exchange-0123456789abcdef"


class Totals(KeyedProducer):
    reduce_fn = Sum()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """An exchange of this user, which strangers know all about."""
    monkeypatch.setattr(exchange, "_seen", set())
    one = Exchange(str(tmp_path))
    yield one
    one.close()


@pytest.fixture
def outside(tmp_path):
    """A private folder with a file that is not for strangers."""
    folder = tmp_path / "private"
    folder.mkdir(0o700)
    (folder / "secret").write_bytes(b"hunter2")
    return folder


def paths_to(file, place):
    return [str(file), os.path.relpath(file, place), f"./{os.path.relpath(file, place)}", "..", ".", "", "a/b", 5]


def state_of(path, token=TOKEN, is_given=True):
    return {"path": str(path), "token": token, "secret": b"", "is_given": is_given}


def test_no_name_leads_out_of_a_folder(mine, outside):
    for name in paths_to(outside / "secret", mine.path):
        for attempt in (
            lambda name=name: mine.place.read(name, 0, 7),
            lambda name=name: mine.place.create(name),
            lambda name=name: mine.place.remove([name]),
        ):
            with pytest.raises(ExchangeError, match="no name of a file"):
                attempt()
    assert (outside / "secret").read_bytes() == b"hunter2"
    assert os.listdir(outside) == ["secret"]


def test_a_link_in_a_folder_is_not_followed(mine, outside):
    os.symlink(outside / "secret", os.path.join(mine.path, "5-abc"))
    with pytest.raises(ExchangeError, match="5-abc cannot be read"):
        mine.place.read("5-abc", 0, 7)


def test_a_part_of_the_second_stage_reads_no_other_file(mine, outside):
    """Not even to compare its digest: byte by byte, that would tell what is in it."""
    stage = ReduceStage(mine.state())
    stage.bind(Totals, plain.dumps, plain.loads)
    file = str(outside / "secret")
    digest = digest_of(b"h", mine.secret)
    entry = Entry(0, file, None, 0, 1, digest, b"", 1)
    for task in ((0, 256, (file, 1, digest)), (0, 256, [tuple(entry)])):
        with pytest.raises(ExchangeError, match="no name of a file"):
            stage.write(Part(0, 0, 0, 256), [task])


def test_the_source_of_a_result_reads_no_other_file(mine, outside, monkeypatch):
    monkeypatch.setattr(ResultSource, "exchange", mine.state())
    row = [0, str(outside / "secret"), 0, 1, 1, digest_of(b"h", mine.secret), None]
    monkeypatch.setattr(ResultSource, "segments", [row])
    source = ResultSource(limit=1, offset=0)
    source._loads = plain.loads
    with pytest.raises(ExchangeError, match="no name of a file"):
        list(source)


@pytest.mark.parametrize("token", ["", "known", TOKEN[:-1], f"{TOKEN}\n"])
def test_a_folder_that_is_no_exchange_is_not_used(outside, token):
    (outside / "token").write_text(token)
    for path in (outside, f"{outside}/.", f"{outside}/../private"):
        with pytest.raises(ExchangeError, match="is no exchange"):
            seen(state_of(path, token), True)
    assert sorted(os.listdir(outside)) == ["secret", "token"]


def test_a_path_that_depends_on_the_folder_of_a_worker_is_not_used(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExchangeError, match="is no exchange"):
        seen(state_of(mine.name, mine.token), True)


def test_a_folder_is_not_used_by_an_address_which_nothing_checks(tmp_path):
    needed("fsspec")
    folder = tmp_path / NAME
    folder.mkdir(0o777)
    (folder / "token").write_text(TOKEN)
    for scheme in ("file", "local"):
        with pytest.raises(ExchangeError, match="give its path alone"):
            seen(state_of(f"{scheme}://{folder}"), True)
    with pytest.raises(ExchangeError, match="::"):
        seen(state_of(f"simplecache::file://{folder}"), True)


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701])
def test_a_folder_that_others_can_enter_is_not_used(tmp_path, mode):
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    folder.chmod(mode)
    with pytest.raises(ExchangeError, match="not private"):
        seen(state_of(folder), True)
    assert seen(state_of(folder, is_given=False), True) is None


def test_an_exchange_that_another_has_made_anew_is_not_used(mine):
    assert seen(mine.state(), True) is not None
    os.rename(mine.path, f"{mine.path}.before")
    os.mkdir(mine.path)
    os.chmod(mine.path, 0o777)
    with pytest.raises(ExchangeError, match="not private"):
        seen(mine.state(), True)
    os.rmdir(mine.path)
    os.rename(f"{mine.path}.before", mine.path)


def test_a_report_makes_no_producer_remove_a_file(mine, outside):
    entry = Entry(0, str(outside / "secret"), None, 0, 0, b"", b"", 1)
    with pytest.raises(ExchangeError):
        mine.place.remove({entry.name})
    assert (outside / "secret").exists()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_what_is_plain_is_neither_unpickled_nor_read_by_marshal(tmp_path):
    unsafe = Codec(lambda value, what: pickle.dumps(value), pickle.loads, True)
    kind, marshalled = encoded([1, "a"], unsafe)
    assert kind == "m"
    safe = Codec(plain.dumps, plain.loads, False)
    for data in (marshalled, pickle.dumps([Bomb(tmp_path / "exploded")])):
        for kind in "mo":
            with pytest.raises(ValueError, match="no plain data"):
                decoded(kind, data, safe)
    assert not (tmp_path / "exploded").exists()


def test_a_sink_within_the_second_stage_is_one_that_the_job_file_names(tmp_path):
    file = tmp_path / "job.py"
    file.write_text(
        "from pymar.keyed import KeyedProducer, Sum\nfrom pymar.sinks import JSONLinesSink\n"
        "class Totals(KeyedProducer):\n    reduce_fn = Sum()\n"
    )
    module = load(file)
    spec = JobSpec(module.Totals, None, {}, sink=ReduceStage(state_of(tmp_path / NAME), module.JSONLinesSink("out")))
    definition = define(spec)
    assert type(spec_of(definition, module).sink.sink) is module.JSONLinesSink
    fields = plain.loads(definition)
    outer, inner = fields["sinks"]
    for names in ([outer[0], "CSVSink"], [outer[0], "pymar.sinks.csvrows.CSVSink"], ["pymar.keyed.stages.Stage"]):
        fields["sinks"] = [[name, state] for name, (_, state) in zip(names, (outer, inner), strict=False)]
        with pytest.raises(UsageError, match=re.escape(repr(names[-1]))):
            spec_of(plain.dumps(fields), module)


def test_a_stage_is_bound_to_how_this_worker_reads_whatever_its_state_says(mine):
    stage = object.__new__(MapStage)
    vars(stage).update(exchange=mine.state(), _codec="pickle", _careful=0)
    stage.bind(Totals, plain.dumps, plain.loads)
    assert stage._codec == Codec(plain.dumps, plain.loads, False)
