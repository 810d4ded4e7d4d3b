"""Which worker of a cluster a task goes to, where the cluster itself would let it wait behind a busy one.

Each worker has as many tasks as it has slots, and `AHEAD` more, so that it need not wait for the next; the rest is held
back. A worker with a free slot takes those over that wait behind a dear one elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

#: Tasks that wait at each worker, to begin as soon as a slot of it is free.
AHEAD = 1
#: Seconds without the end of a task, after which those that wait at a worker may go to others. Sooner, the next one may
#: have begun, and nobody here knows it yet.
RELIEVE_AFTER = 0.2


class Placement:
    """Who has which tasks, by what was said so far. Tasks begin in the order in which a worker got them."""

    def __init__(self) -> None:
        self._held: deque[str] = deque()
        self._slots: Mapping[str, int] = {}
        self._tasks: dict[str, list[str]] = {}
        #: When each worker last ended a task, or got one while it had none.
        self._stirred: dict[str, float] = {}

    def there_are(self, workers: Mapping[str, int]) -> None:
        """These workers, with so many slots each. Tasks of others are no longer minded."""
        self._slots = workers
        self._tasks = {worker: self._tasks.get(worker, []) for worker, slots in workers.items() if slots > 0}

    def add(self, task: str) -> None:
        """A new task, for a worker or to be held back."""
        self._held.append(task)

    def moves(self, now: float) -> Iterator[tuple[str, str]]:
        """Tasks, and the worker that each goes to now; it may have waited at another."""
        while self._held and self._tasks:
            idlest = max(self._tasks, key=self._free)
            if self._free(idlest) <= -AHEAD:
                break
            yield self._give(self._held.popleft(), idlest, now)
        for worker, tasks in self._tasks.items():
            if now - self._stirred.get(worker, now) < RELIEVE_AFTER:
                continue
            while self._free(worker) < 0 < self._free(idlest := max(self._tasks, key=self._free)):
                yield self._give(tasks.pop(), idlest, now)

    def ended(self, task: str, now: float) -> None:
        """The task is nowhere any more."""
        for worker, tasks in self._tasks.items():
            if task in tasks:
                tasks.remove(task)
                self._stirred[worker] = now
                return
        if task in self._held:
            self._held.remove(task)

    def _give(self, task: str, worker: str, now: float) -> tuple[str, str]:
        if not self._tasks[worker]:
            self._stirred[worker] = now
        self._tasks[worker].append(task)
        return task, worker

    def _free(self, worker: str) -> int:
        return self._slots[worker] - len(self._tasks[worker])
