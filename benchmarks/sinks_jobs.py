"""The producers of sinks.py, in a module that worker processes can import; and the same work by hand."""

import csv
import io

from pymar.producer import Producer

#: Records of a table of PostgreSQL.
COLUMNS = ("id", "carrier", "delay", "distance")


class Same(Producer):
    @staticmethod
    def map_fn(records):
        yield from records


class Dicts(Producer):
    """Records as a person writes them."""

    WORKERS_NUMBER = 32

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            yield record(n)


def record(n):
    return {"id": n, "name": f"name {n % 1_000}", "value": n / 7, "flag": n % 3 == 0, "day": f"2026-11-{n % 28 + 1:02}"}


def row(n):
    return n, f"C{n % 10}", n % 300 / 4, n % 5_000


class Rows(Producer):
    WORKERS_NUMBER = 32

    @staticmethod
    def map_fn(numbers):
        for n in numbers:
            yield row(n)


def copied(places):
    """Copy one Parquet file, a row group after the other."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1), pa.set_io_thread_count(1)
    source, target = places
    file = pq.ParquetFile(source)
    with pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
        for number in range(file.num_row_groups):
            writer.write_table(file.read_row_group(number))


def csv_of(low, high):
    """Return rows as the CSV that psql copies."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows(map(row, range(low, high)))
    return buffer.getvalue()
