"""What the user's code prints in a child: whole lines, each with the part that printed it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymar.slot import Slot


class Prints(io.TextIOBase):
    """Standard output and error of user code: whole lines, each with the part that printed it."""

    def __init__(self, slot: Slot) -> None:
        self._index = -1
        self._slot = slot
        self.line = ""
        self.buffer = open(2, "wb", buffering=0, closefd=False)  # noqa: SIM115 - as long as the process lives

    def part(self, index: int) -> None:
        """What is printed from now on belongs to this part."""
        if self.line:
            self.flush()
        self._index = index

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
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            self._slot.send("print", self._index, line)
        return len(text)

    def flush(self) -> None:
        line, self.line = self.line, ""
        if line:
            self._slot.send("print", self._index, line)
