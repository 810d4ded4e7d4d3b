"""The child's side of a slot: a fresh interpreter that computes parts, one at a time, until its parent ends."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from types import ModuleType
from typing import Any

from pymar.frames import Frame, Sender, Unpacker, check_size
from pymar.parts import Part, make
from pymar.prints import Prints
from pymar.shipped import use

#: Seconds between two flushes of results, at the least, while parts are short.
FLUSH_EVERY = 0.001

_ALL_SIGNALS = signal.valid_signals() - {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}


def main() -> None:
    """Serve the pool whose file descriptors are the last arguments."""
    tasks, results, lifeline, parent = map(int, sys.argv[-4:])
    for descriptor in (tasks, results, lifeline):
        os.set_inheritable(descriptor, False)
    _end_with_parent(lifeline, parent)
    # A job in a shell's background, and a worker of Ray, ignore it and hand that on: no part could be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # What user code looks up in __main__ must not be found here by accident.
    sys.modules["__main__"] = ModuleType("__main__")
    import faulthandler

    faulthandler.enable()
    try:
        Slot(tasks, results).serve()
    except KeyboardInterrupt:
        os._exit(130)  # The pool stopped this part; it has no use for a traceback.


def _end_with_parent(lifeline: int, parent: int) -> None:
    """End this process group when the parent has ended, however it ended."""

    def watch() -> None:
        poll = select.poll()
        poll.register(lifeline, 0)
        # The pipe alone is not enough: a process that user code forked from the parent holds it open too.
        while not poll.poll(1000) and os.getppid() == parent:
            pass
        os.killpg(0, signal.SIGKILL)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)  # signals are for the thread of the user's code
    threading.Thread(target=watch, name="pymar-lifeline", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if sys.platform == "linux":
        # The kernel ends the group (SIGIO's default) even while C code holds the interpreter lock.
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


class Slot:
    """Reads frames, computes, reports."""

    def __init__(self, tasks: int, results: int) -> None:
        self._tasks = tasks
        self._unpacker = Unpacker()
        self._frames: deque[Frame] = deque()
        self._waiting = select.poll()
        self._waiting.register(tasks, select.POLLIN)
        self._sender = Sender(results)
        self._sending = threading.Lock()
        self.pid = os.getpid()
        self._definitions: dict[Any, Any] = {}
        #: The module of the job file, once it is loaded: a pool serves one, in one version.
        self._job_file: ModuleType | None = None
        self._job_code = ""
        self._jobs: dict[int, Any] = {}
        #: The batch that is being computed, and the parts of it that somebody else computes.
        self._batch = 0
        self._dropped: set[int] = set()
        self._printing = Prints(self)
        self._entered: Any = None
        self._in_job: int | None = None
        self._folder: str | None = None

    def serve(self) -> None:
        sys.stdout = sys.stderr = self._printing
        self._hello(*self._read()[1:])
        from pymar.seeding import seeding_from_now_on

        seeding_from_now_on()
        self.send("ready")
        while True:
            self._handle(self._read())

    def send(self, *frame: Any) -> None:
        # User code may print from threads and forks of its own, and in handlers of signals: a frame is sent whole.
        if os.getpid() != self.pid:
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            # Within the try: it may raise what a handler raises, once it has blocked.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
            with self._sending:
                self._sender.put(frame)
                self._sender.flush()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _read(self) -> Frame:
        while not self._frames:
            piece = os.read(self._tasks, self._unpacker.wanted())
            if not piece:
                os._exit(0)  # The parent has closed the pipe: nothing is left to do.
            self._frames.extend(self._unpacker.feed(piece))
        return self._frames.popleft()

    def _handle(self, frame: Frame) -> None:
        match frame:
            case ("batch", key, number, parts):
                self._batch, self._dropped = number, set()
                self._listen()
                if all(part[0] in self._dropped for part in parts):  # while this process started
                    self.send("done", key, [], True)
                else:
                    self._compute(key, parts)
            case ("job", key, definition, over):
                self._jobs[key] = definition
                for other in over:
                    self._jobs.pop(other, None)
            case ("drop", number, indices):
                if number == self._batch:
                    self._dropped.update(indices)
            case ("preload", path, code):
                self._preload(path, code)
            case ("hello", *where):
                self._hello(*where)

    def _listen(self) -> None:
        """Hear what else was said, and wait for nothing."""
        while self._frames or self._waiting.poll(0):
            self._handle(self._read())

    def _hello(self, path: list[str], argv: list[str], cwd: str | None, environ: dict[str, str]) -> None:
        sys.path[:], sys.argv[:] = path, argv
        if dict(os.environ) != environ:
            os.environ.clear()
            os.environ.update(environ)
        self._folder = cwd

    def _compute(self, key: int, parts: list[tuple[Any, ...]]) -> None:
        try:
            task = self._enter(key)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user's modules may do anything when they are imported
            if type(error).__name__ == "Differs":  # its module is loaded only where it can be raised
                self.send("refused", key, [part[0] for part in parts], str(error))
                parts = []
            for part in parts:
                self._failed(key, part[0], error)
            self.send("done", key, [], True)
        else:
            self._compute_batch(task, key, parts)

    def _compute_batch(self, task: Any, key: int, parts: Sequence[tuple[Any, ...]]) -> None:
        done: list[tuple[int, bytes, float]] = []
        printing, dropped, dumps = self._printing, self._dropped, task.dumps
        what = f"the value of {task.spec.producer.__name__}.reduce_fn"
        began = flushed = perf_counter()
        for place, fields in enumerate(parts, 1):
            index = fields[0]
            if index in dropped:
                continue
            printing.part(index)
            part = make(Part, fields)
            try:
                if part.data is not None:
                    part = part._replace(data=task.loads(part.data))
                value = dumps(task.run(part), what)
                self._end_if_fork(0)
                check_size(value, what)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit in user code is a failure of the part, not of the slot
                self._end_if_fork(1)
                self.send("done", key, done, False)
                done = []
                self._failed(key, index, error)
                self._listen()
                continue
            if printing.line:
                printing.flush()  # before anybody hears that the part is done
            now = perf_counter()
            done.append((index, value, now - began))
            began = now
            if now - flushed > FLUSH_EVERY and place < len(parts):  # the last goes with the word that the batch is over
                self._listen()
                self.send("done", key, done, False)
                done = []
                began = flushed = perf_counter()
        printing.part(-1)
        self.send("done", key, done, True)

    def _end_if_fork(self, code: int) -> None:
        """User code may fork, and leave map_fn in the fork too: that must not read our tasks."""
        if os.getpid() != self.pid:
            os._exit(code)

    def _enter(self, key: int) -> Any:
        """The task of this job, its settings on its classes; another job's settings are taken off first."""
        definition = self._jobs[key]
        task: Any = self._definitions.get(definition)
        if self._in_job == key and task is not None:
            return task
        if self._entered is not None:
            self._entered.__exit__(None, None, None)
            self._entered, self._in_job = None, None
        if self._folder is not None:
            os.chdir(self._folder)  # an earlier job may have gone elsewhere
        is_new = task is None
        if is_new:
            self.send("loading")
            task = self._load(definition)
        use(task.classes)
        self._entered = task.entered()
        self._entered.__enter__()
        self._in_job = key
        if is_new:
            task.set_up()
            self._definitions[definition] = task
            self.send("loaded")
        return task

    def _load(self, definition: Any) -> Any:
        from pymar.values import loads
        from pymar.work import Task

        while len(self._definitions) >= 8:  # jobs that come back find their setup_fn done
            del self._definitions[next(iter(self._definitions))]
        classes: dict[str, type] = {}
        use(classes)
        by_value = type(definition) is bytes
        task = Task(loads(definition)) if by_value else self._load_by_name(*definition)
        task.classes = classes
        return task

    def _preload(self, path: str, code: str) -> None:
        import pymar.definition
        import pymar.work  # noqa: F401 - as the first job would, which need not wait for them
        from pymar import jobfile
        from pymar.exceptions import UsageError

        try:
            self._job_file, self._job_code = jobfile.load(path, code), code
        except UsageError as error:  # the first job will meet it again, and say so to its producer
            self.send("print", -1, str(error))

    def _load_by_name(
        self, path: str, code: str, producer: str, source: str, may_pickle: bool, definition: bytes
    ) -> Any:
        """A job over the classes of a file of this host; without a key, only plain data leaves it."""
        from pymar import jobfile, plain
        from pymar.definition import spec_of
        from pymar.work import Task

        if self._job_file is None:
            self._job_file, self._job_code = jobfile.load(path, code), code
        if self._job_code != code:
            raise jobfile.Differs(f"{path} was {code} when the job joined, and is {self._job_code} now")
        task = Task(spec_of(definition, self._job_file, producer, source))
        if not may_pickle:
            task.dumps, task.loads = plain.dumps, plain.loads
        return task

    def _failed(self, key: int, index: int, error: BaseException) -> None:
        from pymar.failures import describe, is_passing

        if is_passing(error):
            self.send("lost", key, index, str(error))
            return
        self.send("failed", key, index, tuple(describe(error)))
