"""What calls.py computes, as functions and as producers: in a module that worker processes can import.

PYMAR_BENCH_SCALE makes all data smaller, as in keyed_jobs.py.
"""

import math
from collections import Counter
from operator import itemgetter

import jobs
from keyed_jobs import SCALE, Numbers

from pymar.producer import Producer

if SCALE != 1:
    jobs.EVALUATIONS, jobs.TRIVIAL = int(jobs.EVALUATIONS * SCALE), int(jobs.TRIVIAL * SCALE)
    jobs.DX = 9 / jobs.EVALUATIONS
DX = jobs.DX

key_of = itemgetter(0)


def area(i):
    """Return the area below exp at the i-th place."""
    return math.exp(1 + i * DX) * DX


class Evaluations(Numbers):
    """The numbers of J1's evaluations."""

    @classmethod
    def full_length(cls):
        return jobs.EVALUATIONS


class Areas(Producer):
    """J1 with the function that the dataset maps, and without the pairs of jobs.py."""

    WORKERS_NUMBER = 8

    @staticmethod
    def map_fn(numbers):
        return map(area, numbers)

    @staticmethod
    def reduce_fn(areas):
        return sum(areas)


def counted(lines):
    """Count the words of a part by hand."""
    counts = Counter()
    for line in lines:
        counts.update(line.split())
    return counts.items()


def summed(pairs):
    """Sum the values of the keys of a part by hand."""
    sums = {}
    get = sums.get
    for key, value in pairs:
        sums[key] = get(key, 0) + value
    return sums.items()


def check_integral(value):
    """Check the left Riemann sum: it is short of the integral by half a step of the function's rise."""
    rise = math.exp(10) - math.e
    assert abs(value - rise + rise * DX / 2) < 1e-3 * max(1, (DX / 1e-6) ** 2), value


def check_words(counts):
    """Check words counted as texts or as bytes."""
    with open(jobs.WORDS + ".count") as file:
        words, distinct = map(int, file.read().split())
    assert (sum(counts.values()), len(counts)) == (words, distinct), (sum(counts.values()), len(counts))
