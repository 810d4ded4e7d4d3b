"""Fetches: data of parts that are too large to travel with them, which an agent asks for in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from pymar.amqp import protocol, timing
from pymar.amqp.chunks import Assembly
from pymar.parts import Part
from pymar.serialization.records import Encoded

#: Pieces of a part's data that are asked for ahead.
_AHEAD = 4


@dataclass(eq=False)
class _Fetch:
    """One part, and what there is of its data."""

    part: Part
    data: Assembly
    asked_at: float = 0.0
    asked_to: int = 0
    """Up to where pieces were asked for."""


class Fetches:
    """Of one job. `ask` asks its producer for the piece of a part's data that begins somewhere."""

    def __init__(self, ask: Callable[[int, int], None]) -> None:
        self._ask_for = ask
        self._waiting: dict[int, _Fetch] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._waiting

    def begin(self, part: Part) -> None:
        """Fetch the data of a part that came with its size and digest.

        Raises:
            ValueError: no data has such a size.
        """
        self._waiting[part.index] = fetch = _Fetch(part, Assembly(*part.data))
        self._ask(fetch, _AHEAD)

    def came(self, piece: protocol.Piece) -> Part | None:
        """Some data has come; its part, if that has all of it now.

        Raises:
            ValueError: it is not what it should be; the data is fetched from the beginning, in a while.
        """
        fetch = self._waiting.get(piece.index)
        if fetch is None:
            return None
        before = fetch.data.size
        try:
            fetch.data.add(piece.start, piece.data)
            data = fetch.data.whole()
        except ValueError:
            fetch.data = Assembly(*fetch.part.data)
            raise
        if data is not None:
            del self._waiting[piece.index]
            return fetch.part._replace(data=Encoded(data))
        if fetch.data.size > before:
            self._ask(fetch, 1)
        return None

    def forget(self, index: int) -> None:
        """Nobody wants a part's data any more."""
        self._waiting.pop(index, None)

    def look_around(self, now: float) -> None:
        """Ask again for what has not come for long."""
        for fetch in self._waiting.values():
            if now - fetch.asked_at > timing.FETCH_AGAIN:
                self._ask_from_first_gap(fetch, 1)

    def ask_again(self) -> None:
        """What was on its way to us has gone to a queue that we no longer have."""
        for fetch in self._waiting.values():
            self._ask_from_first_gap(fetch, _AHEAD)

    def _ask_from_first_gap(self, fetch: _Fetch, pieces: int) -> None:
        fetch.asked_to = fetch.data.next_start
        self._ask(fetch, pieces)

    def _ask(self, fetch: _Fetch, pieces: int) -> None:
        fetch.asked_at = monotonic()
        for _ in range(pieces):
            if fetch.asked_to < fetch.data.total:
                self._ask_for(fetch.part.index, fetch.asked_to)
                fetch.asked_to += protocol.CHUNK
