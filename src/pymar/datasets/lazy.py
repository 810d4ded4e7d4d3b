"""Dataset: steps over the records of a source, which run when a result is asked for. Immutable and lazy.

Dataset: an origin and steps   --compiled-->   a producer of those steps, and a job of it   -->   the result
group_by, join, sort, distinct --------------> a keyed job before it, whose result is the next origin
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from pymar.calls.calling import check_returns
from pymar.calls.memory import MemoryGuard
from pymar.calls.options import warn_of_generators
from pymar.datasets import origins, producers
from pymar.datasets.running import Run, Step, compiled, key_of, located, text_of
from pymar.datasets.steps import Folded, as_row
from pymar.exceptions import UsageError
from pymar.job.interrupt import log_if_script_ends, one_line_on_interrupt
from pymar.keyed.aggregations import Aggregation, Collect, Count, Max, Mean, Min, Sum
from pymar.keyed.reduction import Several
from pymar.serialization.composed import home_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pymar.calls.options import RunOptions
    from pymar.sinks.sink import Sink, Written

__all__ = ["Dataset", "Groups", "Rows"]

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")
V = TypeVar("V")
#: What a record is compared by: a column's name, a function, a tuple of these; None: the record itself.
Key = str | tuple[Any, ...] | Callable[[T], Any] | None
How = Literal["inner", "left", "right", "outer", "semi", "anti"]

#: What other libraries call steps and results, and how that is written here.
_ELSEWHERE = {
    "head": "take(n)",
    "limit": "take(n)",
    "show": "take(n), or explain()",
    "select": "map(function)",
    "apply": "map(function)",
    "agg": "group_by(key).aggregate(name=...)",
    "groupby": "group_by(key)",
    "groupBy": "group_by(key)",
    "reduceByKey": "group_by(key).reduce(function)",
    "flatMap": "flat_map(function)",
    "map_batches": "map_parts(function)",
    "mapPartitions": "map_parts(function)",
    "order_by": "sort(key)",
    "orderBy": "sort(key)",
    "sort_values": "sort(key)",
    "unique": "distinct()",
    "drop_duplicates": "distinct()",
    "merge": "join(other, on)",
    "compute": "collect()",
    "to_list": "collect()",
    "tolist": "collect()",
    "toPandas": "to_pandas()",
    "cache": "write_parquet(folder), and read_parquet(folder): a result is not kept for the next one",
    "persist": "write_parquet(folder), and read_parquet(folder): a result is not kept for the next one",
}
#: Sinks whose records are rows: others are made of pairs and single values.
_OF_ROWS = frozenset({"ParquetSink", "CSVSink", "SQLSink"})
#: Records of a result that are taken at once.
_AT_ONCE = 4_096
#: Parts that an iteration computes ahead of the one that it waits for.
AHEAD = 64
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def place() -> str:
    """Return the file and the line of the user's code that has called."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "?"
    file = frame.f_code.co_filename
    near = os.path.relpath(file) if os.path.isabs(file) else file
    return f"{near if len(near) < len(file) else file}, line {frame.f_lineno}"


