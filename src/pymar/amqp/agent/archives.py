"""Archives: the modules of jobs by value, on this host: found in its cache, or requested from a producer and unpacked.

    place(job) --> a thread looks into the cache --> placed(job)
                      |  not there
                      '--> pieces, requested from the producer of one of the jobs --> a thread unpacks --> placed(jobs)

Once for all jobs with the same modules. Reading and writing files may take long, and the agent's thread must not wait.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Protocol

from pymar.amqp import protocol, timing
from pymar.amqp.chunks import Assembly
from pymar.exceptions import PymarError
from pymar.serialization import codecache
from pymar.serialization.archive import Reference
from pymar.serialization.codefiles import LARGEST, MOST_FILES
from pymar.serialization.travelled import Code

log: logging.Logger = logging.getLogger(__name__)

#: Pieces of an archive that are requested at the same time.
_AHEAD = 4
#: Bytes of an archive, at most, whatever a message announces.
_LARGEST = LARGEST + MOST_FILES * 4_096


class Threads(Protocol):
    """What is needed of the agent's loop."""

    def call_soon(self, function: Callable[..., None], /, *arguments: Any) -> None:
        """Call a function in the loop's thread; from any thread."""


@dataclass(eq=False)
class _Pending:
    """An archive that is not on this host yet, or not known to be, and the jobs that wait for it."""

    reference: Reference
    jobs: dict[bytes, Reference] = field(default_factory=dict)
    is_fetched: bool = False
    """True once it is known that it is not on this host."""
    data: Assembly | None = None
    """Its pieces; None while a thread looks into the cache, or unpacks."""
    asked_at: float = 0.0
    asked_to: int = 0
    """The end of the last piece that was requested."""


class Archives:
    """The archives that jobs wait for, which it owns. Agent's thread only; its own threads do no more than read and
    write files.

    Args:
        ask: requests the piece of a job's archive that begins at a position: `ask(job, start)`.
        fetches: called with a job whose modules are not on this host: they will take a while.
        placed: called with a job and its modules; or with None, and why they cannot be had here.
    """

    def __init__(
        self,
        loop: Threads,
        ask: Callable[[bytes, int], None],
        fetches: Callable[[bytes], None],
        placed: Callable[[bytes, Code | None, str], None],
    ) -> None:
        self._loop, self._ask_for, self._fetches, self._placed = loop, ask, fetches, placed
        self._pending: dict[str, _Pending] = {}

    def __contains__(self, job: bytes) -> bool:
        return any(job in pending.jobs for pending in self._pending.values())

    def place(self, job: bytes, reference: Reference) -> None:
        """Have the modules of a job on this host, then call `placed`.

        Raises:
            ValueError: no archive has such a size.
        """
        if not 0 < reference.size <= _LARGEST:
            raise ValueError("a size that no archive has")
        if (folder := codecache.known(reference)) is not None:
            self._placed(job, (folder, reference.roots, False), "")
            return
        pending = self._pending.get(reference.digest)
        if pending is None:
            pending = self._pending[reference.digest] = _Pending(reference)
            self._in_thread(pending, lambda: codecache.found(reference), self._looked)
        pending.jobs[job] = reference
        if pending.is_fetched:
            self._fetches(job)

    def _in_thread(
        self,
        pending: _Pending,
        function: Callable[[], str | None],
        then: Callable[[_Pending, str | None, str], None],
    ) -> None:
        def run() -> None:
            folder, why = None, ""
            try:
                folder = function()
            except PymarError as error:
                why = str(error)
            except Exception as error:  # of the system
                log.exception("the modules of a job cannot be unpacked")
                why = f"the job's modules cannot be unpacked here: {error!r}"
            self._loop.call_soon(then, pending, folder, why)

        threading.Thread(target=run, name="pymar-archives", daemon=True).start()

    def _looked(self, pending: _Pending, folder: str | None, why: str) -> None:
        if folder is not None or why:
            self._end(pending, folder, why)
        elif self._is_pending(pending):
            self._fetch(pending)

    def _is_pending(self, pending: _Pending) -> bool:
        return self._pending.get(pending.reference.digest) is pending

    def _fetch(self, pending: _Pending) -> None:
        pending.data = Assembly(pending.reference.size, pending.reference.check)
        pending.is_fetched = True
        log.info("fetching the modules of a job: %s bytes", f"{pending.reference.size:,}")
        self._ask(pending, _AHEAD)
        for job in list(pending.jobs):
            self._fetches(job)

    def received(self, piece: protocol.CodePiece) -> None:
        """Take a piece of an archive; unpack it if it is complete.

        Raises:
            ValueError: the piece does not fit, or the archive is not the announced one; it is fetched again, later.
        """
        pending = next((one for one in self._pending.values() if piece.job in one.jobs), None)
        if pending is None or pending.data is None:
            return
        before = pending.data.size
        try:
            pending.data.add(piece.start, piece.data)
            data = pending.data.whole()
        except ValueError:
            pending.data = Assembly(pending.reference.size, pending.reference.check)
            raise
        if data is not None:
            pending.data = None
            reference = pending.reference
            self._in_thread(pending, lambda: codecache.unpacked(reference, data), self._end)
        elif pending.data.size > before:
            self._ask(pending, 1)

    def _end(self, pending: _Pending, folder: str | None, why: str) -> None:
        if not self._is_pending(pending):
            return
        del self._pending[pending.reference.digest]
        for job, reference in pending.jobs.items():
            self._placed(job, None if folder is None else (folder, reference.roots, False), why)

    def forget(self, job: bytes) -> None:
        """A job is over: stop fetching its modules, unless another one waits for them."""
        for pending in list(self._pending.values()):
            pending.jobs.pop(job, None)
            if not pending.jobs:
                del self._pending[pending.reference.digest]

    def retry(self, now: float) -> None:
        """Request again what was requested long ago and is not here."""
        for pending in self._pending.values():
            if pending.data is not None and now - pending.asked_at > timing.FETCH_AGAIN:
                self._ask_from_first_gap(pending, 1)

    def ask_again(self) -> None:
        """Request again what is not here, since answers went to a queue that no longer exists."""
        for pending in self._pending.values():
            if pending.data is not None:
                self._ask_from_first_gap(pending, _AHEAD)

    def _ask_from_first_gap(self, pending: _Pending, pieces: int) -> None:
        assert pending.data is not None
        pending.asked_to = pending.data.next_start
        # The producer of the first may be gone, or silent: the next time another one is asked.
        job, reference = next(iter(pending.jobs.items()))
        del pending.jobs[job]
        pending.jobs[job] = reference
        self._ask(pending, pieces)

    def _ask(self, pending: _Pending, pieces: int) -> None:
        pending.asked_at = monotonic()
        job = next(iter(pending.jobs))
        for _ in range(pieces):
            if pending.asked_to < pending.reference.size:
                self._ask_for(job, pending.asked_to)
                pending.asked_to += protocol.CODE_CHUNK
