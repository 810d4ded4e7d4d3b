"""In which files of the Python standard library does a name occur? An inverted index of all of its identifiers."""

import io
import sysconfig
import tokenize
from contextlib import suppress
from time import perf_counter

from pymar.datasource import DataSourceFactory
from pymar.keyed import Collect, KeyedProducer
from pymar.sources import Files


class Index(KeyedProducer):
    reduce_fn = Collect()

    @staticmethod
    def map_fn(files):
        for path, data in files:
            if "site-packages" not in path:
                with suppress(SyntaxError, tokenize.TokenError):  # some are no Python on purpose
                    tokens = tokenize.tokenize(io.BytesIO(data).readline)
                    yield {token.string: path for token in tokens if token.type == tokenize.NAME}


library = sysconfig.get_path("stdlib")
began = perf_counter()
index = Index().map(DataSourceFactory(Files, path=[library + "/**/*.py", library + "/**/_*.py"]))
print("heapq occurs in", *(path.removeprefix(library) for path in index["heapq"]))
print(f"({len(index):,} identifiers; it took {perf_counter() - began:.2f} s)")
