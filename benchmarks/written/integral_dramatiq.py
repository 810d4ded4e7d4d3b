import os
from math import exp

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

DX, PARTS = 1e-5, 8
broker = RabbitmqBroker(url=os.environ["BROKER"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["RESULTS"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def part(number):
    length = int(9 / DX)
    start, end = length * number // PARTS, length * (number + 1) // PARTS
    return sum(exp(1 + i * DX) * DX for i in range(start, end))


if __name__ == "__main__":
    tasks = dramatiq.group([part.message(number) for number in range(PARTS)]).run()
    print(sum(tasks.get_results(block=True)))
