"""Fetches: data that is too large for the message of its part; an agent requests it from the producer in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from pymar.amqp import protocol, timing
from pymar.amqp.chunks import Assembly
from pymar.parts import Part
from pymar.serialization.records import Encoded

#: Pieces of a part's data that are requested at the same time.
_AHEAD = 4


@dataclass(eq=False)
class _Fetch:
    """One part, and the pieces of its data that are here."""

    part: Part
    data: Assembly
    asked_at: float = 0.0
    asked_to: int = 0
    """The end of the last piece that was requested."""


class Fetches:
    """The data of one job's parts that is being fetched, which it owns. Agent's thread only.

    Args:
        ask: requests the piece of a part's data that begins at a position: `ask(index, start)`.
    """

    def __init__(self, ask: Callable[[int, int], None]) -> None:
        self._ask_for = ask
        self._waiting: dict[int, _Fetch] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._waiting

    def begin(self, part: Part) -> None:
        """Fetch the data of a part that was delivered with size and digest of its data.

        Raises:
            ValueError: no data has such a size.
        """
        self._waiting[part.index] = fetch = _Fetch(part, Assembly(*part.data))
        self._ask(fetch, _AHEAD)

    def received(self, piece: protocol.Piece) -> Part | None:
        """Take a piece; return the part with its data if that is complete now, else None.

        Raises:
            ValueError: the piece does not fit, or the data is not the announced one; it is fetched again, later.
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
        """Stop fetching the data of a part."""
        self._waiting.pop(index, None)

    def retry(self, now: float) -> None:
        """Request again what was requested long ago and is not here."""
        for fetch in self._waiting.values():
            if now - fetch.asked_at > timing.FETCH_AGAIN:
                self._ask_from_first_gap(fetch, 1)

    def ask_again(self) -> None:
        """Request again what is not here, since answers went to a queue that no longer exists."""
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
