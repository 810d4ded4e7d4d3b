"""Large values, assembled from pieces that may arrive in any order, and more than once. No I/O."""

from __future__ import annotations

from hashlib import blake2b

#: Bytes of the largest value that is assembled, whatever size a message announces.
LARGEST = 1 << 31
#: Senders of one part's value at a time; more than there are executions of a part.
_SENDERS = 8


def digest_of(data: bytes) -> bytes:
    """Return 16 bytes that differ for different data."""
    return blake2b(data, digest_size=16).digest()


class Assembly:
    """One value of `total` bytes, and the pieces of it that have arrived, which it owns.

    Memory is taken as pieces arrive, not as they are announced. One thread at a time.

    Raises:
        ValueError: no value has this size.
    """

    def __init__(self, total: int, digest: bytes) -> None:
        if not 0 < total <= LARGEST:
            raise ValueError("a size that no value has")
        self.total = total
        self._digest = digest
        self._pieces: dict[int, bytes] = {}
        self.size: int = 0

    def add(self, start: int, piece: bytes) -> None:
        """Keep a piece that begins at `start`; one that is here already changes nothing.

        Raises:
            ValueError: it does not fit.
        """
        if start < 0 or not piece or start + len(piece) > self.total:
            raise ValueError("a piece that is outside of its value")
        if start not in self._pieces:
            if self.size + len(piece) > self.total:
                raise ValueError("pieces that overlap")
            self._pieces[start] = piece
            self.size += len(piece)

    @property
    def next_start(self) -> int:
        """The start of the first missing piece."""
        end = 0
        while end in self._pieces:
            end += len(self._pieces[end])
        return end

    def whole(self) -> bytes | None:
        """Return the value once all of it is here, else None.

        Raises:
            ValueError: the digest of the pieces is not the announced one.
        """
        if self.size < self.total:
            return None
        value = b"".join(self._pieces[start] for start in sorted(self._pieces))
        if len(value) != self.total or digest_of(value) != self._digest:
            raise ValueError("a value that is not the sum of its pieces")
        return value


class Assemblies:
    """The incomplete values of one job, by part and by sender; it owns them. One thread at a time."""

    def __init__(self) -> None:
        self._values: dict[int, dict[tuple[bytes, bytes], Assembly]] = {}

    def add(
        self, index: int, sender: tuple[bytes, bytes], total: int, digest: bytes, piece: tuple[int, bytes]
    ) -> bytes | None:
        """Keep a piece, given with its start; return the value if it is complete now, else None.

        Raises:
            ValueError: the piece does not fit; all pieces of this sender's value are dropped.
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
        """Drop the pieces of a part that is finished."""
        self._values.pop(index, None)

    def clear(self) -> None:
        """Drop all pieces."""
        self._values.clear()
