"""The producer's memory does not depend on the number of records, and little on the number of parts."""

import pytest

SCRIPT = """
import resource, sys
from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer

class Points(DataSource):
    count = int(sys.argv[1])

    @classmethod
    def full_length(cls):
        return cls.count

    def __iter__(self):
        return self.add_default_keys(1 + x * 1e-9 for x in range(self.offset, self.offset + self.limit))

class First(Producer):
    WORKERS_NUMBER = int(sys.argv[2])

    @staticmethod
    def map_fn(data_source):
        for key, value in data_source:
            yield key, value
            break                       # what is measured is the producer, not the workers

    @staticmethod
    def reduce_fn(data_source):
        return 0, sum(value for _, value in data_source)

First(engine="processes://2").map(DataSourceFactory(Points))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.fixture
def peak(tmp_path):
    import subprocess
    import sys

    def run(records, parts):
        path = tmp_path / "job.py"
        path.write_text(SCRIPT)
        command = [sys.executable, str(path), str(records), str(parts)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    return run


def test_a_billion_records_take_the_memory_of_a_thousand(peak):
    assert peak(1_000_000_000, 100) <= 1.05 * peak(1_000, 100)


def test_a_hundred_thousand_parts_take_less_than_100_megabytes_more_than_a_hundred(peak):
    assert peak(1_000_000, 100_000) - peak(1_000_000, 100) < 100_000_000
