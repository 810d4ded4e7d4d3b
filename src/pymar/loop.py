"""Loop: one thread that waits for many file descriptors, and for what other threads want it to do."""

from __future__ import annotations

import os
import selectors
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Loop:
    """Calls back, in its own thread, when a descriptor is ready; after each round it calls `after_round`.

    `timeout` says how long a round may wait (None: until something happens); `failed` hears of the error that ended the
    thread, and `ended` is called last, whatever happened.
    """

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._inbox: deque[Callable[[], None]] = deque()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._selector.register(self._woken, READ, self._read_inbox)
        self._over = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(
        self,
        *,
        timeout: Callable[[], float | None],
        after_round: Callable[[], None],
        failed: Callable[[BaseException], None],
        ended: Callable[[], None],
    ) -> None:
        """Start the thread."""
        self._timeout, self._after_round, self._failed, self._ended = timeout, after_round, failed, ended
        self._thread.start()

    def tell(self, action: Callable[..., None], *arguments: Any) -> None:
        """Have the thread do this now. From any thread."""
        self.leave(action, *arguments)
        try:
            os.write(self._wake, b"!")
        except BlockingIOError:
            return  # The pipe is full of wake-up calls: it will wake.

    def leave(self, action: Callable[..., None], *arguments: Any) -> None:
        """Have the thread do this before the next thing that it is told. From any thread."""
        self._inbox.append(partial(action, *arguments))

    def stop(self, seconds: float) -> None:
        """End the thread and wait so long for its end. In a forked process there is nothing to end."""
        if self.is_running():
            self.tell(self._stop)
            self._thread.join(seconds)

    def is_running(self) -> bool:
        """Whether the thread lives: not after an error in it, nor in a process that was forked from ours."""
        return self._thread.is_alive()

    def watch(self, descriptor: int, events: int, action: Callable[[], None]) -> None:
        """Call `action` whenever the descriptor is ready; once it is watched, nothing changes."""
        if descriptor not in self._selector.get_map():
            self._selector.register(descriptor, events, action)

    def unwatch(self, descriptor: int | None) -> None:
        """No longer; nothing happens if it was not watched."""
        if descriptor is not None and descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def _run(self) -> None:
        try:
            while not self._over:
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._after_round()
        except BaseException as error:
            self._failed(error)
        finally:
            self._ended()

    def _read_inbox(self) -> None:
        os.read(self._woken, 1 << 12)
        while self._inbox:
            self._inbox.popleft()()

    def _stop(self) -> None:
        self._over = True
