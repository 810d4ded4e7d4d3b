"""A job file of keyed jobs over the same numbers: each has a kind of keys, of values, or of reduction of its own."""

import os
import time
from pathlib import Path
from typing import ClassVar

from pymar.datasource import DataSource
from pymar.keyed import (
    Collect,
    Count,
    CountDistinct,
    First,
    KeyedProducer,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Std,
    Sum,
    TopN,
    Var,
)

KEYS = 3_000
ATOM = 7.0


class Numbers(DataSource):
    length = 20_000

    @classmethod
    def full_length(cls):
        return cls.length

    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))


def mixed(n):
    """A number that looks random, and is the same everywhere."""
    return n * 2_654_435_761 % (1 << 32)


def value_of(n):
    return (mixed(n ^ 77) % 1_000_003) / ATOM - 60_000


class Keyed(KeyedProducer):
    WORKERS_NUMBER = 11
    BACKUPS = 0


class IntKeys(Keyed):
    reduce_fn = Sum()

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            yield mixed(n) % KEYS, value_of(n)


class TextKeys(Keyed):
    reduce_fn = Sum()

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            yield f"é{mixed(n) % KEYS}", value_of(n)


class TupleKeys(Keyed):
    reduce_fn = Sum()

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            yield (mixed(n) % 7, f"k{mixed(n) % KEYS}"), value_of(n)


class AllKinds(Keyed):
    """Keys of all types, and ints past 64 bits, bools and zeros among the floats."""

    reduce_fn = Sum()

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            k = mixed(n) % KEYS
            key = [k, float(k), str(k), (k, None), k + 0.5, None, float("nan"), b"%d" % k][k % 8]
            yield key, [n, n / 3, 2**70 + n, True, -0.0][n % 5]


class Function(IntKeys):
    @staticmethod
    def reduce_fn(key, values):
        return sum(values)


class Streamed(IntKeys):
    COMBINE = False

    @staticmethod
    def reduce_fn(key, values):
        found = 0.0
        for value in values:
            found = found / 2 + value
        return found


class Means(IntKeys):
    reduce_fn = Mean()


class Variances(IntKeys):
    reduce_fn = Var()


class Quantiles(IntKeys):
    reduce_fn = Quantile([0.1, 0.5, 0.95])


class Firsts(TextKeys):
    reduce_fn = First()


class Lasts(TextKeys):
    reduce_fn = Last()


class Lists(TextKeys):
    reduce_fn = Collect()


class Least(Keyed):
    """Of numbers, NaN and None."""

    reduce_fn = Min()

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            v = mixed(n ^ 5) % 50
            yield mixed(n) % (KEYS // 5), float("nan") if v == 0 else None if v == 1 else v / 3 if v % 2 else v


class Greatest(Least):
    reduce_fn = Max()


class Arrays(Keyed):
    reduce_fn = Sum()

    @staticmethod
    def map_fn(numbers):
        import numpy

        found = numpy.array(list(numbers), "int64") * 2_654_435_761 % (1 << 32)
        for start in range(0, len(found), 500):
            some = found[start : start + 500]
            yield some % KEYS, (some % 1_000_003) / ATOM


class ArrayMeans(Arrays):
    reduce_fn = Mean()


class Tables(Keyed):
    KEY = "k"
    reduce_fn: ClassVar = {
        "n": Count(),
        "sum": Sum("v"),
        "mean": Mean("v"),
        "there": Count("w"),
        "max": Max("v"),
        "min": Min("v"),
    }

    @staticmethod
    def map_fn(numbers):
        import pyarrow

        rows = list(numbers)
        for start in range(0, len(rows), 500):
            some = rows[start : start + 500]
            keys, values = [mixed(n) % KEYS for n in some], [value_of(n) for n in some]
            there = [n if n % 3 else None for n in some]
            yield pyarrow.table({"k": keys, "g": [f"g{k % 97}" for k in keys], "v": values, "w": there})


class TablesOfTwo(Tables):
    KEY = ("k", "g")
    reduce_fn: ClassVar = {"sum": Sum("v"), "third": Quantile(0.3, "v")}


class Rows(Keyed):
    KEY = ("k", "g")
    reduce_fn: ClassVar = {
        "n": Count(),
        "sum": Sum("v"),
        "mean": Mean("v"),
        "there": Count("w"),
        "first": First("w"),
        "last": Last("v"),
        "top": TopN(3, "v"),
        "different": CountDistinct("w"),
        "sd": Std("v"),
    }

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            k = mixed(n) % KEYS
            yield {"k": k, "g": f"g{k % 97}", "v": value_of(n), "w": n % 50 if n % 3 else None}


class CountedColumn(Keyed):
    KEY = "k"
    reduce_fn = Count("v")

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            yield {"k": mixed(n), "v": float(n)}


class CountedUncombined(CountedColumn):
    """All values reach the second stage, as floats."""

    COMBINE = False


class Hot(Keyed):
    """Half of all pairs have one key; the others have one each."""

    reduce_fn = Sum()

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            yield mixed(n) if n % 2 else 0, value_of(n)


class HotFunction(Hot):
    @staticmethod
    def reduce_fn(key, values):
        return sum(values)


class Uncombined(Hot):
    """As many keys as pairs, and enough of them that combining switches itself off."""

    WORKERS_NUMBER = 2


class SlowAtFirst(IntKeys):
    """The first execution of one part waits for another to begin."""

    BACKUPS = 1.0
    folder = ""

    @staticmethod
    def map_fn(numbers):
        mine = list(numbers)
        if mine[0] == 0:
            Path(SlowAtFirst.folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()
            deadline = time.monotonic() + 20
            while len(os.listdir(SlowAtFirst.folder)) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)  # between two looks
        yield from IntKeys.map_fn(mine)


class HasNumpy(Keyed):
    """If worker processes have numpy."""

    reduce_fn = First()

    @staticmethod
    def map_fn(numbers):
        try:
            import numpy  # noqa: F401
        except ImportError:
            return [("is there", False)]
        return [("is there", True)]
