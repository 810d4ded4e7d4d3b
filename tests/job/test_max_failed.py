"""Parts may fail while the others are computed: what fails is raised at the end, and only that is computed again."""

import os
import random
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.datasource import DataSourceFactory
from pymar.exceptions import JobTimeout, PartFailed, PartLost, PartsFailed, UsageError
from pymar.job.runner import Deadline, Runner
from pymar.parts import Done, Failed, Failure, Joined
from pymar.producer import Producer
from pymar.serialization import plain
from pymar.sinks import JSONLinesSink
from pymar.testing import Numbers


class Some(Producer):
    """A sum over parts of ten records, of which those that `bad` names raise, or kill their process."""

    WORKERS_NUMBER = 100
    MAX_FAILED = 5
    bad = ()
    deadly = ()
    notes = ""

    @staticmethod
    def map_fn(data_source):
        number = data_source.offset // 10
        if Some.notes:
            with open(Some.notes, "a") as file:
                print(number, file=file)
        if number in Some.bad:
            raise ValueError(f"no {number}")
        if number in Some.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return [(number + 1) ** -1.5 for number in data_source]

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


ENGINES = pytest.mark.parametrize("engine", ["serial", "processes://2"])


@pytest.fixture
def notes(tmp_path, monkeypatch):
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setattr(Some, "notes", str(path))

    def numbers():
        found = sorted(map(int, path.read_text().split()))
        path.write_text("")
        return found

    return numbers


def bad(monkeypatch, *numbers, **settings):
    monkeypatch.setattr(Some, "bad", numbers)
    for name, value in settings.items():
        monkeypatch.setattr(Some, name, value)


def failing(engine="serial", call=None, **options):
    producer = Some(engine=engine)
    with pytest.raises(PartsFailed) as caught:
        (call or producer.map)(DataSourceFactory(Numbers), **options)
    return caught.value


@ENGINES
def test_the_others_are_computed_and_the_failed_ones_raised_in_part_order(monkeypatch, notes, engine):
    bad(monkeypatch, 70, 3, 50)
    error = failing(engine)
    assert [one.index for one in error.exceptions] == [3, 50, 70]
    assert (error.done, error.total, error.is_stopped) == (97, 100, False)
    assert set(notes()) == set(range(100))
    assert all(isinstance(one.__cause__, ValueError) for one in error.exceptions)


@ENGINES
def test_each_of_them_can_be_replayed(monkeypatch, engine):
    bad(monkeypatch, 3, 50)
    for one in failing(engine).exceptions:
        with pytest.raises(ValueError, match=f"no {one.index}"):
            Some(engine=engine).replay(one)
    with pytest.raises(UsageError, match=r"error\.exceptions"):
        Some(engine=engine).replay(failing(engine))


@ENGINES
def test_one_more_stops_the_job_at_once(monkeypatch, notes, engine):
    bad(monkeypatch, *range(20))
    error = failing(engine)
    assert error.is_stopped
    assert len(error.exceptions) >= 6
    assert len(notes()) < 100
    assert all(one.rerun[1].index == one.index for one in error.exceptions)


def test_without_it_the_first_failure_is_the_error(monkeypatch):
    bad(monkeypatch, 3, 50, MAX_FAILED=0)
    with pytest.raises(PartFailed, match="part 3 "):
        Some(engine="serial").map(DataSourceFactory(Numbers))


def test_a_part_that_kills_its_workers_is_one_of_them(monkeypatch):
    bad(monkeypatch, 3, deadly=(40,), ATTEMPTS=2)
    failed, lost = failing("processes://2").exceptions
    assert isinstance(failed, PartFailed)
    assert isinstance(lost, PartLost)
    assert (lost.index, len(lost.causes)) == (40, 2)


def test_a_part_that_takes_too_long_is_one_of_them(monkeypatch):
    bad(monkeypatch, PART_TIMEOUT=1e-9, WORKERS_NUMBER=3)
    error = failing("serial")
    assert [type(one) for one in error.exceptions] == [PartLost] * 3
    assert error.done == 0


