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
    "PARTS",
    "Cause",
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
    """A slice of the data: what one call of map_fn and reduce_fn is made on."""

    index: int
    attempt: int
    offset: int
    limit: int
    data: Any = None
    """The records, only when they live at the producer."""


#: Seconds of work that a batch is sized for, within a host: enough to hide the 0.1 ms that a batch costs, short enough
#: to balance.
BATCH_SECONDS = 0.002
#: Parts that WORKERS_NUMBER = None makes of data that is long enough: four for each of 64 slots, so that the last ones
#: to finish are short. It must not depend on the machine, or answers in floating point would.
PARTS = 256

#: `make(Part, fields)` makes a report or a part of its fields in half the time of calling the class.
make: _Make = tuple.__new__


class JobSpec(NamedTuple):
    """All that a worker has to know of a job. Travels once to each worker."""

    producer: type[Any]
    source: type[Any] | None
    """None when the records come with the parts."""
    settings: dict[Any, dict[str, Any]]
    """Attributes of classes, global variables of modules (by name), and in a worker what functions hold, as they are to
    be while the job runs."""
    seed: int = 0
    part_timeout: float | None = None
    """Seconds."""
    memory_limit: int | None = None
    """Bytes of resident memory a worker process."""
    parts: int | None = None
    """How many, where that is known before they are made."""
    interpreter: Any = None
    """What the script has set for its interpreter (interpreter.py); None where the job's file sets it itself."""
    code: Any = None
    """What its classes lead to (usercode.UserCode), at the producer: it does not travel."""


class Cause(NamedTuple):
    """Why a worker lost a part."""

    kind: str
    """"died", "timeout", "memory", "source" (its data cannot be reached now) or "start" (children there die before they
    have loaded the job: no part is to blame, and one of those that waited for them is charged)."""
    text: str


class Failure(NamedTuple):
    """An exception of the user's code on its way to another process: text, and itself where it can travel."""

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
    """A part has been computed. The value is encoded (`values.dumps`) until it is asked for."""

    index: int
    value: bytes
    seconds: float


class Failed(NamedTuple):
    """The user's code raised on a part."""

    index: int
    worker: str
    failure: Failure


class Lost(NamedTuple):
    """A worker died while it computed this part and nothing else, or was stopped because of it."""

    index: int
    cause: Cause
    again: bool = True
    """Whether it has to be handed out again: not if another worker has it already."""


class Returned(NamedTuple):
    """A part was handed back uncomputed, through no fault of its own."""

    index: int
    alone: bool = True
    """Whether it is to be alone from now on: it may have been what ended its worker. If not, it waited too long."""


class Refused(NamedTuple):
    """A worker cannot take part in the job: its code is not what the job was made with, or its children do not start.
    The parts go to others; if there are none, the job ends. So it does on a cluster of another system's, whose workers
    are meant to be alike."""

    indices: tuple[int, ...]
    text: str
    is_passing: bool = False
    """Whether it may be able to in a while: what is wrong is not its code."""


class Joined(NamedTuple):
    """An agent can take parts: a worker's process on some host, or this process itself."""

    agent: str
    slots: int
    """How many parts it computes at once."""

    @property
    def worker(self) -> str:
        """The agent, by its old name."""
        return _agent_by_its_old_name("Joined", self.agent)


class Left(NamedTuple):
    """An agent takes no more parts."""

    agent: str

    @property
    def worker(self) -> str:
        """The agent, by its old name."""
        return _agent_by_its_old_name("Left", self.agent)


def _agent_by_its_old_name(kind: str, agent: str) -> str:
    from pymar.deprecation import warn_deprecated

    warn_deprecated(f"{kind}.worker", since="0.5", removed_in="0.7", instead=f"write {kind}.agent")
    return agent


Report = Running | Done | Failed | Lost | Returned | Refused | Joined | Left


def cut(length: int, count: int) -> Iterator[tuple[int, int]]:
    """Split `length` into at most `count` non-empty `(offset, limit)`, in order; lengths differ by at most one."""
    count = min(length, count)
    start = 0
    for number in range(1, count + 1):
        end = length * number // count
        yield start, end - start
        start = end
