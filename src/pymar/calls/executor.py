"""Executor: a concurrent.futures.Executor whose calls are the parts of one job, which runs as long as it is open.

    submit() -> a call, as bytes -> news -> _Driver, the thread of the job -> Runner -> an engine
    future   <- its result, or what it raised ------------ _Driver <---------- Runner <- reports

A call that raises, or whose worker processes die, fails in its own future; the job goes on.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pymar.calls.calling import check_asynchronous
from pymar.calls.producer import Submitted
from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, PartLost, UsageError
from pymar.job.interrupt import hold, is_ending
from pymar.job.stopping import StoppableFuture
from pymar.parts import BATCH_SECONDS
from pymar.serialization import loads
from pymar.serialization.composed import composed, module_of, name_of
from pymar.serialization.package import send_by_value_if_needed
from pymar.serialization.values import dumps_call

if TYPE_CHECKING:
    from types import TracebackType

    from pymar.engines import Choice
    from pymar.engines.base import Engine
    from pymar.events import Listener
    from pymar.job.plan import Plan
    from pymar.job.runner import Runner

__all__ = ["Executor"]

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds after which new calls and cancelled ones are looked for, while others are computed.
CHECK_EVERY = 0.01
#: Seconds below which a call is short. A slot would wait for the next one longer than it computes: some are sent ahead,
#: which to cancel takes up to CHECK_EVERY. It is a guess.
SHORT = 0.005
#: Seconds that a call takes which is sent so that workers come; and in which an engine on this host says its slots.
_PROBE, _AT_ONCE = 0.02, 10.0
#: What the thread of a job is told besides calls and cancelled futures: no more calls come; cancel those that wait for
#: a worker; cancel all.
_CLOSE, _CANCEL_WAITING, _CANCEL_ALL = "close", "cancel those that wait", "cancel all"


class _CallFuture(StoppableFuture[T]):
    """The future of one call. Any thread.

    Args:
        news: what the thread of the job is told.
    """

    def __init__(self, news: SimpleQueue[Any]) -> None:
        super().__init__()
        self._news = news
        #: The number of its part, and when it was sent to the engine; None before. Thread of the job only.
        self._index: int | None = None
        self._sent_at = 0.0

    def _stop(self) -> None:
        self._news.put(self)
        self.set_running_or_notify_cancel()  # for those who wait for several futures


class _Driver:
    """The job of one executor, and the thread that runs it. `news`, `is_in_round` and `close` are for any thread.

    It does not refer to the executor: that one is collected once nothing else does.
    """

    def __init__(self, producer: Submitted, plan: Plan, calls: _Source, progress: bool | None, is_near: bool) -> None:
        self.news = calls.news
        self._is_near = is_near
        self._producer = producer
        self._plan = plan
        self._progress = progress
        self._calls = calls
        self._is_closed = False
        #: How many calls may be with the engine at a time.
        self.most: float = inf
        #: What ended the job.
        self.problem: BaseException | None = None
        #: True while the engine computes: a call that is made then, in this thread, comes from another call.
        self.is_in_round: bool = False
        #: How many calls can run at once, once that is known.
        self.slots: int = 0
        self.has_joined: threading.Event = threading.Event()
        # No daemon thread: at the end of the script, Python waits for what was submitted, as with other executors.
        self.thread = threading.Thread(target=self._run, name="pymar-executor")
        self._release: Callable[[], None]

    def start(self) -> None:
        """Start the thread, if it has not been started. One thread at a time."""
        if self.thread.ident is None:
            _drivers.add(self)
            self._release = hold()
            self.thread.start()

    def _run(self) -> None:
        problem: BaseException = RuntimeError("the executor is shut down")
        try:
            with self._producer._runner(self._plan, progress=self._progress) as runner:
                self._drive(runner)
        except BaseException as error:  # of the engine: for all who wait
            problem = error
        self.problem = problem
        self._fail_all(problem)
        self.has_joined.set()
        _drivers.discard(self)
        self._release()

    def _drive(self, runner: Runner) -> None:
        runner.check_every = CHECK_EVERY
        runner.job.limit = 0
        rounds = runner.rounds()
        while True:
            self.is_in_round = True
            found = next(rounds, None)
            self.is_in_round = False
            if found is None:
                return
            self._take_outcomes(*found)
            del found  # so that nothing refers to results and arguments while this thread waits
            self._note_slots(runner.job.slots)
            self._take_news(runner)

    def _take_outcomes(self, finished: list[tuple[int, bytes]], failed: list[PartFailed | PartLost]) -> None:
        for index, value in finished:
            self._finished(index, value)
        for error in failed:
            self._failed(error)

    def _note_slots(self, slots: int) -> None:
        self.slots = slots
        if slots:
            self.has_joined.set()
        for future in islice(self._calls.sent.values(), slots):  # the first are computed first
            future._has_begun = True

    def _take_news(self, runner: Runner) -> None:
        """Take calls and cancelled futures; wait for some if no call is outstanding."""
        calls = self._calls
        is_idle = not calls.sent and not calls.waiting and not self._is_closed
        with suppress(Empty):
            while True:
                one = self.news.get(block=is_idle)
                is_idle = False
                self._take(one, runner)
                del one
        if self._is_closed and not calls.waiting:
            runner.job.limit = inf  # the end of the data ends the job
        else:
            runner.job.limit = calls.made + min(len(calls.waiting), self._room(runner.job.slots))

    def _room(self, slots: int) -> float:
        """Return how many calls may be sent now: on this host, only as many as run, unless they are short."""
        sent = len(self._calls.sent)
        if self._is_near and self._calls.seconds >= SHORT:
            return max(0, min(max(1, slots), self.most) - sent)
        return max(0, self.most - sent)  # besides, the job has a window

    def _take(self, one: Any, runner: Runner) -> None:
        calls = self._calls
        if type(one) is tuple:
            calls.waiting[one[0]] = one[1]
        elif one is _CLOSE:
            self._is_closed = True
        elif one is _CANCEL_WAITING or one is _CANCEL_ALL:
            # One at least has begun: with other executors it would have, as soon as it was submitted.
            begun = max(1, runner.job.slots) if one is _CANCEL_WAITING else 0
            for future in [*calls.sent.values(), *calls.waiting][begun:]:
                future.cancel()
        elif one._index is None:
            calls.waiting.pop(one, None)
        elif calls.sent.pop(one._index, None) is not None:
            runner.cancel(one._index)

    def _finished(self, index: int, value: bytes) -> None:
        future = self._calls.ended(index)
        try:
            result = loads(value)
        except BaseException as error:  # of the user's class
            error.add_note("The call has returned what cannot be read here.")
            future._settle(error)
        else:
            future._settle(None, result)

    def _failed(self, error: PartFailed | PartLost) -> None:
        future = self._calls.ended(error.index)
        original = error.__cause__
        if original is None:
            future._settle(error)
        else:  # as ProcessPoolExecutor shows it: the worker's traceback above that of who asks for the result
            error.__cause__, original.__cause__ = None, error
            future._settle(original)

    def _fail_all(self, error: BaseException) -> None:
        calls = self._calls
        waiting = [*calls.sent.values(), *calls.waiting]
        with suppress(Empty):
            while True:
                one = self.news.get(block=False)
                waiting += one[:1] if type(one) is tuple else ()
        for future in waiting:
            future._settle(error)
        calls.sent.clear()
        calls.waiting.clear()


class _Source:
    """The calls that wait for their turn, and those that were sent: the data of the job. Thread of the job only."""

    def __init__(self) -> None:
        #: What any thread tells the job's: calls with their futures, futures that were cancelled, or one of the words.
        self.news: SimpleQueue[Any] = SimpleQueue()
        self.waiting: OrderedDict[_CallFuture[Any], Any] = OrderedDict()
        self.sent: dict[int, _CallFuture[Any]] = {}
        #: How many parts were made.
        self.made = 0
        #: The seconds from sending the latest call to its result.
        self.seconds = inf

    def __iter__(self) -> Iterator[Any]:
        while self.waiting:
            future, call = self.waiting.popitem(last=False)
            future._index, future._sent_at = self.made, monotonic()
            self.sent[self.made] = future
            self.made += 1
            if not future._is_wanted():
                call = None  # it was cancelled just now
            del future  # it has the result, and this waits for the next call
            yield call

    def ended(self, index: int) -> _CallFuture[Any]:
        """Return the future of a part that is over."""
        future = self.sent.pop(index)
        self.seconds = monotonic() - future._sent_at
        return future


class Executor(concurrent.futures.Executor):
    """Runs calls on an engine: `submit(f, *arguments)` returns a future, `map(f, items)` an iterator of results.

    It is what concurrent.futures promises of an executor, and more: a future can be cancelled while its call runs,
    which stops the worker process; a call whose processes die fails in its own future (PartLost), and the others go on.
    What a call raises arrives as it was raised, with the worker's traceback above it. Any thread may use it.

    A call is computed again if its process dies (`attempts`), so it may happen twice. Functions and arguments are
    pickled as they are when `submit` is called; functions of the script, lambdas and closures go by value. Calls within
    a call of the serial engine are computed at once.

    Args:
        engine: where to compute: "serial", "processes://4", "amqp://host?pool=NAME" ..., or an engine object; by
            default as a Producer chooses it.
        setup: called once in each worker process before its first call.
        part_timeout: seconds that a call may take; then it is stopped and computed once more.
        memory_limit: bytes of resident memory that the process of a call may use; then likewise.
        attempts: how often a call is computed at most if the processes that compute it die.
        retries: how often a call is computed again if it raises.
        seed: the seed of random numbers, together with the call's number.
        progress: True for a progress bar, False for none, None for one if stderr is a terminal.
        listeners: functions that are called with every event (`pymar.events`).

    Raises:
        UsageError: an argument is not what it has to be; or workers would find functions by their names only.
    """

    def __init__(
        self,
        engine: Engine | str | None = None,
        *,
        setup: Callable[[], object] | None = None,
        part_timeout: float | None = None,
        memory_limit: int | None = None,
        attempts: int = Submitted.ATTEMPTS,
        retries: int = Submitted.RETRIES,
        seed: int = Submitted.SEED,
        progress: bool | None = False,
        listeners: Iterable[Listener] = (),
    ) -> None:
        attributes = {
            "PART_TIMEOUT": part_timeout,
            "MEMORY_LIMIT": memory_limit,
            "ATTEMPTS": attempts,
            "RETRIES": retries,
            "SEED": seed,
        }
        cls = composed(Submitted, "Executor", {"begin_fn": setup}, attributes)
        self._producer: Submitted = cls(engine=engine, listeners=list(listeners))
        self._choice: Choice = self._producer._choose()
        _check_by_value(self._choice)
        calls = _Source()
        #: True if calls are computed on this host.
        self.is_near: bool = self._choice.batch_seconds <= BATCH_SECONDS
        plan = self._producer._plan(DataSourceFactory(calls))
        self._driver = _Driver(self._producer, plan, calls, progress, self.is_near)
        self._news = calls.news
        #: True if calls are computed in this process: then nothing is pickled.
        self.is_here: bool = self._choice.engine.name == "serial"
        self._is_shut = False
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._finalizer = weakref.finalize(self, self._news.put, _CLOSE)
        self._finalizer.atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[T]:
        """Return the future of a call `fn(*args, **kwargs)`.

        Its cancel() returns True for a call that waits and for one that runs, and the process is stopped; it returns
        False for one that has ended. Its exception() is what the call raised, with a PartFailed as its cause: the text
        has the traceback, and `pymar.Producer().replay(error.__cause__)` runs the call here, under a debugger. It is a
        PartFailed itself if that cannot be sent, and a PartLost if the processes died, each time.

        Raises:
            RuntimeError: the executor is shut down, or belongs to the process that this one was forked from.
            BrokenExecutor: a RuntimeError: the engine has failed; its error is the cause.
            UsageError: the function is asynchronous.
        """
        check_asynchronous(fn)
        driver = self._driver
        if driver.is_in_round and threading.current_thread() is driver.thread:
            return _computed(fn, args, kwargs)
        future: _CallFuture[T] = _CallFuture(self._news)
        call: Any = (fn, args, kwargs)
        problem: BaseException | None = None
        if not self.is_here:
            try:
                send_by_value_if_needed(module_of(fn))
                call = dumps_call(call, f"the call of {name_of(fn)}")
            except Exception as error:
                problem = error
        with self._opened():
            if problem is None:
                self._news.put((future, call))
                driver.start()
                problem = driver.problem  # if it has ended just now, nobody takes the call
        if problem is not None:
            future._settle(problem)
        return future

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Keep the executor open.

        Raises:
            RuntimeError: it is not, or is another process's.
        """
        if os.getpid() != self._process:  # before the lock: another thread may have held it when this one was forked
            raise RuntimeError("this executor belongs to the process that this one was forked from: make one here")
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _script_has_ended:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if self._driver.problem is not None:
                raise concurrent.futures.BrokenExecutor(
                    f"the engine has failed: {self._driver.problem}. Make a new executor"
                ) from self._driver.problem
            yield

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator of the results for each item, in their order; to close it cancels the other calls.

        Args:
            fn: called with an item of each iterable; the shortest ends them.
            iterables: read at once.
            timeout: seconds for all results, from now on.
            chunksize: items of one call. For many short ones, `pymar.map` is faster.
            buffersize: calls whose results were not taken yet, at most; from Python 3.14 on.

        Raises:
            TimeoutError: from the iterator: the time is over.
            Errors that `submit` raises, and what the calls raise: likewise.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        limit = {} if buffersize is None else {"buffersize": buffersize}
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **limit)
        chunks = _chunks(zip(*iterables, strict=False), chunksize)
        results = super().map(partial(_all_of, fn), chunks, timeout=timeout, **limit)
        return _flat(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end once those that were submitted have.

        Args:
            wait: return once they have.
            cancel_futures: cancel the calls that wait for a worker; those that run are completed.
        """
        if os.getpid() != self._process:
            return  # a fork of that process: the job is its parent's
        with self._lock:
            self._is_shut = True
            if cancel_futures:
                self._news.put(_CANCEL_WAITING)
            self._news.put(_CLOSE)
        self._join(wait)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._news.put(_CANCEL_ALL)  # other executors' processes get the Ctrl-C of the terminal too
        self.shutdown()

    def _join(self, wait: bool) -> None:
        thread = self._driver.thread
        if wait and thread.ident is not None and thread is not threading.current_thread():
            thread.join()

    def _limit(self, most: float) -> None:
        """Let no more than so many calls run at once."""
        self._driver.most = most

    def slots(self, patience: float = 10.0) -> int:
        """Return how many calls run at once, as far as is known; 1 if no worker has come within `patience` seconds.

        Workers on other hosts come once there is something for them: a few calls that do nothing are sent.

        Raises:
            Errors that `submit` raises: likewise.
        """
        driver = self._driver
        with self._opened():
            driver.start()
        deadline = monotonic() + patience
        driver.has_joined.wait(_AT_ONCE if self.is_near else 0.0)
        known = 0 if not self.is_near else driver.slots
        while not self.is_near and monotonic() < deadline:
            probes = [self.submit(sleep, _PROBE) for _ in range(2 * known + 8)]
            concurrent.futures.wait(probes, max(0.0, deadline - monotonic()))
            for probe in probes:
                probe.cancel()
            if driver.slots <= known:
                break
            known = driver.slots
        return max(1, known)


def _computed(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> concurrent.futures.Future[T]:
    """Return the finished future of a call that is computed now: its caller would wait for ever for a turn."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    try:
        result = fn(*args, **kwargs)
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)
    return future


