"""Calls under attack: functions that look alike, change, or are made anew give their own results, and no other's."""

import functools
from dataclasses import dataclass
from typing import Any

import pytest

import pymar

ENGINES = pytest.mark.parametrize("engine", ["serial", "processes://2"])


@dataclass(frozen=True)
class Scale:
    factor: Any

    def __call__(self, number):
        return self.factor * number


class AllEqual:
    def __init__(self, added):
        self.added = added

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def __call__(self, number):
        return self.added + number


class Uncomparable(AllEqual):
    def __eq__(self, other):
        raise RuntimeError("not to be compared")

    def __hash__(self):
        raise RuntimeError("not to be hashed")


@ENGINES
def test_functions_that_are_equal_give_their_own_results(engine):
    assert repr([pymar.map(Scale(factor), [2], engine=engine) for factor in (1, 1.0, True)]) == "[[2], [2.0], [2]]"
    for cls in (AllEqual, Uncomparable):
        assert [pymar.map(cls(added), [1], engine=engine) for added in (1, 5)] == [[2], [6]]
    several = [AllEqual(1), AllEqual(5)]
    assert [pymar.map(one.__call__, [1], engine=engine) for one in several] == [[2], [6]]
    assert [pymar.map(functools.partial(one), [1], engine=engine) for one in several] == [[2], [6]]
    ones = pymar.dataset([1], engine=engine)
    assert [ones.map(one).collect() for one in several] == [[2], [6]]


@ENGINES
def test_a_function_that_has_changed_between_two_calls_gives_what_it_is_now(engine):
    one, shift = AllEqual(1), 1

    def shifted(number, by=[0]):  # noqa: B006 - that is what is tried
        return number + shift + by[0]

    found = []
    for value in (1, 10, 20):
        one.added = shift = shifted.__defaults__[0][0] = value
        found += pymar.map(one, [0], engine=engine) + pymar.map(shifted, [0], engine=engine)
    assert found == [1, 2, 10, 20, 20, 40]


@ENGINES
def test_functions_of_one_name_that_are_made_in_a_loop_give_their_own_results(engine):
    assert [pymar.map(lambda number: number + shift, [0], engine=engine) for shift in range(20)] == [  # noqa: B023
        [shift] for shift in range(20)
    ]
