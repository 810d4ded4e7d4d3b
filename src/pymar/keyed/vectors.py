"""Sums of columns by numpy, if it is there: the same bits as Python's, in half the time."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, count
from typing import Any

from pymar.keyed.aggregations import Count, Sum

#: False if numpy is not installed; None until that is known.
_numpy: Any = None


def numpy_if_there() -> Any:
    """Return numpy if it is installed; None otherwise. It makes a job faster and changes no bit of it."""
    global _numpy
    if _numpy is None:
        try:
            import numpy
        except ImportError:
            numpy = False  # type: ignore[assignment]
        _numpy = numpy
    return _numpy or None


def summed(reduction: Any, chunks: Sequence[Any]) -> tuple[list[Any], Any] | None:
    """Return the keys of chunks, in the order in which they come, and their sums or counts as an array.

    Returns:
        None if the sums are not those of one column of ints or of floats, or might not be exact.
    """
    if len(reduction.aggregations) != 1 or type(reduction.aggregations[0]) not in (Sum, Count) or not chunks:
        return None
    numpy = numpy_if_there()
    if numpy is None:
        return None
    counts = type(reduction.aggregations[0]) is Count
    columns: list[Any] = []
    for chunk in chunks:
        # Raw pairs count as 1 each, whatever their values are; a list may have values that do not count.
        if chunk.columns and not (counts and chunk.is_raw and isinstance(chunk.columns[0], array)):
            columns.append(chunk.columns[0])
        else:
            columns.append(array("q", [1]) * len(chunk.keys))
    codes = {getattr(column, "typecode", "") for column in columns}
    if codes != {"q"} and codes != {"d"}:
        return None
    values = numpy.concatenate(
        [numpy.frombuffer(column, "int64" if codes == {"q"} else "float64") for column in columns]
    )
    index: defaultdict[Any, int] = defaultdict(count().__next__)
    places = numpy.fromiter(
        map(index.__getitem__, chain.from_iterable([chunk.keys for chunk in chunks])), numpy.int64, len(values)
    )
    if codes == {"d"}:
        return list(index), numpy.bincount(places, weights=values)  # from 0.0 on, from left to right, as Sum does
    largest = max(int(values.max()), -int(values.min())) * len(values)
    if largest < 1 << 53:
        return list(index), numpy.bincount(places, weights=values).astype(numpy.int64)
    if largest < 1 << 63:
        sums = numpy.zeros(len(index), numpy.int64)
        numpy.add.at(sums, places, values)
        return list(index), sums
    return None
