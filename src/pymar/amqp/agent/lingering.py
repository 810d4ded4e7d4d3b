"""Lingering: when an agent ends by itself, since it has nothing to do or cannot reach its broker. No I/O."""

from __future__ import annotations

#: Seconds between two looks; with more, this process itself was stopped, and nothing follows from that time.
_STOPPED = 3.0


class Lingering:
    """Since when an agent has had nothing to do, and since when its broker is away. It owns both. Agent's thread only.

    Args:
        idle: seconds without a part and without a job after which it ends; 0 for never.
        away: seconds without the broker, likewise.
        now: the time, in seconds of a clock that never goes back.
    """

    def __init__(self, idle: float, away: float, now: float) -> None:
        self._idle, self._away = idle, away
        self._looked_at = self._busy_at = self._up_at = now

    def look(self, now: float, *, is_busy: bool, is_up: bool) -> str:
        """Return why the agent is to end now; "" if it is not."""
        stopped = now - self._looked_at
        if stopped > _STOPPED:
            self._busy_at += stopped
            self._up_at += stopped
        self._looked_at = now
        if is_busy:
            self._busy_at = now
        if is_up:
            self._up_at = now
        if self._idle and now - self._busy_at >= self._idle:
            return f"no part and no job for {self._idle:g} s (--idle)"
        if self._away and now - self._up_at >= self._away:
            return f"the broker was out of reach for {self._away:g} s (--away)"
        return ""
