"""Classes that travel by value, and stay one class: the records, the code and the results all mean the same.

    at home    byvalue.Outward: class -> its token, and how to make it -----> make(): one for each definition
               home(): the class itself <----- token <----- byvalue.Homeward      in a worker

cloudpickle does this with a tracker of its own, which we leave out: it gives a class that a worker has seen before the
attributes of the newest definition, and two jobs of one class, with other globals, would compute each other's code.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

# Tokens of the classes of this process, and of those that were made here for another's.
_tokens: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_at_home: WeakValueDictionary[str, type] = WeakValueDictionary()
_numbers = count()

# The classes that came with the definition in use; those of all that have their attributes.
_in_use: dict[str, type] = {}
_filled: WeakSet[type] = WeakSet()


def use(classes: dict[str, type]) -> None:
    """In a worker: from now on classes are those of this definition; new ones are added to it."""
    global _in_use
    _in_use = classes


def token_of(cls: type) -> str:
    """What a class that travels by value is called on the way."""
    token = _tokens.get(cls)
    if token is None:
        token = _tokens[cls] = f"{os.urandom(8).hex()}-{next(_numbers)}"
    _at_home[token] = cls
    return token


def came_with_token(cls: type) -> str | None:
    """The token of a class that has travelled, either way."""
    return _tokens.get(cls)


def make(token: str, qualname: str, maker: Any, arguments: tuple[Any, ...]) -> type:
    """The class of this token in the definition in use, made if it is new there."""
    cls: type | None = _in_use.get(token)
    if cls is None:
        cls = _in_use[token] = maker(*arguments)
        cls.__qualname__ = qualname
        _tokens[cls] = token
    return cls


def fill(cls: type, state: tuple[Any, Any]) -> None:
    """Give a new class its attributes; one that has them keeps them."""
    if cls in _filled:
        return
    _filled.add(cls)
    setter, attributes = state
    setter(cls, attributes)
    if cls.__module__ == "__main__" and cls.__qualname__ == cls.__name__:
        setattr(sys.modules["__main__"], cls.__name__, cls)  # where code that looks it up by name expects it


def home(token: str, qualname: str) -> Any:
    """The class of this token; or what has the name in `__main__`: a function, or a class of an earlier process."""
    found: Any = _at_home.get(token) or _in_use.get(token)
    if found is None:
        found = sys.modules["__main__"]
        for name in qualname.split("."):
            found = getattr(found, name)
    return found