def test_reduce_fn_never_sees_what_comes_behind_a_gap(monkeypatch):
    seen = []

    class Collecting(Some):
        @staticmethod
        def reduce_fn(data_source):
            whole = list(data_source)
            seen.append(len(whole))
            return sum(whole)

    bad(monkeypatch, 3)
    with pytest.raises(PartsFailed):
        Collecting(engine="serial").map(DataSourceFactory(Numbers))
    # Those of the parts, and the check of one partial alone; the call over the partials has got the error.
    assert set(seen) == {10, 1}


def test_a_reduce_fn_that_catches_the_error_or_stops_early_gives_no_answer(monkeypatch):
    class Catching(Some):
        @staticmethod
        def reduce_fn(data_source):
            try:
                return sum(data_source)
            except PartsFailed:
                return -1

    class First(Some):
        @staticmethod
        def reduce_fn(data_source):
            return next(iter(data_source))

    bad(monkeypatch, 30)
    for cls in (Catching, First):
        with pytest.raises(PartsFailed):
            cls(engine="serial").map(DataSourceFactory(Numbers))


def test_partials_come_as_they_finish_and_then_the_error(monkeypatch):
    bad(monkeypatch, 0, 50)
    found = []
    with pytest.raises(PartsFailed):
        found.extend(Some(engine="processes://2").partials(DataSourceFactory(Numbers)))
    assert len(found) == 98


def test_a_future_has_the_error(monkeypatch):
    bad(monkeypatch, 50)
    error = Some(engine="serial").submit(DataSourceFactory(Numbers)).exception()
    assert isinstance(error, PartsFailed)


@ENGINES
def test_only_what_failed_is_computed_again_and_the_answer_has_the_bits_of_an_undisturbed_run(
    tmp_path, monkeypatch, notes, engine
):
    expected = Some(engine="serial").map(DataSourceFactory(Numbers))
    bad(monkeypatch, 3, 50)
    failing(engine, checkpoint=tmp_path / "run.ckpt")
    notes()
    bad(monkeypatch)  # it is mended
    found = Some(engine=engine).map(DataSourceFactory(Numbers), checkpoint=tmp_path / "run.ckpt", on_mismatch="keep")
    assert found == expected
    assert set(notes()) == {3, 50}


def test_what_was_computed_before_the_job_was_stopped_is_in_the_checkpoint(tmp_path, monkeypatch, notes):
    bad(monkeypatch, 10, 20, 30, MAX_FAILED=2)
    done = failing(checkpoint=tmp_path / "run.ckpt").done
    notes()
    monkeypatch.setattr(Some, "MAX_FAILED", 3)  # no partial depends on it
    assert failing(checkpoint=tmp_path / "run.ckpt").done == 97
    assert len(notes()) == 100 - done


def test_the_partials_behind_a_failed_part_are_not_held(monkeypatch):
    from pymar.job.reorder import ReorderBuffer

    held = []
    add = ReorderBuffer.add

    def counting(self, partials):
        add(self, partials)
        held.append(len(self._small))

    monkeypatch.setattr(ReorderBuffer, "add", counting)
    bad(monkeypatch, 0)
    failing()
    assert max(held) == 0


def test_a_sink_is_left_as_it_was_and_the_same_call_writes_only_what_failed(tmp_path, monkeypatch, notes):
    bad(monkeypatch, 3)
    target, path = str(tmp_path / "out"), tmp_path / "run.ckpt"
    sink = JSONLinesSink(target)
    failing(call=lambda factory: Some(engine="serial").write(factory, sink, checkpoint=path))
    assert not os.path.exists(target)
    notes()
    bad(monkeypatch)
    written = Some(engine="serial").write(DataSourceFactory(Numbers), sink, checkpoint=path, on_mismatch="keep")
    assert written.records == 1_000
    assert notes() == [3]


def test_another_sink_is_refused_even_if_the_rest_is_kept(tmp_path, monkeypatch):
    from pymar.exceptions import CheckpointMismatch

    bad(monkeypatch, 3)
    path = tmp_path / "run.ckpt"
    one, other = (JSONLinesSink(str(tmp_path / name)) for name in ("one", "other"))
    failing(call=lambda factory: Some(engine="serial").write(factory, one, checkpoint=path))
    with pytest.raises(CheckpointMismatch, match="the sink"):
        Some(engine="serial").write(DataSourceFactory(Numbers), other, checkpoint=path, on_mismatch="keep")


