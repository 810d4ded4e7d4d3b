"""For tests: the contract suite that every engine passes (contract.py), and checks of sources and of jobs.

    from pymar.testing import EngineContract          # or IsolatedContract, if parts run in other processes

    class TestMyEngine(EngineContract):
        def engine(self):
            return MyEngine()

and run it with pytest. For authors of sources, `check_source(MySource)` reads a source whole and in parts, and compares
the records; for those of sinks, `check_sink(sink, factory, records)` writes them, and reads them back. For authors of
jobs, `check_reduce(MyProducer, factory)` (reduction.py) computes some records as one part and as two, and compares the
answers.
"""

from __future__ import annotations

from pymar.sinks.check import check_sink
from pymar.sources.check import check_source
from pymar.testing.contract import (
    BIG,
    Big,
    Collecting,
    Drawing,
    Dying,
    EngineContract,
    IsolatedContract,
    Numbers,
    Raising,
    Sleeping,
    Summing,
    Total,
    Unpicklable,
    Unwritable,
)
from pymar.testing.reduction import check_reduce

__all__ = [
    "BIG",
    "Big",
    "Collecting",
    "Drawing",
    "Dying",
    "EngineContract",
    "IsolatedContract",
    "Numbers",
    "Raising",
    "Sleeping",
    "Summing",
    "Total",
    "Unpicklable",
    "Unwritable",
    "check_reduce",
    "check_sink",
    "check_source",
]
