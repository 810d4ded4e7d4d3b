"""A reduce_fn that cannot be run twice is refused, by a job and by `pymar check`; no correct job is."""

import contextlib
import heapq
import math
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy
import pandas
import pytest
from places import ROOT

from pymar import DataSourceFactory, Producer
from pymar.exceptions import PartFailed, UsageError
from pymar.job import reduction as reducecheck
from pymar.job.reduction import alike, check_partial
from pymar.serialization.values import dumps
from pymar.testing import Numbers, check_reduce


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(reducecheck, "PAUSE", 0.0)


def reducing(reduce_fn, map_fn=lambda records: records):
    members = {"map_fn": staticmethod(map_fn), "reduce_fn": staticmethod(reduce_fn), "__module__": __name__}
    return type("Mine", (Producer,), members)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def summed(values):
    total, count = 0.0, 0
    for value in values:
        one, many = value if isinstance(value, tuple) else (value, 1)
        total, count = total + one, count + many
    return total, count


def sample(values):
    found = [one for value in values for one in (value if isinstance(value, list) else [value])]
    random.shuffle(found)
    return found[:20]


def joined(lists):
    return [one for values in lists for one in values]


def timed(values):
    return time.perf_counter_ns(), sum(one[1] if isinstance(one, tuple) else one for one in values)


def nothing_but_nan(arrays):
    return numpy.nansum(list(arrays), axis=0) * numpy.nan


def in_place(dicts):
    first = next(iter(dicts))
    for other in dicts:
        first.update(other)
    return first


@dataclass
class Total:
    value: float
    names: list


class Opaque:
    def __init__(self, value):
        self.value = value


class Array(Opaque):
    def __eq__(self, other):
        return numpy.array([True, False])