def test_a_job_whose_time_is_up_says_that(monkeypatch):
    class Slow(Some):
        @staticmethod
        def map_fn(data_source):
            if data_source.offset == 0:
                raise ValueError("no 0")
            time.sleep(0.02)  # the work of a part
            return data_source

    with pytest.raises(JobTimeout):
        Slow(engine="serial").map(DataSourceFactory(Numbers), timeout=0.1, on_timeout="fail")


def test_events_have_the_parts_that_were_set_aside(monkeypatch):
    from pymar.events import JobEnded, JobProgress

    bad(monkeypatch, 3, 50, RETRIES=1)
    events = []
    with pytest.raises(PartsFailed):
        Some(engine="serial", listeners=[events.append]).map(DataSourceFactory(Numbers))
    last = [event for event in events if isinstance(event, JobProgress)][-1]
    assert (last.done, last.set_aside, last.failed) == (98, 2, 4)
    assert isinstance(events[-1], JobEnded)
    assert isinstance(events[-1].error, PartsFailed)


@pytest.mark.parametrize("value", [-1, 1.5, None, True, float("inf")])
def test_it_is_a_number_of_parts(monkeypatch, value):
    monkeypatch.setattr(Some, "MAX_FAILED", value)
    with pytest.raises(UsageError, match=r"Some\.MAX_FAILED .* int, 0 or more"):
        Some(engine="serial").map(DataSourceFactory(Numbers))


@pytest.mark.parametrize("name", ["MAX_FAILURES", "max_failed", "FAILURES"])
def test_a_name_that_is_nearly_it_is_refused(name):
    cls = type("Mine", (Some,), {name: 3, "__module__": __name__})
    with pytest.raises(UsageError, match="MAX_FAILED"):
        cls(engine="serial").map(DataSourceFactory(Numbers))


# What pymar.map is built on


def outcomes(engine, in_order, source=Numbers, **options):
    producer = Some(engine=engine)
    plan = producer._plan(DataSourceFactory(source))
    with Runner(plan, producer._choose(), deadline=Deadline(0, "fail"), **options) as runner:
        yield from runner.outcomes(in_order)


@ENGINES
@pytest.mark.parametrize("in_order", [True, False])
def test_outcomes_are_a_partial_or_an_error_for_every_part_however_many_fail(monkeypatch, engine, in_order):
    wrong = set(range(0, 100, 3))
    bad(monkeypatch, *wrong, MAX_FAILED=0)
    found = list(outcomes(engine, in_order))
    if in_order:
        assert [index for index, _, _ in found] == list(range(100))
    assert sorted(index for index, _, _ in found) == list(range(100))
    assert {index for index, _, error in found if error is not None} == wrong
    for index, partial, error in found:
        assert (partial is None) == (error is not None)
        if error is not None:
            assert error.index == index
            with pytest.raises(ValueError, match=f"no {index}"):
                Some(engine="serial").replay(error)


def test_outcomes_in_order_come_as_soon_as_they_can(monkeypatch, notes):
    bad(monkeypatch, 0, 1)
    found = outcomes("serial", True)
    assert [next(found)[0], next(found)[0], next(found)[0]] == [0, 1, 2]
    found.close()
    assert len(notes()) < 10


def test_outcomes_come_from_a_checkpoint_too(tmp_path, monkeypatch, notes):
    bad(monkeypatch, 7)
    first = {index: partial for index, partial, _ in outcomes("serial", True, checkpoint=tmp_path / "run.ckpt")}
    notes()
    again = {index: partial for index, partial, _ in outcomes("serial", False, checkpoint=tmp_path / "run.ckpt")}
    assert again == first
    assert notes() == [7]


