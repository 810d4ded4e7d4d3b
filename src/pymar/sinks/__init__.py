"""Sinks: where the workers write the records that map_fn yields, all of a job or nothing.

    written = Clean().write(factory, ParquetSink("clean/"))

    producer: begin      the target is checked, a place for parts of files (the staging folder) is made
    workers:  write      the records of a part go to files of that attempt at the part, as they come
    producer: commit     the files of the first attempt that finished each part become the data, in one step

sink           Sink: what a job needs of a sink; Written
files          FileSink: parts of files, their names, sizes, Hive folders, merging; Files: files by name
targets        where files go: a local folder (renamed into place) or an object store (published by a manifest)
lines          TextSink, JSONLinesSink           csvrows        CSVSink
parquet        ParquetSink                       array          ArraySink: .npy
arrowcolumns   values as columns of Arrow, unchanged
sql            SQLSink, a package of its own
check          check_sink: does a sink read back what was written?     cleaning    `pymar clean`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymar.sinks.array import ArraySink as ArraySink
    from pymar.sinks.csvrows import CSVSink as CSVSink
    from pymar.sinks.files import Files as Files
    from pymar.sinks.files import FileSink as FileSink
    from pymar.sinks.lines import JSONLinesSink as JSONLinesSink
    from pymar.sinks.lines import TextSink as TextSink
    from pymar.sinks.parquet import ParquetSink as ParquetSink
    from pymar.sinks.sink import Sink as Sink
    from pymar.sinks.sink import Written as Written
    from pymar.sinks.sql import SQLSink as SQLSink

_MODULES = {
    "ArraySink": "array",
    "CSVSink": "csvrows",
    "FileSink": "files",
    "Files": "files",
    "JSONLinesSink": "lines",
    "ParquetSink": "parquet",
    "SQLSink": "sql",
    "Sink": "sink",
    "TextSink": "lines",
    "Written": "sink",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module 'pymar.sinks' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"pymar.sinks.{_MODULES[name]}"), name)
