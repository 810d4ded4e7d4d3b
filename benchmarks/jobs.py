"""The jobs that every contender runs, with exactly this code for each record. Only the standard library.

J1   integral of exp from 1 to 10, 9,000,000 evaluations, 8 parts (seconds)
J2   sum of squares of a list of 10,000,000 ints in memory at the producer, 8 parts (seconds)
J3   10,000 trivial parts (parts a second)
J3L  one trivial part there and back, on a warm pool (milliseconds, median of 200)
J4   a whole process with four trivial parts, start to exit (seconds)
J5   word count of a file of 200 MB, 16 parts (seconds)
J6   10,000,000 pairs with 2,000,000 keys, sum by key into a dict at the producer, 16 parts (seconds)
"""

import math
import os
from collections import Counter
from functools import reduce
from itertools import pairwise

EVALUATIONS, DX = 9_000_000, 1e-6
INTS = 10_000_000
TRIVIAL = 10_000
CALLS = 200
PAIRS, KEYS = 10_000_000, 2_000_000
WORDS = os.environ.get("PYMAR_BENCH_WORDS", "/tmp/pymar-bench-words.txt")
WORD_BYTES = 200_000_000


def points(offset, limit):
    for i in range(offset, offset + limit):
        yield 0, 1 + i * DX


def exponentials(pairs):
    exp = math.exp
    for key, x in pairs:
        yield key, exp(x) * DX


def keyed(values):
    for value in values:
        yield 0, value


def squares(pairs):
    for key, x in pairs:
        yield key, x * x


def total(pairs):
    result = 0
    for _, value in pairs:
        result += value
    return result


def integral_part(part):
    return total(exponentials(points(*part)))


def squares_part(chunk):
    return total(squares(keyed(chunk)))


def trivial_part(number):
    return number


def words_part(part):
    path, start, end = part
    counts = Counter()
    with open(path, "rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()
        position = file.tell()
        while position < end:
            line = file.readline()
            if not line:
                break
            position += len(line)
            counts.update(line.split())
    return counts


def pairs(start, end):
    for number in range(start, end):
        yield (number * 2654435761) % KEYS, number


def pairs_part(part):
    sums = {}
    get = sums.get
    for key, value in pairs(*part):
        sums[key] = get(key, 0) + value
    return sums


def added(dicts):
    """Add dicts into one, key by key, as they arrive."""
    sums = {}
    get = sums.get
    for one in dicts:
        for key, value in one.items():
            sums[key] = get(key, 0) + value
    return sums


def merged(counts):
    """Add Counters into one, as they arrive."""
    return reduce(lambda one, other: one.update(other) or one, counts)


def ranges(length, count):
    bounds = [length * number // count for number in range(count + 1)]
    return list(pairwise(bounds))


def check_integral(value):
    assert abs(value - (math.exp(10) - math.e)) < 0.05, value


def check_squares(value):
    assert value == (INTS - 1) * INTS * (2 * INTS - 1) // 6, value


def check_trivial(value):
    assert value == TRIVIAL * (TRIVIAL - 1) // 2, value


def check_words(counts):
    with open(WORDS + ".count") as file:
        words, distinct = map(int, file.read().split())
    assert (counts.total(), len(counts)) == (words, distinct), (counts.total(), len(counts))


def check_pairs(sums):
    assert (len(sums), sum(sums.values())) == (KEYS, PAIRS * (PAIRS - 1) // 2)


def make_words():
    """Write a file of 200 MB: 200,000 words whose frequencies fall as in a language (Zipf's law), ten a line."""
    import numpy as np

    rng = np.random.default_rng(42)
    letters = rng.integers(97, 123, (200_000, 10), dtype=np.uint8)
    lengths = rng.integers(4, 11, 200_000)
    vocabulary = [row[:length].tobytes() for row, length in zip(letters, lengths, strict=True)]
    weights = 1 / np.arange(1, len(vocabulary) + 1) ** 1.05
    cumulative = np.cumsum(weights / weights.sum())
    seen, words, size = set(), 0, 0
    with open(WORDS, "wb") as file:
        while size < WORD_BYTES:
            drawn = np.minimum(np.searchsorted(cumulative, rng.random(500_000)), len(vocabulary) - 1)
            picked = [vocabulary[index] for index in drawn.tolist()]
            block = b"".join(b" ".join(picked[start : start + 10]) + b"\n" for start in range(0, len(picked), 10))
            seen.update(picked)
            words += len(picked)
            size += file.write(block)
    with open(WORDS + ".count", "w") as file:
        print(words, len(seen), file=file)
