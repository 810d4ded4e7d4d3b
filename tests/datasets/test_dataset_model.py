"""A dataset gives what plain Python gives: on the serial engine against loops, and on worker processes against that."""

import itertools
import math
import random
from collections import Counter, defaultdict
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pymar
from pymar.exceptions import UsageError
from pymar.keyed import Count, Max, Mean, Sum

INTS = st.lists(st.integers(-50, 50), max_size=60)
PARTS = st.sampled_from([1, 2, 7])
#: Few, since each runs jobs.
MODEL = settings(max_examples=25)


def of(data, parts):
    return pymar.dataset(data, engine="serial", parts=parts)


@MODEL
@given(INTS, PARTS)
def test_narrow_steps_and_their_results(data, parts):
    dataset = (
        of(data, parts).map(lambda number: number * 3).filter(lambda number: number % 2).flat_map(lambda n: [n, -n])
    )
    expected = [one for number in data if number * 3 % 2 for one in (number * 3, -number * 3)]
    assert dataset.collect() == list(dataset) == expected
    assert dataset.count() == len(expected)
    assert dataset.sum() == sum(expected)
    assert dataset.top(5) == sorted(expected, reverse=True)[:5]
    assert dataset.top(5, key=abs) == sorted(expected, key=abs, reverse=True)[:5]
    assert dataset.take(4) == expected[:4]
    if expected:
        assert (dataset.min(), dataset.max()) == (min(expected), max(expected))
        assert dataset.mean() == sum(expected) / len(expected)
        assert dataset.reduce(lambda left, right: max(left, right)) == max(expected)


@MODEL
@given(INTS, PARTS)
def test_groups(data, parts):
    groups = of(data, parts).group_by(lambda number: number % 5)
    expected = defaultdict(list)
    for number in data:
        expected[number % 5].append(number)
    assert groups.count().to_dict() == {key: len(some) for key, some in expected.items()}
    assert groups.sum().to_dict() == {key: sum(some) for key, some in expected.items()}
    assert groups.min().to_dict() == {key: min(some) for key, some in expected.items()}
    assert groups.max().to_dict() == {key: max(some) for key, some in expected.items()}
    assert groups.mean().to_dict() == {key: sum(some) / len(some) for key, some in expected.items()}
    assert groups.collect().to_dict() == expected
    assert groups.reduce(lambda left, right: left + right).to_dict() == {
        key: sum(some) for key, some in expected.items()
    }
    assert groups.map_groups(lambda key, some: (key, list(some))).to_dict() == {
        key: (key, some) for key, some in expected.items()
    }
    assert of(data, parts).group_by().count().to_dict() == Counter(data)
    assert dict(groups.aggregate(n=Count(), most=Max()).collect()) == {
        key: {"n": len(some), "most": max(some)} for key, some in expected.items()
    }


@MODEL
@given(st.lists(st.tuples(st.integers(0, 5), st.integers()), max_size=40), PARTS)
def test_rows(pairs, parts):
    rows = of([{"k": key, "v": value} for key, value in pairs], parts)
    expected = defaultdict(list)
    for key, value in pairs:
        expected[key].append(value)
    found = rows.group_by("k").aggregate(n=Count(), total=Sum("v"), mean=Mean("v")).collect()
    assert sorted(found, key=lambda row: row["k"]) == [
        {"k": key, "n": len(some), "total": sum(some), "mean": sum(some) / len(some)}
        for key, some in sorted(expected.items())
    ]
    counted = rows.group_by(("k", "v")).count().collect()
    assert {(row["k"], row["v"]): row["count"] for row in counted} == Counter(pairs)
    assert rows.sort(("k", "v")).collect() == [{"k": key, "v": value} for key, value in sorted(pairs)]
    assert sorted(map(str, rows.distinct().collect())) == sorted({str({"k": key, "v": value}) for key, value in pairs})


@MODEL
@given(INTS, INTS, PARTS)
def test_joins(left, right, parts):
    def key(number):
        return number % 7

    joined = of(left, parts).join(of(right, parts), key)
    expected = Counter((key(one), (one, other)) for one in left for other in right if key(one) == key(other))
    assert Counter(joined.collect()) == expected
    there = {*map(key, right)}
    assert of(left, parts).join(of(right, parts), key, "semi").collect() == [one for one in left if key(one) in there]
    assert Counter(of(left, parts).join(of(right, parts), key, "anti").collect()) == Counter(
        one for one in left if key(one) not in there
    )


@MODEL
@given(INTS, PARTS)
def test_sorted_and_distinct(data, parts):
    dataset = of(data, parts)
    assert dataset.sort().collect() == sorted(data)
    assert dataset.sort(reverse=True).collect() == sorted(data, reverse=True)
    assert dataset.sort(lambda number: -abs(number)).collect() == sorted(data, key=lambda number: -abs(number))
    assert sorted(dataset.distinct().collect()) == sorted(set(data))


