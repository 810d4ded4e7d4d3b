"""A job that gives all rows of a database."""

from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
from pymar.sources import SQLRows


class Rows(Producer):
    """All rows, as tuples, sorted."""

    WORKERS_NUMBER = 9

    @staticmethod
    def map_fn(data_source):
        return [list(data_source)]

    @staticmethod
    def reduce_fn(lists):
        return sorted((row for rows in lists for row in rows), key=str)


def rows(engine="serial", source=SQLRows, **settings):
    return Rows(engine=engine).map(DataSourceFactory(source, as_tuples=True, **settings))
