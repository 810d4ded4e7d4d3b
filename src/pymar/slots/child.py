"""The main loop of a worker process: a new interpreter that computes parts, one at a time, until its parent ends."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it is not in typeshed
import fcntl
import io
import os
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from errno import EBADF, EPIPE
from time import perf_counter
from types import ModuleType
from typing import Any

from pymar.parts import Part, make
from pymar.serialization import travelled
from pymar.serialization.jobfile import Differs
from pymar.serialization.records import check_size
from pymar.slots.childjobs import ChildJobs
from pymar.slots.environment import set_environ
from pymar.slots.frames import NO_PIPE, Frame, Garbled, Sender, Unpacker
from pymar.slots.quota import OF_A_PART, Quota

#: Characters of a line; one that is longer is shown in pieces.
_LONGEST_LINE = 1 << 16


class Prints(io.TextIOBase):
    """Standard output and error of user code: sends whole lines to the pool, each with the part that printed it.

    Any thread may call it.

    Args:
        send: sends a frame to the pool.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        self._index = -1
        self._send = send
        self._pid = os.getpid()
        #: The pieces of a line that has no end yet, and their length.
        self._pieces: list[str] = []
        self._size = 0
        self._quota = Quota(OF_A_PART)
        #: True once the part has printed anything.
        self.is_used: bool = False
        # The user's threads print too, and signal handlers run within a print of their own thread.
        self._writing = threading.RLock()
        self.buffer: io.FileIO = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115 - as long as the process lives

    def part(self, index: int) -> None:
        """Begin a part: what is printed from now on belongs to it."""
        if self.is_used:
            self.end_part()
        self._index = index

    def end_part(self) -> None:
        """Send the line that has no end, and how many lines were dropped."""
        with self._writing:
            self._end_line()
            if self._quota.dropped:
                self._send("dropped", self._index, self._quota.dropped)
            self._quota = Quota(OF_A_PART)
            self.is_used = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def reconfigure(self, **settings: Any) -> None:
        """Do nothing: lines are always sent whole, as UTF-8."""

    def write(self, text: str) -> int:
        if os.getpid() != self._pid:  # a fork of this process: the results pipe is its parent's
            self.buffer.write(text.encode(errors="backslashreplace"))
            return len(text)
        with self._writing:
            self.is_used = True
            *lines, rest = text.split("\n")
            for line in lines:
                self._add(line)
                self._show()
            self._add(rest)
        return len(text)

    def flush(self) -> None:
        with self._writing:
            self._end_line()

    def _add(self, text: str) -> None:
        for start in range(0, len(text), _LONGEST_LINE):
            self._pieces.append(text[start : start + _LONGEST_LINE])
            self._size += len(self._pieces[-1])
            if self._size >= _LONGEST_LINE:
                self._show()

    def _end_line(self) -> None:
        if self._pieces:
            self._show()

    def _show(self) -> None:
        line = "".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._quota.has_room(line):
            self._send("print", self._index, line)


#: Least seconds between two sends of results, while parts are short.
FLUSH_EVERY = 0.001

#: What `signal` wraps: to turn the mask that it returns into enums takes longer than to send a frame.
_pthread_sigmask = _signal.pthread_sigmask
_ALL_SIGNALS = frozenset(
    map(int, signal.valid_signals() - {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT})
)


def main() -> None:
    """Compute parts for the pool whose file descriptors, and process id, are the last arguments."""
    tasks, results, lifeline, parent = map(int, sys.argv[-4:])
    for descriptor in (tasks, results, lifeline):
        os.set_inheritable(descriptor, False)
    _end_with_parent(lifeline, parent)
    # Jobs in a shell's background and workers of Ray ignore SIGINT, and this process inherits that: no part could be
    # interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # User code must not find names of ours in __main__.
    sys.modules["__main__"] = ModuleType("__main__")
    import faulthandler

    faulthandler.enable()
    code: int | str | None = 130
    try:
        MainLoop(tasks, results).serve()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # the pool has stopped this part; nobody needs a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)  # runs exit handlers, as in every script: the pool waits a moment for them


