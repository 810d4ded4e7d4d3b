"""A source: records of a fixed size in a binary file, as a logger of measurements writes them."""

import os
from struct import Struct, calcsize, pack
from tempfile import TemporaryDirectory

from pymar import DataSource, DataSourceFactory, Producer
from pymar.exceptions import SourceChanged, SourceError

#: Records read at once.
BLOCK = 4096


class Readings(DataSource):
    """`(time, sensor, value)` of each record. Set `path`; and `layout`, in the language of `struct`, for others."""

    path = ""
    layout = "<dHf"
    version = (0, 0)  # what `prepare` found: size and time of change

    @classmethod
    def prepare(cls):
        """At the producer, once: whatever all workers have to agree on."""
        path = os.path.abspath(cls.path)  # workers may be in other folders
        try:
            version = version_of(os.stat(path))
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error
        if version[0] % calcsize(cls.layout):
            raise SourceError(
                f"{path} has {version[0]} bytes, and a record of layout {cls.layout!r} has {calcsize(cls.layout)}: "
                "the file is cut short, or has another layout"
            )
        return {"path": path, "version": version}

    @classmethod
    def full_length(cls):
        """At the producer: how many records there are."""
        return cls.version[0] // calcsize(cls.layout)

    def __iter__(self):
        """In a worker: the records `offset` to `offset + limit`, and no byte of others."""
        record = Struct(self.layout)
        with open(self.path, "rb") as file:
            if version_of(os.fstat(file.fileno())) != tuple(self.version):
                raise SourceChanged(f"{self.path} has changed since the job began: start the job again")
            file.seek(self.offset * record.size)
            for start in range(0, self.limit, BLOCK):
                wanted = min(BLOCK, self.limit - start) * record.size
                data = file.read(wanted)
                if len(data) < wanted:
                    raise SourceChanged(f"{self.path} became shorter while it was read: start the job again")
                yield from record.iter_unpack(data)


def version_of(status):
    return status.st_size, status.st_mtime_ns


class Highest(Producer):
    """The reading with the highest value."""

    @staticmethod
    def map_fn(readings):
        return readings

    @staticmethod
    def reduce_fn(readings):
        return max(readings, key=lambda reading: reading[2])


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        with open(os.path.join(folder, "readings.bin"), "wb") as file:
            file.writelines(pack("<dHf", second, second % 3, second % 97) for second in range(10_000))
        time, sensor, value = Highest().map(DataSourceFactory(Readings, path=file.name))
        print(f"Highest: {value:g}, at {time:g} s, sensor {sensor}")
