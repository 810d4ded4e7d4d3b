"""A job file whose records are written by agents."""

import os
import time

from pymar.datasource import DataSource
from pymar.producer import Producer
from pymar.sinks import JSONLinesSink, SQLSink, TextSink

__all__ = ["JSONLinesSink", "SQLSink", "TextSink"]


class Numbers(DataSource):
    length = 200

    @classmethod
    def full_length(cls):
        return cls.length

    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))


class Writes(Producer):
    """Yields each number; each takes a while, and each part notes that it has begun in `folder`."""

    WORKERS_NUMBER = 20
    BACKUPS = 0
    folder = ""
    seconds = 0.02

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            if Writes.folder:
                open(os.path.join(Writes.folder, f"{n}-{os.getpid()}-{time.monotonic_ns()}"), "x").close()
            time.sleep(Writes.seconds)  # the work of a record: long enough for a fault to meet it
            yield {"n": n}
