"""Which packages hold Debian up? PageRank of what they depend on: a loop of jobs, each fed by the last one's result."""

import re
from subprocess import check_output
from time import perf_counter

from pymar.datasource import DataSourceFactory
from pymar.keyed import KeyedProducer, Max, Sum


class Step(KeyedProducer):
    WORKERS_NUMBER = 8
    reduce_fn = {"rank": Sum(0), "reverse": Sum(1), "needs": Max(2)}  # noqa: RUF012 - never changed

    @staticmethod
    def map_fn(packages):
        for package, found in packages:
            needs = dict.fromkeys(found["needs"])  # each once
            yield package, (0.15, 0, tuple(needs))
            for need in needs:
                yield need, (0.85 * found["rank"] / len(needs), 1, ())


lists = check_output("apt-cache dumpavail | grep '' || cat /var/lib/dpkg/status", shell=True, text=True)
packages = re.findall(r"^Package: (.*)\n(?:(?!Depends: ).+\n)*(?:Depends: (.*))?", lists, re.MULTILINE)
ranks = {name: {"rank": 1, "needs": re.findall(r"(?:^|[,|] )([^ ,:|]+)", needs)} for name, needs in packages}
began = perf_counter()
for _ in range(10):
    ranks = Step().map(DataSourceFactory(ranks))
for name, found in ranks.top(5, key=lambda pair: pair[1]["rank"]):
    print(f"{found['rank']:7,.1f}  {name}: {found['reverse']:,} packages depend on it")
print(f"({len(ranks):,} packages; it took {perf_counter() - began:.2f} s)")
