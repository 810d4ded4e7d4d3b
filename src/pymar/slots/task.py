"""Compute one part: the same code in every worker process, on every engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from itertools import chain, compress, repeat
from operator import length_hint
from types import GeneratorType
from typing import Any

from pymar.datasource import DataSource, Records
from pymar.exceptions import UsageError
from pymar.parts import JobSpec, Part
from pymar.serialization import loads
from pymar.serialization.composed import Composed
from pymar.serialization.settings import MISSING, held, one_job, put, put_back, splitmix64
from pymar.serialization.values import dumps_home
from pymar.slots.seeding import reseed

_END = object()
#: What an error says if an iterator has ended before its records.
INTERRUPTED = "a function that is called with a record raised StopIteration, which ends iterators"


#: Iterators that end early, without an error, if the function that they call raises StopIteration.
_MAPPED = (map, filter)


#: One iteration over a source: the iterator of its records; an iterator that counts down by one a record, from one more
#: than the part has; a generator that is finished once the source has ended; the iterator that map_fn received.
Read = tuple[Iterator[Any], Any, Any, Iterator[Any]]


class Again(Exception):
    """Raised by the `write` of a sink: the part has to be mapped again, from its beginning, and is written then."""


class Task:
    """A job that is loaded in this process: it computes parts. One thread at a time."""

    def __init__(
        self,
        spec: JobSpec,
        *,
        came: Any = None,
        dumps: Callable[[Any, str], bytes] = dumps_home,
        loads: Callable[[bytes], Any] = loads,
    ) -> None:
        self.spec = spec
        #: What came with the job by value (shipped.py), in a worker process.
        self.came = came
        #: How its partials are encoded, and how data that came with a part is decoded.
        self.dumps = dumps
        self.loads = loads
        name, is_composed = spec.producer.__name__, isinstance(spec.producer, Composed)
        #: What a partial is called in errors.
        self.value_name: str = f"a result of {name}" if is_composed else f"the value of {name}.reduce_fn"
        self._environ: dict[str, str | None] = {}
        self._wanted: tuple[Mapping[str, str], dict[str, str]] | None = None
        self._settings: Any = None
        self._texts: dict[str, str] = {}
        self._state = splitmix64(spec.seed)
        self._source = spec.source
        self._counts = False
        if spec.source is not None:
            self._counts = spec.source.unit == "records"
            self._source = _counting(spec.source)
        self._places = [
            (import_module(place) if isinstance(place, str) else place, values)
            for place, values in spec.settings.items()
        ]
        if spec.sink is not None:
            spec.sink.bind(spec.producer, dumps, loads)

    @contextmanager
    def entered(self, is_alone: bool = False) -> Iterator[None]:
        """Put the job's settings on its classes and modules until the context ends.

        With `is_alone` (no other job computes in this process) all of them are put back at the end, and so is what the
        job itself has assigned to them; otherwise only those that differ are put, and put back.
        """
        changes = (
            self._places
            if is_alone
            else [(place, changed) for place, values in self._places if (changed := _changed(place, values))]
        )
        with one_job if changes else nullcontext():
            before = [(place, put(place, values)) for place, values in changes]
            try:
                yield
            finally:
                for place, values in reversed(before):  # functions may share a variable
                    put_back(place, values)

    def set_up(self) -> None:
        """Call setup_fn, before the first part and within `entered`. Settings that it changes stay changed."""
        self.spec.producer.setup_fn()
        self._places = [
            (place, {name: held(place).get(name, MISSING) for name in values}) for place, values in self._places
        ]

    def prepare(self, environ: Mapping[str, str]) -> None:
        """Call setup_fn and note the state of the process after it: worker processes compute several jobs."""
        from pymar.serialization.interpreter import apply, interpreter

        if self.spec.interpreter is not None:
            apply(self.spec.interpreter)
        self.set_up()
        self._settings = interpreter()
        now = dict(os.environ)
        self._environ = {
            name: now.get(name) for name in now.keys() | environ.keys() if now.get(name) != environ.get(name)
        }

    def restore(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Restore the interpreter's settings as they were after setup_fn; return the environment variables of then."""
        from pymar.serialization.interpreter import apply

        apply(self._settings)
        if self._wanted is None or self._wanted[0] is not environ:
            wanted = {name: value for name, value in {**environ, **self._environ}.items() if value is not None}
            self._wanted = environ, wanted
        return self._wanted[1]

    def leave(self) -> None:
        """Note the state of the job's modules, before another job is computed."""
        self._texts = self._described()

    def is_as_left(self) -> bool:
        """True if other jobs have left the job's modules as they were."""
        from pymar.serialization.usercode import differences

        return not differences(self._texts, self._described())

    def _described(self) -> dict[str, str]:
        from pymar.serialization.usercode import code_of_job

        code = code_of_job(self.spec)
        return {name: text for name, text in code.fixed_texts(True).items() if name in code.of_modules}

    def run(self, part: Part) -> Any:
        """Return the part's partial, as `_run` does; compute it anew if the sink asks for that.

        Raises:
            Exception: as `_run`.
        """
        with suppress(Again):
            return self._run(part)
        return self._run(part)

    def _run(self, part: Part) -> Any:
        """Return the part's partial: `reduce_fn(map_fn(source))`; with a sink, what that notes of what it has written.

        Raises:
            UsageError: the source yielded more or fewer records than the part has; `reduce_fn` returned a generator.
            Exception: whatever the user's code raises.
        """
        producer, source_class, sink = self.spec.producer, self._source, self.spec.sink
        source: DataSource
        if source_class is None:
            source = _Given(part.offset, part.limit, part.data)
        else:
            source = source_class(offset=part.offset, limit=part.limit)
        source._state = self._state + part.index
        source._loads = self.loads
        reads: list[Read] = []
        source._reads = reads
        reseed(source._state)
        end: Any = None
        reads_all = producer._reads_all()
        try:
            mapped = source if sink is not None and sink.is_merging else producer.map_fn(source)
            if not hasattr(mapped, "__iter__") and (sink is None or not hasattr(mapped, "to_batches")):
                raise UsageError(
                    f"{producer.__name__}.map_fn returned {mapped!r:.100}: it has to yield or return the records"
                )
            if type(mapped) in _MAPPED or reads_all:
                end = _nothing()
                mapped_to_end: Any = chain(mapped, end)
            else:
                mapped_to_end = mapped
            value = producer.reduce_fn(mapped_to_end) if sink is None else sink.write(part, mapped_to_end)
            if reads_all and end.gi_frame is None:
                _check_all_read(reads)
        except Exception as error:
            if isinstance(error, TypeError) and f"'{type(source).__name__}'" in str(error):  # such as records * 2
                error.add_note(
                    f"{producer.__name__}.map_fn is called once a part, with all its records: iterate over it"
                )
            producer._explain(error, source, self._records_read(part, reads), sink)
            raise
        if end is not None and end.gi_frame is None:
            _check_interrupted(mapped, reads, producer)
        if self._counts:
            _check_counts(source, part, reads)
        return a_value(value, producer)

    def _records_read(self, part: Part, reads: list[Read]) -> int:
        """Return how many records of a part were read in the last iteration over it."""
        if not reads:
            return 0
        records, left, _, _ = reads[-1]
        if left is None:
            return part.limit - length_hint(records)
        return (part.limit + 1 if self._counts else sys.maxsize) - length_hint(left)


