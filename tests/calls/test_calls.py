"""pymar.map, starmap, imap, imap_unordered: results, order, laziness, errors, on the engines of this host."""

import functools
import gc
import itertools
import os
import random
import time
import weakref
from pathlib import Path

import call_jobs
import pytest
from conftest import wait_until

import pymar
from pymar.exceptions import JobTimeout, NotPicklable, PartFailed, PartLost, UsageError

ENGINES = pytest.mark.parametrize("engine", ["serial", "processes://2"])


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def times(self, number):
        return self.factor * number

    def __call__(self, number):
        return self.factor + number

    @staticmethod
    def negated(number):
        return -number


@ENGINES
def test_whatever_can_be_called_is(engine):
    seven = 7
    scaled = Scaled(3)
    for function, expected in (
        (call_jobs.squared, [0, 1, 4]),
        (lambda number: number + seven, [7, 8, 9]),
        (scaled.times, [0, 3, 6]),
        (scaled, [3, 4, 5]),
        (Scaled.negated, [0, -1, -2]),
        (functools.partial(pow, 2), [1, 2, 4]),
        (str, ["0", "1", "2"]),
        (Scaled, None),
    ):
        found = pymar.map(function, range(3), engine=engine)
        if expected is None:
            assert [one.factor for one in found] == [0, 1, 2]
        else:
            assert found == expected


@ENGINES
def test_whatever_can_be_iterated_is(engine):
    for items in ([1, 2], (1, 2), {1: "a", 2: "b"}, iter([1, 2]), (one for one in (1, 2)), range(1, 3), {1, 2}.union()):
        assert pymar.map(call_jobs.squared, items, engine=engine) == [1, 4]
    assert pymar.map(call_jobs.squared, [], engine=engine) == []
    assert pymar.map(call_jobs.added, [1, 2, 3], [10, 20], engine=engine) == [11, 22]
    assert pymar.map(call_jobs.added, iter([1, 2, 3]), itertools.count(10), engine=engine) == [11, 13, 15]
    assert pymar.starmap(pow, [(2, 3), (3, 2)], engine=engine) == [8, 9]


def test_arrays_of_numpy_are_items():
    numpy = pytest.importorskip("numpy")
    assert pymar.map(call_jobs.squared, numpy.arange(3), engine="serial") == [0, 1, 4]


@ENGINES
def test_an_iterator_is_lazy_and_may_be_endless(engine):
    taken = []

    def items():
        for number in itertools.count():
            taken.append(number)
            yield number

    results = pymar.imap(call_jobs.squared, items(), engine=engine)
    assert taken == []
    assert list(itertools.islice(results, 100)) == [number**2 for number in range(100)]
    results.close()
    assert len(taken) < 30_000


def test_items_are_read_ahead_in_a_bounded_window_only(monkeypatch, tmp_path):
    monkeypatch.setattr("pymar.calls.calling.AHEAD", 20)
    gate = tmp_path / "gate"
    taken = []

    def items():
        for number in range(1_000):
            taken.append(number)
            yield number

    def slow_first(number):
        while number == 0 and not gate.exists():
            time.sleep(0.01)  # between two looks, until the test opens the gate
        return number

    results = pymar.imap(slow_first, items(), engine="processes://2")
    from threading import Timer

    timer = Timer(1.0, gate.touch)
    timer.start()
    assert next(results) == 0
    timer.join()
    assert len(taken) <= 21
    assert list(results) == list(range(1, 1_000))


def test_results_as_they_finish_do_not_wait_for_the_slow_one(tmp_path):
    gate = tmp_path / "gate"

    def waits(number):
        while number == 0 and not gate.exists():
            time.sleep(0.01)  # between two looks, until the test opens the gate
        return number

    results = pymar.imap_unordered(waits, range(20), engine="processes://2")
    first = [next(results) for _ in range(19)]
    assert 0 not in first
    gate.touch()
    assert [*results] == [0]


