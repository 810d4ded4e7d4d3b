"""The data of keyed.py, its producers, and the same work by hand: in a module that worker processes can import.

J5 and J6 are those of jobs.py: the Pool runs exactly that code. PYMAR_BENCH_SCALE makes all data smaller.
"""

import json
import os
from collections import Counter
from itertools import islice

import jobs

from pymar.datasource import DataSource
from pymar.keyed import Count, KeyedProducer, Mean, Sum

SCALE = float(os.environ.get("PYMAR_BENCH_SCALE", "1"))
if SCALE != 1:
    jobs.PAIRS, jobs.KEYS = int(jobs.PAIRS * SCALE), int(jobs.KEYS * SCALE)
    jobs.WORDS, jobs.WORD_BYTES = f"{jobs.WORDS}-{SCALE}", int(jobs.WORD_BYTES * SCALE)

#: Knuth's multiplier: odd and no multiple of 5, so that numbers up to a round count of keys hit each of them once.
_SPREAD = 2654435761
#: Pairs of K3, of which each text has two: twenty million, or with --large a hundred.
TEXT_PAIRS = int(float(os.environ.get("PYMAR_BENCH_TEXT_PAIRS", "20e6")) * SCALE)
TEXTS = TEXT_PAIRS // 2
#: Rows of K2, in ROW_GROUPS groups of ten files; and how many different values its two key columns have.
ROWS, ROW_GROUPS, AS, BS = int(10_000_000 * SCALE), 40, 250, 40
ROWS_FOLDER = os.environ.get("PYMAR_BENCH_ROWS", "/tmp/pymar-bench-rows") + ("" if SCALE == 1 else f"-{SCALE}")
#: Rows of the other side of the join.
OTHERS = int(100_000 * SCALE)
PARTS = 16


# J5, K1: words


class Lines(DataSource):
    """The lines of the file of words, as bytes: as jobs.words_part reads them."""

    unit = "bytes"
    path = jobs.WORDS

    @classmethod
    def full_length(cls):
        return os.path.getsize(cls.path)

    def __iter__(self):
        with open(self.path, "rb") as file:
            if self.offset:
                file.seek(self.offset - 1)
                file.readline()
            position, end = file.tell(), self.offset + self.limit
            while position < end and (line := file.readline()):
                position += len(line)
                yield line


class Words(KeyedProducer):
    WORKERS_NUMBER = PARTS
    reduce_fn = Sum()

    @staticmethod
    def map_fn(lines):
        for line in lines:
            for word in line.split():
                yield word, 1


class WordsCounted(Words):
    """Counts them first, by hand."""

    @staticmethod
    def map_fn(lines):
        counts = Counter()
        for line in lines:
            counts.update(line.split())
        yield from counts.items()


class WordsByFunction(Words):
    @staticmethod
    def reduce_fn(word, counts):
        return sum(counts)


def check_top(pairs):
    """Check the hundred most frequent words; of equally frequent ones, any may come first."""
    with open(jobs.WORDS + ".top") as file:
        expected = json.load(file)
    assert [count for _, count in pairs] == expected, pairs[:3]


def make_top():
    """Write the counts of the hundred most frequent words beside the file of words."""
    counts = jobs.words_part((jobs.WORDS, 0, os.path.getsize(jobs.WORDS)))
    with open(jobs.WORDS + ".top", "w") as file:
        json.dump([count for _, count in counts.most_common(100)], file)


# J6, K4: pairs of ints


class Numbers(DataSource):
    """The numbers of the pairs."""

    unit = "numbers"

    @classmethod
    def full_length(cls):
        return jobs.PAIRS

    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))


class Pairs(Numbers):
    def __iter__(self):
        return jobs.pairs(self.offset, self.offset + self.limit)


class PairsSummed(KeyedProducer):
    WORKERS_NUMBER = PARTS
    reduce_fn = Sum()


class PairsInManyParts(PairsSummed):
    WORKERS_NUMBER = 256


class PairsByFunction(KeyedProducer):
    WORKERS_NUMBER = PARTS

    @staticmethod
    def reduce_fn(key, values):
        return sum(values)


class Bounds(Numbers):
    """The first number of a part, and the one behind its last."""

    def __iter__(self):
        yield self.offset, self.offset + self.limit


class Batches(PairsSummed):
    @staticmethod
    def map_fn(bounds):
        import numpy as np

        for start, end in bounds:
            for low in range(start, end, 1 << 18):
                numbers = np.arange(low, min(low + (1 << 18), end))
                yield numbers * _SPREAD % jobs.KEYS, numbers


class HalfHot(PairsSummed):
    """Every other pair has the same key, in place of the one it had."""

    @staticmethod
    def map_fn(pairs):
        for key, number in pairs:
            yield key if number % 2 else -1, number


class AsTheyAre(PairsSummed):
    """The same code for a pair as HalfHot, with another key for each."""

    @staticmethod
    def map_fn(pairs):
        for key, number in pairs:
            yield key if number % 2 else ~key, number


