"""The gate of keyed jobs: the same bits in the same order, whatever computes them."""

import os
from functools import cache

import pytest
from bits_jobs import (
    AllKinds,
    ArrayMeans,
    Arrays,
    CountedColumn,
    CountedUncombined,
    Firsts,
    Function,
    Greatest,
    HasNumpy,
    Hot,
    HotFunction,
    IntKeys,
    Lasts,
    Least,
    Lists,
    Means,
    Numbers,
    Quantiles,
    Rows,
    SlowAtFirst,
    Streamed,
    Tables,
    TablesOfTwo,
    TextKeys,
    TupleKeys,
    Uncombined,
    Variances,
)
from conftest import needed

from pymar import DataSourceFactory
from pymar.keyed import mapping, reducing, vectors
from pymar.slots.pool import shutdown

needed("numpy")
needed("pyarrow")

PLAIN = [
    *(IntKeys, TextKeys, TupleKeys, AllKinds, Function, Streamed, Means, Variances, Quantiles, Firsts, Lasts, Lists),
    *(Least, Greatest, Rows, CountedColumn, Hot, HotFunction),
]
OF_LIBRARIES = [Arrays, ArrayMeans, Tables, TablesOfTwo]


def bits(producer, engine, length=Numbers.length):
    """All pairs of a result as texts, in order."""
    with producer(engine=engine).map(DataSourceFactory(Numbers, length=length)) as result:
        return [*map(repr, result.items())]


@cache
def expected(producer, length=Numbers.length):
    return bits(producer, "serial", length)


@pytest.mark.parametrize("producer", [*PLAIN, *OF_LIBRARIES])
def test_any_number_of_workers(producer):
    for workers in (1, 2, 7):
        assert bits(producer, f"processes://{workers}") == expected(producer), workers


@pytest.mark.parametrize("producer", PLAIN)
def test_small_and_large_memory_limits(producer, monkeypatch):
    shutdown()  # workers that have loaded pyarrow for another test take more
    for limit in (64 << 20, 1 << 30):
        monkeypatch.setattr(producer, "MEMORY_LIMIT", limit)
        assert bits(producer, "processes://2") == expected(producer), limit


@pytest.mark.parametrize("producer", OF_LIBRARIES)
def test_memory_limits_with_libraries_that_take_128_megabytes_themselves(producer, monkeypatch):
    for limit in (200 << 20, 1 << 30):
        monkeypatch.setattr(producer, "MEMORY_LIMIT", limit)
        assert bits(producer, "processes://2") == expected(producer), limit


@pytest.fixture(scope="module")
def without_numpy(tmp_path_factory):
    """Worker processes that start in this test have no numpy."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['numpy'] = None\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.getenv("PYTHONPATH")])]))
        shutdown()
        yield
    shutdown()


@pytest.mark.parametrize("producer", [IntKeys, TextKeys, AllKinds, Means, Streamed, CountedColumn, Hot, Tables, Rows])
def test_workers_without_numpy(producer, without_numpy):
    assert bits(HasNumpy, "processes://2") == ["('is there', False)"]
    assert bits(producer, "processes://2") == expected(producer)


def test_pairs_that_combining_does_not_make_fewer(without_numpy):
    length = 2 * (mapping.WINDOW + 40_000)
    found = bits(Uncombined, "processes://2", length)
    assert len(found) == length // 2 + 1
    assert found == expected(Uncombined, length)


@pytest.mark.parametrize("producer", PLAIN)
@pytest.mark.parametrize("small", [False, True], ids=["", "small blocks"])
def test_any_size_of_a_bucket_and_number_of_partitions_with_numpy_and_without(producer, small, monkeypatch):
    if small:  # all paths: combined, uncombined, and combined again
        sizes = {"WINDOW": 64, "UNCOMBINED": 128, "BLOCK": 32, "KEYS_HELD": 300, "STEP": 16}
        for name, size in sizes.items():
            monkeypatch.setattr(mapping, name, size)
    length = 2_000
    wanted = bits(producer, "serial", length)
    for large, partitions, there in ((700, None, False), (16 << 20, 1, False), (700, 7, None), (16 << 20, 256, None)):
        monkeypatch.setattr(reducing, "LARGE", large)
        monkeypatch.setattr(producer, "PARTITIONS", partitions)
        monkeypatch.setattr(vectors, "_numpy", there)
        assert bits(producer, "serial", length) == wanted, (large, partitions, there)


def test_a_part_that_two_workers_compute_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(SlowAtFirst, "folder", str(tmp_path))
    assert bits(SlowAtFirst, "processes://2") == expected(IntKeys)
    assert len(os.listdir(tmp_path)) == 2


def test_values_that_are_numbers_are_counted_and_not_added_up():
    with CountedUncombined(engine="serial").map(DataSourceFactory(Numbers, length=100)) as result:
        assert set(result.values()) == {1}
