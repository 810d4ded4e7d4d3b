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
sorting        ranges of keys in place of buckets            joining       two sides, and their equal keys
calls          join, sort, distinct: the short forms         checkpoints   the files of one
vectors        sums by numpy
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from pymar.keyed.calls import distinct as distinct
    from pymar.keyed.calls import join as join
    from pymar.keyed.calls import sort as sort
    from pymar.keyed.result import Records as Records
    from pymar.keyed.result import Result as Result

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
    "Records",
    "Result",
    "Std",
    "Sum",
    "TopN",
    "Var",
    "distinct",
    "join",
    "sort",
]

#: Names that a worker does not need, and where they are: imported when they are asked for.
_MODULES = {**dict.fromkeys(("distinct", "join", "sort"), "calls"), "Records": "result", "Result": "result"}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'pymar.keyed' has no attribute {name!r}")
    return getattr(import_module(f"pymar.keyed.{_MODULES[name]}"), name)
