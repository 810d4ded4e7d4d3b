"""A seat of the pool: one child, and what it is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymar.child import Child
from pymar.parts import Cause, Part

if TYPE_CHECKING:
    from pymar.slotrun import SlotRun


class Seat:
    """Belongs to the pool's thread."""

    def __init__(self, child: Child, where: tuple[Any, ...]) -> None:
        self.child = child
        #: Paths, arguments, folder and environment that the child was told.
        self.where = where
        #: Keys of the runs whose definition it has.
        self.known: set[int] = set()
        #: Keys of runs that are over, which it has not been told.
        self.over: list[int] = []
        #: Whose batch it computes; None while it is idle.
        self.run: SlotRun | None = None
        #: The parts of the batch that it has not reported, in the order in which it computes them.
        self.unreported: dict[int, Part] = {}
        #: When it was given its batch, or last reported; infinity while it loads the job's code.
        self.since = 0.0
        #: When it will be killed; None as long as nobody wants its end.
        self.kill_at: float | None = None
        self.cause: Cause | None = None
        #: Whether its interpreter is up: before that, an interrupt would only make it print a traceback.
        self.ready = False
        #: Whether its process has ended and its pipes are closed.
        self.gone = False

    def is_idle(self) -> bool:
        return self.run is None and self.kill_at is None

    def can_share(self) -> bool:
        """Whether parts of its batch could be given to others."""
        run = self.run
        return run is not None and len(self.unreported) > 1 and self.kill_at is None and run.busy < run.slots

    def begin(self, run: SlotRun, parts: dict[int, Part], now: float) -> None:
        self.run, self.unreported, self.since = run, parts, now

    def end(self) -> None:
        self.run, self.unreported = None, {}

    def needs_watching(self) -> bool:
        """Whether the passing of time alone may call for something."""
        if self.kill_at is not None or (self.run is not None and self.child.ended is None):
            return True
        spec = self.run.spec if self.run is not None else None
        return spec is not None and (spec.part_timeout is not None or spec.memory_limit is not None)

    def overstepped(self, now: float) -> Cause | None:
        """The limit of its job that the child is over."""
        if self.run is None or self.kill_at is not None:
            return None
        spec = self.run.spec
        if spec.part_timeout is not None and now - self.since > spec.part_timeout:
            return Cause("timeout", f"stopped on {self.child.name} after PART_TIMEOUT, {spec.part_timeout:g} s")
        if spec.memory_limit is not None and (used := self.child.memory()) > spec.memory_limit:
            limit = spec.memory_limit
            return Cause("memory", f"stopped on {self.child.name}: {used:,} bytes, over MEMORY_LIMIT of {limit:,}")
        return None
