"""One part, computed: the same code in every worker, whatever carried the part there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from itertools import compress, repeat
from operator import length_hint
from types import GeneratorType
from typing import Any

from pymar.exceptions import UsageError
from pymar.parts import JobSpec, Part
from pymar.seeding import reseed
from pymar.settings import one_job, put, put_back, splitmix64
from pymar.source import DataSource, Records
from pymar.values import dumps_home, loads

_END = object()


class Task:
    """A job, ready to compute parts in this process."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        #: The classes that came with the job by value (shipped.py).
        self.classes: dict[str, type] = {}
        #: How its partials are encoded.
        self.dumps: Callable[[Any, str], bytes] = dumps_home
        #: How data that came with a part is decoded.
        self.loads: Callable[[bytes], Any] = loads
        self._state = splitmix64(spec.seed)
        self._source = spec.source
        if spec.source is not None and spec.source.unit == "records":
            self._source = _counting(spec.source)
        self._places = [
            (import_module(place) if isinstance(place, str) else place, values)
            for place, values in spec.settings.items()
        ]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The job's settings on its classes and modules, until the context ends."""
        changes = [(place, changed) for place, values in self._places if (changed := _changed(place, values))]
        with one_job if changes else nullcontext():
            before = [(place, put(place, values)) for place, values in changes]
            try:
                yield
            finally:
                for place, values in before:
                    put_back(place, values)

    def set_up(self) -> None:
        """What comes before the first part in a process. Within `entered`; settings that it changes stay changed."""
        self.spec.producer.setup_fn()
        self._places = [(place, {name: vars(place)[name] for name in values}) for place, values in self._places]

    def run(self, part: Part) -> Any:
        """The part's partial: `reduce_fn(map_fn(source))`.

        Raises:
            UsageError: the source yielded more or fewer records than the part has; `reduce_fn` gave a generator.
            Exception: whatever the user's code raises.
        """
        producer, source_class = self.spec.producer, self._source
        source: DataSource
        if source_class is None:
            source = Records(part.offset, part.limit, part.data)
        else:
            source = source_class(offset=part.offset, limit=part.limit)
        source._state = self._state + part.index
        reads: list[tuple[Iterator[Any], Any]] = []
        source._reads = reads
        reseed(source._state)
        try:
            mapped = producer.map_fn(source)
            if not hasattr(mapped, "__iter__"):
                raise UsageError(
                    f"{producer.__name__}.map_fn returned {mapped!r:.100}: it has to yield or return the records"
                )
            value = producer.reduce_fn(mapped)
        except TypeError as error:
            if f"'{type(source).__name__}'" in str(error):  # records * 2: it was written for one of them
                error.add_note(
                    f"{producer.__name__}.map_fn is called once a part, with all its records: iterate over it"
                )
            raise
        if reads:
            _check_counts(source, part, reads)
        return a_value(value, producer)


def a_value(value: Any, producer: type[Any]) -> Any:
    """The value that `reduce_fn` returned, which must not be a generator: it would be empty once it has travelled."""
    if isinstance(value, GeneratorType):
        raise UsageError(f"{producer.__name__}.reduce_fn returned a generator, {value!r}: return list(...) of it")
    return value


def _changed(place: Any, values: dict[str, Any]) -> dict[str, Any]:
    there = vars(place)
    return {name: value for name, value in values.items() if there.get(name, _END) is not value}


def _counting(source_class: type[DataSource]) -> type[DataSource]:
    """The source, with its records counted at 6 ns each: what is left of `repeat` tells how many came."""

    def __iter__(self: DataSource) -> Iterator[Any]:  # noqa: N807 - it becomes a method
        records = iter(source_class.__iter__(self))
        left = repeat(True, self.limit + 1)
        self._reads.append((records, left))
        return compress(records, left)

    names = {name: getattr(source_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    metaclass: Any = type(source_class)
    counting: type[DataSource] = metaclass(source_class.__name__, (source_class,), {**names, "__iter__": __iter__})
    return counting


def _check_counts(source: DataSource, part: Part, reads: list[tuple[Iterator[Any], Any]]) -> None:
    for records, left in reads:
        count = part.limit + 1 - length_hint(left)
        if count == part.limit and _is_exhausted(records):
            continue
        if count >= part.limit:
            raise _miscounted(source, part, f"more than its limit of {part.limit}")
        if not _is_suspended(records) and _is_exhausted(records):  # or map_fn stopped early, which is its right
            raise _miscounted(source, part, f"{count} instead of {part.limit}")


def _is_exhausted(records: Iterator[Any]) -> bool:
    if isinstance(records, GeneratorType) and records.gi_frame is None:
        return True
    try:
        return next(records, _END) is _END
    except Exception:  # It had more to say, and map_fn never asked: not a failure of the part.
        return False


def _is_suspended(records: Iterator[Any]) -> bool:
    """Whether it is a generator that has more to say: nothing of it need be computed to know."""
    return isinstance(records, GeneratorType) and records.gi_frame is not None


def _miscounted(source: DataSource, part: Part, found: str) -> UsageError:
    return UsageError(
        f"{type(source).__name__}.__iter__ yielded {found} records at offset {part.offset}: it has to yield the "
        "records self.offset to self.offset + self.limit. If its unit is not the record, say so: unit = 'bytes'"
    )
