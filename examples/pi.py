"""What is pi, by throwing 20,000,000 darts? The same darts, and so the same answer, for any number of workers."""

from math import sqrt
from time import perf_counter

from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer


class Darts(DataSource):
    """Each part throws its own: `part_seed` belongs to the part, not to the worker that computes it."""

    thrown = 20_000_000

    @classmethod
    def full_length(cls):
        return cls.thrown

    def __iter__(self):
        from random import Random

        draw = Random(self.part_seed).random
        return ((draw(), draw()) for _ in range(self.limit))


class Pi(Producer):
    WORKERS_NUMBER = 40
    SEED = 2026

    @staticmethod
    def map_fn(darts):
        return [sum(1 for x, y in darts if x * x + y * y < 1)]

    @staticmethod
    def reduce_fn(hits):
        return sum(hits)


began = perf_counter()
hits = Pi().map(DataSourceFactory(Darts))
share = hits / Darts.thrown
error = 4 * sqrt(share * (1 - share) / Darts.thrown)
print(f"Pi: {4 * share:.6f} +- {error:.6f}")
print(f"({hits:,} of {Darts.thrown:,} darts hit; it took {perf_counter() - began:.2f} s)")
