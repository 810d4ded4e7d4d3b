"""Sources for data in files, object stores and databases: each worker reads its own parts, not the producer.

Use one in one line, `DataSourceFactory(TextLines, path="logs/*.txt")`, or subclass it and set class attributes. A
module is imported when a class of it is first named, and the library that it needs (extras) when that class is used.

text           TextFiles, TextLines; jsonlines and csvrows: JSONLines and CSVRows, over TextFiles
csvtypes       types of columns of CSV               csvbatches     CSVBatches
files          FileSource, the base of all sources over files; Files
columnar       ColumnarBatches, the base of parquet, arrowfiles and orc: ParquetRows, ArrowRows, ORCRows, ...Batches
conditions     the setting `filter`                  hive           columns from the names of folders
arrowtypes     types of Arrow, and their union       arrowvalues    values of Arrow as Python has them
array          ArrayBlocks: .npy, .npz, raw, netCDF, HDF5, Zarr
sql            SQLRows, a package of its own         partitions     Partitions: a list of values
storage        finds files and objects, opens them, detects changes; patterns: what a pattern matches
formats        what a file is, by its first bytes     manifest       the files of a folder that a sink has written
cuts           where a file may be cut               compressed     .gz, .bz2, .xz, .zst
checks         checks settings                       extras         imports a library, or raises MissingExtra
check          check_source: does a source give each record once?
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymar.sources.array import ArrayBlocks as ArrayBlocks
    from pymar.sources.arrowfiles import ArrowBatches as ArrowBatches
    from pymar.sources.arrowfiles import ArrowRows as ArrowRows
    from pymar.sources.csvbatches import CSVBatches as CSVBatches
    from pymar.sources.csvrows import CSVRows as CSVRows
    from pymar.sources.files import Files as Files
    from pymar.sources.jsonlines import JSONLines as JSONLines
    from pymar.sources.orc import ORCBatches as ORCBatches
    from pymar.sources.orc import ORCRows as ORCRows
    from pymar.sources.parquet import ParquetBatches as ParquetBatches
    from pymar.sources.parquet import ParquetRows as ParquetRows
    from pymar.sources.partitions import Partitions as Partitions
    from pymar.sources.sql import SQLRows as SQLRows
    from pymar.sources.text import TextLines as TextLines

_MODULES = {
    "ArrayBlocks": "array",
    "ArrowBatches": "arrowfiles",
    "ArrowRows": "arrowfiles",
    "CSVBatches": "csvbatches",
    "CSVRows": "csvrows",
    "Files": "files",
    "JSONLines": "jsonlines",
    "ORCBatches": "orc",
    "ORCRows": "orc",
    "ParquetBatches": "parquet",
    "ParquetRows": "parquet",
    "Partitions": "partitions",
    "SQLRows": "sql",
    "TextLines": "text",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'pymar.sources' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"pymar.sources.{_MODULES[name]}"), name)
