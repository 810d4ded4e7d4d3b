"""pymar.map goes on past failing items, and computes only those again, and items that were added."""

import itertools

import pytest

import pymar
from pymar.exceptions import CheckpointMismatch, PartsFailed

ENGINES = pytest.mark.parametrize("engine", ["serial", "processes://2"])


def fragile(number):
    if number % 20 == 7:
        raise ValueError(f"no {number}")
    return (number + 1) ** -1.5


def mended(number):
    return (number + 1) ** -1.5


def noting(path, function):
    def noted(number):
        with open(path, "a") as file:
            print(number, file=file)
        return function(number)

    return noted


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes"
    path.touch()

    def numbers():
        found = set(map(int, path.read_text().split()))
        path.write_text("")
        return found

    numbers.of = lambda function: noting(str(path), function)
    return numbers


@ENGINES
def test_a_mended_function_computes_only_the_failed_items_and_those_that_were_added(tmp_path, notes, engine):
    options = {"engine": engine, "checkpoint": tmp_path / "run.ckpt"}
    with pytest.raises(PartsFailed) as caught:
        pymar.map(notes.of(fragile), range(100), max_failed=10, **options)
    assert [one.index for one in caught.value.exceptions] == [7, 27, 47, 67, 87]
    assert notes() == set(range(100))
    with pytest.raises(CheckpointMismatch, match="on_mismatch"):
        pymar.map(notes.of(mended), range(100), **options)
    assert pymar.map(notes.of(mended), range(100), on_mismatch="keep", **options) == list(map(mended, range(100)))
    assert notes() == {7, 27, 47, 67, 87}
    assert pymar.map(notes.of(mended), range(110), **options) == list(map(mended, range(110)))
    assert notes() == set(range(100, 110))


def test_an_item_that_changed_is_computed_again(tmp_path, notes):
    options = {"engine": "serial", "checkpoint": tmp_path / "run.ckpt"}
    items = list(range(10))
    pymar.map(notes.of(mended), items, **options)
    notes()
    items[4] = 40
    with pytest.raises(CheckpointMismatch, match="data of part 4"):
        pymar.map(notes.of(mended), items, **options)
    assert pymar.map(notes.of(mended), items, on_mismatch="keep", **options) == list(map(mended, items))
    assert notes() == {40}


def test_an_iterator_yields_what_comes_before_the_first_failed_item(notes):
    found = []
    with pytest.raises(PartsFailed):
        found.extend(pymar.imap(notes.of(fragile), range(100), max_failed=10, engine="serial"))
    assert found == list(map(mended, range(7)))
    assert notes() == set(range(100))


def test_an_iterator_of_what_finishes_yields_all_that_does(notes):
    found = []
    with pytest.raises(PartsFailed):
        found.extend(pymar.imap_unordered(notes.of(fragile), range(100), max_failed=10, engine="processes://2"))
    assert sorted(found, reverse=True) == [mended(number) for number in range(100) if number % 20 != 7]


def test_an_iterator_over_items_without_an_end_ends_behind_a_failed_one():
    found = []
    with pytest.raises(PartsFailed):
        found.extend(pymar.imap(fragile, itertools.count(), max_failed=1_000_000, engine="serial"))
    assert found == list(map(mended, range(7)))
