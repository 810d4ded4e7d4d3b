"""How much the user's code may print: a flood has an end, and what was dropped is counted.

A module of its own, without imports: worker processes load it as they start.
"""

from __future__ import annotations

#: Lines and characters that are shown of one part, and of all parts of a job; the others are counted.
OF_A_PART, OF_A_JOB = (10_000, 1 << 20), (100_000, 10 << 20)


class Quota:
    """How many lines and characters may still be shown, and how many lines were not.

    One thread at a time.
    """

    def __init__(self, quota: tuple[int, int]) -> None:
        self._lines, self._characters = quota
        self.dropped: int = 0

    def has_room(self, line: str) -> bool:
        """True if this line may be shown; otherwise it is counted as dropped, and so are all lines after it."""
        if self.dropped or not self._lines or len(line) > self._characters:
            self.dropped += 1
            return False
        self._lines -= 1
        self._characters -= len(line)
        return True

    def summary(self) -> str:
        """Return how many lines were dropped, as text; "" if none was."""
        return f"... and {self.dropped:,} more lines were dropped" if self.dropped else ""
