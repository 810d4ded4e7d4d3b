"""The protocols of an engine: it carries parts to where they are computed and reports back, and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pymar.events import JobProgress
from pymar.parts import BATCH_SECONDS, JobSpec, Part, Report

__all__ = ["Engine", "Run"]


class Run(Protocol):
    """One job on an engine. All methods are called in the thread that runs the job."""

    def submit(self, parts: Sequence[Part], /) -> None:
        """Send a batch, to be computed in order by one worker. Return at once."""

    def next(self, timeout: float, /) -> list[Report]:
        """Return the reports since the last call; [] once `timeout` seconds have passed."""

    def cancel(self, index: int, /) -> None:
        """Stop computing one part, as far as the engine can. No report of it is needed any more."""

    def close(self) -> None:
        """Stop everything of this run, so that nothing of it goes on. May be called twice."""


@runtime_checkable
class Noting(Protocol):
    """A run that others can ask how far its job is, as `pymar jobs` does: it is told after each round of reports."""

    def note(self, progress: JobProgress, /) -> None:
        """Take the job's numbers. Return at once."""


class Engine(Protocol):
    """Computes the parts of jobs. Any thread may call `start`."""

    name: str
    """Its name in log lines and progress bars."""

    batch_seconds: float = BATCH_SECONDS
    """Seconds of work that a batch is sized for: long enough to hide what a batch costs, short enough to balance."""

    def start(self, job: JobSpec, /) -> Run:
        """Begin a job; return its run."""
