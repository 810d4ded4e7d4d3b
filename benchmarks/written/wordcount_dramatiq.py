import os
import sys
from collections import Counter

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

PARTS = 16
dramatiq.set_encoder(dramatiq.PickleEncoder())
broker = RabbitmqBroker(url=os.environ["BROKER"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["RESULTS"], encoder=dramatiq.PickleEncoder())))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
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
    for counts in (
        dramatiq.group([part.message(sys.argv[1], number) for number in range(PARTS)]).run().get_results(block=True)
    ):
        total.update(counts)
    print(total.most_common(3))
