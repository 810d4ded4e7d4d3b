"""KeyedProducer: a producer whose map_fn yields pairs, and whose reduce_fn reduces the values of each key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

# Only what a worker needs: it imports this module for the base class.
from pymar.keyed.aggregations import Aggregation
from pymar.keyed.reduction import Several
from pymar.producer import OnMismatch, OnTimeout, checks_call

if TYPE_CHECKING:
    from pymar.producer import Computation
else:
    from pymar.producer import Producer as Computation

if TYPE_CHECKING:
    from os import PathLike

    from pymar.datasource import DataSourceFactory
    from pymar.keyed.result import Result
    from pymar.sinks.sink import Sink, Written

__all__ = ["KeyedProducer"]


class KeyedProducer(Computation["Result"]):
    """A reduction by key: `map_fn` yields pairs (key, value), and `reduce_fn` reduces the values of each key.

    `map` returns a mapping of all keys, read lazily from where the workers have left it; `write` writes it to a sink.
    Pairs go from worker to worker through an exchange (a folder), so neither the pairs nor the keys have to fit into
    memory. The same data give the same result, bit for bit and in the same order, on every engine.

    `map_fn` yields pairs, mappings (their items), pairs of numpy arrays (keys, values), or Arrow tables; with KEY,
    rows. Keys are numbers, texts, bytes, None, dates, times, UUIDs, enums, and tuples of these. They are equal as in a
    dict; all NaNs are one key.

    `reduce_fn` is an aggregation such as `Sum()`; a dict of them by name, such as `{"flights": Count(), "delay":
    Mean("arr_delay")}`; or a function of a key and an iterable of its values. A function runs on each part, and again
    over what it has returned there, so it has to accept its own results, as a sum does; with COMBINE = False it runs
    once for each key, with an iterator of all values in the order of the data.

    Two static functions are yours to define, or not: `finish_fn(key, value)` returns the value to keep, once all values
    of the key are reduced; `key_bytes_fn(key)` returns, for keys of other types, bytes that are equal for equal keys.

    Class attributes, each with its default:
        KEY = None: the name of the key column, or a tuple of names, if map_fn yields rows (mappings, Arrow tables).
        COMBINE = True: values are reduced where they are mapped first, as far as that makes them fewer.
        PARTITIONS = None: how many parts the second stage has, 256 at most; None: from the bytes. The result is the
            same for any.
        SORTED = False: True if the result is in the order of the keys.
        The others are those of Producer.
    """

    _reduces_parts: ClassVar[bool] = False

    KEY: ClassVar[str | tuple[str, ...] | None] = None
    COMBINE: ClassVar[bool] = True
    PARTITIONS: ClassVar[int | None] = None
    SORTED: ClassVar[bool] = False

    @classmethod
    def _are_fresh(cls) -> bool:
        """True if nothing changes what map_fn yields after it has yielded it."""
        return False

    if not TYPE_CHECKING:  # a type checker would compare what users define with these
        reduce_fn = None
        finish_fn = None
        key_bytes_fn = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        given = vars(cls).get("reduce_fn")
        if isinstance(given, dict):
            wrong = [name for name, one in given.items() if not isinstance(one, Aggregation)]
            if wrong or not given:
                from pymar.exceptions import UsageError

                what = f"{wrong[0]!r} is {given[wrong[0]]!r:.100}" if wrong else "it is empty"
                raise UsageError(
                    f"{cls.__name__}.reduce_fn is a dict of aggregations, such as {{'flights': Count()}}, and {what}"
                )
            setattr(cls, "reduce_fn", Several(given))  # noqa: B010 - a type checker does not know the name

    @staticmethod
    def map_fn(data_source: Any, /) -> Iterable[Any]:
        """Return or yield the pairs of a part. Without one, the records of the source are the pairs, or the rows."""
        found: Iterable[Any] = data_source
        return found

    @checks_call
    def map(
        self,
        factory: DataSourceFactory,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        *,
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
        on_mismatch: OnMismatch = "refuse",
        keep: str | PathLike[str] | None = None,
    ) -> Result:
        """Return a mapping of all keys to their values.

        Args:
            factory: the data.
            timeout, on_timeout, progress, on_mismatch: as of `Producer.map`; the timeout is for both stages, and so is
                MAX_FAILED for each: if parts of the first one fail, the second does not begin.
            checkpoint: a file that keeps what is finished of both stages: a later call with it computes only the rest.
                What workers exchange stays beside it, or in PYMAR_EXCHANGE, until `pymar clean`.
            keep: a new folder for the result, which outlives this process: `Result.open(path)` reads it again.

        Raises:
            ExchangeError: no space is left; or workers share no folder, and there is too much for the producer. What a
                worker meets arrives as PartFailed, whose __cause__ it is.
            Errors that `Producer.map` raises: likewise.
        """
        from pymar.keyed.checks import check_keep, check_keyed
        from pymar.keyed.jobs import KeyedJob

        check_keyed(type(self))
        check_keep(keep)
        job = KeyedJob(self, factory, timeout, on_timeout, checkpoint, progress, on_mismatch)
        if not self.SORTED:
            return job.mapped(keep)
        from pymar.keyed.sorting import sorted_by_key

        return sorted_by_key(job).mapped(keep)

    @checks_call
    def write(
        self,
        factory: DataSourceFactory,
        sink: Sink,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        *,
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
        on_mismatch: OnMismatch = "refuse",
    ) -> Written:
        """Let the workers write all keys and values to a sink, all or nothing: one record a key, a dict.

        The key's columns are named by KEY, or "key"; the value's by the names of its aggregations, or "value".

        Raises:
            SinkError, CheckpointMismatch: as `Producer.write`.
            Errors that `map` raises: likewise.
        """
        from pymar.keyed.checks import check_keyed
        from pymar.keyed.jobs import KeyedJob

        check_keyed(type(self))
        job = KeyedJob(self, factory, timeout, on_timeout, checkpoint, progress, on_mismatch)
        if not self.SORTED:
            return job.written(sink)
        from pymar.keyed.sorting import sorted_by_key

        return sorted_by_key(job).written(sink)

    def partials(self, *arguments: Any, **named: Any) -> NoReturn:
        """Refuse: what the parts of a keyed job leave is not for the producer.

        Raises:
            UsageError: always.
        """
        from pymar.exceptions import UsageError

        raise UsageError(f"{type(self).__name__} reduces by key, and has no partials: call map(), or write()")