@MODEL
@given(st.lists(st.floats(-1e12, 1e12), max_size=300), PARTS)
def test_floats_are_added_with_one_rounding_for_each_part_and_one_for_all(data, parts):
    found = of(data, parts).sum()
    bounds = [len(data) * number // min(parts, len(data) or 1) for number in range(min(parts, len(data) or 1) + 1)]
    partial = [math.fsum(data[start:end]) for start, end in itertools.pairwise(bounds)]
    assert found == math.fsum(partial)
    assert abs(Fraction(found) - sum(map(Fraction, data))) <= sum(Fraction(math.ulp(one)) for one in [*partial, found])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([], 0),
        ([True, 2, 2**70], 2**70 + 3),
        ([1, 2.5], 3.5),
        ([2.5, 1], 3.5),
        ([1.5, 1j], 1.5 + 1j),
        ([float("inf"), 1.0], float("inf")),
        ([1e308, 1e308], float("inf")),
        ([[1], [2]], [1, 2]),
        ([Fraction(1, 3), 1], Fraction(4, 3)),
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_sums_of_other_kinds(data, expected, parts):
    found = of(data, parts).sum()
    assert (type(found), found) == (type(expected), expected)


def test_a_sum_of_infinities_is_no_number():
    assert math.isnan(of([float("inf"), -float("inf")], 1).sum())


def test_ints_of_numpy_do_not_wrap():
    numpy = pytest.importorskip("numpy")
    assert of(numpy.array([2**62] * 4), 2).sum() == 2**64


def test_the_same_bits_on_worker_processes_and_in_this_one():
    seed = random.randrange(1 << 32)
    print(f"seed={seed}")
    rng = random.Random(seed)
    data = [rng.gauss(0, 1e6) for _ in range(5_000)]
    base = pymar.dataset(data).map(lambda value: value * 1.1)
    groups = base.group_by(lambda value: int(value) % 9).aggregate(n=Count(), mean=Mean(), total=Sum())
    results = [
        (base.sum, base.mean, base.sample(0.3).collect, groups.collect, base.sort().collect, base.distinct().collect),
    ]
    for several in results:
        for result in several:
            expected = repr(result(engine="serial"))
            for engine in ("processes://1", "processes://3"):
                assert repr(result(engine=engine)) == expected


def test_what_is_sampled_is_the_same_in_each_run_and_another_with_another_seed():
    dataset = pymar.dataset(range(10_000), engine="serial").sample(0.1)
    first = dataset.collect()
    assert 800 < len(first) < 1200
    assert dataset.collect() == first
    assert dataset.collect(seed=1) != first
    assert pymar.dataset(range(50), engine="serial").sample(0).collect() == []
    assert pymar.dataset(range(50), engine="serial").sample(1).count() == 50


def test_a_dataset_is_not_changed_by_its_steps():
    dataset = of(range(10), 2)
    dataset.map(str)
    dataset.group_by(lambda number: number % 2).count()
    assert dataset.collect() == list(range(10))


@pytest.mark.parametrize("result", ["sum", "mean", "min", "max", "count", "collect"])
def test_results_over_groups_are_those_of_their_pairs(result):
    counts = of(["a", "b", "a"], 2).group_by().count()
    numbers = counts.map(lambda pair: pair[1])
    expected = {"sum": 3, "mean": 1.5, "min": 1, "max": 2, "count": 2}
    if result in expected:
        assert getattr(numbers, result)() == expected[result]
    assert sorted(counts.collect()) == [("a", 2), ("b", 1)]
    assert counts.max(key=lambda pair: pair[1]) == ("a", 2)
    assert counts.top(1, key=lambda pair: pair[1]) == counts.take(2)[:1] or counts.count() == 2


@pytest.mark.parametrize("parts", [1, 3])
def test_a_column_of_records_that_are_keys_themselves(parts):
    pairs = [("a", 1), ("b", 2), ("a", 1)]
    assert of(pairs, parts).group_by().sum(1).to_dict() == {("a", 1): 2, ("b", 2): 2}
    assert of(pairs, parts).group_by(lambda pair: pair[0]).max(1).to_dict() == {"a": 1, "b": 2}
    assert of([["a", 1]], parts).join(of([("a", 2)], parts)).collect() == [("a", (1, 2))]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_what_is_unequal_to_itself_is_chosen_last(parts):
    nan = float("nan")
    dataset = of([1.0, nan, 2.0, 0.5], parts)
    assert dataset.top(2) == [2.0, 1.0]
    assert (dataset.min(), dataset.max()) == (0.5, 2.0)
    assert repr(dataset.top(9)) == "[2.0, 1.0, 0.5, nan]"
    assert repr(of([nan], parts).max()) == "nan"
    assert of([None, 3.0, None, 1.0], parts).max() == 3.0
    assert of([{"a": None}, {"a": 2}], parts).top(2, key="a") == [{"a": 2}, {"a": None}]
    assert dataset.map(lambda value: (value, "x")).top(1, key=lambda pair: pair[0]) == [(2.0, "x")]


def test_records_without_an_order_need_a_key():
    with pytest.raises(Exception, match="key='count'") as raised:
        of([{"a": 1}, {"a": 2}], 1).top(1)
    assert "key='count'" in str(raised.value) + str(getattr(raised.value, "__notes__", ""))


@pytest.mark.parametrize("call", ["min", "max", "mean"])
def test_of_no_records_there_is_no_least_and_no_mean(call):
    with pytest.raises(UsageError, match=rf"{call}\(\) of no records"):
        getattr(of([], 1), call)()
    with pytest.raises(UsageError, match=r"reduce\(\) of no records"):
        of([], 1).reduce(lambda left, right: left)