WRONG = {
    "a count": lambda values: sum(1 for _ in values) + 10,
    "a range": lambda values: max(found := list(values)) - min(found),
    "squares again": lambda values: sum(value * value for value in values) + 1,
    "a text that grows": lambda values: "".join(map(str, values)) + ";",
    "a power": lambda values: numpy.array(list(values)).sum(axis=0) * 2,
    "list": list,
    "sorted": sorted,
    "tuple": tuple,
    "an array of them": lambda values: numpy.array(list(values)),
    "a dict of them": lambda values: dict(enumerate(values)),
}
RIGHT = {
    "sum": (sum, None),
    "float sum": (sum, lambda records: [one / 3 for one in records]),
    "pairs": (lambda pairs: (0, sum(value for _, value in pairs)), lambda records: ((0, 0.1 * one) for one in records)),
    "a sum and a count": (summed, None),
    "max, or nothing": (lambda values: max((one for one in values if one is not None), default=None), None),
    "top ten with ties": (
        lambda lists: heapq.nlargest(10, (one for values in lists for one in values)),
        lambda records: [[one // 3] for one in records],
    ),
    "a Counter": (lambda counts: sum(counts, Counter()), lambda records: [Counter(one % 3 for one in records)]),
    "lists joined": (joined, lambda records: [[one] for one in records]),
    "lists of lists": (joined, lambda records: [[[1], [one]] for one in records]),
    "a set in any order": (lambda sets: list(set().union(*sets)), lambda records: [{str(one) for one in records}]),
    "union": (lambda sets: set().union(*sets), lambda records: [{one} for one in records]),
    "a sample": (sample, None),
    "the time": (timed, None),
    "arrays with NaN": (nothing_but_nan, lambda records: [numpy.ones(3) for _ in records]),
    "in place": (in_place, lambda records: [{one: 1} for one in records]),
    "a frame": (lambda frames: pandas.concat(list(frames)), lambda records: [pandas.DataFrame({"a": list(records)})]),
    "no __eq__": (lambda values: Opaque(max(map(hash, values))), None),
    "an odd __eq__": (lambda values: Array(max(map(hash, values))), None),
    "needs two": (lambda values: statistics.stdev(map(abs, values)) if (values := list(values))[1:] else 1 / 0, None),
}  # fmt: skip


@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_a_reduce_fn_that_does_not_give_a_partial_back_is_refused(how, engine):
    producer = reducing(WRONG[how])
    with pytest.raises(UsageError, match=r"Mine\.reduce_fn .* partial .* alone") as error:
        producer(engine=engine).map(DataSourceFactory(range(1, 1_000)))
    assert "finish what map() returns" in str(error.value)


@pytest.mark.parametrize("how", RIGHT)
def test_a_reduce_fn_that_may_be_right_is_not_refused(how):
    reduce_fn, map_fn = RIGHT[how]
    producer = reducing(reduce_fn, map_fn or (lambda records: records))
    with contextlib.suppress(PartFailed, TypeError, ValueError):  # its own errors are not ours
        producer(engine="serial").map(DataSourceFactory(range(1_000)))


def test_the_answer_and_the_random_numbers_of_the_script_stay_as_they_were():
    def drawing(values):
        random.random()
        return sum(values)

    random.seed(1)
    expected = [random.random() for _ in range(3)]
    random.seed(1)
    check_partial(reducing(drawing), dumps(7))
    assert [random.random() for _ in range(3)] == expected


def test_a_large_partial_is_not_checked():
    calls = []

    def counting(values):
        calls.append(1)
        return [0] * 100_000

    assert len(reducing(counting)(engine="serial").map(DataSourceFactory(range(2)))) == 100_000
    assert len(calls) == 3  # two parts, and their partials


def test_a_refusal_that_reduce_fn_swallows_is_raised_all_the_same():
    def swallowing(values):
        try:
            return sum(values) + 1
        except Exception:
            return 0

    with pytest.raises(UsageError, match="alone"):
        reducing(swallowing)(engine="serial").map(DataSourceFactory(range(10)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (0.1 + 0.2, 0.3, True),
        (math.nan, math.nan, True),
        ([math.nan, {"a": (1, 2)}], [math.nan, {"a": [1, 2]}], True),
        (Decimal(1) / 3, Decimal("0.3333333333333333"), True),
        (Fraction(1, 3), 1 / 3, True),
        (1 + 1e-12j, 1 + 0j, True),
        ([1, 2, 3], deque([3, 1, 2]), True),
        ({1, 2}, frozenset({2, 1}), True),
        (Total(0.1 + 0.2, ["a"]), Total(0.3, ["a"]), True),
        (numpy.float32(0.1), 0.1, True),
        (numpy.array([1.0, math.nan]), numpy.array([1.0, math.nan]), True),
        (numpy.array(["a"]), numpy.array(["b"]), False),
        (numpy.zeros(3), numpy.zeros((1, 3)), False),
        (None, 0, False),
        ([1], [1, 1], False),
        ({"a": 1}, {"b": 1}, False),
        ("a", "b", False),
        (Opaque(1), Opaque(1), None),
        ([Opaque(1)], [Opaque(2)], None),
        (Array(1), Array(1), None),
        (numpy.array([None]), numpy.array([None]), None),
        (pandas.DataFrame({"a": [1]}), pandas.DataFrame({"a": [2]}), None),
    ],
)
def test_values_are_alike_but_for_rounding_and_order(one, other, same):
    assert alike(one, other) is same
    assert alike(other, one) is same


def test_a_mean_is_detected_by_a_part_in_two():
    with pytest.raises(AssertionError, match=r"reduce_fn .*499\.5") as error:
        check_reduce(reducing(mean), DataSourceFactory(Numbers))
    assert "a sum and a count for a mean" in str(error.value)
    with pytest.raises(AssertionError, match="differ"):
        check_reduce(reducing(statistics.median), DataSourceFactory([1, 2, 3, 100, 5]))
    with pytest.raises(AssertionError, match="alone"):
        check_reduce(reducing(WRONG["a count"]), DataSourceFactory(Numbers))
    assert "alike" in check_reduce(reducing(sum), DataSourceFactory(Numbers))[-1]
    assert "cannot be cut" in check_reduce(reducing(sum), DataSourceFactory([1]))[0]
    drawn = reducing(sum, lambda records: (random.random() for _ in records))
    assert "random numbers" in check_reduce(drawn, DataSourceFactory(Numbers))[0]


JOB = """
from pymar import DataSource, DataSourceFactory, Producer

class Numbers(DataSource):
    n = 100_000
    @classmethod
    def full_length(cls):
        return cls.n
    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))

class Mean(Producer):
    @staticmethod
    def map_fn(numbers):
        return numbers
    @staticmethod
    def reduce_fn(values):
        values = list(values)
        return REDUCED

print(Mean().map(DataSourceFactory(Numbers)))
"""


@pytest.fixture
def check(tmp_path):
    def run(code, *options):
        (tmp_path / "job.py").write_text(code)
        command = [sys.executable, "-m", "pymar", "check", "job.py", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_of_a_producer_that_reduces_by_key_the_source_is_checked(check):
    code = "from pymar import DataSourceFactory\nfrom pymar.keyed import KeyedProducer, Sum\n"
    code += "class Mod(KeyedProducer):\n    reduce_fn = Sum()\n    @staticmethod\n    def map_fn(records):\n"
    code += "        for one in records:\n            yield one % 3, 1\n\nMod().map(DataSourceFactory(range(10)))\n"
    done = check(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Mod: it reduces by key; that is not checked here" in done.stdout


def test_the_command_prints_both_values_and_the_remedy(check):
    done = check(JOB.replace("REDUCED", "sum(values) / len(values)"), "-p", "Mean")
    assert done.returncode == 1
    assert re.search("^Numbers: 1,000 records", done.stdout, re.MULTILINE)
    assert re.search(r"1,000 records.* 499\.5$", done.stderr, re.MULTILINE)
    assert re.search(r"partials .*333 and 667.* 416\.", done.stderr)
    assert "a sum and a count for a mean" in done.stderr


def test_the_command_prints_what_is_right(check):
    done = check(JOB.replace("REDUCED", "sum(values)"), "-n", "10", "--set", "n=50")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("10 records.* 45$", done.stdout, re.MULTILINE)
    assert "alike" in done.stdout


def test_the_command_finds_a_source_that_is_cut_wrongly(check):
    done = check(
        JOB.replace("range(self.offset,", "range(self.offset - (self.offset > 0),").replace("REDUCED", "sum(values)")
    )
    assert done.returncode == 1
    assert "the source gives" in done.stderr


def test_the_command_takes_the_factory_of_the_file_and_knows_when_there_is_none(check):
    job = JOB.replace("REDUCED", "sum(values)")
    listed = job.partition("print(")[0] + "data = DataSourceFactory([1.5, 2, 3])"
    assert re.search(r"3 records.* 6\.5$", check(listed).stdout, re.MULTILINE)
    inline = job.replace("class Numbers(DataSource)", "class Numbers").replace("Factory(Numbers)", "Factory([7, 8])")
    assert re.search("2 records.* 15$", check(inline).stdout, re.MULTILINE)
    done = check(inline.partition("print(")[0])
    assert done.returncode == 0
    assert "nothing was computed" in done.stdout
    assert "reduce_fn takes" in check(job.replace("reduce_fn(values)", "reduce_fn(one, two)")).stderr
    two = check(job.partition("print(")[0] + "class Other(Mean): pass")
    assert re.search(r"job\.py.* Mean, Other.*-p NAME", two.stderr)


@pytest.mark.parametrize("name", ["pi.py", "squares.py", "integral.py"])
def test_the_command_refuses_no_example(name):
    path = ROOT / "examples" / name
    done = subprocess.run([sys.executable, "-m", "pymar", "check", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "in order" in done.stdout


def test_the_time_of_day_in_a_partial_is_no_fault(monkeypatch):
    """Two calls within a second would give the same, and neither what a worker gave before."""
    clock = [0.0]

    def stamped(values):
        return int(clock[0]), sum(one[1] if isinstance(one, tuple) else one for one in values)

    monkeypatch.setattr(reducecheck, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(reducecheck, "PAUSE", 1.1)
    partial = dumps(stamped([1, 2]))
    clock[0] = 5.0
    check_partial(reducing(stamped), partial)


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_one_part_is_not_reduced_with_others(engine):
    assert reducing(list)(engine=engine).map(DataSourceFactory([1])) == [[1]]
