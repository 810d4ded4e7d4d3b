"""One part, computed: the same code in every worker, whatever carried the part there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import compress, repeat
from operator import length_hint
from types import GeneratorType
from typing import Any

from pymar.datasource import DataSource, Records
from pymar.exceptions import UsageError
from pymar.parts import JobSpec, Part
from pymar.seeding import reseed
from pymar.settings import one_job, put, put_back, splitmix64

_END = object()


class Task:
    """A job, ready to compute parts in this process."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self._state = splitmix64(spec.seed)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Settings on the job's classes, globals in their modules, reads counted: until the context ends."""
        spec = self.spec
        with one_job:
            places: list[tuple[Any, dict[str, Any]]] = [(spec.producer, spec.producer_settings)]
            if spec.source is not None:
                places.append((spec.source, self._of_source(spec.source)))
            places += ((import_module(name), values) for name, values in spec.globals.items())
            before = [(place, put(place, values)) for place, values in places]
            try:
                yield
            finally:
                for place, values in before:
                    put_back(place, values)

    def _of_source(self, source: type[DataSource]) -> dict[str, Any]:
        if source.unit != "records":
            return self.spec.source_settings
        return {**self.spec.source_settings, "__iter__": _counted(source.__iter__)}

    def set_up(self) -> None:
        """What comes before the first part in a process. Within `entered`."""
        self.spec.producer.setup_fn()

    def run(self, part: Part) -> Any:
        """The part's partial: `reduce_fn(map_fn(source))`.

        Raises:
            UsageError: the source yielded more or fewer records than the part has; `reduce_fn` gave a generator.
            Exception: whatever the user's code raises.
        """
        producer, source_class = self.spec.producer, self.spec.source
        source: DataSource
        if source_class is None:
            source = Records(part.offset, part.limit, part.data)
        else:
            source = source_class(offset=part.offset, limit=part.limit)
        source._state = self._state + part.index
        reads: list[tuple[Iterator[Any], Any]] = []
        source._reads = reads
        reseed(source._state)
        value = producer.reduce_fn(producer.map_fn(source))
        if reads:
            _check_counts(source, part, reads)
        return a_value(value, producer)


def a_value(value: Any, producer: type[Any]) -> Any:
    """The value that `reduce_fn` returned, which must not be a generator: it would be empty once it has travelled."""
    if isinstance(value, GeneratorType):
        raise UsageError(f"{producer.__name__}.reduce_fn returned a generator, {value!r}: return list(...) of it")
    return value


def _counted(read: Callable[[Any], Any]) -> Callable[[Any], Iterator[Any]]:
    """A source's `__iter__`, with its records counted at 10 ns each: what is left of `repeat` tells how many came."""

    def __iter__(self: DataSource) -> Iterator[Any]:  # noqa: N807 - it becomes a method
        records = iter(read(self))
        left = repeat(True, self.limit + 1)
        self._reads.append((records, left))
        return compress(records, left)

    return __iter__


def _check_counts(source: DataSource, part: Part, reads: list[tuple[Iterator[Any], Any]]) -> None:
    for records, left in reads:
        count = part.limit + 1 - length_hint(left)
        if count == part.limit and _is_exhausted(records):
            continue
        if count >= part.limit:
            raise _miscounted(source, part, f"more than its limit of {part.limit}")
        if _is_exhausted(records):  # or map_fn stopped early, which is its right
            raise _miscounted(source, part, f"{count} instead of {part.limit}")


def _is_exhausted(records: Iterator[Any]) -> bool:
    try:
        return next(records, _END) is _END
    except Exception:
        return False  # It had more to say, and map_fn never asked: not a failure of the part.


def _miscounted(source: DataSource, part: Part, found: str) -> UsageError:
    return UsageError(
        f"{type(source).__name__}.__iter__ yielded {found} records at offset {part.offset}: it has to yield the "
        "records self.offset to self.offset + self.limit. If its unit is not the record, say so: unit = 'bytes'"
    )
