"""What is the integral of exp(x) from 1 to 10? By 9,000,000 evaluations, on all cores."""

from math import e
from time import perf_counter

from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer


def func(x):
    from math import exp

    return exp(x)


class IntegrationProducer(Producer):
    @staticmethod
    def map_fn(data_source):
        func, dx = data_source.func, data_source.dx
        for key, val in data_source:
            yield key, func(val) * dx

    @staticmethod
    def reduce_fn(data_source):
        return 0, sum(val for _, val in data_source)


class IntegrationDataSource(DataSource):
    interval = (1, 10)
    dx = 0.000001

    def func(self, x):
        return func(x)

    @classmethod
    def full_length(cls):
        return int((cls.interval[1] - cls.interval[0]) / cls.dx)

    def __iter__(self):
        return self.add_default_keys(
            self.interval[0] + x * self.dx for x in range(self.offset, self.offset + self.limit)
        )


producer = IntegrationProducer()
factory = DataSourceFactory(data_source_class=IntegrationDataSource)
began = perf_counter()
value = producer.map(factory)
print("Answer:", value[1])
print(f"(e**10 - e is {e**10 - e}; it took {perf_counter() - began:.2f} s)")
