"""Producer: the user's functions on the data, and the calls that run a job of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, ParamSpec, TypeVar

# Only what a worker process needs: it imports this module for the base class, and the rest would double its start.
from pymar.datasource import RECORDS_A_PART
from pymar.exceptions import PymarError
from pymar.job.interrupt import log_if_script_ends, one_line_on_interrupt
from pymar.parts import cut
from pymar.serialization.jobfile import stop_if_loading
from pymar.slots.task import Task, a_value

if TYPE_CHECKING:
    from concurrent.futures import Future
    from os import PathLike
    from typing import Generic

    from typing_extensions import TypeVar as TypeVarWithDefault

    from pymar.datasource import DataSourceFactory
    from pymar.engines import Choice
    from pymar.engines.base import Engine
    from pymar.events import Listener
    from pymar.exceptions import PartFailed, PartLost
    from pymar.job.plan import Given, Plan
    from pymar.job.runner import Runner
    from pymar.sinks.sink import Sink, Written

    Answer = TypeVarWithDefault("Answer", default=Any)
else:
    Answer = None

    class Generic:
        """At run time Producer[int] is Producer: a type in brackets is not sent to workers."""

        def __class_getitem__(cls, answer):
            return cls


__all__ = ["Producer"]

OnTimeout = Literal["local_mode", "fail"]
OnMismatch = Literal["refuse", "keep"]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def checks_call(method: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Wrap a method: a call on the class, or with a misspelt argument, raises an error that has the right call."""

    @wraps(method)
    def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        if not arguments or not isinstance(arguments[0], Computation) or not named.keys() <= names:
            from pymar.job.spelling import called_wrong

            raise called_wrong(method, names, arguments, named, Producer)
        return method(*arguments, **named)

    code = method.__code__
    names = frozenset(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
    return call


class Computation(Generic[Answer]):
    """What Producer and KeyedProducer share: settings, and the calls that run a job. Use one of those."""

    WORKERS_NUMBER: ClassVar[int | None] = None
    ATTEMPTS: ClassVar[int] = 4
    RETRIES: ClassVar[int] = 0
    MAX_FAILED: ClassVar[int] = 0
    PART_TIMEOUT: ClassVar[float | None] = None
    MEMORY_LIMIT: ClassVar[int | None] = None
    BACKUPS: ClassVar[float] = 0.05
    SEED: ClassVar[int] = 0

    #: True if `reduce_fn` reduces the mapped records of a part, and the partials; false if the values of a key.
    _reduces_parts: ClassVar[bool] = True
    #: Records of a part, of data without a length.
    _records_a_part: ClassVar[int] = RECORDS_A_PART
    #: True if several short parts may go to a worker together.
    _shares_batches: ClassVar[bool] = True
    #: True if each part has its own record, so that a longer list begins with the parts of a shorter one.
    _grows: ClassVar[bool] = False
    #: True if a later start of the script has the same parts, so that a checkpoint of them is of use.
    _is_kept: ClassVar[bool] = True

    _mq_server: str | None = None
    _local_mode = False
    _engine: Engine | str | None = None
    _listeners: Sequence[Listener] = ()
    _choice: Choice | None = None

    @checks_call
    def __init__(
        self,
        mq_server: str | None = None,
        local_mode: bool = False,
        *,
        engine: Engine | str | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self._mq_server = mq_server
        self._local_mode = local_mode
        self._engine = engine
        if callable(listeners) or not all(map(callable, listeners)):
            from pymar.exceptions import UsageError

            raise UsageError(f"listeners={listeners!r:.200}: give a list of functions, such as [print]")
        self._listeners = listeners

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        code = getattr(vars(cls).get("map"), "__code__", None)
        starred = 0x0C  # the flags of a function that takes *arguments or **named
        if isinstance(vars(cls).get("map"), staticmethod) or (
            code is not None and code.co_argcount + code.co_kwonlyargcount < 2 and not code.co_flags & starred
        ):
            from pymar.exceptions import UsageError

            raise UsageError(f"{cls.__name__}.map hides the call that runs the job, map(factory): name it map_fn")

    @staticmethod
    def map_fn(data_source: Any, /) -> Iterable[Any]:
        """Return or yield the mapped records of a part. `data_source` is the part's records: iterate over it."""
        raise NotImplementedError

    @staticmethod
    def setup_fn() -> None:
        """Load a model, open a connection: called once in each process before its first part."""

    @classmethod
    def _least_bytes(cls) -> int:
        """Return how many bytes of its files a part has at least, where WORKERS_NUMBER is None; 0 for any."""
        return 0

    @classmethod
    def _reads_all(cls) -> bool:
        """True if what `map_fn` returns ends with the records: if it ends before, an error was hidden."""
        return False

    @classmethod
    def _explain(cls, error: Exception, source: Any, read: int, sink: Any) -> None:
        """Add notes to what was raised while a part was computed, after so many of its records."""

    @classmethod
    def routing_key(cls) -> str:
        """Return the name of the pool of workers that computes this over AMQP."""
        from pymar.serialization.composed import POOL, made_of

        return cls.__name__ if made_of(cls) is None else POOL

    def workers_number(self) -> int | None:
        """Return how many parts to make; None for the default."""
        return self.WORKERS_NUMBER

    def divide(self, factory: DataSourceFactory) -> Iterator[DataSourceFactory]:
        """Yield the parts of a job, as factories. Override it to cut unevenly."""
        length = factory.length()
        for offset, limit in cut(length, self.workers_number() or length):
            yield factory.part(limit, offset)

    @checks_call
    def map(
        self,
        factory: DataSourceFactory,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        *,
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
        on_mismatch: OnMismatch = "refuse",
    ) -> Answer:
        """Return the answer: `reduce_fn` over the partials of all parts.

        Args:
            factory: the data.
            timeout: seconds; 0 for no time-out.
            on_timeout: what follows a time-out: "local_mode" computes the unfinished parts here, "fail" raises.
            checkpoint: a file that keeps the finished partials: a later call with it computes only the missing ones.
            progress: True for a progress bar, False for none, None for one if stderr is a terminal.
            on_mismatch: what follows if code, settings or data are not those of the checkpoint: "refuse" raises;
                "keep" says that the partials in it are right all the same, and computes what is missing. Parts that
                have another slice or other records than before are computed again.

        Raises:
            UsageError: a class or a setting is not what it has to be.
            PartFailed: map_fn, reduce_fn or the source raised.
            PartLost: the processes that computed a part died, ATTEMPTS times.
            PartsFailed: these, if MAX_FAILED is more than 0, once all other parts are computed.
            JobTimeout: the timeout has passed, with on_timeout="fail".
            CheckpointMismatch: the file belongs to another job, or the data has changed.
        """
        with one_line_on_interrupt(type(self).__name__):
            plan = self._plan(factory)
            with self._runner(plan, timeout, on_timeout, checkpoint, progress, on_mismatch) as runner:
                partials = runner.in_order()
                value = self._reduced(partials, runner)
                deque(partials, maxlen=0)  # a reduce_fn that stops early still has every part computed
                runner.check()
            return value

    def _reduced(self, partials: Iterator[Any], runner: Runner) -> Answer:
        name = type(self).__name__
        try:
            cls: Any = type(self)
            answer: Answer = a_value(cls.reduce_fn(partials), cls)
            return answer
        except Exception as error:
            first = runner.ended_by
            if isinstance(error, PymarError) and (first is None or first is error):
                raise error.with_traceback(
                    None
                ) from error.__cause__  # of the job, not of reduce_fn, which waited for partials
            if first is None:
                error.add_note(
                    f"{name}.reduce_fn ran over the partials of the parts here: it has to accept what it returns"
                )
            elif not any(one is first for one in _chain(error)):  # raised by reduce_fn, because the job has ended early
                raise first.with_traceback(None) from first.__cause__
            raise

    @checks_call
    def submit(
        self,
        factory: DataSourceFactory,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        *,
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
        on_mismatch: OnMismatch = "refuse",
    ) -> Future[Answer]:
        """Run `map` in a thread; return a future of its answer (to await: `asyncio.wrap_future(future)`).

        Its cancel() stops the job (a part that the serial engine computes ends first) and returns True, unless it has
        ended. `concurrent.futures.wait([future])` returns once nothing of it runs, and its checkpoint is free.
        """
        from threading import Thread

        from pymar.job.stopping import JobFuture, stops

        future: JobFuture[Answer] = JobFuture()
        it_is_over = log_if_script_ends(
            type(self).__name__, "a future of submit() was not waited for: call its result()"
        )

        def run() -> None:
            stops.set(future.is_stopped)
            try:
                answer = self.map(
                    factory, timeout, on_timeout, checkpoint=checkpoint, progress=progress, on_mismatch=on_mismatch
                )
            except BaseException as error:  # all of them are for the thread that waits for the future
                it_is_over()
                future._settle(error)
            else:
                it_is_over()
                future._settle(None, answer)

        # A daemon thread, so that Ctrl-C in the main thread ends the program.
        Thread(target=run, name=f"pymar-{type(self).__name__}", daemon=True).start()
        return future

    @checks_call
    def partials(
        self,
        factory: DataSourceFactory,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        *,
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
        on_mismatch: OnMismatch = "refuse",
    ) -> Iterator[Answer]:
        """Return an iterator of the partials, as they finish. Its close() stops the job. Raises as `map` does."""
        plan = self._plan(factory)

        def as_finished() -> Iterator[Answer]:
            name = type(self).__name__
            it_is_closed = log_if_script_ends(name, "an iterator of partials() is open: close() it, or exhaust it")
            try:
                with (
                    one_line_on_interrupt(name),
                    self._runner(plan, timeout, on_timeout, checkpoint, progress, on_mismatch) as runner,
                ):
                    yield from runner.as_finished()
            finally:
                it_is_closed()

        return as_finished()

    @checks_call
    def write(
        self,
        factory: DataSourceFactory,
        sink: Sink,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        *,
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
        on_mismatch: OnMismatch = "refuse",
    ) -> Written:
        """Let the workers write the records that `map_fn` yields to a sink, all or nothing; no reduce_fn is needed.

        Args:
            factory: the data.
            sink: where to: one of `pymar.sinks`, or your own.
            timeout, on_timeout, progress, on_mismatch: as of `map`.
            checkpoint: a file that keeps which parts are written: a later call with it writes only the missing ones.

        Returns:
            How many records, files and bytes.

        Raises:
            SinkError: the target has data already, cannot be written, or a record does not fit it. It is as before.
            CheckpointMismatch: as `map`; or the job of the checkpoint has been published.
            Errors that `map` raises: likewise.
        """
        from pymar.job.automatic import checkpoint_of_sink, earlier_result
        from pymar.job.checkpoint import check_unpublished
        from pymar.job.checks import check_call
        from pymar.job.writing import check_sink, stages

        check_sink(sink)
        check_call(checkpoint, progress, on_mismatch)
        sink = sink.for_a_job()
        with one_line_on_interrupt(type(self).__name__):
            stop_if_loading(type(self), factory)
            if checkpoint is None:
                checkpoint = checkpoint_of_sink(type(self).__name__, sink)
            if (found := earlier_result(checkpoint)) is not None:
                return found
            if checkpoint is not None:
                check_unpublished(checkpoint)
            sink.begin(None if checkpoint is None else str(checkpoint))

            def stage(factory: DataSourceFactory, sink: Sink, checkpoint: Any) -> Iterator[Any]:
                plan = self._plan(factory, sink)
                keep = "refuse" if checkpoint is None else on_mismatch  # the merging stage has none
                with self._runner(plan, timeout, on_timeout, checkpoint, progress, keep) as runner:
                    yield from runner.as_finished()

            return stages(sink, stage, factory, checkpoint)

    @checks_call
    def replay(self, error: PartFailed | PartLost) -> Answer:
        """Compute the failed part once more, in this process and thread: for a debugger. Raises what it raises."""
        if getattr(error, "rerun", None) is None:
            from pymar.exceptions import PartFailed, PartLost, PartsFailed, UsageError

            if isinstance(error, PartsFailed):
                raise UsageError("replay takes one of the parts that failed: such as error.exceptions[0]")
            if not isinstance(error, PartFailed | PartLost):
                raise UsageError(f"got {error!r:.200}: replay takes the PartFailed or PartLost that map() has raised")
            raise UsageError(
                "this error comes from another process, without its part: call map() again, and replay its error"
            )
        spec, part = error.rerun
        task = Task(spec)
        with task.entered():
            task.set_up()
            answer: Answer = task.run(part)
            return answer

    def _plan(self, factory: DataSourceFactory, sink: Sink | None = None, given: Given | None = None) -> Plan:
        stop_if_loading(type(self), factory)
        from pymar.job.plan import Plan

        return Plan(self, factory, Producer, sink, given)

    def _runner(
        self,
        plan: Plan,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
        on_mismatch: OnMismatch = "refuse",
    ) -> Runner:
        from pymar.events.progress import on_terminal
        from pymar.job.checks import check_call
        from pymar.job.runner import Deadline, Runner

        try:
            check_call(checkpoint, progress, on_mismatch)
            return Runner(
                plan,
                self._choose(),
                deadline=Deadline(timeout, on_timeout),
                checkpoint=checkpoint,
                listeners=[*self._listeners, *on_terminal(progress)],
                on_mismatch=on_mismatch,
            )
        except BaseException:  # there is no runner that would release it
            plan.release()
            raise

    def _choose(self) -> Choice:
        if self._choice is None:
            from pymar.engines import choose

            self._choice = choose(self._engine, self._mq_server, self._local_mode, self._is_served)
        return self._choice

    def _is_served(self) -> Engine | None:
        from pymar.amqp.producer.discovery import engine_that_serves

        return engine_that_serves(type(self))


class Producer(Computation[Answer]):
    """A computation over some data: subclasses define `map_fn` and `reduce_fn`, both static; `map` runs a job of them.

    `reduce_fn` is called on each part where the part is computed, and once more here, over the partials in part order.
    The same parts give the same answer, bit for bit, on every engine.

    For type checkers, `int` in `class Mine(Producer[int])` is what `reduce_fn` and `map` return; without it, Any.

    Class attributes, each with its default:
        WORKERS_NUMBER = None: how many parts (not workers) to make; None: 256, or the length if that is less. The last
            bits of sums of floats, and random numbers, depend on the number of parts, and not on that of workers.
        ATTEMPTS = 4: how often a part is computed at most if the processes that compute it die.
        RETRIES = 0: how often a part is computed again if map_fn or reduce_fn raises on it.
        MAX_FAILED = 0: how many parts may fail for good before the job stops. If there are some at the end, all others
            are computed (and in the checkpoint), and PartsFailed is raised.
        PART_TIMEOUT = None: seconds that a part may take; then it is stopped and computed once more.
        MEMORY_LIMIT = None: bytes of resident memory that the process of a part may use; then likewise.
        BACKUPS = 0.05: the share of the parts that may be computed a second time at the end, if slow (backup tasks).
        SEED = 0: the seed of random numbers, together with the part's number.

    Args:
        mq_server: host, host:port or URL of a RabbitMQ broker whose workers compute.
        local_mode: compute on this host's cores.
        engine: where to compute: a string such as "serial" or "processes://4", or an engine object.
        listeners: functions that are called with every event of this producer's jobs (`pymar.events`).
    """

    @staticmethod
    def reduce_fn(data_source: Any, /) -> Answer:
        """Return one value, not a generator. Called on the mapped records of each part, and once on all partials.

        Either may be empty: if map_fn yields nothing for a part, or if there is no data.
        """
        raise NotImplementedError


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error with its causes and contexts, and theirs."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and not any(one is other for other in found):
            found.append(one)
            waiting += [one.__cause__, one.__context__]
    return found
