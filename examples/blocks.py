"""The integral of exp(x) from 1 to 10 once more: from an array on disk, a block of rows at a time, with numpy."""

import tempfile
from math import e
from pathlib import Path
from time import perf_counter

from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
from pymar.sources import ArrayBlocks

POINTS = 9_000_000


class Integral(Producer):
    WORKERS_NUMBER = 8
    dx = 9 / POINTS

    @staticmethod
    def map_fn(blocks):
        from numpy import exp

        return (float(exp(block).sum()) * Integral.dx for block in blocks)

    @staticmethod
    def reduce_fn(sums):
        return sum(sums)


if __name__ == "__main__":
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "points.npy")
        np.save(path, 1 + (np.arange(POINTS) + 0.5) * Integral.dx)
        began = perf_counter()
        print("Answer:", Integral().map(DataSourceFactory(ArrayBlocks, path=str(path))))
        print(f"(e**10 - e is {e**10 - e}; it took {perf_counter() - began:.2f} s)")
