"""Parts of a keyed job may fail: the rest of their stage is computed, the next one does not begin, nothing is lost."""

import gc

import pytest
from exchanges import left_empty

from pymar import DataSourceFactory
from pymar.events import Exchanged
from pymar.exceptions import CheckpointMismatch, PartsFailed, UsageError
from pymar.keyed import KeyedProducer, Sum, distinct, join, sort
from pymar.keyed.checkpoints import cleaned
from pymar.sinks import JSONLinesSink

DATA = range(12_000)
ENGINES = pytest.mark.parametrize("engine", ["serial", "processes://2"])


class Some(KeyedProducer):
    """Sums by key, which fail for some parts of the map stage, and for some keys of the other."""

    WORKERS_NUMBER = 10
    PARTITIONS = 8
    MAX_FAILED = 10
    reduce_fn = Sum()
    bad_parts = ()
    bad_keys = ()
    notes = ""

    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            part, rest = divmod(number, 1_200)
            if rest == 0:
                Some.note("map", part)
                if part in Some.bad_parts:
                    raise ValueError(f"no {part}")
            yield number % 9_000, (number + 1) ** -1.5  # so many that parts of the other stage have their own keys

    @staticmethod
    def finish_fn(key, value):
        if key % 100 == 0:
            Some.note("reduce", key)
        if key in Some.bad_keys:
            raise ValueError(f"no key {key}")
        return value

    @staticmethod
    def note(stage, number):
        if Some.notes:
            with open(Some.notes, "a") as file:
                print(stage, number, file=file)


class InOrder(Some):
    SORTED = True


@pytest.fixture(autouse=True)
def exchange(tmp_path, monkeypatch):
    """A folder for the exchange, which is empty after each test."""
    yield from left_empty(tmp_path, monkeypatch)


@pytest.fixture
def path(tmp_path, exchange):
    """A checkpoint; it is removed with all that belongs to it."""
    path = tmp_path / "run.ckpt"
    yield path
    gc.collect()
    assert cleaned(str(path))


@pytest.fixture
def noted(tmp_path, monkeypatch):
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setattr(Some, "notes", str(path))

    def numbers(stage):
        return {int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(stage)}

    numbers.forget = lambda: path.write_text("")
    return numbers


def failing(engine="serial", cls=Some, **options):
    with pytest.raises(PartsFailed) as caught:
        cls(engine=engine).map(DataSourceFactory(DATA), **options)
    return caught.value


def items(engine="serial", cls=Some, **options):
    with cls(engine=engine).map(DataSourceFactory(DATA), **options) as found:
        return list(found.items())


@ENGINES
def test_the_rest_of_the_map_stage_is_computed_and_the_other_does_not_begin(monkeypatch, noted, engine):
    monkeypatch.setattr(Some, "bad_parts", (2, 5))
    events = []
    with pytest.raises(PartsFailed) as caught:
        Some(engine=engine, listeners=[events.append]).map(DataSourceFactory(DATA))
    assert [one.index for one in caught.value.exceptions] == [2, 5]
    assert "map stage of Some" in "".join(caught.value.__notes__)
    assert noted("map") == set(range(10))
    assert noted("reduce") == set()
    assert not [event for event in events if isinstance(event, Exchanged)]


@ENGINES
def test_the_rest_of_the_reduce_stage_is_computed_and_what_failed_can_be_replayed(monkeypatch, noted, engine):
    monkeypatch.setattr(Some, "bad_keys", (700,))
    error = failing(engine)
    assert len(error.exceptions) == 1
    assert error.done == error.total - 1 > 0
    assert "reduce stage of Some" in "".join(error.__notes__)
    with pytest.raises(ValueError, match="no key 700"):
        Some(engine="serial").replay(error.exceptions[0])


