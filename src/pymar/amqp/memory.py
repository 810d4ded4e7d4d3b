"""What an agent remembers for a while: definitions, and what is over; the oldest is forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Memory(Generic[Key, Value]):
    """At most `most` things, by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: OrderedDict[Key, Value] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._things

    def keep(self, key: Key, value: Value) -> None:
        """Remember something."""
        self._things[key] = value
        self._things.move_to_end(key)
        if len(self._things) > self._most:
            self._things.popitem(last=False)

    def get(self, key: Key) -> Value | None:
        """What is remembered, which is thereby young again."""
        if key in self._things:
            self._things.move_to_end(key)
        return self._things.get(key)

    def forget(self, key: Key) -> None:
        """No longer; nothing happens if it was not remembered."""
        self._things.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._things.clear()
