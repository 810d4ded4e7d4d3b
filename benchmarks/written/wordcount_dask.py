import sys

import dask.bag as db
from distributed import Client

if __name__ == "__main__":
    with Client(dashboard_address=":0"):
        lines = db.read_text(sys.argv[1], blocksize=12_800_000, encoding="utf-8")
        words = lines.map(str.split).flatten()
        print(words.frequencies().topk(3, key=1).compute())
