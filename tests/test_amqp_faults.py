"""Whatever dies, hangs or is cut between producer, broker and agents, the answer is exact and nothing hangs."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import amqp_jobs
import pytest
from amqp_jobs import Lengths, Steps, Watched, executions
from broker import FAST
from conftest import wait_until
from proxy import ACK, CANCEL, DELIVER, DOWN, OPEN_OK, PUBLISH, START, TUNE, UP, Proxy

from pymar.amqp import protocol, session
from pymar.amqp.protocol import work_queue
from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, PartLost, UsageError
from pymar.jobfile import code_of

pytestmark = pytest.mark.timeout(180)

FILE = Path(amqp_jobs.__file__)
ANSWER = sum(range(Steps.length))
#: Seconds for an answer, with the times of FAST.
PATIENCE = 60


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """The folder of executions."""
    folder = tmp_path / "executions"
    folder.mkdir()
    monkeypatch.setattr(Watched, "folder", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _no_parts_of_other_tests(broker):
    """A test that cuts a producer off leaves its parts in the queue."""
    with broker.channel() as channel:
        channel.queue_delete(work_queue("Watched", code_of(FILE)))


@pytest.fixture
def settings(monkeypatch):
    def put(**values):
        for name, value in values.items():
            monkeypatch.setattr(Watched, name, value)

    return put


@pytest.fixture
def proxy(broker):
    one = Proxy(broker.port)
    yield one
    one.stop()


def submitted(broker, port=None):
    producer = Watched(mq_server=f"127.0.0.1:{port or broker.port}")
    return producer.submit(DataSourceFactory(Steps))


def answer(future):
    return future.result(PATIENCE)[0]


def begun(folder, count=1):
    return wait_until(lambda: len(executions(folder)) >= count, f"{count} parts to begin")


def serve(agents, *options, **settings):
    return agents.start(FILE, "-p", "Watched", "-w", "2", *options, **settings)


def test_one_of_two_agents_is_killed(broker, agents, watched, settings):
    settings(seconds=0.1)
    dies, _ = serve(agents), serve(agents)
    future = submitted(broker)
    begun(watched, 4)
    dies.kill()
    assert answer(future) == ANSWER
    assert executions(watched).keys() == set(range(0, 100, 5))


def test_a_stopped_agent_costs_its_parts_some_time_and_its_late_results_are_ignored(broker, agents, watched, settings):
    settings(seconds=0.2)
    stopped, _ = serve(agents), serve(agents)
    future = submitted(broker)
    begun(watched, 4)
    stopped.signal(signal.SIGSTOP)
    assert answer(future) == ANSWER
    stopped.signal(signal.SIGCONT)
    again = submitted(broker)
    assert answer(again) == ANSWER


@pytest.mark.timeout(600)
def test_the_broker_is_killed_again_and_again_in_one_job(broker, agents, watched, settings):
    kills = int(os.environ.get("PYMAR_KILLS", "2"))
    parts = min(10 * kills, 100)
    settings(seconds=1.0, WORKERS_NUMBER=parts)
    serve(agents), serve(agents)
    future = submitted(broker)
    begun(watched)
    for _ in range(kills):
        count = len(executions(watched))
        broker.kill()
        broker.start()
        if len(executions(watched)) < parts - 5:
            wait_until(lambda count=count: future.done() or len(executions(watched)) > count, "another part to begin")
    assert future.result(400)[0] == ANSWER


def test_every_connection_is_closed_by_the_broker(broker, agents, watched, settings):
    settings(seconds=0.3)
    agent = serve(agents)
    future = submitted(broker)
    begun(watched, 2)
    broker.close_all_connections()
    assert answer(future) == ANSWER
    assert "connecting again" in agent.said()


@pytest.mark.parametrize("what", ["delete", "purge"])
def test_the_work_queue_is_deleted_or_purged(broker, agents, watched, settings, what):
    settings(seconds=0.3)
    serve(agents)
    future = submitted(broker)
    begun(watched, 2)
    with broker.channel() as channel:
        for queue in broker.queues("pymar.work.Watched"):
            getattr(channel, f"queue_{what}")(queue)
    assert answer(future) == ANSWER


def test_the_queue_of_results_is_deleted(broker, agents, watched, settings):
    settings(seconds=0.3)
    serve(agents)
    future = submitted(broker)
    begun(watched, 2)
    with broker.channel() as channel:
        for queue in broker.queues("pymar.job."):
            channel.queue_delete(queue)
    assert answer(future) == ANSWER


CUTS = [
    *((DOWN, DELIVER, after) for after in (0, 1, 3)),
    *((UP, PUBLISH, after) for after in (0, 1, 2, 5)),
    *((DOWN, ACK, after) for after in (0, 1)),  # several may be confirmed by one
    *((UP, ACK, after) for after in (0, 1, 3)),
]


@pytest.mark.parametrize("passes", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("direction", "method", "after"), CUTS)
def test_the_agents_connections_are_cut_between_two_steps(
    broker, agents, watched, settings, proxy, direction, method, after, passes
):
    settings(WORKERS_NUMBER=6, seconds=0.01)
    agent = serve(agents, url=f"amqp://127.0.0.1:{proxy.port}")
    proxy.cut_at(direction, method, after, passes)
    assert answer(submitted(broker)) == ANSWER
    assert proxy.cuts == 1
    assert agent.process.poll() is None


@pytest.mark.parametrize(("direction", "method"), [(UP, PUBLISH), (DOWN, ACK), (DOWN, DELIVER), (UP, ACK)])
def test_the_producers_connections_are_cut_between_two_steps(broker, agents, settings, proxy, direction, method):
    settings(WORKERS_NUMBER=6, seconds=0.01)
    serve(agents)
    warm = Watched(mq_server=f"127.0.0.1:{proxy.port}")
    assert warm.map(DataSourceFactory(Steps))[0] == ANSWER
    proxy.cut_at(direction, method)
    assert answer(warm.submit(DataSourceFactory(Steps))) == ANSWER
    wait_until(lambda: proxy.cuts == 1, "the cut")


@pytest.mark.parametrize("passes", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("direction", "method"), [(UP, CANCEL), (UP, ACK), (DOWN, ACK)])
def test_the_connections_are_cut_around_an_early_acknowledgement(
    broker, agents, watched, settings, proxy, direction, method, passes
):
    settings(WORKERS_NUMBER=2, seconds=1.5)
    serve(agents, "--lease-after", "0.3", url=f"amqp://127.0.0.1:{proxy.port}")
    future = submitted(broker)
    begun(watched)
    proxy.cut_at(direction, method, 0, passes)
    assert answer(future) == ANSWER
    assert proxy.cuts == 1


@pytest.mark.parametrize("method", [START, TUNE, OPEN_OK])
def test_connections_are_cut_while_they_are_opened_again(broker, agents, watched, settings, proxy, method):
    settings(seconds=0.1)
    agent = serve(agents, url=f"amqp://127.0.0.1:{proxy.port}")
    future = submitted(broker, proxy.port)
    begun(watched, 2)
    for _ in range(3):
        proxy.cut_at(DOWN, method, after=1)
        proxy.reset()
        wait_until(lambda: proxy.plan is None, "the cut")
    assert answer(future) == ANSWER
    assert agent.process.poll() is None


def test_connections_that_stall_and_are_reset(broker, agents, watched, settings, proxy):
    settings(seconds=0.1)
    serve(agents, url=f"amqp://127.0.0.1:{proxy.port}")
    future = submitted(broker)
    begun(watched, 2)
    proxy.flowing.clear()
    time.sleep(1.5)  # the stall itself, five of the producer's ticks long: nothing can be heard that would end it
    proxy.flowing.set()
    begun(watched, 6)
    proxy.reset()
    assert answer(future) == ANSWER


@pytest.mark.parametrize(
    ("set_it", "clear_it"),
    [
        (
            "vm_memory_monitor:set_vm_memory_high_watermark(0.000001)",
            "vm_memory_monitor:set_vm_memory_high_watermark(0.4)",
        ),
        ('rabbit_disk_monitor:set_disk_free_limit("1000000GB")', 'rabbit_disk_monitor:set_disk_free_limit("1MB")'),
    ],
    ids=["memory", "disk"],
)
def test_an_alarm_is_said_and_the_job_goes_on_after_it(broker, agents, watched, settings, caplog, set_it, clear_it):
    settings(seconds=0.5)
    agent = serve(agents)
    future = submitted(broker)
    begun(watched, 2)
    broker.eval(set_it)
    try:
        wait_until(lambda: "broker blocked" in caplog.text, "the producer to say that the broker is blocked")
        wait_until(lambda: "broker blocked" in agent.said(), "the agent to say so too")
        count = len(executions(watched))
        assert not future.done()
    finally:
        broker.eval(clear_it)  # whatever came of this test, the next one needs the broker
    assert answer(future) == ANSWER
    assert len(executions(watched)) >= count


def test_duplicated_and_reordered_messages(broker, agents, watched, monkeypatch):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    serve(agents)
    came, sent = session.Session._came, session.Session.to_work_queue
    waiting = []

    def shuffled(self, message, pool):
        waiting.extend([(message, pool)] * rng.choice((1, 1, 2, 3)))
        if len(waiting) > 4 or rng.random() < 0.5:
            rng.shuffle(waiting)
            while waiting:
                came(self, *waiting.pop())

    def twice(self, run, message):
        for _ in range(rng.choice((1, 2))):
            sent(self, run, message)

    monkeypatch.setattr(session.Session, "_came", shuffled)
    monkeypatch.setattr(session.Session, "to_work_queue", twice)
    for _ in range(5):
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
    assert "is lost" not in agent.said()


def test_a_poison_part_is_given_up_after_four_attempts_and_costs_no_agent(broker, agents, watched, settings):
    settings(poison=42)
    running = [serve(agents) for _ in range(3)]
    with pytest.raises(PartLost) as caught:
        answer(submitted(broker))
    assert caught.value.index == 8
    assert len(caught.value.causes) == 4
    assert "exit code 9" in caught.value.causes[0]
    assert executions(watched)[40] == 4
    assert all(agent.process.poll() is None for agent in running)


def test_an_agent_that_is_asked_to_stop_hands_its_parts_back_and_nothing_is_charged(broker, agents, watched, settings):
    settings(slow=0, slow_seconds=30.0, ATTEMPTS=1)
    first = serve(agents, "--grace", "0.5")
    future = submitted(broker)
    begun(watched, 20)
    second = serve(agents)
    assert first.stop() == 0
    assert answer(future) == ANSWER
    assert executions(watched)[0] == 2
    assert second.process.poll() is None


def test_an_idle_agent_is_gone_at_once(broker, agents):
    agent = serve(agents)
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 5
    assert not broker.queues("pymar.agent.")


def own_producer(broker, checkpoint="", **settings):
    """A producer in a process of its own, with short times."""
    code = (
        "import json, runpy, sys; from pymar.amqp import client, protocol;"
        "vars(protocol).update(json.loads(sys.argv.pop(1))); client.HEARTBEAT = 1;"
        "sys.path.insert(0, sys.argv[1].rpartition('/')[0]); sys.argv.pop(0);"
        "import amqp_jobs; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    import json

    times = json.dumps({**FAST, "JOB_EXPIRES": 2.0})
    given = [f"{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-c", code, times, str(FILE), f"127.0.0.1:{broker.port}", str(checkpoint), *given]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_producer_that_is_stopped_for_longer_than_its_queue_lives_goes_on(broker, agents, watched):
    agent = serve(agents)
    producer = own_producer(broker, folder=watched, seconds=0.2, ATTEMPTS=1)
    begun(watched, 2)
    producer.send_signal(signal.SIGSTOP)
    wait_until(lambda: "its producer has gone" in agent.said(), "the agent to let go of the job")
    producer.send_signal(signal.SIGCONT)
    out, err = producer.communicate(timeout=PATIENCE)
    assert out == f"answer {ANSWER}\n", err


def test_agents_let_go_of_a_killed_producer_and_its_checkpoint_resumes(broker, agents, watched, settings, tmp_path):
    agent = serve(agents)
    checkpoint = tmp_path / "job.ckpt"
    producer = own_producer(broker, checkpoint, folder=watched, seconds=0.3)
    begun(watched, 6)
    producer.kill()
    producer.communicate()
    settings(seconds=0.0)
    folder = tmp_path / "other"
    folder.mkdir()
    settings(folder=str(folder))
    assert answer(submitted(broker)) == ANSWER  # another producer is served meanwhile
    wait_until(lambda: "its producer has gone" in agent.said(), "the agent to let go of the job")
    before = executions(watched)
    again = own_producer(broker, checkpoint, folder=watched, seconds=0.3)
    out, err = again.communicate(timeout=PATIENCE)
    assert out == f"answer {ANSWER}\n", err
    assert sum(count == before.get(first, 0) for first, count in executions(watched).items()) >= 3


def test_two_producers_of_one_pool_at_once(broker, agents, settings):
    settings(seconds=0.05)
    serve(agents)
    futures = [submitted(broker) for _ in range(4)]
    assert [answer(future) for future in futures] == [ANSWER] * 4


def test_a_data_part_larger_than_the_broker_takes(broker, agents):
    agents.start(FILE, "-p", "Lengths", "-w", "2")
    data = [b"x" * 20_000_000, b"y" * 20_000_000, b"z"]
    assert Lengths(mq_server=f"127.0.0.1:{broker.port}").map(DataSourceFactory(data)) == 40_000_001


def test_a_partial_larger_than_is_allowed_is_an_error_that_says_what_to_do(broker, agents, settings):
    settings(WORKERS_NUMBER=1, size=6_000_000)
    serve(agents, "--max-result", "5")
    with pytest.raises(Exception, match=r"more than the 5,242,880 that this worker sends: make more and smaller parts"):
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


@pytest.fixture(autouse=True)
def _log_of_the_producer(caplog):
    caplog.set_level(logging.INFO, logger="pymar")


@pytest.mark.parametrize("error", ["surrogate", "large"])
def test_an_exception_that_is_hard_to_send_is_told_all_the_same(broker, agents, settings, error):
    settings(raises=error)
    agent = serve(agents)
    with pytest.raises(PartFailed, match=r"ValueError: (caf|xxx)"):
        answer(submitted(broker))
    settings(raises="")
    assert answer(submitted(broker)) == ANSWER
    assert "connecting again" not in agent.said()


def test_many_large_records_together_are_more_than_the_broker_takes_and_arrive(broker, agents):
    agents.start(FILE, "-p", "Lengths", "-w", "2")
    Lengths.WORKERS_NUMBER = 30
    try:
        records = [b"x" * 4_000_000] * 30
        assert Lengths(mq_server=f"127.0.0.1:{broker.port}").map(DataSourceFactory(records)) == 120_000_000
    finally:
        Lengths.WORKERS_NUMBER = 2


def test_settings_too_large_to_be_sent_are_refused_by_name(broker, settings):
    settings(folder="x" * 9_000_000)
    with pytest.raises(UsageError, match=r"more than the 8,388,608 that a job may have"):
        answer(submitted(broker))


def test_parts_that_are_purged_before_anybody_came_are_missed(broker, agents, settings, monkeypatch):
    sent = []
    send = session.Session.to_work_queue

    def recorded(self, run, message):
        sent.append(type(message))
        send(self, run, message)

    monkeypatch.setattr(session.Session, "to_work_queue", recorded)
    future = submitted(broker)
    # The question behind the parts is in the queue too, and will be purged with them.
    wait_until(lambda: protocol.Probe in sent, "the first question")
    waiting = work_queue("Watched", code_of(FILE))
    with broker.channel() as channel:
        count = lambda: channel.queue_declare(waiting, passive=True).method.message_count  # noqa: E731
        wait_until(lambda: count() >= len(sent), "all of it to be in the queue")
    serve(agents, "--purge-queue")
    assert answer(future) == ANSWER


def test_offsets_of_more_than_64_bits(broker, agents):
    serve(agents)
    far = DataSourceFactory(Steps, limit=4, offset=1 << 70, length=1 << 71)
    assert Watched(mq_server=f"127.0.0.1:{broker.port}").map(far)[0] == 4 * (1 << 70) + 6


def test_parts_that_fail_at_first_are_retried_at_once(broker, agents, watched, settings):
    settings(raises="first", RETRIES=3)
    serve(agents)
    began = time.monotonic()
    for _ in range(10):
        for path in watched.iterdir():
            path.unlink()
        assert answer(submitted(broker)) == ANSWER
    assert time.monotonic() - began < 10 * FAST["PROBE_AFTER"]


def test_a_spare_copy_is_computed_by_another_slot_and_the_slow_one_is_stopped(broker, agents, watched, settings):
    settings(slow=0, slow_seconds=60.0, seconds=0.05, BACKUPS=0.05)
    serve(agents)
    began = time.monotonic()
    assert answer(submitted(broker)) == ANSWER
    assert time.monotonic() - began < 20
    assert executions(watched)[0] == 2
    assert answer(submitted(broker)) == ANSWER


def test_a_job_whose_code_has_changed_under_it_is_never_computed_by_the_new(broker, agents, tmp_path):
    """The old job's parts wait in a worker of one slot while the file is changed and another producer asks for it."""
    file = tmp_path / "changing.py"
    code = CHANGING.format(value=1)
    file.write_text(code)
    agents.start(file, "-w", "1")
    words = [sys.executable, str(file), f"127.0.0.1:{broker.port}"]
    old = subprocess.Popen([*words, "10"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(tmp_path.glob("began-1-*")), "the old job to begin")
    file.write_text(CHANGING.format(value=1_000))
    new = subprocess.run([*words, "0"], capture_output=True, text=True, timeout=PATIENCE)
    assert new.stdout == "20000\n", new.stderr
    _, err = old.communicate(timeout=PATIENCE)  # its time-out: nobody serves its code any more
    assert "JobTimeout" in err
    assert not list(tmp_path.glob("wrong-*"))


CHANGING = """
import sys, time
from pathlib import Path
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer

class Changing(Producer):
    WORKERS_NUMBER = 20
    made_for = 0

    @staticmethod
    def map_fn(data_source):
        here = Path(__file__).parent
        Path(here, f"began-{value}-{{time.monotonic_ns()}}").touch()
        if Changing.made_for != {value}:
            Path(here, f"wrong-{{time.monotonic_ns()}}").touch()
        time.sleep(0.1)  # the work of a part: some wait while the file changes
        yield {value}

    @staticmethod
    def reduce_fn(values):
        return sum(values)

if __name__ == "__main__":
    Changing.made_for = {value}
    timeout = float(sys.argv[2])
    print(Changing(mq_server=sys.argv[1]).map(DataSourceFactory(range(20)), timeout=timeout, on_timeout="fail"))
"""
