"""Parts, jobs and reports: the frozen values that pass between a job, its engine and its workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    _Tuple = TypeVar("_Tuple", bound=tuple[Any, ...])

    class _Make(Protocol):
        def __call__(self, cls: type[_Tuple], fields: Iterable[Any], /) -> _Tuple: ...


__all__ = [
    "BATCH_SECONDS",
    "DEFAULT_PARTS",
    "Cause",
    "Connection",
    "Done",
    "Failed",
    "Failure",
    "JobSpec",
    "Joined",
    "Left",
    "Lost",
    "Part",
    "Refused",
    "Report",
    "Returned",
    "Running",
    "cut",
]


class Part(NamedTuple):
    """A slice of the data, on which map_fn and then reduce_fn are called once."""

    index: int
    attempt: int
    offset: int
    limit: int
    data: Any = None
    """The records, if they are data of the producer's; otherwise the source reads them where the part is computed."""


#: Seconds of work that a batch is sized for on one host: long enough to hide the 0.1 ms that a batch costs, short
#: enough that slots finish at about the same time.
BATCH_SECONDS = 0.002
#: How many parts WORKERS_NUMBER = None makes, if there are as many records: four for each of 64 slots, so that the last
#: ones take little time. It must not depend on the machine, or the last bits of floats would.
DEFAULT_PARTS = 256

#: `make(Part, fields)` makes a part or a report from its fields in half the time of a call of the class.
make: _Make = tuple.__new__


class JobSpec(NamedTuple):
    """What a worker needs to compute parts of a job. Travels once to each worker."""

    producer: type[Any]
    source: type[Any] | None
    """None if the records come with the parts."""
    settings: dict[Any, dict[str, Any]]
    """Values, by class (attributes), module name (global variables) or, in a worker, function (what its closure holds),
    that are set while the job runs."""
    seed: int = 0
    part_timeout: float | None = None
    """Seconds."""
    memory_limit: int | None = None
    """Bytes of resident memory that a worker process may use."""
    parts: int | None = None
    """The number of parts, if it is known before they are made."""
    sink: Any = None
    """Where the mapped records go (sinks.Sink), in place of reduce_fn."""
    interpreter: Any = None
    """Settings of the interpreter in the script (serialization/interpreter.py); None where the job's file sets them."""
    code: Any = None
    """The code that the classes use (usercode.UserCode); only at the producer, it does not travel."""

    def classes(self) -> list[type[Any]]:
        """Return the classes whose code the job needs: of the producer, the source and the sinks."""
        found = [self.producer, self.source, *map(type, sinks_within(self.sink))]
        return [cls for cls in found if cls is not None]


def sinks_within(sink: Any) -> list[Any]:
    """Return a sink, the one within it, and so on; none for None."""
    found: list[Any] = []
    while sink is not None:
        found.append(sink)
        sink = sink.sink
    return found


def state_of(sink: Any) -> dict[str, Any]:
    """Return the attributes with which a sink travels, without the sink within it."""
    return {name: value for name, value in sink.__getstate__().items() if name != "sink"}


class Cause(NamedTuple):
    """Why a worker lost a part."""

    kind: str
    """"died", "timeout", "memory", "source" (the data cannot be reached now) or "start" (worker processes there die
    before they have loaded the job: no part causes that, and it counts as a loss of one of the waiting parts)."""
    text: str


class Failure(NamedTuple):
    """An exception of the user's code as text and, if it can be pickled, encoded."""

    error: str
    traceback: str = ""
    variables: str = ""
    exception: bytes | None = None


class Running(NamedTuple):
    """A worker has begun a part. Optional for an engine."""

    index: int
    worker: str
    """The slot that computes it, with its host: "slot 1 (pid 4711) on node7"."""


class Done(NamedTuple):
    """A part has been computed. Its value stays encoded (`values.dumps`) until it is needed."""

    index: int
    value: bytes
    seconds: float


class Failed(NamedTuple):
    """The user's code raised on a part."""

    index: int
    worker: str
    failure: Failure


class Lost(NamedTuple):
    """The process that computed this part, and no other, died or was stopped because of it."""

    index: int
    cause: Cause
    again: bool = True
    """True if the part has to be sent again; False if another worker has it already."""


class Returned(NamedTuple):
    """A part was returned uncomputed; that does not count as an attempt at it."""

    index: int
    alone: bool = True
    """True if it may have ended its process, and is sent in a batch of its own from now on; False if it only waited."""


class Refused(NamedTuple):
    """A worker cannot compute parts of the job: its code is not what the job was made with, or its worker processes do
    not start. The parts go to other workers; if there are none, the job ends. On a Dask or Ray cluster, whose workers
    have to be alike, it ends at once."""

    indices: tuple[int, ...]
    text: str
    is_passing: bool = False
    """True if it may be able to later: the cause is not its code."""


class Joined(NamedTuple):
    """An agent takes parts: a worker on some host, or this process itself."""

    agent: str
    slots: int
    """How many parts it computes at once."""

    @property
    def worker(self) -> str:
        """Deprecated: the agent."""
        return _agent_by_its_old_name("Joined", self.agent)


class Left(NamedTuple):
    """An agent takes no more parts."""

    agent: str
    parts: int = 0
    """How many of the parts that it computed are sent again, as far as that is known now."""
    why: str = ""
    """Why it counts as lost; "" if it has left by itself, or that is unknown."""

    @property
    def worker(self) -> str:
        """Deprecated: the agent."""
        return _agent_by_its_old_name("Left", self.agent)


def _agent_by_its_old_name(kind: str, agent: str) -> str:
    from pymar.deprecation import warn_deprecated

    warn_deprecated(f"{kind}.worker", since="0.5", removed_in="0.7", instead=f"write {kind}.agent")
    return agent


class Connection(NamedTuple):
    """The engine's way to its workers is disturbed, or in order again. What workers compute goes on meanwhile."""

    trouble: str
    """What is wrong, for people, as "the broker is away"; "" once it is in order again."""


Report = Running | Done | Failed | Lost | Returned | Refused | Joined | Left | Connection


def cut(length: int, count: int) -> Iterator[tuple[int, int]]:
    """Split `length` into at most `count` non-empty `(offset, limit)`, in order; lengths differ by at most one."""
    count = min(length, count)
    start = 0
    for number in range(1, count + 1):
        end = length * number // count
        yield start, end - start
        start = end
