"""Type checkers accept a correct file of a user's, and find a wrong type."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import need
from test_readme import blocks

RIGHT = """
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar, assert_type

from pymar import DataSource, DataSourceFactory, PartFailed, Producer
from pymar.sources import TextLines


class Sum(Producer[int]):
    WORKERS_NUMBER = 4
    PART_TIMEOUT = 60

    @staticmethod
    def map_fn(numbers: Iterable[int]) -> Iterator[int]:
        return (number * number for number in numbers)

    @staticmethod
    def reduce_fn(sums: Iterable[int]) -> int:
        return sum(sums)

    @staticmethod
    def setup_fn() -> None: ...


class Words(Producer[Counter[str]]):
    map_fn = staticmethod(lambda lines: [Counter(line.split()) for line in lines])

    @staticmethod
    def reduce_fn(counts: Iterable[Counter[str]]) -> Counter[str]:
        return sum(counts, Counter())


class Plain(Producer):
    @staticmethod
    def map_fn(rows: Iterable[int]) -> Iterable[int]:
        return rows

    @staticmethod
    def reduce_fn(rows: Iterable[int]) -> int:
        return sum(rows)


T = TypeVar("T")


class First(Producer[T], Generic[T]):
    @staticmethod
    def map_fn(rows: Iterable[T]) -> Iterable[T]:
        return rows

    @staticmethod
    def reduce_fn(rows: Iterable[T]) -> T:
        return next(iter(rows))


class FirstText(First[str]):
    pass


class Numbers(DataSource):
    dx = 0.1

    @classmethod
    def full_length(cls) -> int:
        return 10

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.offset, self.offset + self.limit))


factory = DataSourceFactory(Numbers, dx=0.2)
assert_type(Sum().map(factory), int)
assert_type(Sum().submit(factory), Future[int])
assert_type(Sum().partials(factory), Iterator[int])
assert_type(Words().map(DataSourceFactory(TextLines, path=__file__)), Counter[str])
assert_type(Plain().map(DataSourceFactory([1, 2, 3])), Any)
assert_type(FirstText().map(DataSourceFactory(["a"])), str)
try:
    print(Sum().map(DataSourceFactory(range(10))), FirstText().map(DataSourceFactory(["a"])))
except PartFailed as error:
    assert_type(Sum().replay(error), int)
"""

SHORT = """\
from collections.abc import Iterator
from math import exp
from typing import Any, assert_type


import pymar
from pymar.keyed import Count, Mean


def halved(number: int) -> float:
    return number / 2


def added(left: int, right: str) -> str:
    return f"{left}{right}"


assert_type(pymar.map(halved, [1, 2], engine="serial", retries=2), list[float])
assert_type(pymar.map(added, [1], ["a"]), list[str])
assert_type(pymar.map(added, [1], ["a"], return_exceptions=True), list[str | BaseException])
assert_type(pymar.map(halved, [1], return_exceptions=True), list[float | BaseException])
assert_type(pymar.starmap(added, [(1, "a")]), list[str])
assert_type(pymar.imap(halved, range(3)), Iterator[float])
assert_type(pymar.imap_unordered(halved, range(3), checkpoint="run.ckpt"), Iterator[float])

numbers = pymar.dataset(range(9), parts=3)
assert_type(numbers, pymar.Dataset[int])
assert_type(numbers.map(halved), pymar.Dataset[float])
assert_type(numbers.map(lambda i: exp(1 + i * 1e-6)).take(2), list[float])
assert_type(numbers.filter(lambda number: number > 3).collect(engine="serial"), list[int])
assert_type(numbers.count(), int)
words = pymar.read_text("logs/*.txt").flat_map(str.split)
assert_type(words, pymar.Dataset[str])
assert_type(words.group_by().count(), pymar.Dataset[tuple[str, int]])
assert_type(words.group_by(len).collect().to_dict(), dict[int, list[str]])
assert_type(words.group_by().count().top(20, key=lambda pair: pair[1]), list[tuple[str, int]])
rows = pymar.read_csv("flights.csv", single_line=True)
assert_type(rows, pymar.Dataset[dict[str, Any]])
rows.group_by("carrier").aggregate(flights=Count(), mean=Mean("arr_delay")).write_parquet("late/")
for word in words:
    assert_type(word, str)
"""
SHORT_AND_WRONG = """\
import pymar


def halved(number: int) -> float:
    return number / 2


pymar.map(halved, ["a"])
pymar.map(halved, [1], retrys=3)
pymar.dataset([1]).collect(enigne="serial")
"""


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    need(find_spec("mypy"), "mypy (requirements-dev.txt)")
    folder = tmp_path_factory.mktemp("mypy")  # a cache for both: the second check need not read Pymar again

    def check(code, *options):
        (folder / "job.py").write_text(code)
        command = [sys.executable, "-m", "mypy", "--cache-dir", "cache", *options, "job.py"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout

    return check


@pytest.fixture
def pyright(tmp_path):
    need(find_spec("basedpyright"), "basedpyright (requirements-dev.txt)")

    def check(code):
        (tmp_path / "job.py").write_text(code)
        (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
        command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "job.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout

    return check


def test_strict_mypy_accepts_a_typed_job(mypy):
    assert mypy(RIGHT, "--strict").startswith("Success")


def test_pyright_accepts_a_typed_job_and_the_readme(pyright):
    assert pyright(RIGHT).startswith("0 errors")
    assert pyright("\n".join(blocks("python"))).startswith("0 errors")


def test_calls_and_datasets_are_typed(mypy, pyright):
    assert mypy(SHORT, "--strict").startswith("Success")
    assert pyright(SHORT).startswith("0 errors")


def test_wrong_calls_are_found(mypy, pyright):
    for found in (mypy(SHORT_AND_WRONG, "--strict"), pyright(SHORT_AND_WRONG)):
        for line in (8, 9, 10):
            assert f"job.py:{line}" in found, found


def test_a_wrong_type_of_an_answer_is_found(mypy):
    printed = mypy(RIGHT.replace("-> int:\n        return sum(sums)", "-> str:\n        return str(sums)"), "--strict")
    assert 'Return type "str" of "reduce_fn" incompatible with return type "int"' in printed


def test_a_typed_job_runs_and_its_types_do_not_travel(script):
    lines = RIGHT.replace("class Sum(Producer[int])", "class Sum(Producer['numpy.ndarray'])")
    done = script(lines + "\nassert Producer[int] is Producer\nimport sys; assert 'numpy' not in sys.modules\n")
    assert done.stdout == "285 a\n"
