"""Producer: what to do with the data, and the calls that get it done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, ParamSpec, TypeVar

# Only what a worker needs: it imports this module for the base class, and the rest would double its start.
from pymar.exceptions import PymarError
from pymar.job.interrupt import said_in_one_line, say_at_the_end
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
    from pymar.job.plan import Plan
    from pymar.job.runner import Runner

    Answer = TypeVarWithDefault("Answer", default=Any)
else:
    Answer = None

    class Generic:
        """Producer[int] is Producer where code runs: a type that is only written there is not sent to workers."""

        def __class_getitem__(cls, answer):
            return cls


__all__ = ["Producer"]

OnTimeout = Literal["local_mode", "fail"]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _called_right(method: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The method, which tells P.map(factory) and misspelt arguments what to write instead."""

    @wraps(method)
    def call(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        if not arguments or not isinstance(arguments[0], Producer) or not named.keys() <= names:
            from pymar.job.spelling import called_wrong

            raise called_wrong(method, names, arguments, named, Producer)
        return method(*arguments, **named)

    code = method.__code__
    names = frozenset(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
    return call


class Producer(Generic[Answer]):
    """Computes over some data: subclasses define `map_fn` and `reduce_fn`, both static; `map` runs them.

    `reduce_fn` runs on each part where the part is computed, and once more over those partials, in part order, here.
    The same parts give the same answer, bit for bit, whatever computes them.

    `class Mine(Producer[int])` tells type checkers what `reduce_fn` and `map` return; a plain Producer, Any.

    Class attributes, each with its default:
        WORKERS_NUMBER = None: how many parts (not workers) to make; None: 256, or the length if that is less. Another
            number of parts means other last bits in sums of floats and other random numbers; other workers do not.
        ATTEMPTS = 4: how often a part is computed at most when the processes that compute it die.
        RETRIES = 0: how often a part is computed again when map_fn or reduce_fn raised on it.
        PART_TIMEOUT = None: seconds a part may take; then it is stopped and computed once more.
        MEMORY_LIMIT = None: bytes of resident memory of a process that computes parts; likewise.
        BACKUPS = 0.05: the share of the parts of which a slow one may be computed twice at the end; 0: never.
        SEED = 0: what random numbers are made from, together with the part's number.

    Args:
        mq_server: host of an AMQP server whose workers compute. Not in this version.
        local_mode: compute on this host's cores.
        engine: where to compute: a string such as "serial" or "processes://4", or an Engine.
        listeners: called with every event of this producer's jobs (`pymar.events`).
    """

    WORKERS_NUMBER: ClassVar[int | None] = None
    ATTEMPTS: ClassVar[int] = 4
    RETRIES: ClassVar[int] = 0
    PART_TIMEOUT: ClassVar[float | None] = None
    MEMORY_LIMIT: ClassVar[int | None] = None
    BACKUPS: ClassVar[float] = 0.05
    SEED: ClassVar[int] = 0

    _mq_server: str | None = None
    _local_mode = False
    _engine: Engine | str | None = None
    _listeners: Sequence[Listener] = ()
    _choice: Choice | None = None

    @_called_right
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
        """The mapped records of a part. `data_source` is an instance of the source class, or the part's records."""
        raise NotImplementedError

    @staticmethod
    def reduce_fn(data_source: Any, /) -> Answer:
        """One value, not a generator, from an iterable: what map_fn gave for a part; then, the partials of all parts.

        Either may be empty: of a part from which map_fn took nothing, or of no data.
        """
        raise NotImplementedError

    @staticmethod
    def setup_fn() -> None:
        """Called once in each process before its first part: to load a model, to open a connection."""

    @classmethod
    def routing_key(cls) -> str:
        """The name of the pool of workers that computes this."""
        return cls.__name__

    def workers_number(self) -> int | None:
        """How many parts to make."""
        return self.WORKERS_NUMBER

    def divide(self, factory: DataSourceFactory) -> Iterator[DataSourceFactory]:
        """The parts of a job, as factories. Override it to cut elsewhere than evenly."""
        length = factory.length()
        for offset, limit in cut(length, self.workers_number() or length):
            yield factory.part(limit, offset)

    @_called_right
    def map(
        self,
        factory: DataSourceFactory,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        *,
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> Answer:
        """The answer: `reduce_fn` over the partials of all parts.

        Args:
            factory: where the data is.
            timeout: seconds; 0 for none. Then "local_mode" computes the unfinished parts here, "fail" raises.
            on_timeout: "local_mode" or "fail".
            checkpoint: a file that keeps the finished partials: the same call later computes only what is missing.
            progress: a progress bar: None on a terminal only, True always, False never.

        Raises:
            UsageError: a class or a setting is not what it has to be.
            PartFailed: map_fn, reduce_fn or the source raised.
            PartLost: the processes that computed a part died, ATTEMPTS times.
            JobTimeout: the time ran out, with on_timeout="fail".
            CheckpointMismatch: the file belongs to another job, or the data has changed.
        """
        with said_in_one_line(type(self).__name__):
            plan = self._plan(factory)
            with self._runner(plan, timeout, on_timeout, checkpoint, progress) as runner:
                partials = runner.in_order()
                value = self._reduced(partials, runner)
                deque(partials, maxlen=0)  # a reduce_fn that stops early still has every part computed
                runner.check()
            return value

    def _reduced(self, partials: Iterator[Any], runner: Runner) -> Answer:
        name = type(self).__name__
        try:
            answer: Answer = a_value(type(self).reduce_fn(partials), type(self))
            return answer
        except Exception as error:
            first = runner.ended_by
            if isinstance(error, PymarError) and (first is None or first is error):
                raise error.with_traceback(None) from error.__cause__  # reduce_fn only happened to wait for it
            if first is None:
                error.add_note(
                    f"{name}.reduce_fn ran over the partials of the parts here: it has to accept what it returns"
                )
            elif not any(one is first for one in _chain(error)):  # what reduce_fn made of some of the partials
                raise first.with_traceback(None) from first.__cause__
            raise

    @_called_right
    def submit(
        self,
        factory: DataSourceFactory,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        *,
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> Future[Answer]:
        """`map` in a thread: a future for its answer (`await asyncio.wrap_future(future)` in a coroutine)."""
        from concurrent.futures import Future
        from threading import Thread

        future: Future[Answer] = Future()
        future.set_running_or_notify_cancel()
        it_is_over = say_at_the_end(type(self).__name__, "nobody waited for a future of submit(): ask for its result()")

        def run() -> None:
            try:
                answer = self.map(factory, timeout, on_timeout, checkpoint=checkpoint, progress=progress)
            except BaseException as error:  # whatever it is, it belongs to whoever waits
                it_is_over()
                future.set_exception(error)
            else:
                it_is_over()
                future.set_result(answer)

        # A daemon, so that Ctrl-C in the main thread ends the program.
        Thread(target=run, name=f"pymar-{type(self).__name__}", daemon=True).start()
        return future

    @_called_right
    def partials(
        self,
        factory: DataSourceFactory,
        timeout: float = 0,
        on_timeout: OnTimeout = "local_mode",
        *,
        checkpoint: str | PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> Iterator[Answer]:
        """The parts' partials as they finish, in no order. Closing the iterator stops the job. Raises as `map` does."""
        plan = self._plan(factory)

        def as_finished() -> Iterator[Answer]:
            name = type(self).__name__
            it_is_closed = say_at_the_end(name, "an iterator of partials() is open: close() it, or take all of it")
            try:
                with (
                    said_in_one_line(name),
                    self._runner(plan, timeout, on_timeout, checkpoint, progress) as runner,
                ):
                    yield from runner.as_finished()
            finally:
                it_is_closed()

        return as_finished()

    @_called_right
    def replay(self, error: PartFailed | PartLost) -> Answer:
        """Compute the part that failed once more, in this process and thread: for a debugger. Raises what it raises."""
        if getattr(error, "rerun", None) is None:
            from pymar.exceptions import PartFailed, PartLost, UsageError

            if not isinstance(error, PartFailed | PartLost):
                raise UsageError(f"got {error!r:.200}: replay takes the PartFailed or PartLost that map() has raised")
            raise UsageError("this error has come from another process without its part: map again to replay it")
        spec, part = error.rerun
        task = Task(spec)
        with task.entered():
            task.set_up()
            answer: Answer = task.run(part)
            return answer

    def _plan(self, factory: DataSourceFactory) -> Plan:
        stop_if_loading(type(self), factory)
        from pymar.job.plan import Plan

        return Plan(self, factory, Producer)

    def _runner(
        self,
        plan: Plan,
        timeout: float,
        on_timeout: OnTimeout,
        checkpoint: str | PathLike[str] | None,
        progress: bool | None,
    ) -> Runner:
        from pymar.events.progress import on_terminal
        from pymar.job.checks import check_call
        from pymar.job.runner import Deadline, Runner

        try:
            check_call(checkpoint, progress)
            return Runner(
                plan,
                self._choose(),
                deadline=Deadline(timeout, on_timeout),
                checkpoint=checkpoint,
                listeners=[*self._listeners, *on_terminal(progress)],
            )
        except BaseException:  # there is no runner that would
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


def _chain(error: BaseException) -> list[BaseException]:
    """An error, and those that it came from."""
    told: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and not any(one is other for other in told):
            told.append(one)
            waiting += [one.__cause__, one.__context__]
    return told
