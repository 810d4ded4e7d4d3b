"""What a function holds is found under names, and put back under the same: defaults, variables, attributes."""

import functools
from types import FunctionType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.serialization.closure import CLOSURE, DEFAULT, held_by, hold


def made(seen=3):
    """A function that holds something of every kind."""

    def function(first, second=2, /, third="c", *rest, fourth, fifth=5.0, **others):
        return first, second, third, rest, fourth, fifth, others, seen

    function.calls = []
    return function


def default(name):
    return f"{DEFAULT}{name}"


def variable(name):
    return f"{CLOSURE}{name}"


def test_a_plain_function_holds_nothing():
    def plain(one, *rest, two, **others):
        return one, rest, two, others

    assert held_by(plain) == {}


def test_all_that_a_function_holds_is_found():
    assert held_by(made()) == {
        default("second"): 2,
        default("third"): "c",
        default("fifth"): 5.0,
        variable("seen"): 3,
        "calls": [],
    }


def test_it_is_the_objects_themselves_that_are_found():
    function = made(seen := [1])
    assert held_by(function)[variable("seen")] is seen
    assert held_by(function)["calls"] is function.calls


def test_attributes_come_in_the_order_of_their_names():
    function = made()
    function.zeal, function.aim = 1, 2
    assert [name for name in held_by(function) if " " not in name] == ["aim", "calls", "zeal"]


def test_what_wraps_notes_is_not_held_and_what_is_wrapped_is():
    @functools.wraps(function := made())
    def wrapper():
        return function

    held = held_by(wrapper)
    assert "__wrapped__" not in held
    assert held[variable("function")] is function


def test_a_function_that_is_being_defined_has_a_variable_that_is_not_set():
    def inner():
        return later

    assert held_by(inner) == {}
    later = 1
    assert held_by(inner) == {variable("later"): 1}


def test_a_variable_that_is_not_set_can_be_held():
    def inner():
        return later

    hold(inner, variable("later"), 4)
    assert inner() == 4
    if False:
        later = 0


def test_two_functions_of_one_scope_share_its_variable():
    def scope():
        count = 0

        def read():
            return count

        def add():
            nonlocal count
            count += 1

        return read, add

    read, add = scope()
    hold(read, variable("count"), 10)
    add()
    assert read() == held_by(add)[variable("count")] == 11


@pytest.mark.parametrize("name", ["second", "third", "fifth"])
def test_one_default_is_changed_and_the_others_stay(name):
    function = made()
    before = held_by(function)
    hold(function, default(name), "new")
    assert held_by(function) == {**before, default(name): "new"}


def test_what_is_held_is_what_calls_see():
    function = made()
    for name, value in ((default("second"), "b"), (default("fifth"), "e"), (variable("seen"), "s")):
        hold(function, name, value)
    assert function("a", fourth="d") == ("a", "b", "c", (), "d", "e", {}, "s")


def test_an_attribute_is_held_by_its_name():
    function = made()
    hold(function, "calls", 7)
    hold(function, "new", 8)
    assert (function.calls, function.new) == (7, 8)


def test_a_default_of_one_function_is_not_that_of_another_of_its_code():
    first, second = made(), made()
    hold(first, default("second"), "changed")
    assert held_by(second)[default("second")] == 2


def test_a_name_that_is_none_of_its_variables_is_an_error():
    with pytest.raises(KeyError):
        hold(made(), variable("nothing"), 1)
    with pytest.raises(ValueError):  # noqa: PT011 - no user sees it
        hold(made(), default("nothing"), 1)


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.data())
def test_what_is_found_can_be_put_into_a_copy_of_the_function(required, optional, keywords, data):
    names = [f"p{number}" for number in range(required + optional)]
    only = [f"k{number}" for number in range(keywords)]
    signature = [*names[:required], *(f"{name}='{name}'" for name in names[required:])]
    signature += ["*", *(f"{name}='{name}'" for name in only)] if only else []
    space = {}
    exec(f"def function({', '.join(signature)}): return locals()", space)
    function = space["function"]
    held = held_by(function)
    assert held == {default(name): name for name in [*names[required:], *only]}
    new = {name: data.draw(st.integers()) for name in held}
    copy = FunctionType(function.__code__, {}, "copy", function.__defaults__)
    copy.__kwdefaults__ = dict(function.__kwdefaults__ or {}) or None
    for name, value in new.items():
        hold(copy, name, value)
    assert held_by(copy) == new
    assert held_by(function) == held
