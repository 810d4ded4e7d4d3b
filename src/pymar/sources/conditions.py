"""Conditions on rows: the setting `filter`, as what Arrow compares while it reads, and as what is compared afterwards.

A filter is true, false or unknown for a row, as in SQL: null meets no condition but `== None`, and `in` with None among
the values. NaN is unequal to everything, as in Python; so `in` is `==` with any of the values, `not in` is `!=` with
all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import reduce
from typing import Any, NamedTuple
from uuid import UUID

from pymar.exceptions import SourceError
from pymar.sources.arrowtypes import arrow, field_at, mark_of, path_of

#: The names of Arrow's functions, by what stands in the middle of a condition.
_FUNCTIONS = {
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}
_OPERATORS = (*_FUNCTIONS, "in", "not in")


class Condition(NamedTuple):
    """One condition: the name of a column, an operator, a value."""

    name: str
    sign: str
    value: Any


#: Lists of conditions, of which a row has to meet all of one list. None at all: each row is wanted.
Conditions = tuple[tuple[Condition, ...], ...]


def parsed(given: Any) -> Conditions:
    """Return the conditions of the setting `filter`: a list of them, all to be met, or a list of such lists, any.

    Raises:
        SourceError: it is something else.
    """
    if not _is_list(given):
        raise _no_condition(given)
    if not given:
        return ()
    if all(_is_list(one) and one and all(map(_is_list, one)) for one in given):
        return tuple(tuple(map(_condition, one)) for one in given)
    return (tuple(map(_condition, given)),)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _condition(given: Any) -> Condition:
    if not _is_list(given) or len(given) != 3 or not isinstance(given[0], str) or given[1] not in _OPERATORS:
        raise _no_condition(given)
    name, sign, value = given
    is_many = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    if sign in ("in", "not in"):
        if not is_many:
            raise _no_condition(given)
        value = list(value)
    elif value is None and sign not in ("==", "!="):
        raise _no_condition(given)
    return Condition(name, sign, value)


def _no_condition(condition: Any) -> SourceError:
    return SourceError(
        f"filter has {condition!r}: it has to be a list of conditions (column, operator, value), the operator one of "
        f"{', '.join(_OPERATORS)}, or a list of such lists, of which one has to be met"
    )


def names_of(conditions: Conditions) -> list[str]:
    """Return the names of the columns in conditions, each once."""
    return list(dict.fromkeys(condition.name for all_of in conditions for condition in all_of))


def check(conditions: Conditions, schema: Any) -> None:
    """Refuse conditions whose values cannot be compared with the columns of a schema.

    Raises:
        SourceError: the condition, the type of its column, and what is wrong.
    """
    for condition in (condition for all_of in conditions for condition in all_of):
        field = field_at(schema, path_of(condition.name, schema))
        try:
            _met(arrow().array([], field.type), field, condition)
        except (arrow().ArrowException, OverflowError, TypeError, ValueError) as error:
            raise SourceError(
                f"filter has {tuple(condition)!r}, and the column {condition.name!r} is "
                f"{mark_of(field) or field.type}: give a value of that type ({error})"
            ) from error


def relaxed(conditions: Conditions, is_kept: Callable[[Condition], bool]) -> Conditions:
    """Return conditions with those alone that `is_kept`: each row that meets the whole meets these; () if all may."""
    kept = tuple(tuple(filter(is_kept, all_of)) for all_of in conditions)
    return kept if all(kept) else ()


def resolved(conditions: Conditions, constants: Any) -> Conditions:
    """Return what is left of conditions for rows that all have the values of `constants`, a record batch of one row.

    () if nothing is left to be met; so they must not rule out all rows.
    """

    def holds(condition: Condition) -> bool:
        return matching(constants, ((condition,),))[0].as_py() is True

    left = []
    for all_of in conditions:
        known = [condition for condition in all_of if condition.name in constants.schema.names]
        if all(map(holds, known)):
            left.append(tuple(condition for condition in all_of if condition.name not in constants.schema.names))
    return tuple(left) if all(left) else ()


def matching(batch: Any, conditions: Conditions) -> Any:
    """Return which rows of a record batch meet the conditions: True, False, or null, which is no."""
    compute = arrow("pyarrow.compute")

    def met(condition: Condition) -> Any:
        path = path_of(condition.name, batch.schema)
        column = batch.column(batch.schema.get_field_index(path[0]))
        for name in path[1:]:
            column = compute.struct_field(column, [column.type.get_field_index(name)])
        return _met(column, field_at(batch.schema, path), condition)

    return reduce(compute.or_kleene, (reduce(compute.and_kleene, map(met, all_of)) for all_of in conditions))


def may_be_read_with(condition: Condition, schema: Any) -> bool:
    """True if Arrow compares right while it reads Parquet with this schema, where statistics of row groups are used.

    They know nothing of NaN: where all other values are 1, Arrow leaves out the row group for `x != 1`.
    """
    types = arrow().types
    path = path_of(condition.name, schema)
    kind = field_at(schema, path).type
    if condition.sign in ("!=", "not in") and condition.value is not None:
        return False
    if condition.sign == "in" and (types.is_floating(kind) or None in condition.value):
        return False
    if len(path) > 1 and condition.value is None:
        return False
    if types.is_decimal(kind) and condition.value is not None and not _has_type(condition, field_at(schema, path)):
        return False
    return not (types.is_nested(kind) or types.is_string_view(kind) or types.is_binary_view(kind))


def _has_type(condition: Condition, field: Any) -> bool:
    """True if the values of a condition are compared as values of the column's own type."""
    values = condition.value if condition.sign == "in" else [condition.value]
    return all(_scalar(value, field).type == field.type for value in values)


