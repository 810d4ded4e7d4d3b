"""A job file whose keyed job can be watched and slowed down."""

import os
import time

from bits_jobs import IntKeys, Numbers

from pymar.keyed import Sum
from pymar.sinks import JSONLinesSink

__all__ = ["JSONLinesSink", "Numbers", "Watching"]


class Watching(IntKeys):
    """IntKeys; each task leaves a file in `folder`, and those of the stage `slow` take a while."""

    reduce_fn = Sum()
    PARTITIONS = 7
    BACKUPS = 0
    folder = ""
    slow = ""

    @staticmethod
    def map_fn(numbers):
        Watching.begin("map", numbers.offset)
        return IntKeys.map_fn(numbers)

    @staticmethod
    def finish_fn(key, value):
        if key < 30:
            Watching.begin("reduce", key)
        return value

    @classmethod
    def begin(cls, stage, what):
        if cls.folder:
            open(os.path.join(cls.folder, f"{stage}-{what}-{os.getpid()}-{time.monotonic_ns()}"), "x").close()
        if cls.slow == stage:
            time.sleep(0.1)  # the work of a part: long enough for a fault to meet it
