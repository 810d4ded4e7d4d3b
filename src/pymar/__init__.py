"""Pymar: distributed map-reduce in Python that is fast and easy to write.

In the order in which a part passes through (docs/design.md draws who imports whom):

    datasource      DataSourceFactory: how long the data is, and a slice of it; sources/ has those for files, SQL, ...
    sinks/          where the workers write what is as large as the data
    calls/          pymar.map and its like: one call on a function; Executor; joblib is a backend over that
    datasets/       pymar.dataset, read_csv, ...: steps over records, in a line; both compile to producers
    keyed/          KeyedProducer: reduce by key, join, sort
    producer        Producer: the user's functions, and map(), which runs the job and reduces the partials
    job/            the plan of a job, its rules (what runs next, what is repeated), its driver, its checkpoint
    engines/        where parts are computed: in this process, on this host's cores, on a Dask or Ray cluster
    amqp/           the same over a RabbitMQ broker: producers here, agents with slots on other hosts
    slots/          worker processes of a host, and one part computed in one of them

All of them use parts (the frozen values that pass between them), serialization/ (how code and values travel) and
exceptions. events/ shows progress, testing/ is for tests of engines, sources and jobs, cli/ has the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymar.version import __version__ as __version__

if TYPE_CHECKING:
    from pymar.calls import Executor as Executor
    from pymar.calls import imap as imap
    from pymar.calls import imap_unordered as imap_unordered
    from pymar.calls import map as map
    from pymar.calls import starmap as starmap
    from pymar.datasets import Dataset as Dataset
    from pymar.datasets import dataset as dataset
    from pymar.datasets import read_csv as read_csv
    from pymar.datasets import read_files as read_files
    from pymar.datasets import read_jsonl as read_jsonl
    from pymar.datasets import read_parquet as read_parquet
    from pymar.datasets import read_sql as read_sql
    from pymar.datasets import read_text as read_text
    from pymar.datasource import DataSource as DataSource
    from pymar.datasource import DataSourceFactory as DataSourceFactory
    from pymar.datasource import DictDataSource as DictDataSource
    from pymar.datasource import ListDataSource as ListDataSource
    from pymar.exceptions import JobTimeout as JobTimeout
    from pymar.exceptions import PartFailed as PartFailed
    from pymar.exceptions import PartLost as PartLost
    from pymar.exceptions import PartsFailed as PartsFailed
    from pymar.exceptions import PymarError as PymarError
    from pymar.producer import Producer as Producer


_MODULES = {
    **dict.fromkeys(("Dataset", "dataset", "read_csv", "read_files", "read_jsonl"), "pymar.datasets"),
    **dict.fromkeys(("read_parquet", "read_sql", "read_text"), "pymar.datasets"),
    **dict.fromkeys(("Executor", "imap", "imap_unordered", "map", "starmap"), "pymar.calls"),
    **dict.fromkeys(("DataSource", "DataSourceFactory", "DictDataSource", "ListDataSource"), "pymar.datasource"),
    **dict.fromkeys(("JobTimeout", "PartFailed", "PartLost", "PartsFailed", "PymarError"), "pymar.exceptions"),
    "Producer": "pymar.producer",
}
# `from pymar import *` leaves Python's own `map` as it is.
__all__ = sorted(_MODULES.keys() - {"map"})


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})  # so that a prompt completes names that are imported at first use


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "joblib":  # so that `import pymar` is enough for pymar.joblib.register()
        return import_module("pymar.joblib")
    if name not in _MODULES:
        raise AttributeError(f"module 'pymar' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
