"""RotatedFile: a log that keeps a bounded number of bytes, whoever reads it meanwhile."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from contextlib import suppress

from pymar.exceptions import UsageError

log: logging.Logger = logging.getLogger(__name__)

#: Bytes of the file, and how many older ones are kept: PATH.1 is the latest of them.
MOST_BYTES, OLDER = 10 << 20, 3


class RotatedFile:
    """A file of mode 600 that lines are appended to; before it is larger than MOST_BYTES it becomes PATH.1.

    It owns the descriptor. One thread at a time. A reader that has it open keeps what it reads (PATH.1 is that file).

    Raises:
        UsageError: it cannot be opened, is no regular file, belongs to another user, or another worker writes to it.
    """

    def __init__(self, path: str) -> None:
        self.path: str = os.path.abspath(path)
        try:
            self._open()
        except OSError as error:
            raise UsageError(f"--log-file {path}: {error.strerror}: give a file that can be written here") from error

    def write(self, text: str) -> None:
        """Append a text of whole lines.

        Raises:
            OSError: the disk is full, for example; part of it may be written.
        """
        data = memoryview(text.encode(errors="backslashreplace"))
        if self._size and self._size + len(data) > MOST_BYTES:
            self._rotate()
        while data:
            written = os.write(self._descriptor, data)
            self._size += written
            data = data[written:]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> None:
        # O_NONBLOCK: a FIFO of this name that nobody reads must not hold up the start.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            os.close(descriptor)
            raise UsageError(f"--log-file {self.path}: it is no regular file of this user: give another path")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"--log-file {self.path}: another worker writes to it, maybe on another host: give each its own file"
            ) from None
        except OSError as error:  # a file system without locks
            log.debug("the log file cannot be locked: %s", error)
        os.fchmod(descriptor, 0o600)
        self._descriptor, self._size = descriptor, found.st_size

    def _rotate(self) -> None:
        for number in range(OLDER, 0, -1):
            newer = self.path if number == 1 else f"{self.path}.{number - 1}"
            with suppress(FileNotFoundError):
                os.replace(newer, f"{self.path}.{number}")
        old = self._descriptor
        self._open()
        os.close(old)