@ENGINES
def test_an_error_names_the_position_of_the_item_and_shows_it(engine):
    with pytest.raises(PartFailed, match=r"item 2: 0") as raised:
        pymar.map(call_jobs.inverse, [4, 2, 0, 1], engine=engine)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert raised.value.offset == 2
    with pytest.raises(PartFailed, match=r"item 1: \(1, 'x'\)"):
        pymar.map(call_jobs.added, [1, 1], [1, "x"], engine=engine)
    with pytest.raises(ZeroDivisionError):
        pymar.Producer().replay(raised.value)


@ENGINES
def test_exceptions_are_returned_in_the_place_of_results(engine):
    found = pymar.map(call_jobs.inverse, [4, 0, 2], engine=engine, return_exceptions=True)
    assert (found[0], found[2]) == (0.25, 0.5)
    assert isinstance(found[1], ZeroDivisionError)
    assert any("item 1: 0" in note for note in found[1].__notes__)
    in_order = list(pymar.imap(call_jobs.inverse, iter([4, 0, 2]), engine=engine, return_exceptions=True))
    assert [type(one) for one in in_order] == [float, ZeroDivisionError, float]
    unordered = pymar.imap_unordered(call_jobs.inverse, [4, 0, 2], engine=engine, return_exceptions=True)
    assert sorted(type(one).__name__ for one in unordered) == ["ZeroDivisionError", "float", "float"]


def test_an_item_that_kills_its_process_costs_itself_only():
    found = pymar.map(call_jobs.killed_by_three, range(6), engine="processes://2", attempts=2, return_exceptions=True)
    assert [one for one in found if isinstance(one, int)] == [0, 1, 2, 4, 5]
    assert isinstance(found[3], PartLost)
    assert "item 3: 3" in str(found[3])
    with pytest.raises(PartLost, match=r"part 3 .*item 3: 3"):
        pymar.map(call_jobs.killed_by_three, range(6), engine="processes://2", attempts=2)


@ENGINES
def test_a_function_that_raises_stopiteration_ends_nothing(engine):
    with pytest.raises(PartFailed, match="StopIteration"):
        pymar.map(next, [iter([]), iter([])], engine=engine)
    with pytest.raises(PartFailed, match="StopIteration"):
        pymar.starmap(next, [(iter([]),)], engine=engine)


@ENGINES
def test_more_items_than_parts(engine, monkeypatch):
    monkeypatch.setattr("pymar.calls.producer.Calls.WORKERS_NUMBER", 7)
    assert pymar.map(call_jobs.squared, range(100), engine=engine) == [number**2 for number in range(100)]
    with pytest.raises(PartFailed, match="item 50: 0"):
        pymar.map(call_jobs.inverse, [1] * 50 + [0] + [1] * 49, engine=engine)


def test_random_numbers_do_not_depend_on_what_computes():
    found = [pymar.map(call_jobs.drawn, range(20), engine=engine, seed=5) for engine in ("serial", "processes://3")]
    assert found[0] == found[1]
    assert len(set(found[0])) == 20
    assert pymar.map(call_jobs.drawn, range(20), engine="serial") != found[0]


OUTSIDE = random.Random(1)


def test_a_generator_from_outside_the_function_is_warned_of(caplog):
    pymar.map(lambda number: OUTSIDE.random(), range(3), engine="serial")
    assert "reads a generator of random numbers" in caplog.text
    caplog.clear()
    pymar.dataset(range(3), engine="serial").map(lambda number: OUTSIDE.random()).collect()
    assert "default_rng(random.getrandbits(64))" in caplog.text
    caplog.clear()
    pymar.map(lambda number: random.Random(random.getrandbits(64)).random(), range(3), engine="serial")
    assert not caplog.text


