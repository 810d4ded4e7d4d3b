"""Pausing: when an agent takes no parts for a while, since it cannot compute what is in its queue. No I/O."""

from __future__ import annotations

from pymar.amqp import timing


class Pausing:
    """The pause of one agent, and how long the next one is; it owns both.

    A pause ends once the job file is the one that the agent serves, worker processes start, and some seconds have
    passed. If the file was another one meanwhile, no time has to pass. Agent's thread only.
    """

    def __init__(self) -> None:
        self.is_on: bool = False
        #: Why parts are not taken; "" while they are.
        self.why: str = ""
        #: True if the worker processes are to be replaced before parts are taken again.
        self.renews: bool = False
        self._seconds = timing.REFUSED_PAUSE
        self._until = 0.0
        self._file_differed = False

    def begin(self, why: str, now: float, *, renews: bool, grows: bool) -> float | None:
        """Pause; return for how many seconds at least, or None if it is on already.

        Args:
            renews: replace the worker processes before parts are taken again.
            grows: pause twice as long each time in a row.
        """
        self.renews |= renews
        if self.is_on:
            return None
        self.is_on, self.why = True, why
        seconds = self._seconds if grows else timing.REFUSED_PAUSE
        self._until = now + seconds
        if grows:
            self._seconds = min(2 * self._seconds, timing.LONGEST_REFUSED_PAUSE)
        self._file_differed = False
        return seconds

    def end(self) -> None:
        """Take parts again."""
        self.is_on = self.renews = False
        self.why = ""

    def computed(self) -> None:
        """Make the next pause a short one, since something was computed."""
        self._seconds = timing.REFUSED_PAUSE

    def may_end(self, now: float, *, file_is_right: bool, processes_start: bool) -> bool:
        """True if parts may be taken again."""
        if not file_is_right:
            self._file_differed = True
            return False
        return processes_start and (self._file_differed or now >= self._until)
