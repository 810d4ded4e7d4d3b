"""The jobs of a worker process: definitions, loaded when their first part comes, and settings on their classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pymar.serialization import shipped, travelled
from pymar.slots.environment import set_environ

#: Loaded definitions that are kept: a job that comes back need not run its `setup_fn` again.
_KEPT = 8


class ChildJobs:
    """The jobs that the pool has sent, loaded or not, and which one's settings are on its classes now.

    Main thread of the worker process only.

    Args:
        send: sends a frame to the pool.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._definitions: dict[int, Any] = {}
        self._tasks: dict[Any, Any] = {}
        #: The module of the job file, once it is loaded: a pool serves one, in one version.
        self._job_file: ModuleType | None = None
        self._job_code = ""
        #: The settings of the interpreter once that had been loaded.
        self._file_settings: Any = None
        #: Size and time of the files of the user's modules when they were loaded, by the modules' names.
        self._files: dict[str, tuple[str, int, int]] = {}
        self._entered: Any = None
        self._in_job: int | None = None
        self._latest: Any = None
        #: The folder in which parts are computed (None: the current one), and their environment variables.
        self.folder: str | None = None
        self.environ: dict[str, str] = {}

    def work_in(self, environ: dict[str, str], folder: str | None) -> None:
        """Compute parts in this environment and folder from now on."""
        self.environ, self.folder = environ, folder

    def use_code(self, code: travelled.Code) -> None:
        """Import the modules that have travelled with the jobs of this process."""
        travelled.use(code)

    def has_old_files(self) -> bool:
        """True if a file of the user's has changed since this process loaded it: a new process loads another one."""
        return any(_about(path) != (path, *then) for path, *then in self._files.values())

    def _note_files(self) -> None:
        from pymar.serialization.usercode import is_users

        for name, module in list(sys.modules.items()):
            if name in self._files or not is_users(name):
                continue
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and (about := _about(path)) is not None:
                self._files[name] = about

    def add(self, key: int, definition: Any, over: list[int]) -> None:
        """Add a job; drop those that are over, by their keys."""
        self._definitions[key] = definition
        for other in over:
            self._definitions.pop(other, None)

    def preload(self, path: str, code: str) -> None:
        """Load the job file, and the modules that the first job would otherwise wait for."""
        import pymar.serialization.definition
        import pymar.slots.task  # noqa: F401 - so that the first job need not
        from pymar.exceptions import UsageError

        try:
            self._load_file(path, code)
        except UsageError as error:  # the first job raises it again, and its producer receives it
            self._send("print", -1, str(error))

    def dumps(self, value: Any, what: str) -> bytes:
        """Encode for the producer of the job that is being computed."""
        from pymar.serialization.values import dumps_home

        task = self._tasks.get(self._latest)
        return (dumps_home if task is None else task.dumps)(value, what)

    def enter(self, key: int) -> Any:
        """Return the task of this job, with its settings on its classes, and without what another job has changed.

        Raises:
            Differs: a module here is not the one of the producer; a new process may load the right one.
        """
        definition = self._definitions[key]
        task: Any = self._tasks.get(definition)
        if self._in_job == key and task is not None:
            return task
        if self._entered is not None:
            self._entered.__exit__(None, None, None)
            self._entered, self._in_job = None, None
            if definition != self._latest and self._latest in self._tasks:
                self._tasks[self._latest].leave()
        if self.folder is not None:
            os.chdir(self.folder)  # an earlier job may have changed it
        if task is not None:
            set_environ(task.restore(self.environ))
            shipped.use(task.came)
        if task is None or (definition != self._latest and not task.is_as_left()):
            task = self._begin(definition)
        else:
            self._entered = task.entered(is_alone=True)
            self._entered.__enter__()
        self._in_job, self._latest = key, definition
        return task

    def _begin(self, definition: Any) -> Any:
        """Load a job that this process has not loaded, and call its setup_fn."""
        self._send("loading")
        set_environ(self.environ)
        task = self._load(definition)
        self._entered = task.entered(is_alone=True)
        self._entered.__enter__()
        task.prepare(self.environ)
        self._tasks[definition] = task
        self._send("loaded")
        return task

    def _load(self, definition: Any) -> Any:
        from pymar.serialization import loads
        from pymar.slots.task import Task

        while len(self._tasks) >= _KEPT:
            del self._tasks[next(iter(self._tasks))]
        try:
            if type(definition) is not bytes:
                return self._load_by_name(*definition)
            shipped.use(shipped.Definition())
            spec = loads(definition)  # package.opened, which also sets what `__main__` is
            return Task(spec, came=shipped.in_use())
        finally:
            self._note_files()

    def _load_by_name(
        self, path: str, code: str, producer: str, source: str, may_pickle: bool, definition: bytes
    ) -> Any:
        """Load a job whose classes are in a file on this host; it sends only plain data, unless `may_pickle`."""
        from pymar.serialization import jobfile, plain
        from pymar.serialization.definition import home_of, spec_of
        from pymar.serialization.values import from_job_file
        from pymar.slots.task import Task

        module = self._job_file or self._load_file(path, code)
        shipped.use(shipped.Definition(module))
        if self._job_code != code:
            raise jobfile.Differs(f"{path} was {code} when the job joined, and is {self._job_code} now")
        spec = spec_of(definition, module, producer, source)
        spec = spec._replace(interpreter=self._file_settings)
        if may_pickle:
            return Task(spec, came=shipped.in_use(), dumps=from_job_file(module.__name__, home_of(definition)))
        return Task(spec, came=shipped.in_use(), dumps=plain.dumps, loads=plain.loads)

    def _load_file(self, path: str, code: str) -> ModuleType:
        from pymar.serialization import jobfile
        from pymar.serialization.interpreter import interpreter

        set_environ(self.environ)
        self._job_file, self._job_code = jobfile.load(path, code), code
        self._file_settings = interpreter()
        self._note_files()
        return self._job_file


def _about(path: str) -> tuple[str, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return path, found.st_size, found.st_mtime_ns