class Scripted:
    """An engine of one slot that fails parts, finishes some of them late all the same, and repeats itself."""

    name = "scripted"
    batch_seconds = 0.002

    def __init__(self, seed, wrong, late):
        self.dice, self.wrong, self.late = random.Random(seed), wrong, late
        self.waiting, self.came = [], []

    def start(self, spec):
        self.waiting, self.came = [], [Joined("here", 1)]
        return self

    def submit(self, parts):
        self.waiting += parts

    def next(self, timeout):
        reports, self.came = self.came, []
        for _ in range(self.dice.randrange(1, 4)):
            if not self.waiting:
                break
            part = self.waiting.pop(self.dice.randrange(len(self.waiting)))
            done = Done(part.index, plain.dumps(float(part.index)), 0.01)
            if part.index in self.wrong:
                reports.append(Failed(part.index, "slot 1", Failure("ValueError: no")))
            else:
                reports.append(done)
            if part.index in self.late or (self.dice.random() < 0.2 and part.index not in self.wrong):
                (reports if self.dice.random() < 0.3 else self.came).append(done)
        return reports

    def cancel(self, index):
        pass

    def close(self):
        pass


NUMBERS = st.sets(st.integers(0, 11), max_size=6)
SCRIPTS = st.tuples(st.integers(0, 1 << 30), NUMBERS, NUMBERS).map(
    lambda drawn: (drawn[0], frozenset(drawn[1]), frozenset(drawn[1] & drawn[2]))
)


class Dozen(Producer):
    WORKERS_NUMBER = 12
    MAX_FAILED = 12
    map_fn = staticmethod(lambda source: source)
    reduce_fn = staticmethod(sum)


def runner(engine):
    producer = Dozen(engine=engine)
    return Runner(producer._plan(DataSourceFactory(Numbers)), producer._choose(), deadline=Deadline(0, "fail"))


@given(SCRIPTS, st.booleans())
def test_each_part_has_one_outcome_whatever_comes_late(script, in_order):
    _, wrong, late = script
    with runner(Scripted(*script)) as job:
        found = list(job.outcomes(in_order))
    assert sorted(index for index, _, _ in found) == list(range(12))
    assert not in_order or [index for index, _, _ in found] == list(range(12))
    failed = {index for index, _, error in found if error is not None}
    assert wrong - late <= failed <= wrong
    assert all(partial == index for index, partial, error in found if error is None)


def taken(partials):
    """What an iterator yields, and the errors that it ends with, by number."""
    found = []
    try:
        found.extend(partials)
    except PartsFailed as failed:
        return found, [one.index for one in failed.exceptions]
    return found, []


@given(SCRIPTS)
def test_partials_in_order_end_before_the_first_gap_whatever_comes_late(script):
    _, wrong, late = script
    with runner(Scripted(*script)) as job:
        found, failed = taken(job.in_order())
        assert job.job.done + len(job.job.errors) == 12
    assert found == list(range(len(found)))
    assert set(failed) <= wrong
    assert wrong <= late or failed
    assert len(found) == 12 if not failed else len(found) <= failed[0]


@given(SCRIPTS)
def test_partials_as_they_finish_are_all_that_finished(script):
    _, wrong, late = script
    with runner(Scripted(*script)) as job:
        found, failed = taken(job.as_finished())
    assert sorted([*found, *failed]) == list(range(12))
    assert wrong - late <= set(failed) <= wrong


@pytest.mark.parametrize("call", [Runner.in_order, lambda job: job.outcomes(True)])
@given(SCRIPTS, st.integers(1, 12))
def test_a_bounded_window_ends_behind_failed_parts_too(call, script, ahead):
    _, wrong, _ = script
    with runner(Scripted(*script)) as job:
        job.ahead = ahead
        found, failed = taken(call(job))
        assert job.job.done + len(job.job.errors) == 12
    assert len(found) == 12 or failed or wrong


def test_outcomes_in_order_compute_no_further_ahead_than_they_may(monkeypatch, notes):
    bad(monkeypatch, *range(0, 100, 2))
    producer = Some(engine="serial")
    with Runner(producer._plan(DataSourceFactory(Numbers)), producer._choose(), deadline=Deadline(0, "fail")) as job:
        job.ahead = 5
        for index, _, _ in job.outcomes(True):
            assert job.job.done + len(job.job.errors) <= index + 6