@pytest.mark.parametrize("cls", [Some, InOrder])
def test_a_mended_job_that_keeps_what_is_finished_has_the_bits_of_an_undisturbed_one(path, monkeypatch, noted, cls):
    expected = items(cls=cls)
    monkeypatch.setattr(Some, "bad_parts", (2,))
    failing(cls=cls, checkpoint=path)
    monkeypatch.setattr(Some, "bad_parts", ())
    monkeypatch.setattr(Some, "bad_keys", (700,))
    noted.forget()
    with pytest.raises(CheckpointMismatch, match="on_mismatch"):
        items(cls=cls, checkpoint=path)
    failing(cls=cls, checkpoint=path, on_mismatch="keep")
    assert noted("map") == {2}
    monkeypatch.setattr(Some, "bad_keys", ())
    noted.forget()
    assert items("processes://2", cls, checkpoint=path, on_mismatch="keep") == expected
    assert noted("map") == set()
    assert 700 in noted("reduce")
    assert len(noted("reduce")) < 90 / 3


def test_a_sink_of_a_keyed_job_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(Some, "bad_keys", (700,))
    target = tmp_path / "out"
    with pytest.raises(PartsFailed):
        Some(engine="serial").write(DataSourceFactory(DATA), JSONLinesSink(str(target)))
    assert not target.exists()


def test_records_that_changed_are_read_again_by_a_sort_by_key(path):
    """The second job of two sorts what the first has left: what that computes again it must not take from before."""
    data = list(DATA)
    InOrder(engine="serial").map(DataSourceFactory(data), checkpoint=path).close()
    data[5] = 6
    with pytest.raises(CheckpointMismatch, match="the stage"):
        InOrder(engine="serial").map(DataSourceFactory(data), checkpoint=path, on_mismatch="keep")


LEFT, RIGHT = [(number, "l") for number in range(100)], [(number, "r") for number in range(50)]


def joined(path, right=RIGHT, how="inner", on_mismatch="refuse"):
    with join(LEFT, right, how=how, parts=4, engine="serial", checkpoint=path, on_mismatch=on_mismatch) as found:
        return list(found)


def test_a_join_of_another_kind_does_not_take_the_parts_of_the_first(path):
    assert len(joined(path)) == 50
    for keep in ("refuse", "keep"):
        with pytest.raises(CheckpointMismatch, match="the stage"):
            joined(path, how="left", on_mismatch=keep)


def test_a_join_with_other_records_does_not_take_the_parts_of_the_first(path):
    assert joined(path) == joined(path)
    other = [*RIGHT[:-1], (49, "other")]
    with pytest.raises(CheckpointMismatch, match="the stage"):
        joined(path, other, on_mismatch="keep")


def test_a_sort_in_the_other_direction_does_not_take_the_parts_of_the_first(path):
    options = {"parts": 3, "engine": "serial"}
    data = [3, 1, 2] * 5
    assert list(sort(data, checkpoint=path, **options)) == sorted(data)
    for keep in ("refuse", "keep"):
        with pytest.raises(CheckpointMismatch, match="the stage"):
            sort(data, reverse=True, checkpoint=path, on_mismatch=keep, **options)


@pytest.mark.parametrize("call", [sort, distinct])
def test_the_short_forms_take_it(path, call):
    data = list(range(30))
    call(data, parts=3, engine="serial", checkpoint=path).close()
    data[29] += 1
    with call(data, parts=3, engine="serial", checkpoint=path, on_mismatch="keep") as found:
        assert sorted(found) == data
    with pytest.raises(UsageError, match="on_mismatch"):
        call(data, parts=3, engine="serial", checkpoint=path, on_mismatch="kep")


def test_an_error_that_somebody_has_does_not_lock_what_the_checkpoint_keeps(path, monkeypatch):
    monkeypatch.setattr(Some, "bad_keys", (700,))
    first = failing(checkpoint=path)
    second = failing(checkpoint=path)
    for error in (first, second):
        with pytest.raises(ValueError, match="no key 700"):
            Some(engine="serial").replay(error.exceptions[0])
