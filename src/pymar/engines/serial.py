"""The serial engine: parts are computed in this process, one after another. For debugging; the reference in tests."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from pymar.exceptions import UsageError
from pymar.parts import BATCH_SECONDS, Cause, Done, Failed, JobSpec, Joined, Lost, Part, Report, Running
from pymar.serialization.interpreter import apply, interpreter
from pymar.serialization.redaction import redacted_address
from pymar.serialization.shipped import token_of
from pymar.serialization.usercode import code_of_job, is_natural
from pymar.serialization.values import dumps_home
from pymar.slots.environment import folder, set_environ
from pymar.slots.failures import describe, is_passing
from pymar.slots.seeding import seeding_here
from pymar.slots.task import Task


class ProcessState:
    """A copy of what user code may change of this process: interpreter settings, environment variables, folder."""

    def __init__(self) -> None:
        self._settings = interpreter()
        self._environ = dict(getattr(os.environ, "_data", os.environ))
        self._folder = folder()

    def restore(self) -> None:
        """Restore the process to this state."""
        if interpreter() != self._settings:
            apply(self._settings)
        if getattr(os.environ, "_data", os.environ) != self._environ:
            set_environ({os.fsdecode(name): os.fsdecode(value) for name, value in self._environ.items()})
        if self._folder is not None and self._folder != folder():
            os.chdir(self._folder)


@contextmanager
def _left_alone() -> Iterator[None]:
    before = ProcessState()
    try:
        yield
    finally:
        before.restore()


class SerialEngine:
    """Computes in this process. PART_TIMEOUT is checked once a part has ended, MEMORY_LIMIT not at all."""

    name = "serial"
    batch_seconds = BATCH_SECONDS

    def __init__(self, address: str = "") -> None:
        if address:
            raise UsageError(
                f"engine 'serial://{redacted_address(address)}': this engine has no address: write engine='serial'"
            )

    def start(self, job: JobSpec, /) -> SerialRun:
        return SerialRun(job)


class SerialRun:
    """One job: each call of `next` computes one part. It owns the waiting parts. Thread of the job only."""

    def __init__(self, job: JobSpec) -> None:
        self._task = Task(job)
        _name_local_classes(job)
        self._waiting: deque[Part] = deque()
        #: The worker of its reports: the one slot of this engine.
        self._worker = f"this process (pid {os.getpid()}) on {os.uname().nodename}"
        self._news: list[Report] = [Joined("this process", 1)]
        self._is_set_up = False
        #: The state of the process after `setup_fn`: it is restored before each part.
        self._state_after_setup: ProcessState | None = None

    def submit(self, parts: Sequence[Part], /) -> None:
        self._waiting.extend(parts)

    def next(self, timeout: float, /) -> list[Report]:
        news, self._news = self._news, []
        if self._waiting and not news:
            part = self._waiting.popleft()
            news = [Running(part.index, self._worker), self._computed(part)]
        return news

    def _computed(self, part: Part) -> Report:
        spec = self._task.spec
        began = perf_counter()  # of the part alone: setup_fn does not count
        with self._task.entered(), seeding_here(), _left_alone():
            try:
                if self._state_after_setup is not None:
                    self._state_after_setup.restore()
                if not self._is_set_up:
                    self._task.set_up()
                    self._is_set_up = True
                    self._state_after_setup = ProcessState()
                    began = perf_counter()
                value = dumps_home(self._task.run(part), self._task.value_name)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # as in a worker process: SystemExit in user code fails the part
                if is_passing(error):
                    return Lost(part.index, Cause("source", str(error)))
                return Failed(part.index, self._worker, describe(error))
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
    """Give local classes, which cannot be imported by name, a token: so encoded partials refer to the same class."""
    for cls in code_of_job(job).classes:
        if not is_natural(cls):
            token_of(cls)
