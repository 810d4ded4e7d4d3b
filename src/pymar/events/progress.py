"""A progress bar on a terminal: a listener."""

from __future__ import annotations

import sys
from datetime import timedelta
from time import monotonic
from typing import Any

from pymar.events import Event, JobEnded, JobProgress, JobStarted, Listener


def on_terminal(wanted: bool | None) -> list[Listener]:
    """A progress bar if stderr is a terminal; always with True, never with False."""
    if wanted is None:
        try:
            wanted = sys.stderr.isatty()
        except (AttributeError, ValueError):
            wanted = False  # There is no stderr, or it is closed, or it is something simpler than a file.
    return [ProgressBar()] if wanted else []


class ProgressBar:
    """Parts done, running, failed and lost; parts a second; time left. With what runs where above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(), TextColumn("{task.completed:,.0f}/{task.fields[of]} parts{task.fields[status]}"))
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._began = monotonic()
        self._task: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobProgress):
            self._progress(event)
        elif isinstance(event, JobStarted):
            of = "?" if event.parts is None else f"{event.parts:,}"
            self._bar.console.print(
                f"{event.name}: {of} parts, engine {event.engine} ({event.why})", highlight=False, markup=False
            )
            self._began = monotonic()
            self._task = self._bar.add_task("", total=event.parts, of=of, status="")
            self._bar.start()
        elif isinstance(event, JobEnded):
            self._bar.update(self._task, status=f" in {event.seconds:.1f} s")
            self._bar.stop()

    def _progress(self, event: JobProgress) -> None:
        status = status_of(event, monotonic() - self._began)
        self._bar.update(self._task, completed=event.done, status="".join(f", {text}" for text in status))


def status_of(event: JobProgress, seconds: float) -> list[str]:
    """What runs, failed and was lost; and, from the parts computed in these seconds, the speed and time left."""
    told = [f"{event.running:,} running on {event.slots:,} slots" if event.slots else "no workers yet"]
    told += [f"{count:,} {what}" for what, count in (("failed", event.failed), ("lost", event.lost)) if count]
    if event.recalled:
        told.append(f"{event.recalled:,} from the checkpoint")
    if event.done > event.recalled and seconds > 0:
        rate = (event.done - event.recalled) / seconds
        told.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        if event.total is not None:
            told.append(f"{timedelta(seconds=round((event.total - event.done) / rate))} left")
    return told
