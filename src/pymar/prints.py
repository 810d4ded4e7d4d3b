"""What the user's code prints in a child: whole lines, each with the part that printed it, and an end to a flood."""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymar.slot import Slot

#: Lines and characters that are shown of one part, and of all parts of a job; the others are counted.
OF_A_PART, OF_A_JOB = (10_000, 1 << 20), (100_000, 10 << 20)
#: Characters of a line; one that is longer is shown in pieces.
_LONGEST_LINE = 1 << 16


class Quota:
    """What is still shown, and how many lines were not."""

    def __init__(self, quota: tuple[int, int]) -> None:
        self._lines, self._characters = quota
        self.dropped = 0

    def has_room(self, line: str) -> bool:
        """Whether this line is shown; if not, it is counted, and so are all after it."""
        if self.dropped or not self._lines or len(line) > self._characters:
            self.dropped += 1
            return False
        self._lines -= 1
        self._characters -= len(line)
        return True

    def told(self) -> str:
        """How many lines were dropped; "" if none was."""
        return f"... and {self.dropped:,} more lines were dropped" if self.dropped else ""


class Prints(io.TextIOBase):
    """Standard output and error of user code: whole lines, each with the part that printed it."""

    def __init__(self, slot: Slot) -> None:
        self._index = -1
        self._slot = slot
        #: The beginning of a line.
        self._pieces: list[str] = []
        self._size = 0
        self._quota = Quota(OF_A_PART)
        #: Whether the part has printed anything.
        self.is_used = False
        # Threads of the user's print too; and a handler of signals within a print of its own thread.
        self._writing = threading.RLock()
        self.buffer = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115 - as long as the process lives

    def part(self, index: int) -> None:
        """What is printed from now on belongs to this part."""
        if self.is_used:
            self.end_part()
        self._index = index

    def end_part(self) -> None:
        """Show the line that has no end, and say how many were dropped."""
        with self._writing:
            self._end_line()
            if told := self._quota.told():
                self._slot.send("print", self._index, told)
            self._quota = Quota(OF_A_PART)
            self.is_used = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def reconfigure(self, **settings: Any) -> None:
        """Nothing to set: lines go out as they are."""

    def write(self, text: str) -> int:
        if os.getpid() != self._slot.pid:  # a fork of ours: the pipe for results is not its own
            self.buffer.write(text.encode(errors="backslashreplace"))
            return len(text)
        with self._writing:
            self.is_used = True
            *lines, rest = text.split("\n")
            for line in lines:
                self._add(line)
                self._show()
            self._add(rest)
        return len(text)

    def flush(self) -> None:
        with self._writing:
            self._end_line()

    def _add(self, text: str) -> None:
        for start in range(0, len(text), _LONGEST_LINE):
            self._pieces.append(text[start : start + _LONGEST_LINE])
            self._size += len(self._pieces[-1])
            if self._size >= _LONGEST_LINE:
                self._show()

    def _end_line(self) -> None:
        if self._pieces:
            self._show()

    def _show(self) -> None:
        line = "".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._quota.has_room(line):
            self._slot.send("print", self._index, line)
