"""Reports on their way from the thread that hears them to the one that waits for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

from pymar.exceptions import PymarError
from pymar.parts import Report

Item = TypeVar("Item")


class Reports:
    """What has happened in a run. One thread puts, one takes."""

    def __init__(self, *first: Report) -> None:
        self._queue: SimpleQueue[list[Report] | BaseException] = SimpleQueue()
        self._whispers: deque[Report] = deque(first)

    def put(self, news: list[Report] | BaseException) -> None:
        """Reports; or the error that ended whoever would have reported."""
        self._queue.put(news)

    def whisper(self, report: Report) -> None:
        """A report that nobody has to be woken for."""
        self._whispers.append(report)

    def next(self, timeout: float) -> list[Report]:
        """What has come since the last call; [] once `timeout` seconds have passed.

        Raises:
            PymarError: an error was put: as it is, if it is one of ours.
        """
        found: list[Report] = []
        for news in drained(self._queue, timeout):
            if isinstance(news, PymarError):
                raise news
            if isinstance(news, BaseException):
                raise PymarError(f"the thread that carries parts has failed: {news!r}") from news
            found += news
        while self._whispers:
            found.append(self._whispers.popleft())
        return found


def drained(queue: SimpleQueue[Item], timeout: float) -> Iterator[Item]:
    """What is in a queue; it is waited for so many seconds if there is nothing."""
    try:
        yield queue.get(timeout=timeout) if timeout > 0 else queue.get_nowait()
        while True:
            yield queue.get_nowait()
    except Empty:
        return
