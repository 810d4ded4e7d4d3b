"""Values as bytes: pickled by reference where a name leads to them, by value where only `__main__` has them.

Only bytes from processes that this one started, or from whom it holds a key in common with, may reach `loads`.
"""

from __future__ import annotations

import pickle
import sys
from io import BytesIO
from types import FunctionType
from typing import Any, ClassVar

from pymar.exceptions import NotPicklable

_PROTOCOL = 5


def dumps(value: Any, what: str = "the value") -> bytes:
    """Encode for a fresh process: classes and functions of `__main__` travel by value.

    Raises:
        NotPicklable: it cannot be pickled; the message names `what` and the type.
    """
    try:
        data = pickle.dumps(value, _PROTOCOL)
        # A reference to __main__ would be looked up in the worker's own __main__, which is another module.
        if b"__main__" not in data:
            return data
    except Exception:
        data = b""  # Plain pickle cannot; whether it can travel at all is what cloudpickle says next.
    import cloudpickle

    try:
        made: bytes = cloudpickle.dumps(value, _PROTOCOL)
    except Exception as error:
        raise _not_picklable(value, what, error) from error
    return made


def dumps_home(value: Any, what: str = "the value") -> bytes:
    """Encode for the process that the code came from: classes and functions of its `__main__` go by name.

    Raises:
        NotPicklable: it cannot be pickled.
    """
    try:
        return pickle.dumps(value, _PROTOCOL)
    except Exception as error:
        if "cloudpickle" not in sys.modules and not isinstance(error, pickle.PicklingError | AttributeError):
            raise _not_picklable(value, what, error) from error
    import cloudpickle

    class HomePickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type | FunctionType) and obj.__module__ == "__main__" and "<" not in obj.__qualname__:
                return named_in_main, (obj.__qualname__,)
            return super().reducer_override(obj)

    buffer = BytesIO()
    try:
        HomePickler(buffer, _PROTOCOL).dump(value)
    except Exception as error:
        raise _not_picklable(value, what, error) from error
    return buffer.getvalue()


def named_in_main(qualname: str) -> Any:
    """The class or function of this name in `__main__`: so a worker's instances are of the producer's own classes."""
    found: Any = sys.modules["__main__"]
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


def loads_definition(data: bytes) -> Any:
    """Decode a job's definition, in a worker, into classes of its own; those of `__main__` are then found there.

    cloudpickle gives a class that it has seen before the attributes of the newest definition; two jobs of one class,
    with other globals, would then compute each other's code. Without its tracker each definition makes a new class.
    """
    unpickler = _DefinitionUnpickler(BytesIO(data))
    definition = unpickler.load()
    for cls in unpickler.made:
        if cls.__module__ == "__main__" and cls.__qualname__ == cls.__name__:
            setattr(sys.modules["__main__"], cls.__name__, cls)
    return definition


class _DefinitionUnpickler(pickle.Unpickler):
    #: cloudpickle's class makers, and the place of the tracker's id among their arguments.
    _TRACKED: ClassVar = {"_make_skeleton_class": 4, "_make_skeleton_enum": 5}

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file)
        self.made: list[type] = []

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        place = self._TRACKED.get(name) if module == "cloudpickle.cloudpickle" else None
        if place is None:
            return found

        def make(*args: Any) -> Any:
            self.made.append(found(*args[:place], None, *args[place + 1 :]))
            return self.made[-1]

        return make


def loads(data: bytes) -> Any:
    """Decode what `dumps` or `dumps_home` made. The bytes must be trusted."""
    return pickle.loads(data)


def _not_picklable(value: Any, what: str, error: Exception) -> NotPicklable:
    return NotPicklable(
        f"{what}, of type {type(value).__qualname__}, cannot be sent to another process: {error}. "
        "Send plain data, and open files, connections and locks where they are used"
    )
