"""`pymar check`: checks the producer of a file and its source, without a job."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pymar.datasource import DataSource, DataSourceFactory
from pymar.exceptions import UsageError
from pymar.job.checks import check_producer
from pymar.job.plan import Plan
from pymar.job.reduction import alike
from pymar.keyed.producer import KeyedProducer
from pymar.producer import Producer
from pymar.serialization.jobfile import PRODUCER, SOURCE, find_class, load, names_of, noting_jobs
from pymar.serialization.settings import applied
from pymar.slots.seeding import reseed, seeding_here
from pymar.sources.check import check_source
from pymar.testing.reduction import check_reduce, first_units


def checked(path: str, name: str, source: str, settings: dict[str, Any], units: int) -> Iterator[str]:
    """Yield lines about the first job of a file, or about a producer and a source in it: what was checked and found.

    Raises:
        UsageError: something is wrong; the message has the remedy.
    """
    with noting_jobs() as jobs:
        module = load(path)
    producer, factory = next((job for job in jobs if isinstance(job[1], DataSourceFactory)), (None, None))
    if producer is None or source or settings or name not in ("", producer.__name__):
        producer = find_class(module, name or _only(path, names_of(module, PRODUCER), "producer", "-p"), PRODUCER)
        factory = _factory_of(path, module, source, settings)
    if factory is None:
        check_producer(producer, Producer)
        yield f"{producer.__name__}: its functions and settings are in order"
        yield f"{path} has no job, no source and no DataSourceFactory at its top level, so nothing was computed"
        return
    Plan(producer(), factory, Producer).release()
    yield f"{producer.__name__}: its functions and settings are in order"
    try:
        if factory.source is not None:
            yield _check_source(factory.source, first_units(factory, units)[0])
        if issubclass(producer, KeyedProducer):  # what it reduces are the values of a key
            yield f"{producer.__name__}: it reduces by key; that is not checked here"
            return
        yield from check_reduce(producer, factory, units)
    except AssertionError as error:
        raise UsageError(str(error)) from None


def _check_source(source: type[DataSource], factory: DataSourceFactory) -> str:
    mine = factory.for_a_job()
    read: list[list[Any]] = []
    try:
        with applied(source, mine.prepared), seeding_here():
            for state in (1, 2):
                reseed(state)
                part = source(offset=mine.offset, limit=mine.length())
                part._state = state
                read.append(list(part))
    finally:
        mine.release()
    if alike(*read) is False:
        return f"{source.__name__}: its records are random, and were not compared"
    count = check_source(factory)
    return f"{source.__name__}: {count:,} records are the same however {factory.length():,} {source.unit} are cut"


def _factory_of(path: str, module: ModuleType, source: str, settings: dict[str, Any]) -> DataSourceFactory | None:
    """Return the only factory of a file, if no source or settings are given; else one of its source; else None."""
    factories = {id(thing): thing for thing in vars(module).values() if isinstance(thing, DataSourceFactory)}
    if len(factories) == 1 and not source and not settings:
        return next(iter(factories.values()))
    names = names_of(module, SOURCE)
    if not source and not names:
        return None
    cls = find_class(module, source or _only(path, names, "source", "-s"), SOURCE)
    return DataSourceFactory(cls, **settings)


def _only(path: str, names: list[str], what: str, option: str) -> str:
    if len(names) != 1:
        raise UsageError(f"{path} has {', '.join(names) or 'none'}: choose one {what} with {option} NAME")
    return names[0]
