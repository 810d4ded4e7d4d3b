"""The producers of stores.py, in a module that worker processes can import."""

from collections import Counter

import with_pymar

from pymar.producer import Producer


class Counting(Producer):
    WORKERS_NUMBER = 32

    @staticmethod
    def map_fn(rows):
        return [sum(1 for _ in rows)]

    @staticmethod
    def reduce_fn(counts):
        return sum(counts)


class WordCount(with_pymar.WordCount):
    """J5 over the lines of a source."""

    @staticmethod
    def map_fn(lines):
        counts = Counter()
        for words in map(bytes.split, lines):
            counts.update(words)
        yield counts


class MeanByCarrier(Producer):
    """Sums and counts by carrier, with Arrow."""

    WORKERS_NUMBER = 20

    @staticmethod
    def map_fn(batches):
        import pyarrow as pa

        grouped = pa.Table.from_batches(list(batches)).group_by("carrier", use_threads=False)
        found = grouped.aggregate([("delay", "sum"), ("delay", "count")]).to_pydict()
        yield {
            carrier: (total, count)
            for carrier, total, count in zip(found["carrier"], found["delay_sum"], found["delay_count"], strict=True)
        }

    @staticmethod
    def reduce_fn(parts):
        total = {}
        for part in parts:
            for carrier, (delay, count) in part.items():
                before = total.get(carrier, (0.0, 0))
                total[carrier] = before[0] + delay, before[1] + count
        return dict(sorted(total.items()))
