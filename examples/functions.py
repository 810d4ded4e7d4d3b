"""Which functions of the Python standard library are the longest? A table of all of them is written by the workers."""

import ast
import sysconfig
import tempfile
from time import perf_counter

from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
from pymar.sinks import JSONLinesSink
from pymar.sources import Files, JSONLines


class LibrarySources(Files):
    path = sysconfig.get_path("stdlib") + "/**/*.py"


class Functions(Producer):
    WORKERS_NUMBER = 64

    @staticmethod
    def map_fn(data_source):
        for path, data in data_source:
            if "site-packages" in path or "/test/" in path:
                continue
            try:
                tree = ast.parse(data)
            except (SyntaxError, ValueError):  # some are no Python on purpose
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield {"name": node.name, "lines": node.end_lineno - node.lineno + 1, "file": path}


began = perf_counter()
folder = tempfile.mkdtemp(prefix="pymar-") + "/functions"
written = Functions().write(DataSourceFactory(LibrarySources), JSONLinesSink(folder))
seconds = perf_counter() - began
functions = DataSourceFactory(JSONLines, path=folder).build_data_source()
for function in sorted(functions, key=lambda function: -function["lines"])[:5]:
    print(f"{function['lines']:6,}  {function['name']}, {function['file'].removeprefix(sysconfig.get_path('stdlib'))}")
print(f"({written.records:,} functions in {written.files} files of {folder}; it took {seconds:.2f} s)")