def expression(conditions: Conditions, schema: Any) -> Any:
    """Return conditions as an expression of pyarrow.dataset."""
    compute = arrow("pyarrow.compute")

    def met(condition: Condition) -> Any:
        path = path_of(condition.name, schema)
        return _met(compute.field(*path), field_at(schema, path), condition)

    return reduce(compute.or_kleene, (reduce(compute.and_kleene, map(met, all_of)) for all_of in conditions))


def _met(column: Any, field: Any, condition: Condition) -> Any:
    """Return which values of a column, an array or an expression, meet a condition."""
    compute = arrow("pyarrow.compute")
    _, sign, value = condition
    if value is None:
        return compute.is_null(column) if sign == "==" else compute.is_valid(column)
    types, kind = arrow().types, field.type
    if types.is_string_view(kind) or types.is_binary_view(kind):  # Arrow does not compare these
        kind = arrow().large_string() if types.is_string_view(kind) else arrow().large_binary()
        column = column.cast(kind)
    if sign in _FUNCTIONS:
        return getattr(compute, _FUNCTIONS[sign])(column, _scalar(value, field))
    if types.is_floating(kind):  # or Arrow would round the values: 0.1 would be in a column of float32, and not ==
        kind = arrow().float64()
        column = column.cast(kind)
    found = compute.is_in(column, value_set=_set(value, field, kind))
    if sign == "not in":
        return compute.and_kleene(compute.invert(found), compute.is_valid(column))
    return compute.or_kleene(found, compute.is_null(column)) if None in value else found


def _scalar(value: Any, field: Any) -> Any:
    """Return a value as Arrow compares it with a column exactly: integers with integers, bytes with UUIDs."""
    types, kind = arrow().types, field.type
    if isinstance(value, UUID) and mark_of(field) == "arrow.uuid":
        return arrow().scalar(value.bytes, kind)
    if isinstance(value, bool) and mark_of(field) == "arrow.bool8":
        return arrow().scalar(int(value), kind)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if types.is_integer(kind) and is_number and (whole := _whole(value)) is not None and _fits(whole, kind):
        return arrow().scalar(whole, kind)
    if types.is_fixed_size_binary(kind) and isinstance(value, bytes) and len(value) == kind.byte_width:
        return arrow().scalar(value, kind)
    if types.is_decimal(kind) and isinstance(value, int) and not isinstance(value, bool):
        value = Decimal(value)
    plain = arrow().scalar(value)
    is_decimal = types.is_decimal(kind) and types.is_decimal(plain.type)
    is_time = (
        types.is_timestamp(kind) and types.is_timestamp(plain.type) and (kind.tz is None) == (plain.type.tz is None)
    )
    if is_decimal or is_time:
        try:
            return plain.cast(kind)
        except arrow().ArrowException:
            return plain  # it has more digits than the column: it is equal to no value, but less or greater
    return plain


def _set(values: Sequence[Any], field: Any, kind: Any) -> Any:
    """Return the values, without None and NaN, of which one may be equal to one of the column."""
    types = arrow().types
    known = [value for value in values if value is not None and value == value]
    if types.is_integer(kind) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in known):
        whole = map(_whole, known)
        return arrow().array([one for one in whole if one is not None and _fits(one, kind)], kind)
    if types.is_floating(kind) and 0 in known:  # Arrow tells them apart here, and not with ==
        known += [0.0, -0.0]
    if types.is_decimal(kind):
        return arrow().array([one.as_py() for one in (_scalar(one, field) for one in known) if one.type == kind], kind)
    if not known:
        return arrow().array([], kind)
    return arrow().array([_scalar(one, field).as_py() for one in known])


def _whole(value: float) -> int | None:
    return int(value) if value - value == 0 and int(value) == value else None


def _fits(value: int, kind: Any) -> bool:
    bits: int = kind.bit_width
    low, high = (
        (-(1 << bits - 1), (1 << bits - 1) - 1) if arrow().types.is_signed_integer(kind) else (0, (1 << bits) - 1)
    )
    return low <= value <= high
