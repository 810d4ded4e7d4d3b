"""Checkpoints of a script that may be started again: each of its jobs has one, without a word in the script.

PYMAR_CHECKPOINTS names a folder; `pymar run --detach` sets it. A job that names no checkpoint itself has a file there:

    FOLDER/<name>-<digest>-<number>.ckpt    the digest is that of the job's description (of a sink, for jobs that write)

The number counts the jobs of one name and digest in the script. So a script that starts again finds for each job what
an earlier start has finished of the very same job. Where jobs of threads come in another order, or data are others,
parts differ from those of the file: they are computed again, and no job gets what belongs to another one. What was
published to a sink is not published once more.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, Any

from pymar.exceptions import CheckpointMismatch, PartFailed, PartLost, UsageError
from pymar.job.checkpoint import Journal, published
from pymar.serialization.usercode import IF_LOADED, ORDER, STATES
from pymar.sinks.sink import Sink, Written
from pymar.slots.environment import IN_SLOT

if TYPE_CHECKING:
    from pymar.job.plan import Plan

log: logging.Logger = logging.getLogger(__name__)

#: runner.py has the same name as AUTOMATIC.
VARIABLE = "PYMAR_CHECKPOINTS"
_SUFFIX = ".ckpt"

_lock = Lock()
_counts: Counter[str] = Counter()


def checkpoint_of(name: str, what: Any = None) -> str | None:
    """Return the path of the next checkpoint of a name, of what is described by `what`; None without the variable."""
    folder = os.environ.get(VARIABLE, "")
    if not folder or os.environ.get(IN_SLOT):  # a part is computed whole or not at all
        return None
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        log.warning("no checkpoint: %s cannot be made: %s", folder, error.strerror)
        return None
    plain = "".join(letter if letter.isalnum() else "_" for letter in name)[:40]
    stem = f"{plain}-{sha256(repr(what).encode(errors='backslashreplace')).hexdigest()[:12]}"
    with _lock:
        _counts[stem] += 1
        return os.path.join(os.path.abspath(folder), f"{stem}-{_counts[stem]}{_SUFFIX}")


def checkpoint_of_sink(name: str, sink: Sink) -> str | None:
    """Return the same for a job that writes to a sink: another sink is another job."""
    return checkpoint_of(name, (type(sink).__name__, sink.identity()))


def is_automatic(path: Any) -> bool:
    """True for the path of a checkpoint that was given by `checkpoint_of`, and of what belongs to it."""
    folder = os.environ.get(VARIABLE, "")
    return bool(folder) and os.path.dirname(os.fspath(path)) == os.path.abspath(folder)


def earlier_result(path: Any) -> Written | None:
    """Return what the job of this checkpoint has published to a sink, if an earlier start of the script did that."""
    found = published(path) if path is not None and is_automatic(path) else None
    return None if found is None else Written(*found)


def journal_of(plan: Plan) -> Journal | None:
    """Return the journal of a job that names none; None without the variable, or if nothing can be kept of this job."""
    cls = plan.spec.producer
    if plan.spec.sink is not None or not cls._is_kept:  # the stages of a job with a sink have that of the job
        return None
    name = cls.__name__
    try:
        description = plan.description()
    except UsageError as error:
        log.info("%s has no checkpoint of its own: %s", name, error)
        return None
    told = {one: text for one, text in description.items() if not one.startswith(IF_LOADED)}
    path = checkpoint_of(name, sorted((one, text) for one, text in told.items() if one not in (ORDER, STATES)))
    if path is None:
        return None
    try:
        return renewed(path, description)
    except CheckpointMismatch as error:
        log.warning("%s has no checkpoint of its own: %s", name, error)
        return None


def renewed(path: Any, description: Mapping[str, str]) -> Journal:
    """Return a journal of this job; what the file has of another one, or cannot be read, is removed from it.

    Raises:
        CheckpointMismatch: the file cannot be used.
    """
    try:
        return _Automatic(path, description, renews=True)
    except CheckpointMismatch as error:
        log.warning("a new checkpoint is begun: %s", error)
    for end in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            os.remove(f"{os.fspath(path)}{end}")
    return _Automatic(path, description, renews=True)


class _Automatic(Journal):
    """A journal that nobody has asked for: a disk that is full does not end the job. Thread of the job only."""

    _is_full = False

    def write(self, finished: list[tuple[int, bytes]]) -> None:
        """Add encoded partials, if there is room."""
        if not self._is_full:
            try:
                super().write(finished)
            except OSError as error:
                self._give_up(error)

    def note_failed(self, errors: list[PartFailed | PartLost]) -> None:
        """Note parts that have failed for good, if there is room."""
        if not self._is_full:
            try:
                super().note_failed(errors)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._is_full = True
        log.warning("%s: nothing more is kept of this job, which goes on: %s", self.path, error.strerror)
