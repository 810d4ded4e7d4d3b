"""One call on a function, as of multiprocessing.Pool: the items go to all cores, or hosts, and the results come back.

    answers = pymar.map(simulate, parameters)

calling        one call: its function and items, checked   producer    what it compiles to
options        what calls and datasets may be given
memory         a result that is too large for memory       executor    concurrent.futures.Executor

Each item is a part of its own (of more than 100,000, several are one), so an error names the item, a checkpoint keeps
each finished one, and one that takes an hour holds up no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pymar.calls.calling import Call
    from pymar.calls.executor import Executor as Executor
    from pymar.calls.options import RunOptions

__all__ = ["Executor", "imap", "imap_unordered", "map", "starmap"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")


def _call(*arguments: Any, **named: Any) -> Call:
    from pymar.calls.calling import Call  # late: a worker needs the producer alone

    return Call(*arguments, **named)


@overload
def map(
    function: Callable[[A], R],
    items: Iterable[A],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> list[R]: ...
@overload
def map(
    function: Callable[[A], R],
    items: Iterable[A],
    /,
    *,
    return_exceptions: Literal[True],
    **options: Unpack[RunOptions],
) -> list[R | BaseException]: ...
@overload
def map(
    function: Callable[[A, B], R],
    items: Iterable[A],
    others: Iterable[B],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> list[R]: ...
@overload
def map(
    function: Callable[[A, B], R],
    items: Iterable[A],
    others: Iterable[B],
    /,
    *,
    return_exceptions: Literal[True],
    **options: Unpack[RunOptions],
) -> list[R | BaseException]: ...
@overload
def map(
    function: Callable[[A, B, C], R],
    items: Iterable[A],
    others: Iterable[B],
    more: Iterable[C],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> list[R]: ...
@overload
def map(
    function: Callable[[A, B, C], R],
    items: Iterable[A],
    others: Iterable[B],
    more: Iterable[C],
    /,
    *,
    return_exceptions: Literal[True],
    **options: Unpack[RunOptions],
) -> list[R | BaseException]: ...
@overload
def map(
    function: Callable[..., R],
    items: Iterable[Any],
    others: Iterable[Any],
    more: Iterable[Any],
    /,
    *iterables: Iterable[Any],
    return_exceptions: bool = ...,
    **options: Unpack[RunOptions],
) -> list[Any]: ...
def map(
    function: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    return_exceptions: bool = False,
    **options: Unpack[RunOptions],
) -> list[Any]:
    """Return the results of a function for each item, in the order of the items.

    Args:
        function: any function, lambda, method, partial or object that is called.
        iterables: the items: any iterable. Of several, the function gets one of each; the shortest ends them.
        return_exceptions: True for the exception in the result's place, if a call raises or its process dies.
        options: as of RunOptions; `pymar.calls.options` says what each does.

    Raises:
        PartFailed: the function raised; it names the item, and has the original exception as its cause.
        UsageError: the function, the items or an option are not what they have to be; or the results do not fit into
            memory.
        Errors that `Producer.map` raises: likewise.
    """
    return _call("map", function, iterables, options, return_exceptions=return_exceptions).all()


@overload
def starmap(
    function: Callable[..., R],
    items: Iterable[Iterable[Any]],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> list[R]: ...
@overload
def starmap(
    function: Callable[..., R],
    items: Iterable[Iterable[Any]],
    /,
    *,
    return_exceptions: bool = ...,
    **options: Unpack[RunOptions],
) -> list[R | BaseException]: ...
def starmap(
    function: Callable[..., Any],
    items: Iterable[Iterable[Any]],
    /,
    *,
    return_exceptions: bool = False,
    **options: Unpack[RunOptions],
) -> list[Any]:
    """Return the results of a function whose arguments each item has, in the order of the items. Otherwise as `map`."""
    return _call("starmap", function, (items,), options, is_starred=True, return_exceptions=return_exceptions).all()


@overload
def imap(
    function: Callable[[A], R],
    items: Iterable[A],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> Iterator[R]: ...
@overload
def imap(
    function: Callable[[A], R],
    items: Iterable[A],
    /,
    *,
    return_exceptions: Literal[True],
    **options: Unpack[RunOptions],
) -> Iterator[R | BaseException]: ...
@overload
def imap(
    function: Callable[[A, B], R],
    items: Iterable[A],
    others: Iterable[B],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> Iterator[R]: ...
@overload
def imap(
    function: Callable[[A, B], R],
    items: Iterable[A],
    others: Iterable[B],
    /,
    *,
    return_exceptions: Literal[True],
    **options: Unpack[RunOptions],
) -> Iterator[R | BaseException]: ...
@overload
def imap(
    function: Callable[[A, B, C], R],
    items: Iterable[A],
    others: Iterable[B],
    more: Iterable[C],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> Iterator[R]: ...
@overload
def imap(
    function: Callable[[A, B, C], R],
    items: Iterable[A],
    others: Iterable[B],
    more: Iterable[C],
    /,
    *,
    return_exceptions: Literal[True],
    **options: Unpack[RunOptions],
) -> Iterator[R | BaseException]: ...
@overload
def imap(
    function: Callable[..., R],
    items: Iterable[Any],
    others: Iterable[Any],
    more: Iterable[Any],
    /,
    *iterables: Iterable[Any],
    return_exceptions: bool = ...,
    **options: Unpack[RunOptions],
) -> Iterator[Any]: ...
def imap(
    function: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    return_exceptions: bool = False,
    **options: Unpack[RunOptions],
) -> Iterator[Any]:
    """Return an iterator of the results, in the order of the items. Otherwise as `map`.

    Items are read as results are taken, at most 10,000 ahead, so both may be endless. Its close() stops the job.
    """
    return _call("imap", function, iterables, options, return_exceptions=return_exceptions).iterator(True)


@overload
def imap_unordered(
    function: Callable[[A], R],
    items: Iterable[A],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> Iterator[R]: ...
@overload
def imap_unordered(
    function: Callable[[A], R],
    items: Iterable[A],
    /,
    *,
    return_exceptions: Literal[True],
    **options: Unpack[RunOptions],
) -> Iterator[R | BaseException]: ...
@overload
def imap_unordered(
    function: Callable[[A, B], R],
    items: Iterable[A],
    others: Iterable[B],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> Iterator[R]: ...
@overload
def imap_unordered(
    function: Callable[[A, B], R],
    items: Iterable[A],
    others: Iterable[B],
    /,
    *,
    return_exceptions: Literal[True],
    **options: Unpack[RunOptions],
) -> Iterator[R | BaseException]: ...
@overload
def imap_unordered(
    function: Callable[[A, B, C], R],
    items: Iterable[A],
    others: Iterable[B],
    more: Iterable[C],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[RunOptions],
) -> Iterator[R]: ...
@overload
def imap_unordered(
    function: Callable[[A, B, C], R],
    items: Iterable[A],
    others: Iterable[B],
    more: Iterable[C],
    /,
    *,
    return_exceptions: Literal[True],
    **options: Unpack[RunOptions],
) -> Iterator[R | BaseException]: ...
@overload
def imap_unordered(
    function: Callable[..., R],
    items: Iterable[Any],
    others: Iterable[Any],
    more: Iterable[Any],
    /,
    *iterables: Iterable[Any],
    return_exceptions: bool = ...,
    **options: Unpack[RunOptions],
) -> Iterator[Any]: ...
def imap_unordered(
    function: Callable[..., Any],
    /,
    *iterables: Iterable[Any],
    return_exceptions: bool = False,
    **options: Unpack[RunOptions],
) -> Iterator[Any]:
    """Return an iterator of the results as they finish. Otherwise as `imap`."""
    return _call("imap_unordered", function, iterables, options, return_exceptions=return_exceptions).iterator(False)


def __getattr__(name: str) -> Any:
    if name != "Executor":
        raise AttributeError(f"module 'pymar.calls' has no attribute {name!r}")
    from pymar.calls.executor import Executor  # late, since each worker process imports this package

    return Executor
