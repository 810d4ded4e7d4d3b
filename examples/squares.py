"""What is the sum of the squares of the numbers in a list that I have in memory?"""

from time import perf_counter

from pymar.datasource import DataSourceFactory
from pymar.producer import Producer


class SquaresProducer(Producer):
    WORKERS_NUMBER = 8

    @staticmethod
    def map_fn(data_source):
        return [sum(value * value for value in data_source)]

    @staticmethod
    def reduce_fn(sums):
        return sum(sums)


numbers = list(range(10_000_000))
began = perf_counter()
answer = SquaresProducer().map(DataSourceFactory(numbers))
print("Sum of squares:", answer)
print(f"({len(numbers):,} numbers; it took {perf_counter() - began:.2f} s)")
