"""Loop: one thread that waits for many file descriptors, for timers and for calls from other threads."""

from __future__ import annotations

import logging
import os
import selectors
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Any

from pymar.exceptions import PymarError

log: logging.Logger = logging.getLogger(__name__)

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Timer:
    """A call that `Loop.call_later` has scheduled; `action` is None once it was made or cancelled. Loop thread only."""

    __slots__ = ("action",)

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Cancel the call."""
        self.action = None


def _file(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _nothing(*_: object) -> None:
    """Do nothing: the default of what a loop calls after a round and at its end."""


def _log_failure(error: BaseException) -> None:
    log.error("a thread of Pymar has failed", exc_info=error)


class Loop:
    """A thread that calls back when a descriptor is ready, a timer is due, or another thread has asked for a call.

    It owns the thread and a pipe that wakes it. After each round it calls `after_round`; `timeout` returns how long a
    round may wait (None: until something happens); `failed` is called with the error that ended the thread, and `ended`
    last, in any case.

    `start`, `call_soon`, `call_with_next`, `join`, `stop` and `is_running` may be called from any thread, everything
    else from the loop's only.
    """

    #: The events for which the descriptor is ready whose action is being called.
    ready: int = 0

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._inbox: deque[Callable[[], None]] = deque()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._selector.register(self._woken, READ, self._read_inbox)
        self._over = False
        #: True once other code has closed the pipe that wakes it; `_pipe` identifies that, as its number may be reused.
        self._is_cut_off = False
        self._pipe = _file(self._wake)
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(
        self,
        *,
        timeout: Callable[[], float | None] = lambda: None,
        after_round: Callable[[], None] = _nothing,
        failed: Callable[[BaseException], None] = _log_failure,
        ended: Callable[[], None] = _nothing,
    ) -> None:
        """Start the thread."""
        self._timeout, self._after_round, self._failed, self._ended = timeout, after_round, failed, ended
        self._thread.start()

    def call_soon(self, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` in the loop's thread, as soon as possible. From any thread."""
        self.call_with_next(action, *arguments)
        if not self._is_intact():
            raise PymarError(
                "a thread of Pymar can no longer be woken: other code in this process has closed file descriptors that "
                "are not its own, as os.closerange() does. The next job starts a new thread"
            )
        try:
            os.write(self._wake, b"!")
        except BlockingIOError:
            return  # the pipe is full of wake-up calls: the thread will wake

    def call_with_next(self, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` in the loop's thread before the next call that `call_soon` asks for. From any thread."""
        self._inbox.append(partial(action, *arguments))

    def call_later(self, seconds: float, action: Callable[..., None], *arguments: Any) -> Timer:
        """Call `action` in this many seconds. Loop thread only."""
        timer = Timer(partial(action, *arguments))
        heappush(self._timers, (monotonic() + seconds, next(self._numbers), timer))
        return timer

    def join(self, seconds: float | None = None) -> None:
        """Wait for the thread's end, `seconds` at most."""
        self._thread.join(seconds)

    def stop(self, seconds: float) -> None:
        """End the thread and wait for its end, `seconds` at most. In a forked process there is nothing to end."""
        if self.is_running():
            self.call_soon(self._stop)
            self._thread.join(seconds)

    def is_running(self) -> bool:
        """True if the thread runs and can be woken: not after an error in it, nor in a forked process."""
        return self._thread.is_alive() and not self._is_cut_off

    def watch(self, descriptor: int, events: int, action: Callable[[], None]) -> None:
        """Call `action` whenever the descriptor is ready. A descriptor watched with the same action stays as it is."""
        if key := self._selector.get_map().get(descriptor):
            if key.data == action:
                return
            self._selector.unregister(descriptor)  # other code closed the earlier one, and its number was reused
        self._selector.register(descriptor, events, action)

    def change(self, descriptor: int, events: int) -> None:
        """Watch a descriptor for other events; do nothing if it is not watched."""
        if key := self._selector.get_map().get(descriptor):
            self._selector.modify(descriptor, events, key.data)

    def unwatch(self, descriptor: int | None) -> None:
        """Stop watching a descriptor; do nothing if it is not watched."""
        if descriptor is not None and descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def _run(self) -> None:
        try:
            while not self._over:
                ready = self._selector.select(self._patience())
                if not self._is_intact():
                    return
                for key, events in ready:
                    self.ready = events
                    key.data()
                if self._timers:
                    self._ring()
                self._after_round()
        except BaseException as error:
            if self._is_intact():
                self._failed(error)
        finally:
            if not self._is_cut_off:  # else its descriptors may be other code's by now
                self._ended()

    def _is_intact(self) -> bool:
        self._is_cut_off = self._is_cut_off or _file(self._wake) != self._pipe
        return not self._is_cut_off

    def _patience(self) -> float | None:
        seconds = self._timeout()
        while self._timers and self._timers[0][2].action is None:
            heappop(self._timers)
        if not self._timers:
            return seconds
        left = max(0.0, self._timers[0][0] - monotonic())
        return left if seconds is None else min(left, seconds)

    def _ring(self) -> None:
        now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heappop(self._timers)[2]
            action, timer.action = timer.action, None
            if action is not None:
                action()

    def _read_inbox(self) -> None:
        os.read(self._woken, 1 << 12)
        while self._inbox:
            self._inbox.popleft()()

    def _stop(self) -> None:
        self._over = True
