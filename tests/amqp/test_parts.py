"""Parts that are large, many, slow, late, doubled or hard to report, over a real broker."""

import random

import pytest
from amqp_jobs import Lengths, Steps, Watched, executions
from links import Tap
from watching import ANSWER, FILE, RECONNECTS, answer, serve, submitted

from pymar.amqp import timing as times
from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, UsageError

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("empty_queue", "log_of_the_producer")]


class Shuffles(Tap):
    """Deliver messages up to three times, and in another order; publish parts once or twice."""

    def __init__(self, rng):
        super().__init__()
        self.rng = rng
        self.waiting = []

    def on_delivery(self, delivery, deliver):
        self.waiting.extend([delivery] * self.rng.choice((1, 1, 2, 3)))
        if len(self.waiting) > 4 or self.rng.random() < 0.5:
            self.rng.shuffle(self.waiting)
            while self.waiting:
                deliver(self.waiting.pop())

    def on_publish(self, message, publish):
        for _ in range(self.rng.choice((1, 2)) if message.key.startswith("pymar.work.") else 1):
            publish(message)


def test_duplicated_and_reordered_messages(broker, agents, watched):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    tap = Shuffles(random.Random(seed))
    serve(agents)
    for _ in range(5):
        assert answer(submitted(broker, link=tap)) == ANSWER
    assert len(tap.links) == 1, "one session, and no connection lost"


def test_two_producers_of_one_pool_at_once(broker, agents, settings):
    settings(seconds=0.05)
    serve(agents)
    futures = [submitted(broker) for _ in range(4)]
    assert [answer(future) for future in futures] == [ANSWER] * 4


def test_a_data_part_larger_than_the_broker_takes(broker, agents):
    agents.start(FILE, "-p", "Lengths", "-w", "2")
    data = [b"x" * 20_000_000, b"y" * 20_000_000, b"z"]
    assert Lengths(mq_server=f"127.0.0.1:{broker.port}").map(DataSourceFactory(data)) == 40_000_001


def test_a_partial_larger_than_is_allowed_is_an_error_with_a_remedy(broker, agents, settings):
    settings(WORKERS_NUMBER=1, size=6_000_000)
    serve(agents, "--max-result", "5")
    with pytest.raises(PartFailed, match=r"5,242,880.* --max-result"):
        answer(submitted(broker))


def test_a_hundred_thousand_parts_take_little_memory_at_the_producer(broker, agents, script):
    serve(agents)
    printed = script(
        f"""
import sys
sys.path.insert(0, {str(FILE.parent)!r})
from amqp_jobs import Steps, Watched
from pymar.datasource import DataSourceFactory
Watched.WORKERS_NUMBER = 100_000
producer = Watched(mq_server="127.0.0.1:{broker.port}")
print(producer.map(DataSourceFactory(Steps, length=100_000))[0])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    ).stdout.split()
    assert int(printed[0]) == 4_999_950_000
    assert int(printed[1]) < 100_000, "KiB"


@pytest.mark.parametrize("error", ["surrogate", "large"])
def test_an_exception_that_is_hard_to_send_arrives_all_the_same(broker, agents, settings, error):
    settings(raises=error)
    agent = serve(agents)
    with pytest.raises(PartFailed, match=r"ValueError: (caf|xxx)"):
        answer(submitted(broker))
    settings(raises="")
    assert answer(submitted(broker)) == ANSWER
    assert RECONNECTS not in agent.said()


def test_many_large_records_together_are_more_than_the_broker_takes_and_arrive(broker, agents, monkeypatch):
    agents.start(FILE, "-p", "Lengths", "-w", "2")
    monkeypatch.setattr(Lengths, "WORKERS_NUMBER", 30)
    records = [b"x" * 4_000_000] * 30
    assert Lengths(mq_server=f"127.0.0.1:{broker.port}").map(DataSourceFactory(records)) == 120_000_000


def test_settings_too_large_to_be_sent_are_refused_by_name(broker, settings):
    settings(folder="x" * 9_000_000)
    with pytest.raises(UsageError, match=r"the job Watched .* 8,388,608"):
        answer(submitted(broker))


def test_offsets_of_more_than_64_bits(broker, agents):
    serve(agents)
    far = DataSourceFactory(Steps, limit=4, offset=1 << 70, length=1 << 71)
    assert Watched(mq_server=f"127.0.0.1:{broker.port}").map(far)[0] == 4 * (1 << 70) + 6


def test_parts_that_fail_at_first_are_retried_at_once(broker, agents, watched, settings, monkeypatch):
    monkeypatch.setattr(times, "PROBE_AFTER", 3_600.0)  # no probe asks for them
    settings(raises="first", RETRIES=3)
    serve(agents)
    for _ in range(10):
        for path in watched.iterdir():
            path.unlink()
        assert answer(submitted(broker)) == ANSWER


def test_a_backup_task_is_computed_by_another_slot_and_the_slow_one_is_stopped(broker, agents, watched, settings):
    settings(slow=0, slow_seconds=3_600.0, seconds=0.05, BACKUPS=0.05)
    serve(agents)
    assert answer(submitted(broker)) == ANSWER
    assert executions(watched)[0] == 2
    assert answer(submitted(broker)) == ANSWER


def test_a_part_longer_than_the_acknowledgement_timeout_runs_once(broker, agents, watched, settings):
    settings(WORKERS_NUMBER=2, seconds=8.0)
    broker.eval("application:set_env(rabbit, consumer_timeout, 3000)")
    try:
        agent = serve(agents, "--lease-after", "1")
        assert answer(submitted(broker)) == ANSWER
    finally:
        broker.eval("application:set_env(rabbit, consumer_timeout, 1800000)")
    assert executions(watched) == {0: 1, 50: 1}
    assert RECONNECTS not in agent.said()
