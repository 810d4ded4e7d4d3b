"""Data where it lives: each class reads its own part of a store, and nothing passes through the producer.

Use one in one line, `DataSourceFactory(TextLines, path="logs/*.txt")`, or subclass it and set class attributes. Each is
loaded when it is first named, and its driver when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymar.sources.array import ArrayBlocks as ArrayBlocks
    from pymar.sources.csvrows import CSVRows as CSVRows
    from pymar.sources.files import Files as Files
    from pymar.sources.jsonlines import JSONLines as JSONLines
    from pymar.sources.parquet import ParquetBatches as ParquetBatches
    from pymar.sources.parquet import ParquetRows as ParquetRows
    from pymar.sources.partitions import Partitions as Partitions
    from pymar.sources.sql import SQLRows as SQLRows
    from pymar.sources.text import TextLines as TextLines

_PLACES = {
    "ArrayBlocks": "array",
    "CSVRows": "csvrows",
    "Files": "files",
    "JSONLines": "jsonlines",
    "ParquetBatches": "parquet",
    "ParquetRows": "parquet",
    "Partitions": "partitions",
    "SQLRows": "sql",
    "TextLines": "text",
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module 'pymar.sources' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"pymar.sources.{_PLACES[name]}"), name)
