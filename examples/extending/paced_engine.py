"""An engine that begins at most so many parts a second: for jobs whose parts ask a service that bears no more."""

from collections import deque
from collections.abc import Sequence
from time import monotonic

from pymar import DataSourceFactory, Producer
from pymar.engines import named
from pymar.engines.base import Engine, Run
from pymar.parts import JobSpec, Part, Report


class PacedEngine:
    """Another engine, with a pace."""

    def __init__(self, engine: Engine | str, parts_per_second: float) -> None:
        self._engine = named(engine) if isinstance(engine, str) else engine
        self._interval = 1 / parts_per_second
        self.name = f"{self._engine.name}, {parts_per_second:g} parts a second"
        self.batch_seconds = self._engine.batch_seconds

    def start(self, job: JobSpec, /) -> Run:
        return PacedRun(self._engine.start(job), self._interval)


class PacedRun:
    """Holds parts back until it is their time; all else is the other engine's."""

    def __init__(self, run: Run, interval: float) -> None:
        self._run = run
        self._interval = interval
        self._waiting: deque[Part] = deque()
        self._next_at = 0.0  # when the next part may begin, on the clock `monotonic`

    def submit(self, parts: Sequence[Part], /) -> None:
        self._waiting.extend(parts)

    def next(self, timeout: float, /) -> list[Report]:
        patience = self.hand_out(monotonic())
        return self._run.next(min(timeout, patience))

    def cancel(self, index: int, /) -> None:
        self._waiting = deque(part for part in self._waiting if part.index != index)
        self._run.cancel(index)

    def close(self) -> None:
        self._waiting.clear()
        self._run.close()

    def hand_out(self, now: float) -> float:
        """Submit the next part if it is time; return for how many seconds there is nothing to submit."""
        if self._waiting and self._next_at <= now:
            self._run.submit([self._waiting.popleft()])
            self._next_at = now + self._interval
        return self._next_at - now if self._waiting else float("inf")


class Lengths(Producer):
    """The total length of some pages; each part is one page."""

    BACKUPS = 0  # a part that waits here for its time would be taken for a slow one, and be computed twice

    @staticmethod
    def map_fn(pages):
        return (len(page) for page in pages)  # here would stand the request

    @staticmethod
    def reduce_fn(lengths):
        return sum(lengths)


if __name__ == "__main__":
    engine = PacedEngine("processes://2", parts_per_second=20)
    print("Total length:", Lengths(engine=engine).map(DataSourceFactory(["one", "three", "fifteen"])))
