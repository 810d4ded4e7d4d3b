"""Calls that the tests of executors submit."""

import os
import random
import signal
import time
from pathlib import Path

#: Seconds that a call sleeps at most which a test cancels, or lets go on.
LONG = 100


def squared(number):
    return number * number


def inverse(number):
    return 1 / number


def drawn():
    return random.random()


def slot():
    """Return the process that computes this."""
    return os.getpid()


def note(path):
    """Note the process in a file; return at once."""
    Path(path).write_text(str(os.getpid()))
    return path


def held(path, until):
    """Note the process in a file, and return its id once another file exists."""
    Path(path).write_text(str(os.getpid()))
    deadline = time.monotonic() + LONG
    while not os.path.exists(until) and time.monotonic() < deadline:
        time.sleep(0.005)
    return os.getpid()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path):
    """Kill this process if the file does not exist yet, and make it; otherwise return 7."""
    if not os.path.exists(path):
        Path(path).touch()
        die()
    return 7


def raised_until(path):
    """Raise if the file does not exist yet, and make it; otherwise return 7."""
    if not os.path.exists(path):
        Path(path).touch()
        raise ValueError("not yet")
    return 7


def set_up():
    os.environ["SET_UP"] = "yes"


def was_set_up():
    return os.environ.get("SET_UP")


async def asynchronous():
    return 1


class Unreadable(Exception):
    """An exception that can be sent, and cannot be made again."""

    def __init__(self, one, other):
        super().__init__("two arguments are needed")

    def __reduce__(self):
        return Unreadable, ()


def raise_unreadable():
    raise Unreadable(1, 2)


class Result:
    """A value that weak references may refer to."""


def result(_):
    return Result()


class Spoilt:
    """A result that can be sent, and cannot be read."""

    def __reduce__(self):
        return spoilt, ()


def spoilt():
    raise LookupError("spoilt")


def make_spoilt():
    return Spoilt()
