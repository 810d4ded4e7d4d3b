"""Which words does the Python standard library use most? Counted over its own sources, a file at a time."""

import re
import sysconfig
from collections import Counter
from pathlib import Path
from time import perf_counter

from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer


class LibrarySources(DataSource):
    """The files of the standard library: listed once, here; read by the workers, each its own."""

    @classmethod
    def prepare(cls):
        found = Path(sysconfig.get_path("stdlib")).rglob("*.py")
        return {"paths": sorted(str(path) for path in found if "site-packages" not in path.parts)}

    @classmethod
    def full_length(cls):
        return len(cls.paths)

    def __iter__(self):
        for path in self.paths[self.offset : self.offset + self.limit]:
            yield path, Path(path).read_text(encoding="utf-8", errors="replace")


class WordCount(Producer):
    WORKERS_NUMBER = 16

    @staticmethod
    def map_fn(data_source):
        for _, text in data_source:
            yield Counter(re.findall(r"[^\W\d]\w*", text))

    @staticmethod
    def reduce_fn(counts):
        total = Counter()
        for counter in counts:
            total.update(counter)
        return total


began = perf_counter()
factory = DataSourceFactory(LibrarySources)
words = WordCount().map(factory)
for word, count in words.most_common(10):
    print(f"{count:8,}  {word}")
print(f"({words.total():,} words, {len(words):,} of them distinct, in {factory.length():,} files;", end=" ")
print(f"it took {perf_counter() - began:.2f} s)")
