"""The plan: a job before it runs, with its classes checked, its length, its parts and its description for a journal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from operator import index
from typing import Any, ClassVar, NamedTuple, Protocol

from pymar.datasource import DataSource, DataSourceFactory
from pymar.exceptions import UsageError
from pymar.job.checks import a_limit, a_number, check_producer, check_source
from pymar.job.state import Rules
from pymar.parts import DEFAULT_PARTS, JobSpec, Part, cut, make, sinks_within
from pymar.serialization.interpreter import of_answers
from pymar.serialization.settings import one_job
from pymar.serialization.shipped import MAIN
from pymar.serialization.usercode import IF_LOADED, ORDER, STATES, code_of_job, reached

#: Class attributes on which no partial depends, or which a description has in another place.
_OF_NO_PARTIAL = (
    *("WORKERS_NUMBER", "RETRIES", "ATTEMPTS", "MAX_FAILED", "PART_TIMEOUT", "MEMORY_LIMIT", "BACKUPS", "SEED"),
    "_grows",
)


class Divided(Protocol):
    """What a plan needs of a producer: how many parts, and how the data are divided."""

    #: Records of a part, of data without a length.
    _records_a_part: ClassVar[int]

    def _least_bytes(self) -> int:
        """Return how many bytes of its files a part has at least, by default; 0 for any."""

    def workers_number(self) -> int | None:
        """Return how many parts to make; None for the default."""

    def divide(self, factory: DataSourceFactory, /) -> Iterator[DataSourceFactory]:
        """Yield the parts, as factories."""


class Given(NamedTuple):
    """The parts of a stage that are not simply those which are cut from the data."""

    total: int
    parts: Callable[[Iterator[Part]], Iterator[Part]]
    """Takes those that are cut from the data; returns those to compute."""


class Plan:
    """A checked job: what `producer` is to compute of `factory`. It owns what the source has prepared, until `release`.

    Thread of the job only.

    Args:
        sink: where the mapped records go, in place of reduce_fn.
        given: the parts of a stage that follows another one, in place of those that are cut from the data.

    Raises:
        UsageError: a class, a setting or the length is not what it has to be.
    """

    def __init__(
        self, producer: Divided, factory: DataSourceFactory, root: Any, sink: Any = None, given: Given | None = None
    ) -> None:
        self._producer = producer
        self._given = given
        self._factory = factory = _checked_factory(factory).for_a_job()
        cls: Any = type(producer)
        source = factory.source
        self._sink = sink
        check_producer(cls, root, producer, needs_reduce=sink is None)
        if source is not None:
            check_source(source)
        prepared = factory.prepared
        try:
            self._complete(cls, root, source, prepared)
        except BaseException:  # there is no plan that would release it
            factory.release()
            raise

    def _complete(self, cls: Any, root: Any, source: Any, prepared: dict[str, Any]) -> None:
        """Make everything else; what fails here has to release what the source has prepared."""
        factory = self._factory
        self._divides = cls.divide is not root.divide
        self._grows: bool = cls._grows
        self._length = factory.known_length()
        self.total: int | None = None if self._divides or self._length is None else min(self._length, self._count())
        if self._given is not None:
            self.total = self._given.total
        with one_job:  # so that no serial job of another thread has its settings on these classes meanwhile
            classes = (cls, source, *map(type, sinks_within(self._sink)))
            self._code = code = reached(*(one for one in classes if one is not None))
            settings = code.settings(cls, root)
            if source is not None:
                settings |= code.settings(source, DataSource)
                settings[source] = {**settings.get(source, {}), **prepared}
        self.spec: JobSpec = JobSpec(
            producer=cls,
            source=source,
            settings=settings,
            seed=a_number(cls, "SEED", int),
            part_timeout=a_limit(cls, "PART_TIMEOUT", (int, float)),
            memory_limit=a_limit(cls, "MEMORY_LIMIT", int),
            parts=self.total,
            sink=self._sink,
            code=code,
        )
        self.rules: Rules = Rules(
            a_number(cls, "ATTEMPTS", int, 1),
            a_number(cls, "RETRIES", int),
            a_number(cls, "BACKUPS", (int, float)),
            max_failed=a_number(cls, "MAX_FAILED", int),
        )

    def release(self) -> None:
        """Release what the source has prepared: the job is over."""
        self._factory.release()

    def parts(self) -> Iterator[Part]:
        """Yield the parts in order, made one by one."""
        if self._given is not None:
            yield from self._given.parts(self._cut())
        else:
            yield from self._cut()

    def _cut(self) -> Iterator[Part]:
        start = self._factory.offset
        slices: Iterator[tuple[int, int, Any]]
        if self._divides:
            slices = map(_slice_of, self._producer.divide(self._factory))
        elif self._length is None:
            slices = self._factory.batches(self._producer._records_a_part)
        elif self._factory.source is None:
            slices = self._factory.slices(cut(self._length, self._count()))
        else:  # the fast way: there may be a million parts
            for number, (offset, limit) in enumerate(cut(self._length, self._count())):
                yield make(Part, (number, 0, start + offset, limit, None))
            return
        for number, (offset, limit, data) in enumerate(slices):
            yield Part(number, 0, offset, limit, data)

    def _count(self) -> int:
        count = self._producer.workers_number()
        if count is None:
            least, files = self._producer._least_bytes(), self._factory.prepared.get("files", ())
            return parts_of_files(files, least) if least and files else DEFAULT_PARTS
        name = f"{type(self._producer).__name__}.WORKERS_NUMBER"
        try:
            number = 0 if isinstance(count, bool) else index(count)
        except TypeError:
            number = 0
        if number < 1:
            raise UsageError(f"{name} is {count!r}: it is the number of parts, 1 or more, or None for the default")
        return number

    def description(self) -> dict[str, str]:
        """Return what a journal compares: everything on which the partials depend, as names and texts.

        Raises:
            UsageError: the code reads an object that cannot be told from others of its type.
        """
        spec = self.spec
        cls, home = spec.producer.__name__, spec.producer.__module__
        # The description is the same if a file is the script, is imported or is run by pytest.
        with one_job:
            code = self._code if home in MAIN else code_of_job(spec, home)
        texts = {}
        for place, values in spec.settings.items():
            for name, value in values.items():
                texts[code.entry_of(place, name)] = code.told(value, name)
        code.follow()
        if unknown := [item for item in code.unknown.items() if item[0] not in code.of_imported]:
            name, why = unknown[0]
            raise UsageError(
                f"checkpoint=: {name} is {why}, and whether that is the same in a later run cannot be told. Make it "
                "where it is used (in map_fn or setup_fn), or leave checkpoint= out"
            )
        start = self._factory.offset
        found = {
            "the Python version": "{}.{}".format(*sys.version_info),
            "the producer": cls,
            "the slice": f"from offset {start}",
            "SEED": str(spec.seed),
            ORDER: code.order,
            STATES: code.states,
        }
        if not self._grows:
            found["the parts"] = f"length {self._length}, in {self.total or 'an unknown number of'} parts"
        if spec.source is not None:
            found["the source"] = spec.source.__name__
        if spec.sink is not None:
            found["the stage" if spec.sink.stage else "the sink"] = (
                f"{type(spec.sink).__name__} {code.told(spec.sink.identity())}"
            )
        texts = {**of_answers(), **code.texts, **texts}
        found |= {(f"{IF_LOADED}{name}" if name in code.of_imported else name): text for name, text in texts.items()}
        for base in spec.producer.__mro__:  # the parts themselves are compared
            for name in _OF_NO_PARTIAL:
                found.pop(f"{code.label(base)}.{name}", None)
        return found


def parts_of_files(files: Sequence[Sequence[Any]], least: int) -> int:
    """Return how many parts to make of files (rows of sources.storage), each of at least so many bytes."""
    return max(1, min(DEFAULT_PARTS, sum(int(row[1]) for row in files) // least))


def _checked_factory(factory: Any) -> DataSourceFactory:
    if isinstance(factory, DataSourceFactory):
        return factory
    if isinstance(factory, type) and issubclass(factory, DataSource):
        raise UsageError(
            f"got the class {factory.__name__}: give map() a factory, DataSourceFactory({factory.__name__})"
        )
    raise UsageError(f"got {factory!r:.200}: give map() a DataSourceFactory, made of a DataSource class or of data")


def _slice_of(factory: DataSourceFactory) -> tuple[int, int, Any]:
    limit = factory.length()
    data = None if factory.source is not None else list(factory.build_data_source())
    return factory.offset, limit, data
