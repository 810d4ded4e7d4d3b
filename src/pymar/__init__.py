"""Pymar: distributed map-reduce in Python that is fast and easy to write.

factory    datasource.py     how long the data is, and one part of it
 -> plan   plan.py           classes checked, parts made lazily; parts.py: Part, JobSpec, the reports
 -> job    job.py            decides: what runs next, what to repeat, what to believe, when it is over
    -> runner   runner.py    drives the job over an engine; checkpoint.py keeps what is finished
       -> engine  engines/   carries parts out and reports back; decides nothing
          -> amqp    amqp/   the same over a broker: agents on other hosts, each with slots
          -> hosted hosted.py  on somebody else's cluster (Dask, Ray); guest.py is its workers' half
          -> slot slots.py   child processes (child.py, frames.py; slot.py is the child's side)
             work.py         map_fn, then reduce_fn, on one part: the same code in every worker
 <- answer producer.py       reduce_fn over the partials, in part order
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymar.version import __version__ as __version__

if TYPE_CHECKING:
    from pymar.datasource import DataSource as DataSource
    from pymar.datasource import DataSourceFactory as DataSourceFactory
    from pymar.datasource import DictDataSource as DictDataSource
    from pymar.datasource import ListDataSource as ListDataSource
    from pymar.exceptions import JobTimeout as JobTimeout
    from pymar.exceptions import PartFailed as PartFailed
    from pymar.exceptions import PartLost as PartLost
    from pymar.exceptions import PymarError as PymarError
    from pymar.producer import Producer as Producer


_PLACES = {
    **dict.fromkeys(("DataSource", "DataSourceFactory", "DictDataSource", "ListDataSource"), "pymar.datasource"),
    **dict.fromkeys(("JobTimeout", "PartFailed", "PartLost", "PymarError"), "pymar.exceptions"),
    "Producer": "pymar.producer",
}
__all__ = sorted(_PLACES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # what a prompt completes, though it is imported when it is first used


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module 'pymar' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