class Dataset(Generic[T]):
    """Records, and steps over them: nothing is read before a result is asked for, and each result reads anew.

    Made by `pymar.dataset` and `pymar.read_csv` and the like. Steps return a new dataset. Results compute, on all cores
    or on the engine that is given; they take the options of RunOptions (`pymar.calls.options`), such as
    `collect(engine="amqp://host", checkpoint="run.ckpt")`.

    A part of the data is computed by one process, record by record, and the order is that of the data. The results are
    the same to the last bit for any engine and number of workers.

    Raises (each result): PartFailed, whose text names the step, the record and the line where the step was written;
        the errors that `Producer.map` raises.
    """

    def __init__(self, origin: Any, steps: tuple[Step, ...] = (), settings: Mapping[str, Any] | None = None) -> None:
        self._origin = origin
        self._steps = steps
        self._settings = dict(settings or {})

    @property
    def origin(self) -> Any:
        """Return where the records come from; for other parts of Pymar."""
        return self._origin

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps over them; for other parts of Pymar."""
        return self._steps

    def __repr__(self) -> str:
        return f"<Dataset: {self.text}>"

    @property
    def text(self) -> str:
        """Return how it was written, about."""
        upstream = origins.upstreams(self._origin)
        before = upstream[0].text if upstream else ""
        own: str = self._origin.text
        return before + own + "".join(step.text for step in self._steps)

    def __reduce__(self) -> Any:
        raise TypeError("a dataset does not travel: ask for a result, such as collect(), and send that")

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            hint = f": write {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            raise AttributeError(f"a dataset has no {name!r}{hint}")

    # Steps.

    def _step(self, kind: str, function: Any, detail: Any = None, text: str | None = None) -> Dataset[Any]:
        if not callable(function) and kind != "sample":
            raise UsageError(f".{kind}({function!r:.100}): give a function")
        shown = text_of(function) if text is None else text
        step = Step(kind, function, detail, f".{kind}({shown})", place())
        return Dataset(self._origin, (*self._steps, step), self._settings)

    def map(self, function: Callable[[T], U], /) -> Dataset[U]:
        """Return a dataset of what the function returns for each record."""
        check_returns(".map", function, "flat_map takes a function that yields")
        return self._step("map", function)

    def filter(self, function: Callable[[T], object], /) -> Dataset[T]:
        """Return a dataset of the records for which the function returns true."""
        return self._step("filter", function)

    def flat_map(self, function: Callable[[T], Iterable[U]], /) -> Dataset[U]:
        """Return a dataset of all that the iterables have which the function returns: none, one or many a record."""
        return self._step("flat_map", function)

    def map_parts(self, function: Callable[[Iterator[T]], Iterable[U]], /) -> Dataset[U]:
        """Return a dataset of what the function yields; it is called once a part, with an iterator of its records."""
        return self._step("map_parts", function)

    def sample(self, fraction: float) -> Dataset[T]:
        """Return a dataset of about this fraction of the records, 0 to 1; the same ones in each run (see seed=)."""
        if not isinstance(fraction, int | float) or isinstance(fraction, bool) or not 0 <= fraction <= 1:
            raise UsageError(f".sample({fraction!r:.100}): give a fraction, 0 to 1")
        return self._step("sample", None, float(fraction), repr(fraction))

    @overload
    def group_by(self, key: None = ..., /) -> Groups[T, T]: ...
    @overload
    def group_by(self, key: Callable[[T], K], /) -> Groups[K, T]: ...
    @overload
    def group_by(self, key: str | tuple[str, ...], /) -> Rows: ...
    @overload
    def group_by(self, key: tuple[str | Callable[[T], Any], ...], /) -> Groups[tuple[Any, ...], T]: ...
    def group_by(self, key: Any = None, /) -> Any:
        """Return the records in groups of equal keys, of which `count`, `sum`, `aggregate` and the like make a dataset.

        Args:
            key: a function of a record; the name of a column, of records that are rows (dicts); a tuple of these; None:
                the record itself. With names, the results are rows again; else pairs (key, value).
        """
        names, function = key_of(key, "key")
        where = ("" if key is None else text_of(key), place())
        groups: Any = Rows if names else Groups
        return groups(self, names, function, *where)

    @overload
    def join(
        self: Dataset[tuple[K, U]], other: Dataset[tuple[K, V]], on: None = ..., how: How = ...
    ) -> Dataset[tuple[K, tuple[U, V]]]: ...
    @overload
    def join(self, other: Dataset[Any], on: str | tuple[str, ...], how: How = ...) -> Dataset[dict[str, Any]]: ...
    @overload
    def join(self, other: Dataset[Any], on: Callable[[Any], Any], how: How = ...) -> Dataset[Any]: ...
    def join(self, other: Dataset[Any], on: Any = None, how: How = "inner") -> Dataset[Any]:
        """Return the records of two datasets that have equal keys, joined.

        Args:
            other: the right side; where it is small, it is sent whole, and the order is that of the left.
            on: the name of a column that both have, or a tuple of names: each record is a row of all columns of the
                left, then those of the right (one whose name the left has gets "_right" behind it). None: both have
                pairs (key, value), and so has the result: (key, (left, right)). A function: gives the key of a record
                of either side; the result is (key, (left, right)).
            how: "inner"; "left", "right", "outer": records without a match too, with None for the other side; "semi"
                and "anti": the records of the left that have a match, or none.
        """
        from pymar.keyed.joining import HOW

        if not isinstance(other, Dataset):
            raise UsageError(f".join({other!r:.100}): give a dataset: pymar.dataset(...) of that")
        if how not in HOW:
            raise UsageError(f"how={how!r:.100}: it is one of {', '.join(map(repr, HOW))}")
        shown = "" if on is None else f", {text_of(on)}"
        text = f".join({other._origin.text}{shown})"
        return self._staged(origins.Joining(self, other, on, how, text, place()))

    def sort(self, key: Key[T] = None, reverse: bool = False) -> Dataset[T]:
        """Return the records in the order of a key, however many there are; equal ones in the order of the data.

        Args:
            key: as of `group_by`. NaN comes behind all numbers, and None behind everything.
            reverse: the greatest first.
        """
        text = f".sort({'' if key is None else text_of(key)})"
        return self._staged(origins.Sorting(self, key, bool(reverse), text, place()))

    def distinct(self) -> Dataset[T]:
        """Return the different records, each once; rows (dicts) are equal if their items are."""
        return self._staged(origins.Distinct(self, ".distinct()", place()))

    def _staged(self, origin: Any) -> Dataset[Any]:
        return Dataset(origin, (), self._settings)

    # Results.

    def collect(self, **options: Unpack[RunOptions]) -> list[T]:
        """Return all records, in order, as a list.

        Raises:
            UsageError: they do not fit into memory.
        """
        remedy = (
            "Iterate over the dataset in place of collect(), which holds a few parts at a time; or let the workers "
            "write it, with write_parquet(...)"
        )
        guard = MemoryGuard("the records", remedy)
        found: list[T] = []
        with self._run("collect()", options) as run:
            for some in self._in_order(run, "collect", inf):
                found += some
                guard.check(len(found))
        return found

    def __iter__(self) -> Iterator[T]:
        return self.iterate()

    def iterate(self, **options: Unpack[RunOptions]) -> Iterator[T]:
        """Return an iterator of the records, in order; it holds a few parts at a time. close() stops the job."""
        run = self._run("iterate()", options)

        def each() -> Iterator[T]:
            is_closed = log_if_script_ends("a dataset", "an iteration over it is open: exhaust or close() it")
            try:
                with run:
                    yield from chain.from_iterable(self._in_order(run, "iterate", AHEAD))
            finally:
                is_closed()

        return each()

    def count(self, **options: Unpack[RunOptions]) -> int:
        """Return how many records there are."""
        with self._run("count()", options) as run:
            if (result := self._result(run)) is not None:
                return len(result)
            columnar = None if self._steps else self._origin.columnar(run, None)
            if columnar is not None:
                return sum(self._partials(run, producers.Counted, "count", {}, {"COLUMNAR": True}, (columnar, [])))
            return sum(self._partials(run, producers.Counted, "count"))

    def sum(self, **options: Unpack[RunOptions]) -> Any:
        """Return the sum of the records; 0 if there are none.

        Ints are added exactly; floats in blocks, each rounded once (`math.fsum`), the same on every Python; anything
        else by its own `+`, from left to right.
        """
        with self._run("sum()", options) as run:
            return self._sums(run, "sum").value()

    def mean(self, **options: Unpack[RunOptions]) -> Any:
        """Return the arithmetic mean of the records: their sum, divided by their number.

        Raises:
            UsageError: there are none.
        """
        with self._run("mean()", options) as run:
            sums = self._sums(run, "mean")
        if not sums.count:
            raise self._nothing("mean()")
        return sums.value() / sums.count

    def _sums(self, run: Run, call: str) -> producers.Sums:
        found = producers.Sums()
        if (result := self._result(run)) is not None:
            return found.add(self._origin.records(result))
        for state in self._partials(run, producers.Summed, call, {}, {"COUNTS": call == "mean"}):
            found.join(state)
        return found

    def min(self, key: Key[T] = None, **options: Unpack[RunOptions]) -> T:
        """Return the least record, by `key` if that is given; of equal ones, the first.

        Raises:
            UsageError: there are none.
        """
        return self._first_of(self._best("min()", 1, key, True, options), "min()")

    def max(self, key: Key[T] = None, **options: Unpack[RunOptions]) -> T:
        """Return the greatest record, by `key` if that is given; of equal ones, the first.

        Raises:
            UsageError: there are none.
        """
        return self._first_of(self._best("max()", 1, key, False, options), "max()")

    def top(self, n: int, key: Key[T] = None, **options: Unpack[RunOptions]) -> list[T]:
        """Return the `n` greatest records, by `key` if that is given, greatest first; of equal ones, the earlier."""
        _check_count("top", n)
        return self._best("top()", n, key, False, options)

    def _best(self, call: str, n: int, key: Any, least: bool, options: Any) -> list[T]:
        key = key_function(key)
        with self._run(call, options) as run:
            if (result := self._result(run)) is not None:
                return producers.best(self._origin.records(result), n, key, least)
            attributes = {"N": n, "LEAST": least}
            partials = self._partials(run, producers.Best, call.removesuffix("()"), {"key": key}, attributes)
            found: list[Any] = []
            for some in partials:
                found = producers.best([*found, *some], n, key, least)
            return found

    def _first_of(self, found: list[T], call: str) -> T:
        if not found:
            raise self._nothing(call)
        return found[0]

    def _nothing(self, call: str) -> UsageError:
        return UsageError(f"{call} of no records: {self!r:.200} is empty")

    def reduce(self, function: Callable[[T, T], T], /, **options: Unpack[RunOptions]) -> T:
        """Return what a function of two makes of all records, from left to right: of each part, then over the parts.

        The function has to be associative: f(f(a, b), c) is f(a, f(b, c)).

        Raises:
            UsageError: there are none.
        """
        from functools import reduce

        if not callable(function):
            raise UsageError(f".reduce({function!r:.100}): give a function of two records")
        with self._run("reduce()", options) as run:
            found: list[Any]
            if (result := self._result(run)) is not None:
                found = list(producers.reduced(function, self._origin.records(result)))
            else:
                partials = self._partials(run, producers.Reduced, "reduce", {"function": function})
                found = list(chain.from_iterable(partials))
        if not found:
            raise self._nothing("reduce()")
        reduced: T = reduce(function, found)
        return reduced

    def take(self, n: int, **options: Unpack[RunOptions]) -> list[T]:
        """Return the first `n` records; of the parts, it computes no more than are needed for them, as far as the parts
        before tell.
        """
        _check_count("take", n)
        with self._run("take()", options) as run:
            if (result := self._result(run)) is not None:
                return list(islice(self._origin.records(result), n))
            found: list[T] = []
            with self._runner(run, producers.Taken, "take", {}, {"N": n}) as runner:
                runner.ahead = 1
                for done, some in enumerate(runner.in_order(), 1):
                    found += some
                    if len(found) >= n:
                        break
                    # As many as have been computed, or fewer if those had enough of what is left.
                    runner.ahead = max(1, min(done, (n - len(found)) * done // len(found) if found else done))
            return found[:n]

    def to_dict(self: Dataset[tuple[K, V]], **options: Unpack[RunOptions]) -> dict[K, V]:
        """Return the records, which have to be pairs, as a dict.

        Raises:
            UsageError: a key comes twice, or a record is no pair.
        """
        if not self._steps and isinstance(self._origin, origins.Grouping) and not self._origin.tail:
            with self._run("to_dict()", options) as run:
                of_groups: dict[K, V] = self._origin.result(run, True).to_dict()
                return of_groups
        records = self.collect(**options)
        for record in records:
            if type(record) is not tuple or len(record) != 2:
                raise UsageError(f"to_dict() takes pairs (key, value), and got {record!r:.200}: map it to a pair")
        found = dict(records)
        if len(found) < len(records):
            seen: set[K] = set()
            key = next(key for key, _ in records if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise UsageError(
                f"to_dict(): the key {key!r:.100} comes twice, and one value would be lost: group_by() first"
            )
        return found

    def to_arrow(self, **options: Unpack[RunOptions]) -> Any:
        """Return an Arrow table of the records; needs pyarrow.

        Rows (dicts) are as they are, with None for a column that one lacks; pairs have the columns "key" and "value",
        others the column "value".

        Raises:
            UsageError: the values of a column are of no one type.
        """
        from pymar.sources.extras import needed

        pyarrow = needed("pyarrow", "parquet", "to_arrow()")
        with self._run("to_arrow()", options) as run:
            columnar = None if self._steps else self._origin.columnar(run, None)
            if columnar is not None:
                attributes = {"COLUMNAR": True}
                tables = self._partials(run, producers.Piped, "to_arrow", {}, attributes, (columnar, []))
                batches = list(chain.from_iterable(tables))
                if batches:
                    return pyarrow.Table.from_batches(batches)
        rows = list(map(as_row, self.collect(**options)))
        columns: dict[Any, Any] = {}
        for name in dict.fromkeys(chain.from_iterable(rows)):  # of all rows: Arrow's own looks at the first alone
            try:
                columns[name] = pyarrow.array([row.get(name) for row in rows])
            except (pyarrow.ArrowException, OverflowError) as error:
                raise UsageError(f"to_arrow(): the column {name!r:.100} has values of no one type: {error}") from error
        return pyarrow.table(columns)

    def to_pandas(self, **options: Unpack[RunOptions]) -> Any:
        """Return a pandas DataFrame of the records, with the columns of `to_arrow`. Needs pandas."""
        from pymar.sources.extras import needed

        pandas = needed("pandas", "pandas", "to_pandas()")
        return pandas.DataFrame(list(map(as_row, self.collect(**options))))

    def write(self, sink: Sink, **options: Unpack[RunOptions]) -> Written:
        """Let the workers write the records to a sink of `pymar.sinks`, all or nothing; return how many.

        Raises:
            SinkError: the target has data already, cannot be written, or a record does not fit it. It is as before.
        """
        with self._run("write()", options) as run:
            origin = self._origin
            as_rows = type(sink).__name__ in _OF_ROWS
            if not self._steps and isinstance(origin, origins.Staged) and origin.writes(as_rows):
                job, steps = origin.job(run, True)
                with located(steps, origin.hint):
                    written: Written = job.written(sink)
                    return written
            columnar = None if self._steps or not _takes_batches(sink) else origin.columnar(run, None)
            factory, steps = (columnar, []) if columnar is not None else origins.rows_of(self, run)
            if as_rows and columnar is None:
                steps = [*steps, Step("as_rows")]
            described, functions = compiled(steps)
            producer = run.producer(producers.Piped, "write", functions, {"STEPS": described})
            with located(steps, origin.hint):
                done: Written = producer.write(factory, sink, **run.arguments(True))
                return done

    def write_parquet(
        self,
        path: str | os.PathLike[str],
        *,
        mode: Literal["new", "overwrite", "append"] = "new",
        partition_by: Sequence[str] = (),
        **options: Unpack[RunOptions],
    ) -> Written:
        """Write rows (dicts) to a folder of Parquet files; see `pymar.sinks.ParquetSink`, and `write` for others."""
        from pymar.sinks import ParquetSink
        from pymar.sources.extras import needed

        needed("pyarrow", "parquet", "write_parquet()")
        return self.write(ParquetSink(path, mode=mode, partition_by=partition_by), **options)

    def write_csv(
        self,
        path: str | os.PathLike[str],
        *,
        mode: Literal["new", "overwrite", "append"] = "new",
        partition_by: Sequence[str] = (),
        **options: Unpack[RunOptions],
    ) -> Written:
        """Write rows (dicts) to a folder of CSV files; see `pymar.sinks.CSVSink`."""
        from pymar.sinks import CSVSink

        return self.write(CSVSink(path, mode=mode, partition_by=partition_by), **options)

    def write_jsonl(
        self,
        path: str | os.PathLike[str],
        *,
        mode: Literal["new", "overwrite", "append"] = "new",
        partition_by: Sequence[str] = (),
        **options: Unpack[RunOptions],
    ) -> Written:
        """Write records to a folder of files of JSON, one a line; see `pymar.sinks.JSONLinesSink`."""
        from pymar.sinks import JSONLinesSink

        return self.write(JSONLinesSink(path, mode=mode, partition_by=partition_by), **options)

    def write_text(
        self,
        path: str | os.PathLike[str],
        *,
        mode: Literal["new", "overwrite", "append"] = "new",
        **options: Unpack[RunOptions],
    ) -> Written:
        """Write texts to a folder of files, one a line; see `pymar.sinks.TextSink`."""
        from pymar.sinks import TextSink

        return self.write(TextSink(path, mode=mode), **options)

    def write_sql(
        self,
        url: str,
        table: str,
        *,
        mode: Literal["new", "overwrite", "append", "upsert"] = "new",
        key: str | Sequence[str] = (),
        **options: Unpack[RunOptions],
    ) -> Written:
        """Write rows (dicts) to a table of a database; see `pymar.sinks.SQLSink`."""
        from pymar.sinks import SQLSink

        return self.write(SQLSink(url, table, mode=mode, key=key), **options)

    def explain(self) -> None:
        """Print the stages: what runs where, in how many parts, what is exchanged, and what stays columns."""
        from pymar.datasets.explaining import explained

        for line in explained(self, self._settings):
            print(line)  # noqa: T201 - it is what is asked for

    # How results are computed.

    def _run(self, call: str, options: Mapping[str, Any]) -> Run:
        return Run(call, self._settings, options, home_of(*origins.functions_of(self)))

    def _result(self, run: Run) -> Any:
        """Return the result of a stage that has the records already, without steps over them; else None."""
        if self._steps or not isinstance(self._origin, origins.Staged):
            return None
        return self._origin.result(run, True)

    def _in_order(self, run: Run, call: str, ahead: float) -> Iterator[Iterable[T]]:
        if (result := self._result(run)) is not None:
            records = self._origin.records(result)
            while some := list(islice(records, _AT_ONCE)):
                yield some
            return
        with self._runner(run, producers.Piped, call, {}, {}) as runner:
            runner.ahead = ahead
            yield from runner.in_order()

    def _partials(
        self,
        run: Run,
        base: type[Any],
        call: str,
        functions: Mapping[str, Any] | None = None,
        attributes: Mapping[str, Any] | None = None,
        over: tuple[Any, list[Step]] | None = None,
    ) -> Iterator[Any]:
        """Yield the partials of all parts, in part order."""
        with self._runner(run, base, call, functions or {}, attributes or {}, over) as runner:
            yield from runner.in_order()

    @contextmanager
    def _runner(
        self,
        run: Run,
        base: type[Any],
        call: str,
        functions: Mapping[str, Any],
        attributes: Mapping[str, Any],
        over: tuple[Any, list[Step]] | None = None,
    ) -> Iterator[Any]:
        factory, steps = origins.rows_of(self, run) if over is None else over
        described, more = compiled(steps)
        producer = run.producer(base, call, {**functions, **more}, {"STEPS": described, **attributes})
        with located(steps, self._origin.hint), one_line_on_interrupt(call):
            plan = producer._plan(factory)
            warn_of_generators(self.text, plan.spec)
            with producer._runner(plan, **run.arguments(True)) as runner:
                yield runner


def key_function(key: Any) -> Any:
    """Return the function of a key: of columns, one that takes those."""
    from pymar.datasets.steps import Columns

    names, function = key_of(key, "key")
    return Columns(names[0] if len(names) == 1 else names) if names else function


def _check_count(call: str, n: Any) -> None:
    if type(n) is not int or n < 1:
        raise UsageError(f"{call}({n!r:.100}): give how many records, 1 or more")


def _takes_batches(sink: Any) -> bool:
    from pymar.sinks.parquet import ParquetSink

    return isinstance(sink, ParquetSink)


class Groups(Generic[K, T]):
    """The records of a dataset in groups of equal keys. What is made of them is a dataset of pairs (key, value).

    The order of the groups is the same for any engine and number of workers.
    """

    def __init__(self, dataset: Dataset[T], names: tuple[str, ...], key: Any, text: str, place: str) -> None:
        self._dataset = dataset
        self._names = names
        self._key = key
        self._text = text
        self._place = place

    def __repr__(self) -> str:
        return f"<{self._dataset.text}.group_by({self._text}): say what becomes of each group, such as count()>"

    if not TYPE_CHECKING:  # as of a dataset

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"{self!r} has no {name!r}")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"groups are no records yet: {self!r}")

    def _reduced(self, reduce_fn: Any, call: str, **options: Any) -> Dataset[Any]:
        text = f".group_by({self._text}).{call}"
        origin = origins.Grouping(self._dataset, self._names, self._key, reduce_fn, options, text, self._place)
        return Dataset(origin, (), self._dataset._settings)

    def _value(self, aggregation: Aggregation, name: str) -> Any:
        _check_column(name, aggregation)
        return aggregation

    def count(self) -> Dataset[tuple[K, int]]:
        """Return how many records each group has."""
        return self._reduced(self._value(Count(), "count"), "count()")

    def sum(self, column: Any = None) -> Dataset[tuple[K, Any]]:
        """Return the sum of a column, or of the records themselves, of each group. None does not count."""
        return self._reduced(self._value(Sum(column), "sum"), f"sum({column or ''!s})")

    def min(self, column: Any = None) -> Dataset[tuple[K, Any]]:
        """Return the least value of a column, or record, of each group. None does not count."""
        return self._reduced(self._value(Min(column), "min"), f"min({column or ''!s})")

    def max(self, column: Any = None) -> Dataset[tuple[K, Any]]:
        """Return the greatest value of a column, or record, of each group. None does not count."""
        return self._reduced(self._value(Max(column), "max"), f"max({column or ''!s})")

    def mean(self, column: Any = None) -> Dataset[tuple[K, Any]]:
        """Return the mean of a column, or of the records themselves, of each group. None does not count."""
        return self._reduced(self._value(Mean(column), "mean"), f"mean({column or ''!s})")

    def aggregate(self, /, **aggregations: Aggregation) -> Dataset[tuple[K, dict[str, Any]]]:
        """Return several aggregations (`pymar.keyed`) of each group: aggregate(n=Count(), mean=Mean("delay"))."""
        for name, one in aggregations.items():
            if not isinstance(one, Aggregation):
                what = f"the class {one.__name__}: write {one.__name__}()" if isinstance(one, type) else f"{one!r:.100}"
                raise UsageError(
                    f"aggregate({name}=...) is {what}; it takes aggregations, such as {name}=Mean('delay')"
                )
        if not aggregations:
            raise UsageError("aggregate() has no aggregations: give them by name, as in mean=Mean('delay')")
        for name, one in aggregations.items():
            _check_column(name, one)
        if twice := set(aggregations) & set(self._names):
            raise UsageError(f"aggregate({sorted(twice)[0]}=...) has the name of a column of the key: give it another")
        return self._reduced(Several(aggregations), f"aggregate({', '.join(aggregations)})")

    def reduce(self, function: Callable[[T, T], T], /) -> Dataset[tuple[K, T]]:
        """Return what a function of two makes of the records of each group, from left to right; it has to be
        associative.
        """
        return self._reduced(Folded(_function("reduce", function)), f"reduce({text_of(function)})")

    def collect(self) -> Dataset[tuple[K, list[T]]]:
        """Return the records of each group, in the order of the data, as a list."""
        return self._reduced(self._value(Collect(), "records"), "collect()")

    def map_groups(self, function: Callable[[K, Iterator[T]], U], /) -> Dataset[tuple[K, U]]:
        """Return what a function returns for each key and an iterator of its records, in the order of the data."""
        return self._reduced(_function("map_groups", function), f"map_groups({text_of(function)})", COMBINE=False)


class Rows(Groups[Any, dict[str, Any]]):
    """Rows in groups of equal columns. What is made of them is a dataset of rows: the key's columns, and others."""

    if TYPE_CHECKING:

        def count(self) -> Dataset[Any]: ...
        def sum(self, column: Any = None) -> Dataset[Any]: ...
        def min(self, column: Any = None) -> Dataset[Any]: ...
        def max(self, column: Any = None) -> Dataset[Any]: ...
        def mean(self, column: Any = None) -> Dataset[Any]: ...
        def aggregate(self, /, **aggregations: Aggregation) -> Dataset[Any]: ...
        def reduce(self, function: Callable[[Any, Any], Any], /) -> Dataset[Any]: ...
        def collect(self) -> Dataset[Any]: ...
        def map_groups(self, function: Callable[[Any, Iterator[Any]], Any], /) -> Dataset[Any]: ...

    def _value(self, aggregation: Aggregation, name: str) -> Any:
        _check_column(name, aggregation)
        column = aggregation.column
        if column is None and name not in ("count", "records"):
            raise UsageError(f".group_by({self._text}).{name}() of rows: name the column, as in {name}('amount')")
        return Several({column if isinstance(column, str) and column not in self._names else name: aggregation})


def _check_column(name: str, aggregation: Aggregation) -> None:
    if callable(aggregation.column):
        raise UsageError(
            f"{name} is {type(aggregation).__name__}({text_of(aggregation.column)}): give the name of a column, or its "
            "place in a tuple; what a function makes of a record, map() it to before"
        )


def _function(call: str, function: Any) -> Any:
    if not callable(function):
        raise UsageError(f".{call}({function!r:.100}): give a function")
    return function
