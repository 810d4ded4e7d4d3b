"""A check that the answer of a job does not depend on how its data are cut: one part and two are compared."""

from __future__ import annotations

from itertools import islice
from typing import Any

from pymar.datasource import DataSourceFactory
from pymar.exceptions import UsageError
from pymar.job.plan import Plan
from pymar.job.reduction import alike, check_partial
from pymar.parts import Part
from pymar.producer import Producer
from pymar.serialization import loads
from pymar.serialization.values import dumps_home
from pymar.slots.seeding import seeding_here
from pymar.slots.task import Task

#: Units of the source that are read.
UNITS = 1_000


def check_reduce(producer: type[Producer[Any]], factory: DataSourceFactory, units: int = UNITS) -> list[str]:
    """Compute the first `units` of some data as one part and as two, here, and compare the answers.

    Returns:
        Lines that show what was found.

    Raises:
        AssertionError: they differ, or `reduce_fn` does not return a single partial unchanged; with both values and the
            remedy.
        UsageError: a class or a setting is not what it has to be.
    """
    name = producer.__name__
    small, records = first_units(factory, units)
    limit = small.length()
    unit = "records" if small.source is None else small.source.unit
    if limit < 2:
        return [f"{name}: {limit} {unit} cannot be cut, so reduce_fn was not checked"]
    first = max(1, limit // 3)  # not the middle: there a wrong mean of two means would be right
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
    lines = [
        f"{name}: of a part of {limit:,} {unit}, reduce_fn gives {loads(whole)!r:.500}",
        f"{name}: of the partials of {first:,} and {limit - first:,} of them, it gives {joined!r:.500}",
    ]
    same = alike(joined, loads(whole))
    if same is False:
        raise AssertionError("\n".join([*lines, _REMEDY]))
    return [
        *lines,
        f"{name}: these are alike" if same else f"{name}: these cannot be compared automatically: compare them",
    ]


_REMEDY = (
    "They differ: the answer depends on how the data are cut. Let reduce_fn return what can be reduced again (a sum "
    "and a count for a mean), and finish what map() returns; and let map_fn give the same for a record in every part"
)


def first_units(factory: DataSourceFactory, units: int) -> tuple[DataSourceFactory, list[Any] | None]:
    """Return a factory of the first units; and the records, if they are data of the producer's (else None)."""
    if factory.source is None:
        records = list(islice(factory.build_data_source(), units))
        return DataSourceFactory(records), records
    limit = min(factory.length(), units)
    settings = factory.settings
    return DataSourceFactory(factory.source, max(1, limit), factory.offset, **settings) if limit else factory, None
