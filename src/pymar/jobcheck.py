"""Whether a job gives the same however its data are cut: for `pymar check`, and for tests of jobs, anybody's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from types import ModuleType
from typing import Any

from pymar.checks import check_producer
from pymar.datasource import DataSource, DataSourceFactory
from pymar.exceptions import UsageError
from pymar.jobfile import PRODUCER, SOURCE, find_class, load, names_of
from pymar.parts import Part
from pymar.plan import Plan
from pymar.producer import Producer
from pymar.reducecheck import alike, check_partial
from pymar.seeding import reseed, seeding_here
from pymar.settings import applied
from pymar.sourcecheck import check_source
from pymar.values import dumps_home, loads
from pymar.work import Task

#: Units of the source that are looked at.
UNITS = 1_000


def check_reduce(producer: type[Producer[Any]], factory: DataSourceFactory, units: int = UNITS) -> list[str]:
    """Compute the first `units` of some data as one part and as two, here, and compare what `reduce_fn` makes of them.

    Returns:
        Lines that say what was found.

    Raises:
        AssertionError: they differ, or `reduce_fn` does not give a partial back; with both values and what to do.
        UsageError: a class or a setting is not what it has to be.
    """
    name = producer.__name__
    small, records = _first(factory, units)
    limit = small.length()
    unit = "records" if small.source is None else small.source.unit
    if limit < 2:
        return [f"{name}: {limit} {unit} cannot be cut, so reduce_fn was not looked at"]
    first = max(1, limit // 3)  # not the middle: the mean of the means of two halves is right
    plan = Plan(producer(), small, Producer)
    try:
        task = Task(plan.spec)
        with task.entered(), seeding_here():
            task.set_up()

            def partial(number: int, start: int, end: int) -> bytes:
                data = None if records is None else records[start:end]
                value = task.run(Part(number, 0, small.offset + start, end - start, data))
                return dumps_home(value, f"the value of {name}.reduce_fn")

            whole = partial(0, 0, limit)
            if alike(loads(whole), loads(partial(1, 0, limit))) is False:
                return [f"{name}: a partial depends on random numbers or on its part's number, and was not compared"]
            halves = [loads(partial(0, 0, first)), loads(partial(1, first, limit))]
            try:
                check_partial(producer, whole)
            except UsageError as error:
                raise AssertionError(str(error)) from None
            joined = producer.reduce_fn(iter(halves))
    finally:
        plan.release()
    told = [
        f"{name}: of a part of {limit:,} {unit}, reduce_fn gives {loads(whole)!r:.500}",
        f"{name}: of the partials of {first:,} and {limit - first:,} of them, it gives {joined!r:.500}",
    ]
    same = alike(joined, loads(whole))
    if same is False:
        raise AssertionError("\n".join([*told, _REMEDY]))
    return [*told, f"{name}: these are alike" if same else f"{name}: these cannot be compared here: look at them"]


_REMEDY = (
    "They differ: the answer depends on how the data are cut. Let reduce_fn return what can be reduced again (a sum "
    "and a count for a mean), and finish what map() returns; and let map_fn give the same for a record in whatever part"
)


def _first(factory: DataSourceFactory, units: int) -> tuple[DataSourceFactory, list[Any] | None]:
    """A factory of the first units; and its records, if they are data of the producer's."""
    if factory.source is None:
        records = list(islice(factory.build_data_source(), units))
        return DataSourceFactory(records), records
    limit = min(factory.length(), units)
    settings = factory.settings
    return DataSourceFactory(factory.source, max(1, limit), factory.offset, **settings) if limit else factory, None


def checked(path: str, name: str, source: str, settings: dict[str, Any], units: int) -> Iterator[str]:
    """Lines of what `pymar check` finds out of the first job of a file, or of a producer and a source in it.

    Raises:
        UsageError: something is wrong; the message says what, and what to do.
    """
    with _jobs_begun() as jobs:
        module = load(path)
    producer, factory = next(iter(jobs), (None, None))
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
            yield _check_source(factory.source, _first(factory, units)[0])
        yield from check_reduce(producer, factory, units)
    except AssertionError as error:
        raise UsageError(str(error)) from None


@contextmanager
def _jobs_begun() -> Iterator[list[tuple[type[Producer[Any]], DataSourceFactory]]]:
    """The producers and factories of the jobs that are begun within; loading a file stops at its first."""
    jobs: list[tuple[type[Producer[Any]], DataSourceFactory]] = []
    plan = Producer._plan

    def noting(producer: Producer[Any], factory: DataSourceFactory) -> Plan:
        if isinstance(factory, DataSourceFactory):
            jobs.append((type(producer), factory))
        return plan(producer, factory)

    Producer._plan = noting  # type: ignore[method-assign, assignment]
    try:
        yield jobs
    finally:
        Producer._plan = plan  # type: ignore[method-assign]


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
    """The factory of a file, if it has one and no other was asked for; or one of its source."""
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
        raise UsageError(f"which {what} of {path}? It has {', '.join(names) or 'none'}: {option} NAME")
    return names[0]
