import os
import sys
from collections import Counter

from celery import Celery, group

PARTS = 16
app = Celery("wordcount_celery", broker=os.environ["BROKER"], backend="rpc://")
app.conf.update(result_serializer="pickle", accept_content=["json", "pickle"])


@app.task
def part(path, number):
    size = os.path.getsize(path)
    start, end = size * number // PARTS, size * (number + 1) // PARTS
    counts = Counter()
    with open(path, "rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()
        while file.tell() < end and (line := file.readline()):
            counts.update(line.split())
    return counts


if __name__ == "__main__":
    total = Counter()
    for counts in group(part.s(sys.argv[1], number) for number in range(PARTS)).apply_async().get():
        total.update(counts)
    print(total.most_common(3))
