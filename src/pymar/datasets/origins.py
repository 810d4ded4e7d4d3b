"""Where the records of a dataset come from: a source; or a job of two stages over other datasets.

Read                                     a source, or data: a factory
Grouping, Joining, Sorting, Distinct     run a job first; its result, which workers read, is the factory
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from importlib.util import find_spec
from typing import Any, Protocol

from pymar.datasets import producers
from pymar.datasets.running import Run, Step, compiled, key_of, located
from pymar.datasets.steps import Columns, piped
from pymar.datasource import DataSourceFactory
from pymar.keyed.aggregations import Aggregation, Count, First
from pymar.keyed.reduction import Several


class Upstream(Protocol):
    """What an origin needs of the dataset before it."""

    @property
    def origin(self) -> Any:
        """Return where its records come from."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return its steps."""

    @property
    def text(self) -> str:
        """Return how it was written, about."""


class Read:
    """A source with its settings, or data.

    Args:
        given: a DataSource class, a factory, or data.
        batches: the class that yields the same records as Arrow record batches, if there is one.
        text, place: how it was written, and where.
        complete: returns settings that are found when the data is looked at, such as types of columns.
    """

    #: Steps that make the records of what the source yields.
    tail: tuple[Step, ...] = ()

    def __init__(
        self,
        given: Any,
        settings: Mapping[str, Any],
        text: str,
        place: str,
        batches: type[Any] | None = None,
        complete: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self._given = given
        self._settings = dict(settings)
        self._batches = batches
        self._complete = complete
        self.text: str = text
        self.place: str = place
        #: Data is one factory, so that an iterator is not read twice; a source is looked at anew by each run.
        self._data: DataSourceFactory | None = None
        if isinstance(given, DataSourceFactory):
            self._data = given
        elif complete is None:
            self._data = DataSourceFactory(given, **self._settings)

    @property
    def hint(self) -> str:
        """Return what helps if the source refuses a record; "" if nothing does."""
        if self._complete is None:
            return ""
        return (
            "The types of the columns were found from the first rows: give those that are others, such as "
            "types={'n': 'float'}, or the texts that are none, null=['', 'NA']"
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings of the source, with what is found of the data."""
        return self._settings if self._complete is None else {**self._settings, **self._complete(self._settings)}

    def factory(self, run: Run) -> DataSourceFactory:
        """Return the factory of the records."""
        return self._data if self._data is not None else DataSourceFactory(self._given, **self.settings())

    def columnar(self, run: Run, names: Sequence[str] | None) -> DataSourceFactory | None:
        """Return the factory of the same records as record batches, of these columns alone; None if there is none.

        Args:
            names: the columns that are needed; None for all.
        """
        if self._batches is None or find_spec("pyarrow") is None:
            return None
        settings = self.settings()
        if settings.get("with_path") or settings.get("as_tuples") or set(_kinds(settings)) & {"decimal", "datetime"}:
            return None
        there = settings.get("columns") or ()
        if not there and not settings.get("header", True):
            return None  # rows are tuples then
        if names is not None and settings.get("header", True):
            if there and not set(names) <= set(there):
                return None
            of_columns = {name: settings.get(name) for name in ("types", "null")}
            settings = {**settings, "columns": list(names)}
            for setting, values in of_columns.items():
                if isinstance(values, Mapping):
                    settings[setting] = {name: value for name, value in values.items() if name in names}
        return DataSourceFactory(self._batches, **settings)

    @property
    def is_columnar(self) -> bool:
        """True if `columnar` may find a factory."""
        return self._batches is not None

    @property
    def is_ours(self) -> bool:
        """True if no code of the user's makes the records: they are of a source of Pymar's, or a list and the like."""
        source = self._given if isinstance(self._given, type) else getattr(self._data, "source", None)
        return (source is None and hasattr(self._given, "__len__")) or (source is not None and _is_of_pymar(source))


def _is_of_pymar(source: type[Any]) -> bool:
    return source.__module__.startswith("pymar.")


def _kinds(settings: Mapping[str, Any]) -> Iterator[str]:
    from pymar.sources.csvtypes import name_of

    yield from (name_of(kind) for kind in (settings.get("types") or {}).values())


def upstreams(origin: Any) -> tuple[Any, ...]:
    """Return the datasets before an origin."""
    return origin.upstreams if isinstance(origin, Staged) else ()


def functions_of(dataset: Upstream) -> Iterator[Any]:
    """Yield the functions of a dataset, and of those before it, in the order in which they were written."""
    for upstream in upstreams(dataset.origin):
        yield from functions_of(upstream)
    if isinstance(dataset.origin, Staged):
        yield from dataset.origin.functions
    yield from (step.function for step in dataset.steps)


class Staged:
    """A job of two stages over other datasets. Subclasses say which.

    Args:
        upstreams: the datasets whose records it takes.
        tail: steps that make the records of what its result has.
        text, place: how it was written, and where.
    """

    is_columnar: bool = False
    #: Those of its own: keys, and what becomes of groups.
    functions: tuple[Any, ...] = ()

    def __init__(self, upstreams: tuple[Upstream, ...], tail: tuple[Step, ...], text: str, place: str) -> None:
        self.upstreams: tuple[Upstream, ...] = upstreams
        self.tail: tuple[Step, ...] = tail
        self.text: str = text
        self.place: str = place
        #: What helps if a source refuses a record.
        self.hint: str = next((one.origin.hint for one in upstreams if one.origin.hint), "")

    def job(self, run: Run, is_last: bool) -> tuple[Any, list[Step]]:
        """Return the job, and its steps in the order of their numbers."""
        raise NotImplementedError

    def result(self, run: Run, is_last: bool) -> Any:
        """Run the job; return its result, which ends with the run."""
        job, steps = self.job(run, is_last)
        with located(steps, self.hint):
            return run.stack.enter_context(job.mapped(None))

    def factory(self, run: Run) -> DataSourceFactory:
        """Run the job; return the factory of its result."""
        return DataSourceFactory(self.result(run, False))

    def columnar(self, run: Run, names: Sequence[str] | None) -> DataSourceFactory | None:
        """Return None: the result is not of record batches."""
        return None

    def writes(self, as_rows: bool) -> bool:
        """True if the job itself can write its records to a sink, one of rows or another."""
        return False

    def records(self, result: Any) -> Iterator[Any]:
        """Yield the records of a result, in this process."""
        yield from piped(None, compiled(self.tail)[0], _pairs_of(result))


def _pairs_of(result: Any) -> Any:
    return result.items() if isinstance(result, Mapping) else iter(result)


def rows_of(dataset: Upstream, run: Run) -> tuple[DataSourceFactory, list[Step]]:
    """Return the factory of a dataset, and all steps over it: after its own stages have run."""
    factory = dataset.origin.factory(run)
    return factory, [*dataset.origin.tail, *dataset.steps]


def _are_fresh(dataset: Upstream) -> bool:
    """True if the records are made by Pymar's own sources, or are data, and no function of the user's makes others."""
    is_ours = isinstance(dataset.origin, Staged) or dataset.origin.is_ours
    return is_ours and all(step.kind in ("filter", "sample") for step in dataset.steps)


class Grouping(Staged):
    """Groups by key, reduced."""

    def __init__(
        self,
        upstream: Upstream,
        names: tuple[str, ...],
        key: Any,
        reduce_fn: Any,
        options: Mapping[str, Any],
        *where: str,
    ) -> None:
        rows = (Step("rows", None, [list(names), "" if isinstance(reduce_fn, Several) else "value"]),)
        super().__init__((upstream,), rows if names else (), *where)
        self._names = names
        self._key = key
        self._reduce_fn = reduce_fn
        self._options = dict(options)
        self.functions: tuple[Any, ...] = (key, reduce_fn)

    def job(self, run: Run, is_last: bool) -> tuple[Any, list[Step]]:
        from pymar.keyed.jobs import KeyedJob

        factory = self._columns(run)
        is_columnar = factory is not None
        steps: list[Step] = []
        if factory is None:
            factory, steps = rows_of(self.upstreams[0], run)
            if not self._names:  # else KEY takes the columns out of the rows
                kind = "count" if self._is_counted else "group_by"
                steps.append(Step(kind, self._key, self._column, self.text, self.place))
        described, functions = compiled(steps)
        attributes: dict[str, Any] = {"STEPS": described, "FRESH": _are_fresh(self.upstreams[0]), **self._options}
        attributes["COLUMNAR"] = is_columnar
        if self._names:
            attributes["KEY"] = self._names[0] if len(self._names) == 1 else tuple(self._names)
        reduce_fn = _sum() if self._is_counted else self._reduce_fn
        if self._column is not None:
            reduce_fn = copy(reduce_fn)
            reduce_fn.column = None
        producer = run.producer(producers.Grouped, "group_by", {**functions, "reduce_fn": reduce_fn}, attributes)
        steps.append(Step("group_by", None, None, self.text, self.place))
        return KeyedJob(producer, factory, *run.of_stages(is_last)), steps

    def writes(self, as_rows: bool) -> bool:
        return bool(self._names) or as_rows

    @property
    def _column(self) -> str | int | None:
        """Return the column of the records that is all the groups need, besides a key that is no column; or None."""
        column = None if self._names or not isinstance(self._reduce_fn, Aggregation) else self._reduce_fn.column
        return column if isinstance(column, str | int) and not isinstance(self._reduce_fn, Several) else None

    @property
    def _is_counted(self) -> bool:
        """True if records are counted by a key that is no column: those of a block are, before they are sent."""
        return not self._names and type(self._reduce_fn) is Count and self._reduce_fn.column is None

    def needed(self) -> list[str] | None:
        """Return the columns that are needed, if columns are all that is needed."""
        if (
            not self._names
            or self.upstreams[0].steps
            or self.upstreams[0].origin.tail
            or self._options.get("COMBINE") is False
        ):
            return None
        reduce_fn = self._reduce_fn
        aggregations = reduce_fn.aggregations.values() if isinstance(reduce_fn, Several) else [reduce_fn]
        if not all(isinstance(one, Aggregation) for one in aggregations):
            return None
        columns = [one.column for one in aggregations if not (type(one) is Count and one.column is None)]
        if not all(isinstance(column, str) for column in columns):
            return None
        return [*dict.fromkeys((*self._names, *columns))]

    def _columns(self, run: Run) -> DataSourceFactory | None:
        """Return the factory of record batches, if the job can be done with columns alone."""
        needed = self.needed()
        found: DataSourceFactory | None = None
        if needed is not None:
            found = self.upstreams[0].origin.columnar(run, needed)
        return found


def _sum() -> Aggregation:
    from pymar.keyed.aggregations import Sum

    return Sum()


class Joining(Staged):
    """The records of two datasets that have equal keys."""

    def __init__(self, left: Upstream, right: Upstream, on: Any, how: str, *where: str) -> None:
        names, key = key_of(on, "on")
        super().__init__(
            (left, right), (Step("values"),) if how in ("semi", "anti") and key is not None else (), *where
        )
        self.functions: tuple[Any, ...] = (key,)
        self._how = how
        self._names = names
        self._key = key

    def job(self, run: Run, is_last: bool) -> tuple[Any, list[Step]]:
        from pymar.keyed.joining import JoinJob

        steps: list[Step] = []
        factories: list[Any] = []
        functions: dict[str, Any] = {}
        attributes: dict[str, Any] = {}
        are_columnar = self.is_of_columns()
        for name, side in zip(("LEFT", "RIGHT"), self.upstreams, strict=True):
            factory = side.origin.columnar(run, None) if are_columnar else None
            mine: list[Step] = []
            if factory is None:
                factory, mine = rows_of(side, run)
                if not self._names:
                    mine.append(Step("join", self._key, None, self.text, self.place))
            attributes[name], more = compiled(mine, len(steps) + 1)
            attributes[f"{name}_FIRST"] = len(steps) + 1
            steps += mine
            functions.update(more)
            factories.append(factory)
        producer = run.producer(producers.Joined, "join", functions, attributes)
        left, right = factories
        return JoinJob(producer, left, right, self._how, self._names or None, *run.of_stages(is_last)), steps

    def is_of_columns(self) -> bool:
        """True if both sides may be joined as columns."""
        return bool(self._names) and all(
            not (side.steps or side.origin.tail) and side.origin.is_columnar for side in self.upstreams
        )


class Sorting(Staged):
    """The records of a dataset in the order of a key."""

    def __init__(self, upstream: Upstream, key: Any, reverse: bool, *where: str) -> None:
        super().__init__((upstream,), (), *where)
        names, function = key_of(key, "key")
        self._key = Columns(names[0] if len(names) == 1 else names) if names else function
        self.functions: tuple[Any, ...] = (self._key,)
        self._reverse = reverse

    def job(self, run: Run, is_last: bool) -> tuple[Any, list[Step]]:
        from pymar.keyed.sorting import SortJob

        factory, steps = rows_of(self.upstreams[0], run)
        described, functions = compiled(steps)
        attributes = {"STEPS": described, "FRESH": _are_fresh(self.upstreams[0])}
        producer = run.producer(producers.Ordered, "sort", {**functions, "key_fn": self._key}, attributes)
        steps.append(Step("sort", None, None, self.text, self.place))
        return SortJob(producer, factory, *run.of_stages(is_last), reverse=self._reverse), steps

    def writes(self, as_rows: bool) -> bool:
        return not as_rows


class Distinct(Staged):
    """The different records of a dataset, in the order of the result."""

    def __init__(self, upstream: Upstream, *where: str) -> None:
        super().__init__((upstream,), (Step("records"),), *where)

    def job(self, run: Run, is_last: bool) -> tuple[Any, list[Step]]:
        from pymar.keyed.jobs import KeyedJob

        factory, steps = rows_of(self.upstreams[0], run)
        steps = [*steps, Step("distinct", None, None, self.text, self.place)]
        described, functions = compiled(steps)
        producer = run.producer(
            producers.Grouped, "distinct", {**functions, "reduce_fn": First()}, {"STEPS": described}
        )
        return KeyedJob(producer, factory, *run.of_stages(is_last)), steps
