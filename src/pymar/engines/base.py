"""The two protocols of an engine: it carries parts to where they are computed, and reports back. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pymar.parts import BATCH_SECONDS, JobSpec, Part, Report

__all__ = ["Engine", "Run"]


class Run(Protocol):
    """One job on an engine."""

    def submit(self, parts: Sequence[Part], /) -> None:
        """Hand out a batch, to be computed in order by one worker. Returns at once."""

    def next(self, timeout: float, /) -> list[Report]:
        """What has happened since the last call; [] once `timeout` seconds have passed."""

    def cancel(self, index: int, /) -> None:
        """Stop computing one part, as far as the engine can. Nothing more need be reported of it."""

    def close(self) -> None:
        """Stop everything of this run and leave nothing of it running. May be called twice."""


class Engine(Protocol):
    """Where parts are computed."""

    name: str
    """What it is called in log lines and progress bars."""

    batch_seconds: float = BATCH_SECONDS
    """Seconds of work that a batch is sized for: long enough to hide what a batch costs, short enough to balance."""

    def start(self, job: JobSpec, /) -> Run:
        """Begin a job."""