def test_setup_is_called_once_a_process(tmp_path):
    def setup():
        (tmp_path / f"{os.getpid()}-{random.SystemRandom().random()}").touch()

    def pid(_):
        return os.getpid()

    used = set(pymar.map(pid, range(200), engine="processes://2", setup=setup))
    begun = [int(path.name.partition("-")[0]) for path in tmp_path.iterdir()]
    assert len(begun) == len(set(begun))
    assert used <= set(begun)


def test_a_time_out():
    def sleeps(number):
        time.sleep(60)  # longer than the time-out

    with pytest.raises(JobTimeout):
        pymar.map(sleeps, range(3), engine="processes://2", timeout=0.3, on_timeout="fail")


def test_a_part_that_never_ends_is_stopped():
    def sleeps(number):
        time.sleep(60 if number == 1 else 0)  # longer than the limit

    with pytest.raises(PartLost, match="PART_TIMEOUT"):
        pymar.map(sleeps, range(3), engine="processes://2", part_timeout=0.3)


def test_a_checkpoint_keeps_each_item(tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()

    def noted(number):
        (seen / str(number)).touch()
        return number * 2

    path = tmp_path / "run.ckpt"
    assert pymar.map(noted, range(5), engine="processes://2", checkpoint=path) == [0, 2, 4, 6, 8]
    for one in seen.iterdir():
        one.unlink()
    assert pymar.map(noted, range(7), engine="processes://2", checkpoint=path) == [0, 2, 4, 6, 8, 10, 12]
    assert {one.name for one in seen.iterdir()} == {"5", "6"}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: pymar.map(len, "abc.csv"),
            r"letters would be the records.*pymar\.read_text\('abc\.csv'\)\.map\(len\)",
        ),
        (lambda: pymar.map(len, b"abc"), "numbers would be the records"),
        (lambda: pymar.map(len, Path("abc.csv")), r"pymar\.read_text"),
        (lambda: pymar.map(len, 7), "got 7: give an iterable"),
        (lambda: pymar.map(len), "has no items"),
        (lambda: pymar.map([1], len), "give a function first"),
        (lambda: pymar.map(call_jobs.squared, call_jobs.squared), "call it"),
        (lambda: pymar.map(abs, itertools.count()), r"without an end.*pymar\.imap\(\)"),
        (lambda: pymar.map(abs, itertools.repeat(1)), r"without an end.*pymar\.imap\(\)"),
        (lambda: pymar.map(abs, itertools.cycle([1])), r"without an end"),
        (lambda: pymar.map(abs, [1], retrys=3), r"no option retrys=: did you mean retries="),
        (lambda: pymar.map(abs, [1], chunksize=3), r"pymar\.map\(\) has no option chunksize="),
        (lambda: pymar.map(abs, pymar.DataSourceFactory([1])), r"pymar\.dataset\(source\)\.map\(abs\)"),
        (lambda: pymar.map(abs, pymar.dataset([1])), r"pymar\.dataset"),
        (lambda: pymar.imap(abs, "abc"), "letters"),
        (lambda: pymar.DataSourceFactory("path"), "letters"),
    ],
)
def test_wrong_arguments_are_refused_with_the_remedy(call, match):
    with pytest.raises(UsageError, match=match):
        call()


def test_repeated_items_with_an_end_are_no_mistake():
    assert pymar.map(abs, itertools.repeat(-1, 3), engine="serial") == [1, 1, 1]


def test_a_dataframe_is_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(UsageError, match="columns would be the records"):
        pymar.map(abs, pandas.DataFrame({"a": [1]}))


def test_an_asynchronous_function_is_refused():
    async def waits(number):
        return number

    with pytest.raises(UsageError, match="asynchronous"):
        pymar.map(waits, [1])


def test_a_generator_that_was_read_is_not_taken_for_no_items():
    generator = (number for number in range(3))
    assert pymar.map(call_jobs.squared, generator, engine="serial") == [0, 1, 4]
    with pytest.raises(UsageError, match="read"):
        pymar.map(call_jobs.squared, generator, engine="serial")
    mapped = map(abs, [1])
    assert pymar.map(call_jobs.squared, mapped, engine="serial") == [1]
    with pytest.raises(UsageError, match="read"):
        pymar.map(call_jobs.squared, mapped, engine="serial")


