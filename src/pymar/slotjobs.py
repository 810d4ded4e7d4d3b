"""The jobs that a child knows: definitions, loaded when they are first needed, and settings on their classes."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pymar.shipped import use

#: Definitions that are kept: jobs that come back find their `setup_fn` done.
_KEPT = 8


class SlotJobs:
    """`send` tells the pool something."""

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._definitions: dict[int, Any] = {}
        self._tasks: dict[Any, Any] = {}
        #: The module of the job file, once it is loaded: a pool serves one, in one version.
        self._job_file: ModuleType | None = None
        self._job_code = ""
        self._entered: Any = None
        self._in_job: int | None = None
        #: Where parts are computed; None: where the process is.
        self.folder: str | None = None

    def add(self, key: int, definition: Any, over: list[int]) -> None:
        """A job, and the keys of those that are over."""
        self._definitions[key] = definition
        for other in over:
            self._definitions.pop(other, None)

    def preload(self, path: str, code: str) -> None:
        """Load the job file, and what the first job would load else."""
        import pymar.definition
        import pymar.work  # noqa: F401 - as the first job would, which need not wait for them
        from pymar.exceptions import UsageError

        try:
            self._load_file(path, code)
        except UsageError as error:  # the first job will meet it again, and say so to its producer
            self._send("print", -1, str(error))

    def enter(self, key: int) -> Any:
        """The task of this job, its settings on its classes; another job's settings are taken off first."""
        definition = self._definitions[key]
        task: Any = self._tasks.get(definition)
        if self._in_job == key and task is not None:
            return task
        if self._entered is not None:
            self._entered.__exit__(None, None, None)
            self._entered, self._in_job = None, None
        if self.folder is not None:
            os.chdir(self.folder)  # an earlier job may have gone elsewhere
        is_new = task is None
        if is_new:
            self._send("loading")
            task = self._load(definition)
        use(task.classes)
        self._entered = task.entered()
        self._entered.__enter__()
        self._in_job = key
        if is_new:
            task.set_up()
            self._tasks[definition] = task
            self._send("loaded")
        return task

    def _load(self, definition: Any) -> Any:
        from pymar.values import loads
        from pymar.work import Task

        while len(self._tasks) >= _KEPT:
            del self._tasks[next(iter(self._tasks))]
        classes: dict[str, type] = {}
        use(classes)
        by_value = type(definition) is bytes
        task = Task(loads(definition)) if by_value else self._load_by_name(*definition)
        task.classes = classes
        return task

    def _load_by_name(
        self, path: str, code: str, producer: str, source: str, may_pickle: bool, definition: bytes
    ) -> Any:
        """A job over the classes of a file of this host; without a key, only plain data leaves it."""
        from pymar import jobfile, plain
        from pymar.definition import spec_of
        from pymar.work import Task

        module = self._job_file or self._load_file(path, code)
        if self._job_code != code:
            raise jobfile.Differs(f"{path} was {code} when the job joined, and is {self._job_code} now")
        task = Task(spec_of(definition, module, producer, source))
        if not may_pickle:
            task.dumps, task.loads = plain.dumps, plain.loads
        return task

    def _load_file(self, path: str, code: str) -> ModuleType:
        from pymar import jobfile

        self._job_file, self._job_code = jobfile.load(path, code), code
        return self._job_file
