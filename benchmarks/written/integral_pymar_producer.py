from math import exp

from pymar import DataSource, DataSourceFactory, Producer

DX = 1e-5


class Points(DataSource):
    @classmethod
    def full_length(cls):
        return int(9 / DX)

    def __iter__(self):
        return (1 + i * DX for i in range(self.offset, self.offset + self.limit))


class Integral(Producer):
    @staticmethod
    def map_fn(data_source):
        return (exp(x) * DX for x in data_source)

    @staticmethod
    def reduce_fn(values):
        return sum(values)


print(Integral().map(DataSourceFactory(Points)))
