"""Reduce by key: results larger than memory, from every engine.

    class WordCount(KeyedProducer):
        reduce_fn = Sum()

        @staticmethod
        def map_fn(lines):
            for line in lines:
                for word in line.split():
                    yield word, 1

    counts = WordCount().map(DataSourceFactory(TextLines, path="logs/*.txt"))
    counts["whale"], counts.top(20)

In the order in which a pair passes through:

producer       KeyedProducer: the user's functions           checks        its class, before a job begins
jobs           the driver: two ordinary jobs, and what is between them
stages         what a worker does with a part of each        exchange      the folder where pairs wait, and its files
pairs          what map_fn yields, in blocks                 batches       the same as columns of numpy or Arrow
mapping        blocks combined, divided into buckets         keys          equality, and a hash that never changes
columns        values as bytes                               reduction     reduce_fn, compiled; chunks of pairs
reducing       a bucket reduced                              spilling      one that memory does not hold
result         the mapping, and a source of it               aggregations  Sum, Count, Mean ... and a user's own
"""

from __future__ import annotations

from pymar.keyed.aggregations import (
    Aggregation,
    Collect,
    Count,
    CountDistinct,
    First,
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
from pymar.keyed.producer import KeyedProducer

__all__ = [
    "Aggregation",
    "Collect",
    "Count",
    "CountDistinct",
    "First",
    "KeyedProducer",
    "Last",
    "Max",
    "Mean",
    "Min",
    "Quantile",
    "Std",
    "Sum",
    "TopN",
    "Var",
]