def _end_with_parent(lifeline: int, parent: int) -> None:
    """End this process group when the parent has ended, however it ended."""

    def watch() -> None:
        poll = select.poll()
        poll.register(lifeline, 0)
        # The pipe alone is not enough: a process that user code forked from the parent holds it open too.
        while os.getppid() == parent:
            if not (events := poll.poll(1000)):
                continue
            if events[0][1] != select.POLLNVAL:
                break
            poll.unregister(lifeline)  # user code has closed it
        os.killpg(0, signal.SIGKILL)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)  # the user's code runs in the main thread
    threading.Thread(target=watch, name="pymar-lifeline", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if sys.platform == "linux":
        # The kernel ends the group (the default of SIGIO) even while C code holds the interpreter's lock.
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


class MainLoop:
    """Reads frames from the pool, computes parts and sends their results; it owns both pipes.

    `send` may be called from any thread, everything else from the main thread only.
    """

    def __init__(self, tasks: int, results: int) -> None:
        self._tasks = tasks
        self._unpacker = Unpacker()
        self._frames: deque[Frame] = deque()
        self._waiting = select.poll()
        self._waiting.register(tasks, select.POLLIN)
        self._sender = Sender(results)
        self._room = select.poll()
        self._room.register(results, select.POLLOUT)
        self._sending = threading.Lock()
        self.pid: int = os.getpid()
        self._jobs = ChildJobs(self.send)
        #: The number of the batch that is being computed, and the parts of it that other slots compute.
        self._batch = 0
        self._dropped: set[int] = set()
        #: The part that is being computed; -1 for none.
        self._part = -1
        self._printing = Prints(self.send)

    def serve(self) -> None:
        """Read frames and handle them until the pool or the user's code ends this process."""
        sys.stdout = sys.stderr = self._printing
        self._hello(*self._read()[1:])
        from pymar.slots.seeding import seeding_from_now_on

        seeding_from_now_on()
        self.send("ready")
        while True:
            self._handle(self._read())

    def send(self, *frame: Any) -> None:
        """Send a frame to the pool; do nothing in a fork of this process."""
        # User code may print from threads and forks of its own, and in signal handlers: a frame is sent whole.
        if os.getpid() != self.pid:
            return
        before = _pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            # Within the try: once signals are blocked, it may still raise what a pending handler raises.
            _pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
            with self._sending:
                self._sender.put(frame)
                while not self._sender.flush():  # user code has made the pipe non-blocking
                    self._room.poll()
        except OSError as error:
            if error.errno not in (EBADF, EPIPE):
                raise
            os._exit(NO_PIPE)  # user code has closed it, or nobody reads it: no result could be sent
        finally:
            _pthread_sigmask(signal.SIG_SETMASK, before)

    def _read(self) -> Frame:
        while not self._frames:
            try:
                piece = os.read(self._tasks, self._unpacker.wanted())
                self._frames.extend(self._unpacker.feed(piece))
            except BlockingIOError:  # user code has made the pipe non-blocking
                self._waiting.poll()
                continue
            except (Garbled, OSError) as problem:
                if isinstance(problem, OSError) and problem.errno != EBADF:
                    raise  # from a signal handler of the user's
                self.send("garbled", str(problem))
                os._exit(1)
            if not piece:
                sys.exit(NO_PIPE)  # the parent has ended, or user code has replaced the pipe
        return self._frames.popleft()

    def _handle(self, frame: Frame) -> None:
        match frame:
            case ("batch", key, number, parts):
                self._batch, self._dropped = number, set()
                self._handle_waiting()
                if all(part[0] in self._dropped for part in parts):  # while this process started
                    self.send("done", key, [], True)
                else:
                    try:
                        self._compute(key, parts)
                    except KeyboardInterrupt as error:
                        self._interrupted(key, error)
                        raise
            case ("job", key, definition, over):
                self._jobs.add(key, definition, over)
            case ("drop", number, indices):
                if number == self._batch:
                    self._dropped.update(indices)
            case ("preload", path, code):
                self.send("loading")
                self._jobs.preload(path, code)
                self.send("loaded")
            case ("hello", *where):
                self._hello(*where)
            case ("code", code):
                self._jobs.use_code(code)
            case ("end",):
                sys.exit()

    def _handle_waiting(self) -> None:
        """Handle the frames that have arrived; do not wait for others."""
        while self._frames or self._waiting.poll(0):
            self._handle(self._read())

    def _hello(self, path: list[str], argv: list[str], cwd: str | None, environ: dict[str, str]) -> None:
        sys.path[:], sys.argv[:] = path, argv
        travelled.put_on_path()
        self._jobs.work_in(environ, cwd)
        set_environ(environ)

    def _compute(self, key: int, parts: list[tuple[Any, ...]]) -> None:
        try:
            task = self._jobs.enter(key)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user's modules may do anything when they are imported
            if isinstance(error, Differs):
                indices = [part[0] for part in parts]
                self.send("refused", key, indices, str(error), self._jobs.has_old_files())
                parts = []
            for part in parts:
                self._failed(key, part[0], error)
            self.send("done", key, [], True)
        else:
            self._compute_batch(task, key, parts)

    def _compute_batch(self, task: Any, key: int, parts: Sequence[tuple[Any, ...]]) -> None:
        done: list[tuple[int, bytes, float]] = []
        printing, dropped, dumps = self._printing, self._dropped, task.dumps
        what = task.value_name
        began = flushed = perf_counter()
        for place, fields in enumerate(parts, 1):
            index = fields[0]
            if index in dropped:
                continue
            printing.part(index)
            self._part = index
            part = make(Part, fields)
            try:
                if part.data is not None:
                    part = part._replace(data=task.loads(part.data))
                value = dumps(task.run(part), what)
                self._end_if_fork(0)
                check_size(value, what)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit in user code fails the part, and does not end the process
                self._end_if_fork(1)
                printing.part(index)  # sends its last line before the failure
                self.send("done", key, done, False)
                done = []
                self._failed(key, index, error)
                self._handle_waiting()
                continue
            if printing.is_used:
                printing.end_part()  # before the report that the part is done
            now = perf_counter()
            done.append((index, value, now - began))
            began = now
            if now - flushed > FLUSH_EVERY and place < len(parts):  # the last results go with the end of the batch
                self._handle_waiting()
                self.send("done", key, done, False)
                done = []
                began = flushed = perf_counter()
        printing.part(-1)
        self._part = -1
        self.send("done", key, done, True)

    def _end_if_fork(self, code: int) -> None:
        """Exit if user code has forked and returns in the fork too: a fork must not read the tasks pipe."""
        if os.getpid() != self.pid:
            os._exit(code)

    def _interrupted(self, key: int, error: KeyboardInterrupt) -> None:
        from pymar.slots.failures import place_of

        self.send("interrupted", key, self._part, place_of(error))

    def _failed(self, key: int, index: int, error: BaseException) -> None:
        from pymar.slots.failures import describe, is_passing

        if is_passing(error):
            self.send("lost", key, index, str(error))
            return
        self.send("failed", key, index, tuple(describe(error, self._jobs.dumps)))
