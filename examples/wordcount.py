"""Which words does the Python standard library use most? Counted over its own sources, a file at a time."""

import re
import sysconfig
from collections import Counter
from time import perf_counter

from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
from pymar.sources import Files


class LibrarySources(Files):
    path = sysconfig.get_path("stdlib") + "/**/*.py"


class WordCount(Producer):
    WORKERS_NUMBER = 16

    @staticmethod
    def map_fn(data_source):
        for path, data in data_source:
            if "site-packages" not in path:
                yield Counter(re.findall(r"[^\W\d]\w*", data.decode("utf-8", "replace")))

    @staticmethod
    def reduce_fn(counts):
        total = Counter()
        for counter in counts:
            total.update(counter)
        return total


began = perf_counter()
words = WordCount().map(DataSourceFactory(LibrarySources))
for word, count in words.most_common(10):
    print(f"{count:8,}  {word}")
print(f"({words.total():,} words, {len(words):,} of them distinct; it took {perf_counter() - began:.2f} s)")
