"""A job file whose parts can be watched, and made to fail in many ways; settings say how."""

import os
import time
from pathlib import Path

from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer


class Steps(DataSource):
    """The whole numbers below `length`."""

    length = 100

    @classmethod
    def full_length(cls):
        return cls.length

    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))


class Watched(Producer):
    """The sum of the numbers. Each execution of a part leaves a file in `folder`."""

    WORKERS_NUMBER = 20
    BACKUPS = 0
    folder = ""
    #: Seconds that each part takes, and the part of the number `slow` for the first time.
    seconds = 0.0
    slow = -1
    slow_seconds = 0.0
    #: The number whose part ends its process.
    poison = -1
    #: What is raised: "surrogate", "large", or "first": by the first execution of each part.
    raises = ""
    #: Bytes of each partial.
    size = 0

    @staticmethod
    def map_fn(data_source):
        numbers = list(data_source)
        job = Watched
        if job.folder:
            is_first = not any(Path(job.folder).glob(f"{numbers[0]}-*"))
            Path(job.folder, f"{numbers[0]}-{os.getpid()}-{time.monotonic_ns()}").touch()
            if job.slow in numbers and is_first:
                time.sleep(job.slow_seconds)  # the work of a part that is slow at first
        if job.poison in numbers:
            os._exit(9)
        if job.raises == "surrogate":
            raise ValueError("caf\udce9")
        if job.raises == "large":
            raise ValueError("x" * 20_000_000)
        if job.raises == "first" and is_first:
            raise ValueError("the first time")
        time.sleep(job.seconds)  # the work of a part: long enough for a fault to meet it
        yield sum(numbers), b"x" * job.size

    @staticmethod
    def reduce_fn(data_source):
        total, size = 0, 0
        for number, data in data_source:
            total += number
            size = max(size, len(data))
        return total, b"x" * size


class Lengths(Producer):
    """How many bytes there are in records that live at the producer."""

    WORKERS_NUMBER = 2

    @staticmethod
    def map_fn(data_source):
        return map(len, data_source)

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


def executions(folder):
    """Return how often each part was begun, by its first number."""
    counts = {}
    for path in Path(folder).iterdir():
        first = int(path.name.partition("-")[0])
        counts[first] = counts.get(first, 0) + 1
    return counts


if __name__ == "__main__":
    import sys

    # A producer in a process of its own: amqp_jobs.py URL CHECKPOINT name=value...
    url, checkpoint, *given = sys.argv[1:]
    for text in given:
        name, _, value = text.partition("=")
        setattr(Watched, name, type(getattr(Watched, name))(value))
    print("answer", Watched(mq_server=url).map(DataSourceFactory(Steps), checkpoint=checkpoint or None)[0], flush=True)
