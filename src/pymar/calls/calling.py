"""One call, before it runs and while it does: its function and items, checked, and its results."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import chain, count, cycle, repeat
from math import inf
from types import FunctionType
from typing import Any

from pymar.calls import options as known
from pymar.calls.memory import MemoryGuard
from pymar.calls.producer import Calls
from pymar.datasource import DataSource, DataSourceFactory, not_records
from pymar.exceptions import PartLost, PartsFailed, UsageError
from pymar.job.interrupt import log_if_script_ends, one_line_on_interrupt
from pymar.parts import Part
from pymar.producer import Producer
from pymar.serialization.composed import composed, name_of
from pymar.slots.failures import shown

#: Parts that an iterator in order computes ahead of the item that it waits for.
AHEAD = 10_000


class Call:
    """One call of `map` or its like, before it runs. Thread of the call only.

    Raises:
        UsageError: the function, the items or an option are not what they have to be.
    """

    def __init__(
        self,
        call: str,
        function: Any,
        iterables: tuple[Any, ...],
        options: Mapping[str, Any],
        *,
        is_starred: bool = False,
        return_exceptions: bool = False,
    ) -> None:
        known.check_names(f"pymar.{call}()", options)
        if not callable(function):
            raise UsageError(f"pymar.{call}({function!r:.100}, ...): give a function first, and then the items")
        if not iterables:
            raise UsageError(f"pymar.{call}({name_of(function)}) has no items: give an iterable of them")
        check_returns(f"pymar.{call}", function, "return list(...) of what it yields")
        check_asynchronous(function)
        for items in iterables:
            _check_items(call, name_of(function), items)
        self._call = call
        self._options = options
        self._items = _items(iterables)
        self.name: str = name_of(function)
        cls = composed(
            Calls,
            self.name,
            {"call_fn": function, "setup_fn": options.get("setup")},
            {
                **known.attributes_of(options),
                "STARRED": is_starred or len(iterables) > 1,
                **({"WORKERS_NUMBER": sys.maxsize} if return_exceptions else {}),  # an item that fails fails alone
            },
        )
        self._return_exceptions = return_exceptions
        self._producer: Producer[list[Any]] = cls(**known.of_producer(options))

    def all(self) -> list[Any]:
        """Return the results in the order of the items.

        Raises:
            UsageError: the items never end, or what is held grows over the memory of this host.
        """
        if _is_endless(self._items):
            raise UsageError(
                f"pymar.{self._call}() was given {type(self._items).__name__} items without an end, and returns all "
                f"results as a list: use pymar.imap(), an iterator that reads items as results are taken"
            )
        remedy = (
            f"pymar.{self._call}() returns all results as a list: use pymar.imap(), an iterator, and let go of each "
            "result; let the function return less; or write results with pymar.dataset(items).map(f).write_parquet(...)"
        )
        guard = MemoryGuard(f"the results of {self.name}", remedy)
        found: list[Any] = []
        with one_line_on_interrupt(self.name):
            for values in self._partials(inf, True):
                found += values
                guard.check(len(found))
        return found

    def iterator(self, in_order: bool) -> Iterator[Any]:
        """Yield the results, in the order of the items or as they finish; its close() stops the job."""
        is_closed = log_if_script_ends(self.name, f"an iterator of pymar.{self._call}() is open: exhaust or close() it")
        try:
            with one_line_on_interrupt(self.name):
                yield from chain.from_iterable(self._partials(AHEAD, in_order))
        finally:
            is_closed()

    def _partials(self, ahead: float, in_order: bool) -> Iterator[list[Any]]:
        producer = self._producer
        plan = producer._plan(DataSourceFactory(self._items))
        known.warn_of_generators(self.name, plan.spec)
        with producer._runner(plan, **known.of_run(self._options)) as runner:
            runner.ahead = ahead
            try:
                if self._return_exceptions:
                    for _, values, error in runner.outcomes(in_order):
                        yield values if error is None else [error.__cause__ or _with_item(error)]
                else:
                    yield from runner.in_order() if in_order else runner.as_finished()
            except PartLost as error:
                raise _with_item(error) from error.__cause__
            except PartsFailed as failed:
                for one in failed.exceptions:
                    _with_item(one)
                raise


def _with_item(error: Exception) -> Exception:
    """Return the error of a part; if its processes died, with the item, which nobody else has shown."""
    rerun = getattr(error, "rerun", None)
    if isinstance(error, PartLost) and rerun is not None:
        part = rerun[1] if type(rerun) is not Part else rerun
        if part.limit == 1 and part.data is not None:
            error.about = f"item {part.offset:,}: {shown(part.data[0])}"
    return error


def check_returns(call: str, function: Any, remedy: str) -> None:
    """Refuse a function that yields where its value is sent: a generator cannot be.

    Raises:
        UsageError: it yields.
    """
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & 0x20:
        raise UsageError(
            f"{call}({name_of(function)}): it is a generator function, and a generator cannot be sent: {remedy}"
        )


def check_asynchronous(function: Any) -> None:
    """Refuse an asynchronous function.

    Raises:
        UsageError: it is one.
    """
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & 0x280:
        raise UsageError(
            f"{name_of(function)} is asynchronous, and a worker has no event loop: write def in place of async def, or "
            "give a function that calls asyncio.run()"
        )


def _check_items(call: str, name: str, items: Any) -> None:
    lines = f"pymar.read_text({items!r:.60}).map({name})" if isinstance(items, str) else "pymar.read_text(path)"
    if remedy := not_records(items, lines):
        raise UsageError(f"pymar.{call}({name}, ...) got the {type(items).__name__} {items!r:.100}: {remedy}")
    is_source = isinstance(items, DataSourceFactory) or (isinstance(items, type) and issubclass(items, DataSource))
    if is_source or hasattr(items, "flat_map"):
        raise UsageError(
            f"pymar.{call}({name}, ...) got {items!r:.100}: for the records of a source, write "
            f"pymar.dataset(source).map({name})"
        )
    if not isinstance(items, Iterable):
        what = f"{items.__name__} itself: call it" if isinstance(items, FunctionType) else f"{items!r:.100}"
        raise UsageError(f"pymar.{call}({name}, ...) got {what}: give an iterable of items, such as a list")


def _items(iterables: tuple[Any, ...]) -> Any:
    if len(iterables) == 1:
        (items,) = iterables
        return list(items) if isinstance(items, Mapping) else items  # its keys, as of any iteration over it
    together = zip(*iterables, strict=False)  # as `map` of Python: the shortest ends them
    return list(together) if all(isinstance(one, Sized) for one in iterables) else together


def _is_endless(items: Any) -> bool:
    """True if items certainly have no end."""
    if isinstance(items, count | cycle):
        return True
    return isinstance(items, repeat) and not hasattr(items, "__len__") and _has_no_length_hint(items)


def _has_no_length_hint(items: Any) -> bool:
    try:
        items.__length_hint__()
    except TypeError:
        return True
    return False