def a_value(value: Any, producer: type[Any]) -> Any:
    """Return the value of `reduce_fn`. A generator is refused: it cannot be sent to another process.

    Raises:
        UsageError: it is a generator.
    """
    if isinstance(value, GeneratorType):
        raise UsageError(f"{producer.__name__}.reduce_fn returned a generator, {value!r}: return list(...) of it")
    return value


def _changed(place: Any, values: dict[str, Any]) -> dict[str, Any]:
    there = held(place)
    return {name: value for name, value in values.items() if there.get(name, MISSING) is not value}


class _Given(Records):
    """The records that came with a part; it notes each iteration over them."""

    __qualname__ = "Records"

    def __iter__(self) -> Iterator[Any]:
        end = _nothing()
        given = chain(records := iter(self.data), end)
        self._reads.append((records, None, end, given))
        return given


_Given.__name__ = "Records"  # the name in error messages of the interpreter


def _nothing() -> Iterator[Any]:
    """Yield nothing. Chained behind an iterator, this generator is finished once that iterator has ended."""
    yield from ()


def _is_over(end: Any) -> bool:
    return end.gi_frame is None


def _counting(source_class: type[DataSource]) -> type[DataSource]:
    """Return a subclass that counts its records, at 6 ns each: the remaining length of `repeat` gives the count."""
    counts = source_class.unit == "records"

    def __iter__(self: DataSource) -> Iterator[Any]:  # noqa: N807 - it becomes a method
        end: Any
        records: Any = iter(source_class.__iter__(self))
        left = repeat(True, self.limit + 1 if counts else sys.maxsize)
        if type(records) is GeneratorType:
            end, counted = records, compress(records, left)
        else:
            counted = compress(chain(records, end := _nothing()), left)
        self._reads.append((records, left, end, counted))
        return counted

    names = {name: getattr(source_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    metaclass: Any = type(source_class)
    counting: type[DataSource] = metaclass(source_class.__name__, (source_class,), {**names, "__iter__": __iter__})
    return counting


def _check_interrupted(mapped: Any, reads: list[Read], producer: type[Any]) -> None:
    """Raise if a `map` has ended before its records: then its function raised StopIteration, which `map` hides.

    Raises:
        RuntimeError: as a generator does when StopIteration is raised within it (PEP 479).
    """
    while type(mapped) in _MAPPED:
        function, *iterables = mapped.__reduce__()[1]
        if len(iterables) != 1:
            return  # it may have ended with another iterable
        mapped = iterables[0]
    for _, _, end, given in reads:
        if given is mapped and not _is_over(end):
            name = getattr(function, "__qualname__", type(function).__name__)
            raise RuntimeError(f"{name}, which {producer.__name__}.map_fn maps over the records, raised StopIteration")


def _check_all_read(reads: list[Read]) -> None:
    """Raise if what ends with its records has ended before them: a function on the way raised StopIteration.

    Raises:
        RuntimeError: as a generator does when StopIteration is raised within it (PEP 479).
    """
    if not all(_is_over(end) for _, _, end, _ in reads):
        raise RuntimeError(INTERRUPTED)


def _check_counts(source: DataSource, part: Part, reads: list[Read]) -> None:
    for records, left, end, _ in reads:
        count = part.limit + 1 - length_hint(left)
        is_over = end.gi_frame is None
        if count == part.limit and (is_over or _is_exhausted(records)):
            continue
        if count >= part.limit:
            raise _miscounted(source, part, f"more than its limit of {part.limit}")
        # Otherwise map_fn stopped early, which is allowed.
        if is_over or (not _is_suspended(records) and _is_exhausted(records)):
            raise _miscounted(source, part, f"{count} instead of {part.limit}")


def _is_exhausted(records: Iterator[Any]) -> bool:
    if isinstance(records, GeneratorType) and records.gi_frame is None:
        return True
    try:
        return next(records, _END) is _END
    except Exception:  # in records that map_fn never asked for: not a failure of the part
        return False


def _is_suspended(records: Iterator[Any]) -> bool:
    """True if it is a generator that has not ended; to find out computes nothing."""
    return isinstance(records, GeneratorType) and records.gi_frame is not None


def _miscounted(source: DataSource, part: Part, found: str) -> UsageError:
    return UsageError(
        f"{type(source).__name__}.__iter__ yielded {found} records at offset {part.offset}: it has to yield the "
        "records self.offset to self.offset + self.limit. If its unit is not the record, set it: unit = 'bytes'"
    )