def check_sums(sums):
    """Check each key: it has the numbers that differ by a multiple of the number of keys."""
    keys, times = jobs.KEYS, jobs.PAIRS // jobs.KEYS
    assert len(sums) == keys, len(sums)
    if isinstance(sums, dict):
        expected = ((n * _SPREAD % keys, times * n + keys * times * (times - 1) // 2) for n in range(keys))
        assert all(sums[key] == value for key, value in expected)
    else:
        assert sum(sums.values()) == jobs.PAIRS * (jobs.PAIRS - 1) // 2


def check_lazily(found):
    total, result = found
    assert (total, len(result)) == (jobs.PAIRS * (jobs.PAIRS - 1) // 2, jobs.KEYS)


def check_hot(sums):
    """Check the sums of HalfHot. The number of keys is even, so no key has both even numbers and odd ones."""
    evens = (jobs.PAIRS + 1) // 2
    assert (len(sums), sums[-1]) == (jobs.KEYS // 2 + 1, evens * (evens - 1))
    assert sum(sums.values()) == jobs.PAIRS * (jobs.PAIRS - 1) // 2


def check_uniform(sums):
    """Check the sums of AsTheyAre."""
    assert (len(sums), sum(sums.values())) == (jobs.KEYS, jobs.PAIRS * (jobs.PAIRS - 1) // 2)


# K2: rows


class ByTwo(KeyedProducer):
    KEY = ("a", "b")
    reduce_fn = {"n": Count(), "mean": Mean("x")}  # noqa: RUF012 - it becomes an aggregation


def some_rows():
    """A table with a few rows, so that workers import Arrow."""
    import pyarrow as pa

    return pa.table({"a": [1, 2], "b": ["x", "y"], "x": [1.0, 2.0]})


def make_rows():
    """Write the rows to Parquet files, and what is checked to a file beside them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    os.makedirs(ROWS_FOLDER, exist_ok=True)
    rng = np.random.default_rng(7)
    names = np.array([f"carrier {number}" for number in range(BS)])
    total, rows = 0.0, ROWS // 10
    for number in range(10):
        x = rng.normal(10, 5, rows)
        table = {
            "id": rng.integers(0, OTHERS, rows),
            "a": rng.integers(0, AS, rows),
            "b": pa.array(names[rng.integers(0, BS, rows)]),
            "x": x,
        }
        total += float(x.sum())
        pq.write_table(pa.table(table), f"{ROWS_FOLDER}/{number}.parquet", row_group_size=-(-rows * 10 // ROW_GROUPS))
    with open(f"{ROWS_FOLDER}.json", "w") as file:
        json.dump([10 * rows, total], file)


def others():
    """The other side of the join: a name for each id."""
    import pyarrow as pa

    return pa.table({"id": list(range(OTHERS)), "name": [f"other {number}" for number in range(OTHERS)]})


def check_groups(rows):
    """Check (number of rows, mean) of each group."""
    rows = list(rows)
    with open(f"{ROWS_FOLDER}.json") as file:
        count, total = json.load(file)
    assert len(rows) == AS * BS, len(rows)
    assert sum(n for n, _ in rows) == count
    assert abs(sum(n * mean for n, mean in rows) / total - 1) < 1e-9


# K3: texts


class TextNumbers(Numbers):
    @classmethod
    def full_length(cls):
        return TEXT_PAIRS


class Texts(KeyedProducer):
    WORKERS_NUMBER = max(PARTS, TEXT_PAIRS // 1_250_000)
    reduce_fn = Sum()

    @staticmethod
    def map_fn(numbers):
        for number in numbers:
            yield f"key {number * _SPREAD % TEXTS}", number


def text_frame(bounds):
    """Return pairs of K3 as a DataFrame."""
    import pandas as pd

    numbers = range(*bounds)
    keys = [f"key {number * _SPREAD % TEXTS}" for number in numbers]
    return pd.DataFrame({"key": pd.array(keys, dtype="string"), "value": list(numbers)})


def with_texts(batch):
    """Return a batch of Ray's range as pairs of K3."""
    return {"key": [f"key {number * _SPREAD % TEXTS}" for number in batch["id"].tolist()], "value": batch["id"]}


def check_texts(result):
    """Check some keys of a result, and how many there are."""
    assert len(result) == TEXTS, len(result)
    for number in islice(range(0, TEXTS, max(1, TEXTS // 20)), 20):
        assert result[f"key {number * _SPREAD % TEXTS}"] == 2 * number + TEXTS


def check_text_files(folder):
    """Check Parquet files of keys and sums."""
    import pyarrow.dataset as ds

    keys, total = 0, 0
    for batch in ds.dataset(folder, format="parquet").to_batches():
        keys += batch.num_rows
        total += sum(batch.column(name).to_numpy().sum() for name in batch.schema.names if "value" in name)
    assert (keys, total) == (TEXTS, TEXT_PAIRS * (TEXT_PAIRS - 1) // 2), (keys, total)


# The sort of 10,000,000 records


class SortedNumbers(Numbers):
    @classmethod
    def full_length(cls):
        return jobs.PAIRS


def sortable(numbers):
    for number in numbers:
        yield number * _SPREAD % jobs.PAIRS, number


def sortable_ints(numbers):
    for number in numbers:
        yield number * _SPREAD % jobs.PAIRS
