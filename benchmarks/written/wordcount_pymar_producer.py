import sys
from collections import Counter

from pymar import DataSourceFactory, Producer
from pymar.sources import TextLines


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


print(WordCount().map(DataSourceFactory(TextLines, path=sys.argv[1])).most_common(3))
