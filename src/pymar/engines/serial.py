"""Compute parts here, one after another: for debugging, and as the yardstick of the contract suite."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter

from pymar.exceptions import UsageError
from pymar.failures import describe, is_passing
from pymar.masks import masked_address
from pymar.pace import BATCH_SECONDS
from pymar.parts import Cause, Done, Failed, JobSpec, Joined, Lost, Part, Report, Running
from pymar.seeding import seeding_here
from pymar.shipped import token_of
from pymar.usercode import code_of_job, is_natural
from pymar.values import dumps_home
from pymar.work import Task

_HERE = "this process"


class SerialEngine:
    """Nothing is started. PART_TIMEOUT is noticed once the part has ended; MEMORY_LIMIT is not watched."""

    name = "serial"
    batch_seconds = BATCH_SECONDS

    def __init__(self, address: str = "") -> None:
        if address:
            raise UsageError(
                f"engine 'serial://{masked_address(address)}': the serial engine takes nothing after its name"
            )

    def start(self, job: JobSpec, /) -> SerialRun:
        return SerialRun(job)


class SerialRun:
    """One part a call of `next`."""

    def __init__(self, job: JobSpec) -> None:
        self._task = Task(job)
        _name_local_classes(job)
        self._waiting: deque[Part] = deque()
        self._news: list[Report] = [Joined(_HERE, 1)]
        self._is_set_up = False

    def submit(self, parts: Sequence[Part], /) -> None:
        self._waiting.extend(parts)

    def next(self, timeout: float, /) -> list[Report]:
        news, self._news = self._news, []
        if self._waiting and not news:
            part = self._waiting.popleft()
            news = [Running(part.index, _HERE), self._computed(part)]
        return news

    def _computed(self, part: Part) -> Report:
        spec = self._task.spec
        began = perf_counter()  # of the part; of nothing else: setup_fn does not count
        with self._task.entered(), seeding_here():
            try:
                if not self._is_set_up:
                    self._task.set_up()
                    self._is_set_up = True
                    began = perf_counter()
                value = dumps_home(self._task.run(part), f"the value of {spec.producer.__name__}.reduce_fn")
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # as in a worker: SystemExit in user code fails the part
                if is_passing(error):
                    return Lost(part.index, Cause("source", str(error)))
                return Failed(part.index, _HERE, describe(error))
        seconds = perf_counter() - began
        if spec.part_timeout is not None and seconds > spec.part_timeout:
            text = f"took {seconds:.3g} s in this process, over PART_TIMEOUT of {spec.part_timeout:g} s"
            return Lost(part.index, Cause("timeout", text))
        return Done(part.index, value, seconds)

    def cancel(self, index: int, /) -> None:
        self._waiting = deque(part for part in self._waiting if part.index != index)

    def close(self) -> None:
        self._waiting.clear()


def _name_local_classes(job: JobSpec) -> None:
    """Have partials mean the very classes that no name leads to: encoded they go by a token, as in a worker."""
    for cls in code_of_job(job).classes:
        if not is_natural(cls):
            token_of(cls)
