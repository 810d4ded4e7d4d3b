"""How much the user's code may print, in all and at a time: a flood has an end, and what was dropped is counted.

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
        return and_more(self.dropped) if self.dropped else ""


def and_more(lines: int) -> str:
    """Return that so many lines were dropped, as the last of those that were not."""
    return f"... and {lines:,} more lines were dropped"


class Rate:
    """How often something may happen: `a_second` on average, at most `burst` at once (a token bucket). Time is given.

    One thread at a time.
    """

    def __init__(self, a_second: float, burst: int, now: float) -> None:
        self._a_second, self._burst = a_second, float(burst)
        self._left, self._at = self._burst, now

    def may(self, now: float, spare: int = 0) -> bool:
        """True if it may happen now, which then counts; `spare`: only if so many more may happen at once after it."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._a_second)
        self._at = now
        if self._left < 1 + spare:
            return False
        self._left -= 1
        return True
