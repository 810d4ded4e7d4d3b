"""Which words does the Python standard library use most? The question of wordcount.py, asked of a dataset."""

import re
import sysconfig
from time import perf_counter

import pymar

began = perf_counter()
files = pymar.read_files(sysconfig.get_path("stdlib") + "/**/*.py").filter(lambda file: "site-packages" not in file[0])
words = files.flat_map(lambda file: re.findall(r"[^\W\d]\w*", file[1].decode("utf-8", "replace"))).group_by().count()
print(*(f"{count:8,}  {word}" for word, count in words.top(10, key=lambda pair: pair[1])), sep="\n")
print(f"(it took {perf_counter() - began:.2f} s)")
