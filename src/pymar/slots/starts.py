"""Starts: whether child processes come up. Those that do not are tried again more and more seldom, not without end."""

from __future__ import annotations

#: Children that fail one after the other, before nothing is expected of the next.
TRIES = 3
#: Seconds between two of these; then until another is tried: the first time, and the longest.
BETWEEN, FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0, 60.0


class Starts:
    """Of all children of a pool, or of those that load one job's code. The time is given."""

    def __init__(self) -> None:
        #: Why the last one failed.
        self.why: str = ""
        #: How often the hope was lost that another would come up.
        self.episodes: int = 0
        #: How many have failed in a row.
        self.failures: int = 0
        self._counted_at = self._again_at = float("-inf")
        self._pause = FIRST_PAUSE

    @property
    def keep_failing(self) -> bool:
        """Whether so many have failed in a row that the next is only tried after a pause."""
        return self.failures >= TRIES

    def failed(self, why: str, began: float, now: float) -> bool:
        """One that was started at `began` did not come up; whether that was the last hope, for now.

        Those that were started together count as one.
        """
        self.why = why
        if began <= self._counted_at:
            return False
        self._counted_at = now
        self.failures += 1
        if not self.keep_failing:
            self._again_at = now + BETWEEN * self.failures
            return False
        self.episodes += 1
        self._again_at = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return True

    def succeeded(self) -> None:
        """One has come up."""
        self.failures = 0
        self._pause = FIRST_PAUSE

    def again(self) -> None:
        """Another may be tried now: there is a reason to."""
        self._again_at = float("-inf")

    def may(self, now: float) -> bool:
        """Whether another may be tried."""
        return now >= self._again_at

    def wait(self, now: float) -> float:
        """Seconds until another may be tried."""
        return max(0.0, self._again_at - now)
