"""Datasets: steps over the records of a source, in a line, and a result.

    words = pymar.read_text("logs/*.txt").flat_map(str.split).group_by().count()
    words.top(20, key=lambda pair: pair[1])

In the order in which they are used:

reading        dataset, read_text, read_csv ...     lazy           Dataset: steps and results; groups
origins        sources, and jobs of two stages      running        one run: options, checkpoints, where errors were
producers      what a dataset compiles to           steps          the steps of it, in a worker
explaining     explain()

They compile to producers and keyed producers, so engines, checkpoints and errors are those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymar.datasets.lazy import Dataset as Dataset
    from pymar.datasets.lazy import Groups as Groups
    from pymar.datasets.reading import dataset as dataset
    from pymar.datasets.reading import read_csv as read_csv
    from pymar.datasets.reading import read_files as read_files
    from pymar.datasets.reading import read_jsonl as read_jsonl
    from pymar.datasets.reading import read_parquet as read_parquet
    from pymar.datasets.reading import read_sql as read_sql
    from pymar.datasets.reading import read_text as read_text

_READING = ("read_csv", "read_files", "read_jsonl", "read_parquet", "read_sql", "read_text")
#: Names that a worker does not need, and where they are: imported when they are asked for.
_MODULES = {**dict.fromkeys((*_READING, "dataset"), "reading"), "Dataset": "lazy", "Groups": "lazy"}
__all__ = sorted(_MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'pymar.datasets' has no attribute {name!r}")
    return getattr(import_module(f"pymar.datasets.{_MODULES[name]}"), name)
