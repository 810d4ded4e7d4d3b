"""The errors that Pymar raises. Every message says what happened, to what, and what to do.

PymarError
├── UsageError            a class, a setting or a call is not what it has to be
│   ├── NotPicklable      a job, a record or a value cannot be sent to another process
│   ├── NotPlain          likewise over AMQP without a key, which carries plain data only
│   ├── BrokerRefused     the AMQP server cannot be reached, refuses us, or lacks the key or TLS that is needed
│   ├── ClusterRefused    a Dask or Ray cluster cannot be reached, or its workers have other versions or code
│   ├── SourceError       data cannot be read, or do not match the source; names the file and byte, or the table
│   │   ├── SourceChanged      the data have changed since the job began
│   │   └── SourceUnavailable  the store cannot be reached now: the part is computed again, ATTEMPTS times at most
│   ├── SinkError         results cannot be written, or do not fit the target; names the file, the record, the column
│   │   └── SinkUnavailable    the store cannot be reached now: the part is computed again, ATTEMPTS times at most
│   ├── ExchangeError     what the workers of a keyed job exchange cannot be written or read; names the folder
│   │   └── ExchangeUnavailable  it cannot be reached now: the part is computed again, ATTEMPTS times at most
│   └── MissingExtra      an optional library is not installed; the message has the command that installs it
├── JobError              the job has no answer
│   ├── PartFailed        the user's code raised
│   ├── PartLost          the workers that computed a part died, each time
│   ├── PartsFailed       some of these, where MAX_FAILED lets the other parts be computed: an ExceptionGroup
│   ├── JobTimeout        map(timeout=...) ran out (also called TimeOutException)
│   ├── JobCancelled      somebody has ended it with `pymar cancel`
│   └── ClusterLost       a Dask or Ray cluster went away while the job ran
└── CheckpointMismatch    the journal belongs to another job, or to other data
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "BrokerRefused",
    "CheckpointMismatch",
    "ClusterLost",
    "ClusterRefused",
    "ExchangeError",
    "ExchangeUnavailable",
    "JobCancelled",
    "JobError",
    "JobTimeout",
    "MissingExtra",
    "NotPicklable",
    "NotPlain",
    "PartFailed",
    "PartLost",
    "PartsFailed",
    "PymarError",
    "SinkError",
    "SinkUnavailable",
    "SourceChanged",
    "SourceError",
    "SourceUnavailable",
    "TimeOutException",
    "UsageError",
]


class PymarError(Exception):
    """The root of all errors that Pymar raises itself."""


class UsageError(PymarError):
    """A class, a setting or a call is not what it has to be; the message names it and the remedy."""


class NotPicklable(UsageError):
    """Something that has to travel to another process cannot be pickled."""


class NotPlain(UsageError):
    """Something that has to travel over AMQP without a key is not plain data."""


class BrokerRefused(UsageError):
    """The AMQP server cannot be reached, or refuses this user, a queue or an exchange; or it is on another host without
    the key or TLS that this requires."""

    def __init__(self, text: str, is_final: bool = False, about: str = "", is_cut: bool = False) -> None:
        super().__init__(text, is_final, about, is_cut)
        #: True if another try would fail too.
        self.is_final = is_final
        #: The name of the queue or exchange that is refused; "" if it is none.
        self.about = about
        #: True if the connection was made and broke before it could be used.
        self.is_cut = is_cut

    def __str__(self) -> str:
        return str(self.args[0])


class ClusterRefused(UsageError):
    """A Dask or Ray cluster cannot be reached, or its workers have other versions or other code than the producer."""


class SourceError(UsageError):
    """Data cannot be read, or do not match the source that describes them."""


class SourceChanged(SourceError):
    """Data have changed between the producer's look at their size and a worker's reading."""


class SourceUnavailable(SourceError):
    """The store cannot be reached now. The part is computed again, ATTEMPTS times at most."""


class SinkError(UsageError):
    """Results cannot be written, or do not fit the target."""


class SinkUnavailable(SinkError):
    """The store cannot be reached now. The part is computed again, ATTEMPTS times at most."""


class ExchangeError(UsageError):
    """What the workers of a keyed job exchange cannot be written or read."""


class ExchangeUnavailable(ExchangeError):
    """The exchange cannot be reached now. The part is computed again, ATTEMPTS times at most."""


class MissingExtra(UsageError):
    """An optional library is needed and not installed."""


class JobError(PymarError):
    """A job ended without an answer."""


class PartFailed(JobError):
    """The user's code raised while it computed a part.

    `__cause__` is the original exception if it could be sent; `traceback` and `variables` are texts.
    `producer.replay(error)` runs the part once more in this process, under a debugger if there is one.
    """

    def __init__(
        self,
        part: tuple[int, int, int, int],
        worker: str,
        error: str,
        traceback: str = "",
        variables: str = "",
    ) -> None:
        super().__init__(part, worker, error, traceback, variables)
        self.index: int
        self.attempt: int
        self.offset: int
        self.limit: int
        self.index, self.attempt, self.offset, self.limit = part
        self.worker = worker
        self.error = error
        self.traceback = traceback
        self.variables = variables
        #: What `producer.replay` needs; it is not pickled with the error. The second: what has to stay for it.
        self.rerun: Any = None
        self.needs: Any = None

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), self.args

    def __str__(self) -> str:
        lines = [
            f"part {self.index} (offset {self.offset}, limit {self.limit}) failed on {self.worker}: {self.error}",
            "To run this part here, under a debugger: pymar.Producer().replay(error)",
        ]
        if self.traceback:
            lines += ["", "On the worker:", self.traceback.rstrip()]
        if self.variables:
            lines += ["", "Variables of the innermost frames:", self.variables.rstrip()]
        return "\n".join(lines)


class PartLost(JobError):
    """Every process that computed a part died or was stopped; `causes` has one text for each attempt."""

    def __init__(self, part: tuple[int, int, int, int], causes: tuple[str, ...]) -> None:
        super().__init__(part, causes)
        self.index: int
        self.attempt: int
        self.offset: int
        self.limit: int
        self.index, self.attempt, self.offset, self.limit = part
        self.causes = causes
        #: What `producer.replay` needs; it is not pickled with the error. The second: what has to stay for it.
        self.rerun: Any = None
        self.needs: Any = None
        #: What it is about, for people: an item.
        self.about: str = ""

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), self.args

    def __str__(self) -> str:
        count = len(self.causes)
        about = f" ({self.about})" if self.about else ""
        part = f"part {self.index} (offset {self.offset}, limit {self.limit}){about}"
        head = f"{part} was lost {count} times, and is given up."
        return "\n".join([head, *(f"attempt {number}: {cause}" for number, cause in enumerate(self.causes, 1))])


class PartsFailed(JobError, ExceptionGroup["PartFailed | PartLost"]):
    """So many parts failed, each with its error in `exceptions`, in part order; the others are computed.

    `producer.replay` takes each of them. With a checkpoint, what is done is kept there.

    Args:
        failed: a PartFailed or PartLost for each.
        done: how many parts were computed.
        total: how many parts there are, if that is known.
        is_stopped: True if more failed than MAX_FAILED, so that the job did not go on.
    """

    def __new__(
        cls, failed: Sequence[PartFailed | PartLost], done: int, total: int | None, is_stopped: bool = False
    ) -> Self:
        return super().__new__(cls, "parts failed", failed)

    def __init__(
        self, failed: Sequence[PartFailed | PartLost], done: int, total: int | None, is_stopped: bool = False
    ) -> None:
        super().__init__("parts failed", failed)
        self.done = done
        self.total = total
        self.is_stopped = is_stopped

    if TYPE_CHECKING:

        @property
        def exceptions(self) -> tuple[PartFailed | PartLost, ...]:
            """The errors, in part order: no groups."""

    def derive(self, excs: Sequence[Any], /) -> PartsFailed:  # type: ignore[override]  # of these kinds only
        """Return a group of some of these errors: what `split` and `except*` make."""
        return type(self)(excs, self.done, self.total, self.is_stopped)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (list(self.exceptions), self.done, self.total, self.is_stopped)

    def __str__(self) -> str:
        count = len(self.exceptions)
        of = "" if self.total is None else f" of {self.total:,}"
        parts = "part" if count == 1 and self.total is None else "parts"
        stopped = "; that is more than MAX_FAILED, and the job was stopped" if self.is_stopped else ""
        lines = [f"{count:,}{of} {parts} failed, and {self.done:,} are done{stopped}"]
        lines += [
            f"part {one.index} (offset {one.offset}, limit {one.limit}): {line_of(one)}"
            for one in self.exceptions[:_SHOWN]
        ]
        if count > _SHOWN:
            lines.append(f"and {count - _SHOWN:,} more, in error.exceptions")
        lines.append(
            "To run one of them here, under a debugger: pymar.Producer().replay(error.exceptions[0]). Mend the cause "
            "and call again: with checkpoint= only the parts that are missing are computed, and "
            'on_mismatch="keep" says that the finished ones are right, although the code is another'
        )
        return "\n".join(lines)


#: How many parts the message of PartsFailed has.
_SHOWN = 5


def line_of(error: PartFailed | PartLost) -> str:
    """Return one line that says what a part failed of."""
    if isinstance(error, PartLost):
        last = error.causes[-1] if error.causes else "no cause is known"
        return f"lost {len(error.causes)} times, at last: {_first_line(last)}"
    return _first_line(error.error)


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 200 else f"{line[:197]}..."


class JobTimeout(JobError):
    """`map(timeout=..., on_timeout="fail")` ran out of time."""

    def __init__(self, seconds: float, done: int, total: int | None) -> None:
        super().__init__(seconds, done, total)
        self.seconds = seconds
        self.done = done
        self.total = total

    def __str__(self) -> str:
        of = f" of {self.total}" if self.total is not None else ""
        return (
            f"no answer within {self.seconds:g} s: {self.done}{of} parts were done. Give a larger timeout=, "
            'or on_timeout="local_mode" to compute the unfinished parts here'
        )


class JobCancelled(JobError):
    """Somebody has ended the job with `pymar cancel`. What its checkpoint has stays there."""

    def __init__(self, who: str, progress: str = "") -> None:
        super().__init__(who, progress)
        #: User and host, for people.
        self.who = who
        #: What was finished, and how to go on.
        self.progress = progress

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.who, self.progress)

    def __str__(self) -> str:
        return f"the job was cancelled by {self.who}" + (f"; {self.progress}" if self.progress else "")


class ClusterLost(JobError):
    """A Dask or Ray cluster went away while the job ran."""


#: The name of JobTimeout in Pymar's first version.
TimeOutException = JobTimeout


class CheckpointMismatch(PymarError):
    """The checkpoint file was written by another job or from other data; the message says what differs."""
