"""A job file of a dataset: functions at its top level, one of another module, and a producer of its own."""

from call_jobs import squared  # noqa: F401 - steps find it here

import pymar


class Squares(pymar.Producer):
    """Stands beside the functions: `-p calls` serves them."""

    @staticmethod
    def map_fn(numbers):
        return (number * number for number in numbers)

    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)


def kept(number):
    return number


def parity(number):
    return number % 2


def is_small(number):
    return number < 15


def twice(number):
    return [number, number]


def row(number):
    return {"k": number % 3, "v": number, "w": number / 7}


def smaller(left, right):
    return min(left, right)


def spread(key, numbers):
    found = list(numbers)
    return key, min(found), max(found)


def halves(numbers):
    for number in numbers:
        if not number % 2:
            yield number // 2
