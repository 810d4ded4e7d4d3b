"""Aggregations: what becomes of the values of a key. Named ones, those of a user, a plain reduce_fn(key, values).

One has a state for each key. Where pairs are mapped, values are folded into states; where they are reduced, states of
other parts are merged, in part order; at the end each state is finished. Values that are None are left out by all but
Count(), First, Last and Collect.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from math import sqrt
from typing import Any, cast

from pymar.exceptions import UsageError

#: Stands for a state that is not there.
_ABSENT: Any = object()

#: The int 1 in an array.
_ONE = array("q", [1]).tobytes()

#: The states of an aggregation, by key, in the order in which the keys came.
States = dict[Any, Any]


class Aggregation:
    """One reduction of the values of a key. Subclasses define `start`, `add`, `merge` and, if needed, `finish`.

    States travel between processes, so they are values that can be sent. `add` and `merge` return the new state, which
    may be the changed old one.

    Args:
        column: of which column, field, attribute or place (of a tuple) of the value; None: of the value itself.
    """

    #: False if a state is no smaller than the values that are in it: then values travel as they are.
    combines: bool = True
    #: True if values that are None do not count.
    skips_none: bool = True

    def __init__(self, column: Any = None) -> None:
        self.column: Any = column

    def start(self) -> Any:
        """Return the state of a key without values."""
        raise NotImplementedError

    def add(self, state: Any, value: Any, /) -> Any:
        """Return the state with one value more."""
        raise NotImplementedError

    def merge(self, state: Any, other: Any, /) -> Any:
        """Return the state of all values of two states; those of `other` came later."""
        raise NotImplementedError

    def finish(self, state: Any, /) -> Any:
        """Return the value of a state."""
        return state

    def __call__(self, key: Any, values: Iterable[Any]) -> Any:
        """Return the value of a key with these values, as a job computes it."""
        state = self.start()
        for value in values:
            if value is not None or not self.skips_none:
                state = self.add(state, value)
        return self.finish(state)

    def _fold(self, states: States, keys: Iterable[Any], values: Iterable[Any]) -> None:
        """Add values, none of them None unless those count, to the states of their keys."""
        get, start, add = states.get, self.start, self.add
        for key, value in zip(keys, values, strict=True):
            state = get(key, _ABSENT)
            states[key] = add(start() if state is _ABSENT else state, value)

    def _join(self, states: States, keys: Iterable[Any], others: Iterable[Any]) -> None:
        """Merge other states into those of their keys."""
        get, merge = states.get, self.merge
        for key, other in zip(keys, others, strict=True):
            state = get(key, _ABSENT)
            states[key] = other if state is _ABSENT else merge(state, other)

    def _take(self, states: States, keys: Sequence[Any], values: Sequence[Any], may_be_none: bool) -> None:
        """Add values to the states of their keys; those that are None are left out, unless they count."""
        if may_be_none and self.skips_none:
            there = [value is not None for value in values]
            if not all(there):
                for key in keys:  # a key is there even if all its values are None
                    if key not in states:
                        states[key] = self.start()
                keys, values = list(compress(keys, there)), list(compress(values, there))
        self._fold(states, keys, values)

    def _finished(self, states: States) -> list[Any]:
        """Return the values of all states, in their order."""
        if type(self).finish is Aggregation.finish:
            return list(states.values())
        return list(map(self.finish, states.values()))


def _count(states: States, keys: Iterable[Any]) -> None:
    """Add 1 to the state of each key, in C."""
    Counter.update(cast("Counter[Any]", states), keys)


class Sum(Aggregation):
    """The sum, from 0 on: floats are added from left to right, ints are exact. 0 without values."""

    def start(self) -> Any:
        return 0

    def add(self, state: Any, value: Any, /) -> Any:
        return state + value

    merge = add

    def _fold(self, states: States, keys: Iterable[Any], values: Iterable[Any]) -> None:
        if isinstance(values, array) and values.typecode == "q" and values.tobytes() == _ONE * len(values):
            _count(states, keys)
            return
        get = states.get
        for key, value in zip(keys, values, strict=True):
            states[key] = get(key, 0) + value

    def _join(self, states: States, keys: Iterable[Any], others: Iterable[Any]) -> None:
        get = states.get
        for key, other in zip(keys, others, strict=True):
            states[key] = get(key, 0) + other


class Count(Aggregation):
    """How many values there are; with a column, how many that are not None."""

    def __init__(self, column: Any = None) -> None:
        super().__init__(column)
        self.skips_none: bool = column is not None

    def start(self) -> int:
        return 0

    def add(self, state: int, value: Any, /) -> int:
        return state + 1

    def merge(self, state: int, other: int, /) -> int:
        return state + other

    def _fold(self, states: States, keys: Iterable[Any], values: Iterable[Any]) -> None:
        _count(states, keys)


class Min(Aggregation):
    """The least value; NaN is greater than all numbers, as in PostgreSQL. None without values."""

    def start(self) -> Any:
        return None

    def add(self, state: Any, value: Any, /) -> Any:
        return value if state is None or value < state or state != state else state

    def merge(self, state: Any, other: Any, /) -> Any:
        return state if other is None else self.add(state, other)


class Max(Aggregation):
    """The greatest value; NaN is greater than all numbers, as in PostgreSQL. None without values."""

    def start(self) -> Any:
        return None

    def add(self, state: Any, value: Any, /) -> Any:
        return value if state is None or value > state or (value != value and state == state) else state

    def merge(self, state: Any, other: Any, /) -> Any:
        return state if other is None else self.add(state, other)


class First(Aggregation):
    """The first value, in the order of the data. Values that are None count."""

    skips_none = False

    def start(self) -> Any:
        return []

    def add(self, state: list[Any], value: Any, /) -> list[Any]:
        return state or [value]

    def merge(self, state: list[Any], other: list[Any], /) -> list[Any]:
        return state or other

    def finish(self, state: list[Any], /) -> Any:
        return state[0] if state else None


class Last(First):
    """The last value, in the order of the data. Values that are None count."""

    def add(self, state: list[Any], value: Any, /) -> list[Any]:
        return [value]

    def merge(self, state: list[Any], other: list[Any], /) -> list[Any]:
        return other or state


class Mean(Aggregation):
    """The arithmetic mean: the sum, from left to right, divided by the number. None without values."""

    def start(self) -> tuple[Any, int]:
        return 0, 0

    def add(self, state: tuple[Any, int], value: Any, /) -> tuple[Any, int]:
        return state[0] + value, state[1] + 1

    def merge(self, state: tuple[Any, int], other: tuple[Any, int], /) -> tuple[Any, int]:
        return state[0] + other[0], state[1] + other[1]

    def finish(self, state: tuple[Any, int], /) -> Any:
        return state[0] / state[1] if state[1] else None

    def _fold(self, states: States, keys: Iterable[Any], values: Iterable[Any]) -> None:
        get = states.get
        for key, value in zip(keys, values, strict=True):
            state = get(key)
            states[key] = (0 + value, 1) if state is None else (state[0] + value, state[1] + 1)


class Var(Aggregation):
    """The variance, with `ddof` taken from the number of values: 1, of a sample, by default. None for too few.

    By the updates of Welford (Technometrics 4, 1962) and of Chan, Golub and LeVeque (COMPSTAT 1982), which lose no
    digits to large means.
    """

    def __init__(self, column: Any = None, ddof: int = 1) -> None:
        super().__init__(column)
        self.ddof: int = ddof

    def start(self) -> tuple[int, Any, Any]:
        return 0, 0.0, 0.0

    def add(self, state: tuple[int, Any, Any], value: Any, /) -> tuple[int, Any, Any]:
        number, mean, squares = state
        number += 1
        delta = value - mean
        mean += delta / number
        return number, mean, squares + delta * (value - mean)

    def merge(self, state: tuple[int, Any, Any], other: tuple[int, Any, Any], /) -> tuple[int, Any, Any]:
        if not state[0] or not other[0]:
            return state if state[0] else other
        number = state[0] + other[0]
        delta = other[1] - state[1]
        mean = state[1] + delta * other[0] / number
        return number, mean, state[2] + other[2] + delta * delta * state[0] * other[0] / number

    def finish(self, state: tuple[int, Any, Any], /) -> Any:
        return state[2] / (state[0] - self.ddof) if state[0] > self.ddof else None


class Std(Var):
    """The standard deviation: the square root of `Var`."""

    def finish(self, state: tuple[int, Any, Any], /) -> Any:
        variance = super().finish(state)
        return None if variance is None else sqrt(variance)


class Collect(Aggregation):
    """A list of the values, in the order of the data. Values that are None count."""

    combines = False
    skips_none = False

    def start(self) -> list[Any]:
        return []

    def add(self, state: list[Any], value: Any, /) -> list[Any]:
        state.append(value)
        return state

    def merge(self, state: list[Any], other: list[Any], /) -> list[Any]:
        state += other
        return state

    def _fold(self, states: States, keys: Iterable[Any], values: Iterable[Any]) -> None:
        for key, value in zip(keys, values, strict=True):
            if key in states:
                states[key].append(value)
            else:
                states[key] = [value]


class Quantile(Collect):
    """Exact quantiles, by sorting all values of a key: interpolated linearly between the two nearest.

    `q` is from 0 to 1; of a list of them, a list. The definition is number 7 of Hyndman and Fan (The American
    Statistician 50, 1996), the default of numpy. None without values.
    """

    skips_none = True

    def __init__(self, q: float | Sequence[float], column: Any = None) -> None:
        super().__init__(column)
        wanted = list(q) if isinstance(q, Sequence) else [q]
        if not wanted or not all(isinstance(one, int | float) and 0 <= one <= 1 for one in wanted):
            raise UsageError(
                f"Quantile({q!r:.100}): a quantile is a number from 0 to 1, such as 0.95, or a list of those"
            )
        self.q: float | Sequence[float] = q

    def finish(self, state: list[Any], /) -> Any:
        if not state:
            return None if not isinstance(self.q, Sequence) else [None] * len(self.q)
        values = sorted(state)
        if any(value != value for value in values):  # NaN has no place in an order: all of them are unknown
            return float("nan") if not isinstance(self.q, Sequence) else [float("nan")] * len(self.q)
        found = [_quantile(values, one) for one in (self.q if isinstance(self.q, Sequence) else [self.q])]
        return found if isinstance(self.q, Sequence) else found[0]


def _quantile(values: Sequence[Any], q: float) -> Any:
    place = q * (len(values) - 1)
    below = int(place)
    if below == place:
        return values[below]
    return values[below] + (values[below + 1] - values[below]) * (place - below)


class TopN(Aggregation):
    """The `n` greatest values, or with `smallest` the least, as a list, best first; of equal ones the earlier."""

    def __init__(self, n: int, column: Any = None, smallest: bool = False) -> None:
        super().__init__(column)
        if type(n) is not int or n < 1:
            raise UsageError(f"TopN({n!r:.100}): give how many values to keep, 1 or more")
        self.n: int = n
        self.smallest: bool = smallest

    def start(self) -> list[Any]:
        return []

    def add(self, state: list[Any], value: Any, /) -> list[Any]:
        state.append(value)
        return self._best(state) if len(state) >= 4 * self.n + 16 else state

    def merge(self, state: list[Any], other: list[Any], /) -> list[Any]:
        return self._best(state + other)

    def finish(self, state: list[Any], /) -> list[Any]:
        return self._best(state)

    def _best(self, values: list[Any]) -> list[Any]:
        return (heapq.nsmallest if self.smallest else heapq.nlargest)(self.n, values)


class CountDistinct(Aggregation):
    """How many different values there are, exactly: all of them are held for one key at a time."""

    def start(self) -> tuple[set[Any], bool]:
        return set(), False

    def add(self, state: tuple[set[Any], bool], value: Any, /) -> tuple[set[Any], bool]:
        if value != value:  # all NaNs are one value, and a set would keep each
            return state[0], True
        state[0].add(value)
        return state

    def merge(self, state: tuple[set[Any], bool], other: tuple[set[Any], bool], /) -> tuple[set[Any], bool]:
        return state[0] | other[0], state[1] or other[1]

    def finish(self, state: tuple[set[Any], bool], /) -> int:
        return len(state[0]) + state[1]


class ByFunction:
    """A plain `reduce_fn(key, values)`: its values are their own states. Not for users."""

    column = None
    skips_none = False

    def __init__(self, function: Callable[[Any, Any], Any], combines: bool) -> None:
        self.function: Callable[[Any, Any], Any] = function
        self.combines: bool = combines

    def _take(self, states: States, keys: Sequence[Any], values: Sequence[Any], may_be_none: bool) -> None:
        """Combine the values of a block into those of their keys: one call for each key that has two or more."""
        groups: States
        if isinstance(values, array) and values.tobytes() == values[:1].tobytes() * len(values):
            one = values[0]  # a number that all pairs have, as where words are counted: they are counted in C
            groups = {key: [one] * count for key, count in Counter(keys).items()}
        else:
            groups = defaultdict(list)
            gather(groups, keys, values)
        function = self.function
        key: Any = None
        try:
            for key, several in groups.items():
                if key in states:
                    states[key] = function(key, [states[key], *several])
                else:
                    states[key] = function(key, several) if len(several) > 1 else several[0]
        except Exception as error:
            error.add_note(f"reduce_fn was called with the key {key!r:.100}")
            raise

    def _finished(self, groups: States) -> list[Any]:
        """Return the value of each key.

        Raises:
            UsageError: it is an iterator.
        """
        found = self._values(groups)
        if lazy := next((one for one in found if isinstance(one, Iterator)), None):
            raise UsageError(f"reduce_fn returned {lazy!r:.100}, which is read once: return list(...) of it")
        return found

    def _values(self, groups: States) -> list[Any]:
        """Return what the function makes of the values of each key: a list, or an iterator if it does not combine."""
        function = self.function
        found: list[Any] = []
        key: Any = None
        try:
            for key, values in groups.items():
                found.append(function(key, values if self.combines else iter(values)))
        except Exception as error:
            error.add_note(f"reduce_fn was called with the key {key!r:.100}")
            raise
        return found


def gather(groups: States, keys: Iterable[Any], values: Iterable[Any]) -> None:
    """Append values to the lists of their keys, in a `defaultdict(list)`."""
    for key, value in zip(keys, values, strict=True):
        groups[key].append(value)
