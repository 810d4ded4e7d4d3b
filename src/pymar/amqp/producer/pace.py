"""Pace: how far a job is by its own numbers, and how many parts it finishes a second. No I/O; the time is given."""

from __future__ import annotations

from collections import deque

from pymar.events import JobProgress

#: Seconds between two samples, and that the rate is taken over.
_SAMPLE_EVERY, _RATE_OVER = 1.0, 30.0


class Pace:
    """The latest numbers of a job, and samples of how many parts were computed. One thread notes, any thread reads.

    Args:
        now: the time, in seconds of a clock that never goes back.
        since: the time of day at which the job began, in seconds since 1970.
    """

    def __init__(self, now: float, since: float) -> None:
        self.since: float = since
        self.progress: JobProgress = JobProgress(0, 0, 0, 0, None)
        self._samples: deque[tuple[float, int]] = deque([(now, 0)])

    def note(self, progress: JobProgress, now: float) -> None:
        """Take the job's numbers."""
        self.progress = progress
        if now - self._samples[-1][0] >= _SAMPLE_EVERY:
            self._samples.append((now, progress.done - progress.recalled))
            while len(self._samples) > 2 and self._samples[1][0] <= now - _RATE_OVER:
                self._samples.popleft()

    def rate(self, now: float) -> float:
        """Return the parts a second that were computed in the last half minute, or since the job began."""
        began, before = self._samples[0]
        computed = self.progress.done - self.progress.recalled - before
        return max(0.0, computed / (now - began)) if now > began else 0.0
