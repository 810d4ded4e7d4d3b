"""Types of Arrow: which type holds the values of two, how values get there unchanged, and fields within structs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pymar.sources.extras import needed

#: The metadata of a field that says which extension type its values are of, as Arrow's own files have it.
_MARK = b"ARROW:extension:name"
#: The extension types whose values are not those of their storage: see arrowvalues.py. Others count as their storage.
_MARKED = ("arrow.uuid", "arrow.bool8")
#: The modules that `arrow` has imported.
_imported: dict[str, Any] = {}


def arrow(module: str = "pyarrow") -> Any:
    """Import a module of pyarrow, and return it."""
    # It is asked for dozens of times a file, for which Python's own way to imported modules takes too long. What
    # another thread is still importing is in sys.modules too, but not here.
    found = _imported.get(module)
    if found is None or sys.modules.get(module) is not found:
        found = _imported[module] = needed(module, "parquet", "reading Parquet, Arrow or ORC files")
    return found


def mark_of(field: Any) -> str:
    """Return the name of the extension type of a field of a stored schema, if its values are not those of storage."""
    return str((field.metadata or {}).get(_MARK, b"").decode())


def alike(one: Any, other: Any) -> bool:
    """True if two stored schemas have the same columns and types; what the values of a list are called may differ."""
    return bool(one.equals(other)) and _marks(one) == _marks(other)


def _marks(fields: Any) -> list[Any]:
    return [(mark_of(field), _marks(_inner(field.type))) for field in fields]


def _inner(kind: Any) -> list[Any]:
    if arrow().types.is_map(kind):
        return [kind.key_field, kind.item_field]
    return list(kind) if arrow().types.is_struct(kind) else [kind.value_field] if is_list(kind) else []


def stored(schema: Any, leaves: Iterable[str] = ()) -> Any:
    """Return a schema with the storage of extension types in their place, and no other metadata than marks.

    Which extension types pyarrow knows differs from version to version, and with the libraries that are imported.
    Run-end encoded values are plain, since Arrow neither compares nor selects them.

    Args:
        schema: the schema.
        leaves: what the file says besides of each column that has no others in it: "UUID", "JSON" or anything else.
    """
    known = iter(leaves)
    return arrow().schema([_stored_field(field, known) for field in schema])


def _stored_field(field: Any, leaves: Iterator[str]) -> Any:
    kind, mark = field.type, mark_of(field)
    if isinstance(kind, arrow().BaseExtensionType):
        kind, mark = kind.storage_type, kind.extension_name
    kind, leaf = _stored(kind, leaves)
    mark = "arrow.uuid" if leaf == "UUID" else mark
    return arrow().field(field.name, kind, field.nullable, {_MARK: mark} if mark in _MARKED else None)


def _stored(kind: Any, leaves: Iterator[str]) -> tuple[Any, str]:
    if arrow().types.is_struct(kind):
        return arrow().struct([_stored_field(field, leaves) for field in kind]), ""
    if arrow().types.is_map(kind):
        fields = (_stored_field(field, leaves) for field in (kind.key_field, kind.item_field))
        return arrow().map_(*fields, keys_sorted=kind.keys_sorted), ""
    if is_list(kind):
        return with_values(kind, _stored_field(kind.value_field, leaves)), ""
    if arrow().types.is_run_end_encoded(kind):
        return _stored(kind.value_type, leaves)
    leaf = next(leaves, "")
    if leaf == "JSON" and arrow().types.is_binary(kind):  # bytes with pyarrow 17, text with later ones
        kind = arrow().string()
    return kind, leaf


def is_list(kind: Any) -> bool:
    """True for lists of all kinds; not for maps."""
    return list_name(kind) != ""


def list_name(kind: Any) -> str:
    """Return the kind of a list, "" if it is none."""
    for name in ("list", "large_list", "fixed_size_list", "list_view", "large_list_view"):
        if getattr(arrow().types, f"is_{name}")(kind):
            return name
    return ""


def with_values(kind: Any, field: Any) -> Any:
    """Return the type of a list whose values are those of another field."""
    name = list_name(kind)
    if name == "fixed_size_list":
        return arrow().list_(field, kind.list_size)
    return getattr(arrow(), "list_" if name == "list" else name)(field)


def converted(array: Any, kind: Any) -> Any:
    """Return an array as one of another type, with the same values; fields of structs are found by their names.

    Raises:
        pyarrow.ArrowException: a value would not be the same, or there is no such conversion.
    """
    types = arrow().types
    if isinstance(array.type, arrow().BaseExtensionType):
        array = array.storage
    have = array.type
    if have == kind:
        return array
    if types.is_null(have):
        return arrow().nulls(len(array), kind)
    if types.is_dictionary(have) and not types.is_dictionary(kind):
        return converted(array.dictionary_decode(), kind)
    if types.is_run_end_encoded(have):
        return converted(arrow("pyarrow.compute").run_end_decode(array), kind)
    if types.is_struct(have) and types.is_struct(kind):
        children = []
        for field in kind:
            place = have.get_field_index(field.name)
            there = arrow().nulls(len(array), field.type) if place < 0 else array.field(place)
            children.append(converted(there, field.type))
        return arrow().StructArray.from_arrays(
            children, fields=list(kind), mask=array.is_null() if array.null_count else None
        )
    if types.is_map(have) and types.is_map(kind):
        entries = converted(array.values, arrow().struct([kind.key_field, kind.item_field]))
        if entries.null_count or entries.field(0).null_count:  # where it is not known, pyarrow 17 ends the process
            raise arrow().ArrowInvalid("a key of a map is null")
        return _with_children(array, kind, 2, entries)
    if is_list(have) and is_list(kind) and have.value_type != kind.value_type:
        inner = with_values(have, kind.value_field)
        buffers = {"fixed_size_list": 1, "list_view": 3, "large_list_view": 3}.get(list_name(have), 2)
        return _with_children(array, inner, buffers, converted(array.values, kind.value_type)).cast(kind)
    return array.cast(kind)


def _with_children(array: Any, kind: Any, buffers: int, values: Any) -> Any:
    """Return an array whose lists begin and end where those of another do, with other values."""
    own = array.buffers()[:buffers]
    return arrow().Array.from_buffers(kind, len(array), own, -1, array.offset, [values])


def without_views(schema: Any) -> Any:
    """Return a schema with plain texts and bytes in the place of views, from which Arrow does not select."""
    return arrow().schema([field.with_type(_without_views(field.type)) for field in schema])


def _without_views(kind: Any) -> Any:
    types = arrow().types
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return arrow().large_string() if types.is_string_view(kind) else arrow().large_binary()
    if types.is_struct(kind):
        return arrow().struct([field.with_type(_without_views(field.type)) for field in kind])
    if is_list(kind):
        return with_values(kind, kind.value_field.with_type(_without_views(kind.value_type)))
    return kind


class NotUnited(Exception):
    """No type holds the values of both."""


def united(one: Any, other: Any) -> Any:
    """Return the field that holds the values of two.

    Integers become the smaller type that has both ranges (int64 for uint64 with a signed one); floats the wider;
    integers with floats float64; decimals one with the digits of both, also of integers; times the finer unit; time
    stamps of two time zones UTC; dictionaries plain; null the other type; lists, maps and structs are united within.
    Where that type does not hold a value exactly, `converted` raises.

    Raises:
        NotUnited: there is none: text with numbers, time stamps with and without a time zone, and so on.
    """
    is_null = [arrow().types.is_null(field.type) for field in (one, other)]
    if mark_of(one) != mark_of(other) and not any(is_null):
        raise NotUnited
    marked = other if is_null[0] else one
    return arrow().field(
        one.name, _united(one.type, other.type), one.nullable or other.nullable or any(is_null), marked.metadata
    )


def united_schemas(one: Any, other: Any) -> Any:
    """Return the schema with the columns of two, which may be null where they are in one of them only.

    Raises:
        NotUnited: with the name of a column that has no type.
    """
    return arrow().schema(_united_fields(one, other))


def _united_fields(one: Any, other: Any) -> list[Any]:
    mine, others = ({field.name: field for field in fields} for fields in (one, other))
    fields = []
    for name in {**mine, **others}:
        if name not in mine or name not in others:
            fields.append({**mine, **others}[name].with_nullable(True))
            continue
        try:
            fields.append(united(mine[name], others[name]))
        except NotUnited as error:
            raise NotUnited(name) from error
    return fields


def _united(one: Any, other: Any) -> Any:
    types = arrow().types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    plain = _plain(one), _plain(other)
    if plain != (one, other):
        return _united(*plain)
    for unite in (_numbers, _texts, _times, _nested):
        if (kind := unite(one, other)) is not None:
            return kind
    raise NotUnited


def _plain(kind: Any) -> Any:
    return kind.value_type if arrow().types.is_dictionary(kind) else kind


def _numbers(one: Any, other: Any) -> Any:
    types = arrow().types
    both = (one, other)
    if all(map(types.is_integer, both)):
        if types.is_signed_integer(one) == types.is_signed_integer(other):
            return max(both, key=lambda kind: kind.bit_width)
        bits = (min(kind.bit_width * (1 + types.is_unsigned_integer(kind)), 64) for kind in both)
        return getattr(arrow(), f"int{max(bits)}")()
    if all(map(types.is_floating, both)):
        return max(both, key=lambda kind: kind.bit_width)
    if all(types.is_integer(kind) or types.is_floating(kind) for kind in both):
        return arrow().float64()
    if all(types.is_decimal(kind) or types.is_integer(kind) for kind in both):
        sizes = [_digits(kind) for kind in both]
        scale = max(size[1] for size in sizes)
        precision = max(size[0] for size in sizes) + scale
        if precision <= 76:
            return (arrow().decimal128 if precision <= 38 else arrow().decimal256)(precision, scale)
    return None


def _digits(kind: Any) -> tuple[int, int]:
    """Return how many digits a type has before the point, and behind it."""
    if arrow().types.is_decimal(kind):
        return kind.precision - kind.scale, kind.scale
    return {8: 3, 16: 5, 32: 10, 64: 20}[kind.bit_width], 0


def _texts(one: Any, other: Any) -> Any:
    types = arrow().types
    both = (one, other)
    text = (types.is_string, types.is_large_string, types.is_string_view)
    data = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    for kinds, small, large in ((text, "string", "large_string"), (data, "binary", "large_binary")):
        if all(any(is_kind(kind) for is_kind in kinds) for kind in both):
            return getattr(arrow(), large if any(map(kinds[1], both)) else small)()
    return None


def _times(one: Any, other: Any) -> Any:
    types = arrow().types
    both = (one, other)
    if all(map(types.is_date, both)):
        return arrow().date32()
    if all(map(types.is_timestamp, both)) and (one.tz is None) == (other.tz is None):
        return arrow().timestamp(_finer(one, other), one.tz if one.tz == other.tz else "UTC")
    if all(map(types.is_duration, both)):
        return arrow().duration(_finer(one, other))
    if all(map(types.is_time, both)):
        unit = _finer(one, other)
        return (arrow().time32 if unit in ("s", "ms") else arrow().time64)(unit)
    return None


def _finer(one: Any, other: Any) -> str:
    units = ("s", "ms", "us", "ns")
    return units[max(units.index(one.unit), units.index(other.unit))]


def _nested(one: Any, other: Any) -> Any:
    types = arrow().types
    both = (one, other)
    if all(map(types.is_struct, both)):
        return arrow().struct(_united_fields(one, other))
    if all(map(types.is_map, both)):
        return arrow().map_(united(one.key_field, other.key_field), united(one.item_field, other.item_field))
    if all(map(is_list, both)):
        field = united(one.value_field, other.value_field)
        names = {list_name(kind) for kind in both}
        if len(names) == 1 and getattr(one, "list_size", -1) == getattr(other, "list_size", -1):
            return with_values(one, field)
        return (arrow().large_list if any("large" in name for name in names) else arrow().list_)(field)
    return None


def difference(one: Any, other: Any) -> str:
    """Return how two schemas differ, for people."""
    fields = [{field.name: mark_of(field) or str(field.type) for field in schema} for schema in (one, other)]
    differing = [
        f"{name} is {fields[0].get(name, 'missing')} in the one and {fields[1].get(name, 'missing')} in the other"
        for name in sorted(fields[0].keys() | fields[1].keys())
        if fields[0].get(name) != fields[1].get(name)
    ]
    return "; ".join(differing[:3]) or "the order of the columns, or which of them may be null"


def path_of(name: str, fields: Iterable[Any]) -> tuple[str, ...]:
    """Return where a column is: ("a.b",) for a column of that name, ("a", "b") for the field b of a struct a; ().

    A column that has the dots in its name comes first.
    """
    known = {field.name: field.type for field in fields}
    if name in known:
        return (name,)
    for place in reversed([place for place, letter in enumerate(name) if letter == "."]):
        kind = known.get(name[:place])
        if kind is not None and arrow().types.is_struct(kind) and (rest := path_of(name[place + 1 :], kind)):
            return (name[:place], *rest)
    return ()


def pruned(schema: Any, names: Iterable[str]) -> list[Any]:
    """Return the fields of the columns of these names, in their order; of a struct, "a.b" keeps the field b alone."""
    wanted: dict[str, list[Sequence[str]]] = {}
    for name in names:
        top, *rest = path_of(name, schema)
        wanted.setdefault(top, []).append(rest)
    return [_pruned_field(schema.field(top), rests) for top, rests in wanted.items()]


def _pruned_field(field: Any, rests: Sequence[Sequence[str]]) -> Any:
    if not all(rests):
        return field
    below: Mapping[str, list[Sequence[str]]] = {
        child.name: [rest[1:] for rest in rests if rest[0] == child.name] for child in field.type
    }
    return field.with_type(
        arrow().struct([_pruned_field(child, below[child.name]) for child in field.type if below[child.name]])
    )


def field_at(schema: Any, path: Sequence[str]) -> Any:
    """Return the field at a path."""
    field = schema.field(path[0])
    for name in path[1:]:
        field = field.type.field(field.type.get_field_index(name))
    return field
