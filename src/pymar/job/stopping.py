"""Stopping a job, or one call of it, from another thread: futures that do it, and what the job's thread looks at."""

from __future__ import annotations

import concurrent.futures
import threading
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

#: Set once the jobs that run in this thread are to stop; None if nobody stops them. All runners look at it.
stops: ContextVar[threading.Event | None] = ContextVar("stops", default=None)


class StoppableFuture(concurrent.futures.Future[T]):
    """A future that can be cancelled while its work runs. Any thread.

    Its state stays "pending" until it has ended: a running one could not be cancelled.
    """

    def __init__(self) -> None:
        super().__init__()
        #: How it has ended, with an object of the thread that ended it: set once.
        self._end: dict[str, tuple[str, object]] = {}
        #: True once it runs, as far as that is known.
        self._has_begun = False

    def cancel(self) -> bool:
        """Cancel it, even if it runs: the work is stopped. Return False if it has ended already."""
        mine = "cancelled", object()
        end = self._end.setdefault("end", mine)
        if end is mine:
            super().cancel()
            self._stop()
        return end[0] == "cancelled"

    def running(self) -> bool:
        """True if it runs now."""
        return self._has_begun and not self.done()

    def _stop(self) -> None:
        """Stop the work. Called once, in the thread that cancels it."""
        raise NotImplementedError

    def _is_wanted(self) -> bool:
        """True if it has not ended."""
        return not self._end

    def _settle(self, error: BaseException | None, result: T | None = None) -> bool:
        """Set the result, or what was raised; return False if it was cancelled."""
        mine = "done", object()
        if self._end.setdefault("end", mine) is not mine:
            return False
        if error is None:
            self.set_result(result)  # type: ignore[arg-type]  # it is a T if there is no error
        else:
            self.set_exception(error)
        return True


class JobFuture(StoppableFuture[T]):
    """The future of a job that runs in a thread. Who waits for it is woken once that has ended, cancelled or not."""

    def __init__(self) -> None:
        super().__init__()
        self._has_begun = True
        #: What `stops` is in the job's thread.
        self.is_stopped: threading.Event = threading.Event()

    def _stop(self) -> None:
        self.is_stopped.set()

    def _settle(self, error: BaseException | None, result: T | None = None) -> bool:
        is_mine = super()._settle(error, result)
        if not is_mine:
            self.is_stopped.wait()  # the other thread is cancelling it at this moment
            self.set_running_or_notify_cancel()
        return is_mine
