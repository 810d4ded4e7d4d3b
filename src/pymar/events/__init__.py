"""What listeners hear: the reports of a job's parts, and its beginning and end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pymar.parts import Report

__all__ = ["Event", "JobEnded", "JobProgress", "JobStarted", "Listener"]

log: logging.Logger = logging.getLogger(__name__)


class JobStarted(NamedTuple):
    """A job has been handed to an engine."""

    name: str
    """The producer's class."""
    engine: str
    why: str
    parts: int | None
    """None until it is known how many there are."""


class JobProgress(NamedTuple):
    """Where a job stands, after each round of reports."""

    done: int
    running: int
    failed: int
    lost: int
    total: int | None
    slots: int = 0
    """How many parts the workers that are there can compute at once."""
    recalled: int = 0
    """How many of those that are done an earlier run had computed: they came out of the checkpoint."""


class JobEnded(NamedTuple):
    """A job is over."""

    error: BaseException | None
    seconds: float


Event = JobStarted | JobProgress | JobEnded | Report
Listener = Callable[[Event], None]


def tell(listeners: Sequence[Listener], event: Event) -> None:
    """Tell all listeners; one that raises is logged, and the job goes on."""
    for listener in listeners:
        try:
            listener(event)
        except Exception:  # a listener only shows things: what is wrong with it must not end the job
            log.exception("a listener failed: %r", listener)
