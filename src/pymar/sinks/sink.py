"""Sink: what a job needs of a place that its workers write to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, NamedTuple, Self

from pymar.parts import Part


class Written(NamedTuple):
    """What a job has written."""

    records: int
    files: int
    """0 for a database."""
    bytes: int
    """Of the files; 0 for a database."""


class Sink:
    """A place to write to. It travels to the workers with its attributes, which have to be plain data.

    A job calls `begin`, then `write` in the workers, once or more for each part (a part may be computed again after a
    fault, or twice at once), and at last `commit`, with what one `write` of each part has returned; or `abort`. Nothing
    that `write` does may be seen by others before `commit`.
    """

    #: True in the workers of a second stage, which merges what the first one wrote; its records are what `merges` gave.
    is_merging = False
    #: The name of the stage, if the job has several that users see.
    stage = ""
    #: A sink within this one, or None: to that the records go on.
    sink: Sink | None = None

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))

    def bind(self, producer: type[Any], dumps: Callable[[Any, str], bytes], loads: Callable[[bytes], Any]) -> None:
        """Note whose records are written, and how values travel in this job. Called in a worker, before `write`."""

    def identity(self) -> Any:
        """Return what a checkpoint compares, as plain data: a job with another sink is another job."""
        return self.__getstate__()

    def for_a_job(self) -> Self:
        """Return a copy for one job, which may keep in its attributes what it finds."""
        return copy(self)

    def begin(self, checkpoint: str | None) -> None:
        """Check the target and prepare for parts. With a checkpoint, keep what an earlier run with it has written.

        Raises:
            SinkError: the target cannot be written, or has data already.
        """
        raise NotImplementedError

    def write(self, part: Part, records: Iterable[Any]) -> Any:
        """Write the records of a part, as they come; return what `commit` needs to know, as plain data.

        Raises:
            SinkError: a record does not fit, or it cannot be written.
        """
        raise NotImplementedError

    def arrived(self, wrote: Any) -> None:
        """Note what `write` has returned for a part, at the producer: in the order in which parts finish.

        Raises:
            SinkError: it does not fit those before; the job ends.
        """

    def merges(self, wrote: Sequence[Any]) -> list[Any]:
        """Return what a second stage has to merge, each of them a record of it; empty if nothing."""
        return []

    def commit(self, wrote: Sequence[Any], merged: Sequence[Any]) -> Written:
        """Publish what was written in one step.

        Args:
            wrote: what `write` has returned, one for each part.
            merged: what it has returned in the second stage.

        Raises:
            SinkError: it cannot be published; the target is as it was before.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """Remove what was written, unless there is a checkpoint: the job has failed."""
        raise NotImplementedError