def test_what_cannot_travel_is_named_with_the_variable_that_holds_it():
    held = open(__file__)  # noqa: SIM115 - what cannot be sent is the test

    def reads(number):
        return held.read(number)

    with held, pytest.raises(NotPicklable, match="held"):
        pymar.map(reads, [1], engine="processes://1")


def test_results_that_do_not_fit_into_memory_are_said_with_the_remedy(monkeypatch):
    monkeypatch.setattr("pymar.calls.memory.SHARE", -1.0)
    with pytest.raises(UsageError, match=r"do not fit into memory.*pymar\.imap\(\)"):
        pymar.map(abs, range(10), engine="serial")


def test_calls_within_a_call_run_in_its_process():
    def outer(number):
        return pymar.map(call_jobs.squared, range(number), progress=False), os.getpid()

    found = pymar.map(outer, [2, 3], engine="processes://2")
    assert [one for one, _ in found] == [[0, 1], [0, 1, 4]]


@pytest.mark.parametrize("engine", ["serial", "processes://1"])
def test_what_a_function_holds_is_let_go_after_the_call(engine):
    def used():
        held = Scaled(3)
        assert pymar.map(lambda number: held.times(number), range(3), engine=engine) == [0, 3, 6]
        assert pymar.dataset(range(3), engine=engine).map(lambda number: held.times(number)).sum() == 9
        return weakref.ref(held)

    reference = used()
    assert pymar.map(abs, [-1], engine=engine) == [1]  # the pool forgets a job when there is another
    wait_until(lambda: gc.collect() is None or reference() is None, "what the function held is gone")


def test_a_loop_of_functions_gives_each_its_own_results():
    functions = [lambda number, add=add: number + add for add in range(5)]
    assert [pymar.map(one, [1], engine="serial") for one in functions] == [[1], [2], [3], [4], [5]]
    assert [pymar.map(functools.partial(pow, base), [2], engine="serial") for base in range(3)] == [[0], [1], [4]]


def test_a_call_leaves_nothing_on_its_class_that_another_engine_would_miss():
    for engine in ("serial", "processes://1"):
        with pymar.Executor(engine) as executor:
            assert executor.submit(call_jobs.squared, 3).result() == 9
        assert pymar.dataset([0.5, 1.5], engine=engine).map(abs).sum() == 2.0
        assert pymar.map(abs, [-1], engine=engine) == [1]


class Refused(Exception):
    def __init__(self, code, place):
        super().__init__(f"{code} at {place}")
        self.code = code


def refuses(number):
    raise Refused(number, "home")


@pytest.mark.parametrize("engine", ["serial", "processes://1"])
def test_an_exception_with_an_init_of_its_own_arrives(engine):
    (found,) = pymar.map(refuses, [7], engine=engine, return_exceptions=True)
    assert (type(found), str(found), found.code) == (Refused, "7 at home", 7)
    with pytest.raises(PartFailed) as raised:
        pymar.map(refuses, [7], engine=engine)
    assert isinstance(raised.value.__cause__, Refused)


def test_options_of_other_libraries_are_named_as_they_are_here():
    with pytest.raises(UsageError, match="processes://4"):
        pymar.map(abs, [1], workers=4)
    with pytest.raises(UsageError, match=r"generator function.*list"):
        pymar.map(lambda number: (yield number), [1])
    with pytest.raises(UsageError, match=r"attempts= is 0"):
        pymar.map(abs, [1], attempts=0)
    with pytest.raises(PartFailed, match="a result of"):
        pymar.map(lambda number: __import__("threading").Lock(), [1], engine="processes://1")


def test_a_star_import_leaves_map_as_it_is():
    names = {}
    exec("from pymar import *", names)
    assert "map" not in names
    assert names["starmap"] is pymar.starmap
