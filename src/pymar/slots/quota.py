"""How much the user's code may print: a flood has an end, and what was dropped is counted.

A module of its own, without imports: worker processes load it as they start.
"""

from __future__ import annotations

#: Lines and characters that are shown of one part, and of all parts of a job; the others are counted.
OF_A_PART, OF_A_JOB = (10_000, 1 << 20), (100_000, 10 << 20)


class Quota:
    """What is still shown, and how many lines were not."""

    def __init__(self, quota: tuple[int, int]) -> None:
        self._lines, self._characters = quota
        self.dropped: int = 0

    def has_room(self, line: str) -> bool:
        """Whether this line is shown; if not, it is counted, and so are all after it."""
        if self.dropped or not self._lines or len(line) > self._characters:
            self.dropped += 1
            return False
        self._lines -= 1
        self._characters -= len(line)
        return True

    def told(self) -> str:
        """How many lines were dropped; "" if none was."""
        return f"... and {self.dropped:,} more lines were dropped" if self.dropped else ""
