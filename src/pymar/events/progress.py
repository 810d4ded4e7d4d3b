"""A progress bar on a terminal: a listener."""

from __future__ import annotations

import sys
from datetime import timedelta
from time import monotonic
from typing import Any

from pymar.events import Event, Exchanged, JobEnded, JobProgress, JobStarted, Listener
from pymar.parts import Connection


def on_terminal(wanted: bool | None) -> list[Listener]:
    """Return a progress bar if it is wanted (None: if stderr is a terminal), in a list; else []."""
    if wanted is None:
        try:
            wanted = sys.stderr.isatty()
        except (AttributeError, ValueError):
            wanted = False  # stderr is absent or closed, or is an object without isatty()
    return [ProgressBar()] if wanted else []


class ProgressBar:
    """A listener that shows parts done, running, failed and lost, parts per second and the time left; the engine above.

    Called in the thread that runs the job.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(), TextColumn("{task.completed:,.0f}/{task.fields[of]} parts{task.fields[status]}"))
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._began = monotonic()
        self._task: Any = None
        #: What disturbs the way to the workers, and since when; "" for nothing.
        self._trouble, self._since = "", 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobProgress):
            self._progress(event)
        elif isinstance(event, Connection):
            self._trouble, self._since = event.trouble, monotonic()
        elif isinstance(event, JobStarted):
            of = "?" if event.parts is None else f"{event.parts:,}"
            self._bar.console.print(
                f"{event.name}: {of} parts, engine {event.engine} ({event.why})", highlight=False, markup=False
            )
            self._began, self._trouble = monotonic(), ""
            self._task = self._bar.add_task("", total=event.parts, of=of, status="")
            self._bar.start()
        elif isinstance(event, Exchanged):
            self._bar.console.print(exchanged_text(event), highlight=False, markup=False)
        elif isinstance(event, JobEnded):
            self._bar.update(self._task, status=f" in {event.seconds:.1f} s")
            self._bar.stop()

    def _progress(self, event: JobProgress) -> None:
        now = monotonic()
        status = status_of(event, now - self._began)
        if self._trouble:
            status.insert(0, trouble_text(self._trouble, now - self._since))
        self._bar.update(self._task, completed=event.done, status="".join(f", {text}" for text in status))


def trouble_text(trouble: str, seconds: float) -> str:
    """Return a text about what disturbs the way to the workers."""
    return f"{trouble} for {seconds:.0f} s, parts go on at the workers"


def exchanged_text(event: Exchanged) -> str:
    """Return a line about what the workers of a keyed job have exchanged."""
    hot = "".join(f"; the key {key} has at least {share:.0%} of the pairs" for key, share in event.hot)
    return (
        f"{event.name}: {event.pairs:,} pairs, {event.bytes / 1e6:,.1f} MB exchanged, {event.partitions} partitions, "
        f"the largest {event.largest / 1e6:,.1f} MB{hot}"
    )


def status_of(event: JobProgress, seconds: float) -> list[str]:
    """Return texts: parts that run, failed, were lost; speed and time left, from the parts done in `seconds`."""
    texts = [f"{event.running:,} running on {event.slots:,} slots" if event.slots else "no workers yet"]
    texts += [f"{count:,} {what}" for what, count in (("failed", event.failed), ("lost", event.lost)) if count]
    if event.set_aside:
        texts.append(f"{event.set_aside:,} set aside")
    if event.recalled:
        texts.append(f"{event.recalled:,} from the checkpoint")
    if event.done > event.recalled and seconds > 0:
        rate = (event.done - event.recalled) / seconds
        texts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
        if event.total is not None:
            remaining = event.total - event.done - event.set_aside
            texts.append(f"{timedelta(seconds=round(remaining / rate))} left")
    return texts
