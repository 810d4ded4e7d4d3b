"""The events of a job, and their listeners: functions that show something. progress.py: the progress bar.

A listener receives JobStarted, the reports of the job's parts (pymar.parts) with JobProgress after each round of them,
and JobEnded. Among the reports are Joined and Left, of workers, and Connection: the broker is away, is blocked, or is
there again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pymar.parts import Report

__all__ = ["Event", "Exchanged", "JobEnded", "JobProgress", "JobStarted", "Listener"]

log: logging.Logger = logging.getLogger(__name__)


class JobStarted(NamedTuple):
    """A job has been started on an engine."""

    name: str
    """The producer's class."""
    engine: str
    why: str
    """The reason for which this engine was chosen."""
    parts: int | None
    """The number of parts; None while it is unknown."""


class JobProgress(NamedTuple):
    """The state of a job, after each round of reports."""

    done: int
    running: int
    failed: int
    lost: int
    total: int | None
    slots: int = 0
    """Parts that the present workers can compute at once."""
    recalled: int = 0
    """Parts among those done whose partials came from the checkpoint: an earlier run had computed them."""
    set_aside: int = 0
    """Parts that have failed for good, at most MAX_FAILED: they are computed no more in this run."""


class Exchanged(NamedTuple):
    """The first stage of a keyed job is over: what its workers have left for the second."""

    name: str
    """The producer's class."""
    pairs: int
    """How many map_fn has yielded."""
    bytes: int
    partitions: int
    """How many parts the second stage has."""
    largest: int
    """Bytes of the largest of them."""
    hot: tuple[tuple[str, float], ...] = ()
    """Keys that have more than a tenth of all pairs, uncombined, as texts, each with the share that was seen."""


class JobEnded(NamedTuple):
    """A job is over."""

    error: BaseException | None
    seconds: float


Event = JobStarted | JobProgress | JobEnded | Exchanged | Report
Listener = Callable[[Event], None]


def notify(listeners: Sequence[Listener], event: Event) -> None:
    """Call all listeners with an event. If one raises, that is logged, and the job goes on."""
    for listener in listeners:
        try:
            listener(event)
        except Exception:  # a listener only shows things: its errors must not end the job
            log.exception("a listener failed: %r", listener)
