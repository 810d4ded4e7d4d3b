"""Large values, put together from their pieces, in whatever order and however often those come."""

from __future__ import annotations

from hashlib import blake2b

#: Bytes of the largest value that is put together, whatever a message says.
LARGEST = 1 << 31
#: Senders of one part's value at a time: more than there are copies of a part.
_SENDERS = 8


def digest_of(data: bytes) -> bytes:
    """What tells one value from another: 16 bytes."""
    return blake2b(data, digest_size=16).digest()


class Assembly:
    """One value of `total` bytes. Memory is taken as pieces come, not as they are announced.

    Raises:
        ValueError: a piece does not fit, or the whole is not what was announced.
    """

    def __init__(self, total: int, digest: bytes) -> None:
        if not 0 < total <= LARGEST:
            raise ValueError("a size that no value has")
        self.total = total
        self._digest = digest
        self._pieces: dict[int, bytes] = {}
        self.size: int = 0

    def add(self, start: int, piece: bytes) -> None:
        """A piece, from `start` of the whole; one that is here already changes nothing."""
        if start < 0 or not piece or start + len(piece) > self.total:
            raise ValueError("a piece that is outside of its value")
        if start not in self._pieces:
            if self.size + len(piece) > self.total:
                raise ValueError("pieces that overlap")
            self._pieces[start] = piece
            self.size += len(piece)

    @property
    def next_start(self) -> int:
        """Where the first piece that is missing begins."""
        end = 0
        while end in self._pieces:
            end += len(self._pieces[end])
        return end

    def whole(self) -> bytes | None:
        """The value, once all of it is here."""
        if self.size < self.total:
            return None
        value = b"".join(self._pieces[start] for start in sorted(self._pieces))
        if len(value) != self.total or digest_of(value) != self._digest:
            raise ValueError("a value that is not the sum of its pieces")
        return value


class Assemblies:
    """Values of parts on their way, each by part, and by who sends it."""

    def __init__(self) -> None:
        self._values: dict[int, dict[tuple[bytes, bytes], Assembly]] = {}

    def add(
        self, index: int, sender: tuple[bytes, bytes], total: int, digest: bytes, piece: tuple[int, bytes]
    ) -> bytes | None:
        """A piece, with its start; the value, if that is whole now.

        Raises:
            ValueError: the piece does not fit; the value is forgotten.
        """
        of_part = self._values.setdefault(index, {})
        try:
            if sender not in of_part:
                while len(of_part) >= _SENDERS:
                    del of_part[next(iter(of_part))]
                of_part[sender] = Assembly(total, digest)
            of_part[sender].add(*piece)
            return of_part[sender].whole()
        except ValueError:
            of_part.pop(sender, None)
            raise

    def forget(self, index: int) -> None:
        """A part is finished."""
        self._values.pop(index, None)

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()
