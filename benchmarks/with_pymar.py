"""The jobs as Pymar's users write them."""

import os

import jobs

from pymar.datasource import DataSource
from pymar.producer import Producer


class Points(DataSource):
    @classmethod
    def full_length(cls):
        return jobs.EVALUATIONS

    def __iter__(self):
        return jobs.points(self.offset, self.limit)


class Integral(Producer):
    WORKERS_NUMBER = 8

    @staticmethod
    def map_fn(data_source):
        return jobs.exponentials(data_source)

    @staticmethod
    def reduce_fn(data_source):
        return 0, jobs.total(data_source)


class Squares(Producer):
    WORKERS_NUMBER = 8

    @staticmethod
    def map_fn(data_source):
        return jobs.squares(jobs.keyed(data_source))

    @staticmethod
    def reduce_fn(data_source):
        return 0, jobs.total(data_source)


class Trivials(DataSource):
    @classmethod
    def full_length(cls):
        return jobs.TRIVIAL

    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))


class Trivial(Producer):
    WORKERS_NUMBER = jobs.TRIVIAL

    @staticmethod
    def map_fn(data_source):
        return data_source

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


class Lines(DataSource):
    unit = "bytes"
    path = jobs.WORDS

    @classmethod
    def full_length(cls):
        return os.path.getsize(cls.path)

    def __iter__(self):
        yield jobs.words_part((self.path, self.offset, self.offset + self.limit))


class WordCount(Producer):
    WORKERS_NUMBER = 16

    @staticmethod
    def map_fn(data_source):
        return data_source

    @staticmethod
    def reduce_fn(data_source):
        return jobs.merged(data_source)


class Pairs(DataSource):
    unit = "numbers"

    @classmethod
    def full_length(cls):
        return jobs.PAIRS

    def __iter__(self):
        yield jobs.pairs_part((self.offset, self.offset + self.limit))


class SumByKey(Producer):
    WORKERS_NUMBER = 16

    @staticmethod
    def map_fn(data_source):
        return data_source

    @staticmethod
    def reduce_fn(data_source):
        return jobs.added(data_source)
