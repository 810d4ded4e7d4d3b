"""Values as columns of Arrow, and columns as those of another type, never changed on the way, as Arrow often does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pymar.sinks.files import Misfit
from pymar.sources import arrowtypes
from pymar.sources.extras import needed


def exact(values: list[Any], kind: Any) -> Any:
    """Return values as an array of a type, or of the one that they show (None); none is changed by that.

    Raises:
        ValueError, TypeError, OverflowError, pyarrow.ArrowException: some are of other types, or would be changed.
    """
    arrow = _arrow()
    _check_alike(values)
    if kind is None:
        return arrow.array(values)
    types = arrow.types
    found = arrow.array(values, kind)  # it takes no text for a number, but cuts floats, times and dates
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_temporal(kind) or types.is_decimal(kind)):
        return found
    shown = arrow.array(values)
    if types.is_null(shown.type) or (types.is_decimal(kind) and types.is_integer(shown.type)):
        return found
    return found if types.is_duration(kind) and kind.unit in ("us", "ns") else _exactly(shown, kind)


def _check_alike(values: Iterable[Any]) -> None:
    """Refuse values of several types, also within lists and dicts: Arrow would make one type of them.

    Raises:
        TypeError: it says which.
    """
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {list}:
        _check_alike([one for value in values if value is not None for one in value])
        return
    if kinds == {tuple}:  # of one length: a column each, as the pairs of a map have
        rows = [value for value in values if value is not None]
        is_even = len({*map(len, rows)}) == 1
        for column in zip(*rows, strict=True) if is_even else [[one for row in rows for one in row]]:
            _check_alike(column)
        return
    if kinds == {dict}:
        for name in {name for value in values if value is not None for name in value}:
            _check_alike([value.get(name) for value in values if value is not None])
        return
    if len(kinds) > 1 and len({_family(kind) for kind in kinds}) > 1:
        raise TypeError(f"the column has values of several types: {', '.join(sorted(kind.__name__ for kind in kinds))}")
    if any(issubclass(kind, datetime) for kind in kinds):
        zones = {value.tzinfo is None for value in values if value is not None}
        if len(zones) > 1:
            raise TypeError("the column has times with and without a time zone")


def _family(kind: type) -> Any:
    """Return what stands for all types that go together in a column: integers and floats do, and numpy's with them."""
    if kind is bool or kind.__name__ in ("bool_", "bool"):
        return "bool"
    if issubclass(kind, int | float) or (
        kind.__module__ == "numpy" and kind.__name__.startswith(("int", "uint", "float"))
    ):
        return "number"
    if issubclass(kind, str):
        return "text"
    return kind


def united(one: Any, other: Any) -> Any:
    """Return the schema that holds the values of both: see `arrowtypes.united`.

    Raises:
        Misfit: there is none; or they have other columns.
    """
    if set(one.names) != set(other.names) or len(one.names) != len(other.names):
        differing = sorted(set(one.names) ^ set(other.names))
        raise Misfit(f"its columns are {', '.join(other.names)} instead of {', '.join(one.names)} ({differing[:3]})")
    try:
        found = arrowtypes.united_schemas(one, other)
    except arrowtypes.NotUnited as error:
        name = str(error)
        raise Misfit(f"its column {name!r} is {other.field(name).type} instead of {one.field(name).type}") from None
    return _arrow().schema([field.with_nullable(True) for field in found])


def cast(batch: Any, schema: Any) -> Any:
    """Return a record batch with the columns and types of a schema, and the same values.

    Raises:
        Misfit: a value would be another one.
    """
    arrow = _arrow()
    if batch.schema.equals(schema):
        return batch
    columns = []
    for field in schema:
        column = batch.column(field.name)
        try:
            columns.append(_exactly(column, field.type))
        except (arrow.ArrowException, ValueError) as error:
            raise Misfit(f"column {field.name!r} has values that are not exactly {field.type}: {error}") from error
    return arrow.RecordBatch.from_arrays(columns, schema=schema)


def _exactly(array: Any, kind: Any) -> Any:
    """Return an array as one of another type with the same values.

    Raises:
        pyarrow.ArrowException, ValueError: a value would be another one.
    """
    arrow, types = _arrow(), _arrow().types
    have = array.type
    if have == kind:
        return array
    if types.is_struct(have) and types.is_struct(kind) and {one.name for one in have} - {one.name for one in kind}:
        raise ValueError(f"a {have} has fields that {kind} does not have")
    if types.is_temporal(have):
        have_zone, kind_zone = (getattr(one, "tz", None) is not None for one in (have, kind))
        if have_zone != kind_zone and (have_zone or types.is_temporal(kind)):
            raise ValueError(f"{have} has {'a' if have_zone else 'no'} time zone")
    if types.is_dictionary(kind):
        return _exactly(array, kind.value_type).dictionary_encode().cast(kind)
    found = arrowtypes.converted(array, kind)
    is_lossy = types.is_floating(kind) or types.is_decimal(kind) or types.is_date(kind) or types.is_boolean(kind)
    if is_lossy and not types.is_null(have) and not types.is_nested(have):
        back = found.cast(have)
        compute = needed("pyarrow.compute", "parquet", "ParquetSink")
        same = compute.equal(back, array)
        if types.is_floating(have):
            same = compute.or_(same, compute.and_(compute.is_nan(back), compute.is_nan(array)))
        is_narrower = types.is_floating(kind) and types.is_floating(have)  # which rounds, as whoever asks for it knows
        if is_narrower:
            same = compute.equal(compute.is_finite(back), compute.is_finite(array))
        if not compute.all(same, min_count=0).as_py():
            raise arrow.ArrowInvalid(f"{have} has values that {kind} does not have")
    return found


def _arrow() -> Any:
    return needed("pyarrow", "parquet", "ParquetSink")
