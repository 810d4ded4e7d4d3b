import os
import sys
from collections import Counter

from pymar import DataSource, DataSourceFactory, Producer


class Lines(DataSource):
    unit = "bytes"
    path = ""

    @classmethod
    def full_length(cls):
        return os.path.getsize(cls.path)

    def __iter__(self):
        with open(self.path, "rb") as file:
            if self.offset:
                file.seek(self.offset - 1)
                file.readline()
            while file.tell() < self.offset + self.limit and (line := file.readline()):
                yield line


class WordCount(Producer):
    @staticmethod
    def map_fn(lines):
        counts = Counter()
        for line in lines:
            counts.update(line.split())
        yield counts

    @staticmethod
    def reduce_fn(counts):
        total = Counter()
        for count in counts:
            total.update(count)
        return total


print(WordCount().map(DataSourceFactory(Lines, path=sys.argv[1])).most_common(3))