def _check_by_value(choice: Choice) -> None:
    """Refuse an engine whose workers find functions by their names in a file.

    Raises:
        UsageError: it is one.
    """
    address = getattr(choice.engine, "address", None)
    if not choice.is_trusted or getattr(address, "pool", "") is None:
        raise UsageError(
            f"pymar.Executor: any function may be submitted, so functions go by value, and over {choice.engine.name} "
            "that needs a key and a pool: give workers and producers a key (pymar keygen > pymar.key; export "
            "PYMAR_KEY_FILE=$PWD/pymar.key), start `pymar worker --pool NAME`, and set "
            "engine='amqp://host?pool=NAME'. Functions at the top level of a file go by name: pymar.map(function, ...)"
        )


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _all_of(fn: Callable[..., T], items: Iterable[tuple[Any, ...]]) -> list[T]:
    return [fn(*arguments) for arguments in items]


def _flat(lists: Iterator[list[T]]) -> Iterator[T]:
    try:
        for found in lists:
            found.reverse()
            while found:  # so that no result is kept that its user has let go of
                yield found.pop()
    finally:
        close = getattr(lists, "close", None)
        if close is not None:
            close()


_drivers: set[_Driver] = set()
_script_has_ended = False


def _end_with_the_script() -> None:
    """Let all jobs end once what was submitted is computed; after Ctrl-C or a signal, at once."""
    global _script_has_ended
    _script_has_ended = True
    for driver in list(_drivers):
        if is_ending():
            driver.news.put(_CANCEL_ALL)
        driver.news.put(_CLOSE)


def _forget() -> None:
    """Forget the jobs in a forked process: they are its parent's."""
    _drivers.clear()


# As concurrent.futures does: exit handlers of `atexit` run only after Python has waited for all threads.
threading._register_atexit(_end_with_the_script)  # type: ignore[attr-defined]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
