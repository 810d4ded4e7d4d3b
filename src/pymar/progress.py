"""A progress bar on a terminal: a listener."""

from __future__ import annotations

import sys
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
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.fields[of]} parts"),
            TextColumn("[dim]{task.fields[others]}[/]"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobProgress):
            self._progress(event)
        elif isinstance(event, JobStarted):
            of = "?" if event.parts is None else f"{event.parts:,}"
            self._bar.console.print(f"{event.name} on {event.engine} ({event.why})", highlight=False)
            self._task = self._bar.add_task(event.name, total=event.parts, of=of, others="", rate="")
            self._bar.start()
        elif isinstance(event, JobEnded):
            self._bar.stop()

    def _progress(self, event: JobProgress) -> None:
        counts = (("running", event.running), ("failed", event.failed), ("lost", event.lost))
        others = ", ".join(f"{count:,} {what}" for what, count in counts if count)
        speed = self._bar.tasks[0].speed
        rate = f"{speed:,.0f}/s" if speed else ""
        self._bar.update(self._task, completed=event.done, others=others, rate=rate)
