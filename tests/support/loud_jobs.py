"""A job file whose parts print: in ways that a setting names."""

import os
import sys
import time
from pathlib import Path

from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer


class Numbers(DataSource):
    """The whole numbers below `length`."""

    length = 4

    @classmethod
    def full_length(cls):
        return cls.length

    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))


def hello(number):
    """Print in the ways that a process has."""
    import logging
    import warnings

    print("hello from", number)
    print("to stderr", number, file=sys.stderr)
    logging.getLogger("user").warning("logged %d", number)
    warnings.warn(f"warned {number}", stacklevel=1)
    os.write(1, f"C wrote {number}\n".encode())
    print("no end", number, end="")


def hostile(number):
    print(f"\x1b]0;title\x07\x1b[2J\x1b[31mred {number}\x1b[0m\x9b1m\u202e")


def bar(number):
    """A progress bar, as tqdm writes it."""
    for step in range(500):
        sys.stderr.write(f"\r{step / 5:.0f}%|####|")
        sys.stderr.flush()
    sys.stderr.write("\r100%|####|")
    sys.stderr.flush()
    sys.stderr.write("\n")
    print("after the bar", number)


def flood(number):
    for line in range(Loud.lines):
        print("line", number, line)


def fails(number):
    flood(number)
    print("about to fail")
    raise ValueError("as the test wants it")


def dies(number):
    import faulthandler

    flood(number)
    print("about to die")
    faulthandler._sigsegv()


def long(number):
    print("x" * 100_000)


def waits(number):
    """Print, and go on once the test says so."""
    print("waits", number)
    while not Path(Loud.folder, "go").exists():
        time.sleep(0.01)  # the work of a part that a test meets


def waits_and_floods(number):
    """Print much once the test says so, and go on once it says that."""
    folder = Path(Loud.folder)
    for leave, wait in (("begun", "flood"), ("flooded", "go")):
        if leave == "flooded":
            flood(number)
        (folder / f"{leave}-{number}").touch()
        while not (folder / wait).exists():
            time.sleep(0.01)  # the work of a part that a test meets


class Loud(Producer):
    """The sum of the numbers."""

    WORKERS_NUMBER = 4
    BACKUPS = 0
    ATTEMPTS = 1
    how = "hello"
    lines = 1_000
    folder = ""

    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            globals()[Loud.how](number)
            yield number

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


FACTORY = DataSourceFactory(Numbers)

if __name__ == "__main__":
    # A producer in a process of its own: loud_jobs.py URL name=value...
    url, *given = sys.argv[1:]
    for text in given:
        name, _, value = text.partition("=")
        setattr(Loud, name, type(getattr(Loud, name))(value))
    print("answer", Loud(mq_server=url).map(FACTORY), flush=True)
