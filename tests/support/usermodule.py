"""A typical module of a user's: classes with bases and mixins, cached helpers, globals."""

from functools import cache, partial

import userpackage.config

from pymar.producer import Producer

SCALE = 1


class Base(Producer):
    WORKERS_NUMBER = 4
    scale = 1

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


class Mixin:
    mixed = 1


class Config:
    scale = 1


@cache
def cached(number):
    return number * SCALE


def scaled(number, extra):
    return number * SCALE + extra


exact = partial(scaled, extra=0)


class OfBase(Base):
    @staticmethod
    def map_fn(data_source):
        return [Base.scale * number for number in data_source]


class OfMixin(Mixin, Base):
    @classmethod
    def map_fn(cls, data_source):
        return [cls.mixed * number for number in data_source]


class OfHelper(Base):
    @staticmethod
    def map_fn(data_source):
        return [Config.scale * number for number in data_source]


class OfCache(Base):
    @staticmethod
    def map_fn(data_source):
        cached.cache_clear()
        return [cached(number) for number in data_source]


class OfPartial(Base):
    @staticmethod
    def map_fn(data_source):
        return [exact(number) for number in data_source]


class OfPackage(Base):
    @staticmethod
    def map_fn(data_source):
        return [userpackage.config.SCALE * number for number in data_source]


def closing_over(factor):
    class OfClosure(Base):
        @staticmethod
        def map_fn(data_source):
            return [factor * number for number in data_source]

    return OfClosure


def helper(number):
    return number


class OfDefault(Base):
    @staticmethod
    def map_fn(data_source, function=helper):
        return [function(number) for number in data_source]
