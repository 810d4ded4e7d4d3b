"""Which worker of a cluster gets which task, where the cluster itself would let tasks wait behind a slow one.

Each worker has as many tasks as it has slots, and `AHEAD` more, so that it need not wait for the next; the others are
held back. Tasks that wait behind a slow one are moved to a worker with a free slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

#: Tasks that wait at each worker, so that one begins as soon as a slot there is free.
AHEAD = 1
#: Seconds without the end of a task at a worker, after which its waiting tasks may be moved. Earlier, the next one may
#: have begun without that being known here.
RELIEVE_AFTER = 0.2


class Placement:
    """Which worker has which tasks. A worker begins tasks in the order in which it got them. Thread of the job only."""

    def __init__(self) -> None:
        self._held: deque[str] = deque()
        self._slots: Mapping[str, int] = {}
        self._tasks: dict[str, list[str]] = {}
        #: When each worker last ended a task, or got one while it had none.
        self._changed_at: dict[str, float] = {}

    def there_are(self, workers: Mapping[str, int]) -> None:
        """Set the present workers, with the slots of each. Drop the tasks of workers that are gone."""
        self._slots = workers
        self._tasks = {worker: self._tasks.get(worker, []) for worker, slots in workers.items() if slots > 0}

    def add(self, task: str) -> None:
        """Add a new task; it is held back until `moves` gives it a worker."""
        self._held.append(task)

    def moves(self, now: float) -> Iterator[tuple[str, str]]:
        """Yield tasks, and the worker to which each is to be sent now; a task may have waited at another before."""
        while self._held and self._tasks:
            idlest = max(self._tasks, key=self._free)
            if self._free(idlest) <= -AHEAD:
                break
            yield self._give(self._held.popleft(), idlest, now)
        for worker, tasks in self._tasks.items():
            if now - self._changed_at.get(worker, now) < RELIEVE_AFTER:
                continue
            while self._free(worker) < 0 < self._free(idlest := max(self._tasks, key=self._free)):
                yield self._give(tasks.pop(), idlest, now)

    def ended(self, task: str, now: float) -> None:
        """Remove a task that has ended."""
        for worker, tasks in self._tasks.items():
            if task in tasks:
                tasks.remove(task)
                self._changed_at[worker] = now
                return
        if task in self._held:
            self._held.remove(task)

    def _give(self, task: str, worker: str, now: float) -> tuple[str, str]:
        if not self._tasks[worker]:
            self._changed_at[worker] = now
        self._tasks[worker].append(task)
        return task, worker

    def _free(self, worker: str) -> int:
        return self._slots[worker] - len(self._tasks[worker])
