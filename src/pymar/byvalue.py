"""cloudpickle, with classes that keep their identity (shipped.py). To import it takes 50 ms."""

from __future__ import annotations

from collections import ChainMap
from io import BytesIO, TextIOWrapper
from pickle import PicklingError
from types import CodeType, FunctionType
from typing import Any, ClassVar

import cloudpickle

from pymar.shipped import came_with_token, fill, home, make, token_of

#: cloudpickle's class makers, and the place of its tracker's id among their arguments.
_ID_PLACE = {"_make_skeleton_class": 4, "_make_skeleton_enum": 5}


def dumps_outward(value: Any) -> bytes:
    """Pickle for a worker."""
    return _pickled(Outward, value)


def dumps_homeward(value: Any) -> bytes:
    """Pickle for the process where the classes of this one's definition are at home."""
    return _pickled(Homeward, value)


def _pickled(pickler: type[Any], value: Any) -> bytes:
    buffer = BytesIO()
    pickler(buffer, 5).dump(value)
    return buffer.getvalue()


def _refuse_files(obj: Any) -> None:
    """cloudpickle would send the text of an open file in its place, and each part would read it to the end."""
    if isinstance(obj, TextIOWrapper):
        raise PicklingError(f"{obj!r} is an open file")


def _code(code: CodeType) -> tuple[Any, ...]:
    """Code with its file, which cloudpickle leaves out: tracebacks have it, and the line where the file is there."""
    maker, arguments, *rest = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return maker, tuple(code.co_filename if one == "<dynamic-code>" else one for one in arguments), *rest


class Outward(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table: ClassVar[Any] = ChainMap({CodeType: _code}, cloudpickle.Pickler.dispatch_table)

    def reducer_override(self, obj: Any) -> Any:
        _refuse_files(obj)
        reduced = super().reducer_override(obj)
        if not isinstance(obj, type) or not isinstance(reduced, tuple):
            return reduced
        maker, arguments = reduced[:2]
        place = _ID_PLACE.get(maker.__name__)
        if place is None:
            return reduced
        state, setter = reduced[2], reduced[5]
        arguments = (*arguments[:place], None, *arguments[place + 1 :])
        return make, (token_of(obj), obj.__qualname__, maker, arguments), (setter, state), None, None, fill


class Homeward(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        _refuse_files(obj)
        token = came_with_token(obj) if isinstance(obj, type) else None
        if token is None and isinstance(obj, FunctionType) and obj.__module__ == "__main__":
            token = "" if "<" not in obj.__qualname__ else None
        if token is not None:
            return home, (token, obj.__qualname__)
        return super().reducer_override(obj)
