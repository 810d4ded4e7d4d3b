"""The jobs on task queues over the same broker: actors and tasks for dramatiq's and celery's workers.

PYMAR_BENCH_AMQP and PYMAR_BENCH_REDIS are the ports of the two servers on 127.0.0.1.
"""

import os

import jobs

AMQP = f"amqp://guest:guest@127.0.0.1:{os.environ.get('PYMAR_BENCH_AMQP', '5672')}/"
REDIS = f"redis://127.0.0.1:{os.environ.get('PYMAR_BENCH_REDIS', '6379')}/0"
FUNCTIONS = (jobs.integral_part, jobs.squares_part, jobs.trivial_part, jobs.words_part, jobs.pairs_part)


def dramatiq_actors():
    import dramatiq
    from dramatiq.brokers.rabbitmq import RabbitmqBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    dramatiq.set_encoder(dramatiq.PickleEncoder())
    broker = RabbitmqBroker(url=AMQP)
    broker.add_middleware(Results(backend=RedisBackend(url=REDIS, encoder=dramatiq.PickleEncoder())))
    dramatiq.set_broker(broker)
    return {
        function: dramatiq.actor(function, store_results=True, queue_name="bench-dramatiq", max_retries=0)
        for function in FUNCTIONS
    }


def celery_app():
    from celery import Celery

    made = Celery("bench", broker=AMQP, backend="rpc://")
    made.conf.update(
        task_serializer="pickle",
        result_serializer="pickle",
        accept_content=["pickle"],
        result_accept_content=["pickle"],
        worker_concurrency=2,
        task_default_queue="bench-celery",
        worker_enable_remote_control=False,
        worker_send_task_events=False,
    )
    return made, {function: made.task(function, name=function.__name__) for function in FUNCTIONS}


if os.environ.get("PYMAR_BENCH_WORKER") == "dramatiq":
    actors = dramatiq_actors()
if os.environ.get("PYMAR_BENCH_WORKER") == "celery":
    app, tasks = celery_app()
