"""When to start a worker process again after starts that failed: less and less often, without ever giving up."""

from __future__ import annotations

#: Starts that fail in a row before the next one has to wait for a pause.
TRIES = 3
#: Seconds: between two of these starts (times the failures so far); the first pause after them; the longest pause.
BETWEEN, FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0, 60.0


class Starts:
    """The failed starts of all worker processes of a pool, or of those that load one job's code.

    Reads no clock: the time is an argument. Pool thread only.
    """

    def __init__(self) -> None:
        #: Why the last start failed.
        self.why: str = ""
        #: How often TRIES starts have failed in a row.
        self.episodes: int = 0
        #: Starts that have failed in a row.
        self.failures: int = 0
        self._counted_at = self._again_at = float("-inf")
        self._pause = FIRST_PAUSE

    @property
    def keep_failing(self) -> bool:
        """True if TRIES or more have failed in a row: the next start has to wait for a pause."""
        return self.failures >= TRIES

    def failed(self, why: str, began: float, now: float) -> bool:
        """Count a failure of a start made at `began`; return True if a pause begins with it.

        Processes that were started together count as one failure.
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
        """Begin counting anew: a start has succeeded."""
        self.failures = 0
        self._pause = FIRST_PAUSE

    def again(self) -> None:
        """Allow another start at once: what was wrong may have changed."""
        self._again_at = float("-inf")

    def may(self, now: float) -> bool:
        """True if another start is allowed now."""
        return now >= self._again_at

    def wait(self, now: float) -> float:
        """Return the seconds until another start is allowed."""
        return max(0.0, self._again_at - now)
