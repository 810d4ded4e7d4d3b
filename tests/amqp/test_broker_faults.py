"""Whatever dies, hangs or loses what it had among producer, broker and agents: the answer is exact."""

import os
import signal
import subprocess
import sys

import pytest
from amqp_jobs import executions
from broker import FAST
from conftest import is_running, wait_until
from links import Tap, message_in
from places import SUPPORT
from watching import ANSWER, FILE, PATIENCE, PRODUCER_GONE, answer, begun, serve, submitted

from pymar.amqp import protocol
from pymar.amqp.protocol import work_queue
from pymar.exceptions import PartLost
from pymar.serialization.jobfile import code_of

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("empty_queue", "log_of_the_producer")]


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
def test_an_alarm_is_logged_and_the_job_goes_on_after_it(broker, agents, watched, settings, caplog, set_it, clear_it):
    settings(seconds=0.5)
    agent = serve(agents)
    future = submitted(broker)
    begun(watched, 2)
    broker.eval(set_it)
    try:
        wait_until(lambda: "broker blocked" in caplog.text, "the producer to log that the broker is blocked")
        wait_until(lambda: "broker blocked" in agent.said(), "the agent to log it too")
        count = len(executions(watched))
        assert not future.done()
    finally:
        broker.eval(clear_it)  # whatever came of this test, the next one needs the broker
    assert answer(future) == ANSWER
    assert len(executions(watched)) >= count


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
    agent = serve(agents, "--grace", "3600")
    assert agent.stop() == 0  # which waits for a small part of that
    assert not broker.queues("pymar.agent.")


def own_producer(broker, checkpoint="", **settings):
    """A producer in a process of its own, with short times."""
    code = (
        "import json, runpy, sys; from pymar.amqp import timing; from pymar.amqp.link import client;"
        "vars(timing).update(json.loads(sys.argv.pop(1))); client.HEARTBEAT = 1;"
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
    wait_until(lambda: PRODUCER_GONE in agent.said(), "the agent to let go of the job")
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
    wait_until(lambda: PRODUCER_GONE in agent.said(), "the agent to let go of the job")
    before = executions(watched)
    again = own_producer(broker, checkpoint, folder=watched, seconds=0.3)
    out, err = again.communicate(timeout=PATIENCE)
    assert out == f"answer {ANSWER}\n", err
    assert sum(count == before.get(first, 0) for first, count in executions(watched).items()) >= 3


def asks_for_parts(messages):
    return any(isinstance(message, protocol.Probe) for message in messages)


def test_parts_that_are_purged_before_anybody_came_are_missed(broker, agents, settings):
    tap, waiting = Tap(), work_queue("Watched", code_of(FILE))
    future = submitted(broker, link=tap)
    # The probe behind the parts is in the queue too, and will be purged with them.
    wait_until(lambda: asks_for_parts(tap.published_to(waiting)), "the first probe")
    with broker.channel() as channel:
        count = lambda: channel.queue_declare(waiting, passive=True).method.message_count  # noqa: E731
        wait_until(lambda: count() >= len(tap.published_to(waiting)), "all of it to be in the queue")
    serve(agents, "--purge-queue")
    assert answer(future) == ANSWER


class LosesTheFirstTick(Tap):
    def __init__(self):
        super().__init__()
        self.lost = []

    def on_delivery(self, delivery, deliver):
        message = message_in(delivery.body)
        if isinstance(message, protocol.Tick) and not self.lost:
            self.lost.append(message)
            self.links[-1].acknowledge(delivery)
        else:
            deliver(delivery)


def test_a_tick_that_is_lost_is_followed_by_another(broker, agents, settings):
    """As with a queue of results that is deleted, or purged, while the tick is in it."""
    tap = LosesTheFirstTick()
    future = submitted(broker, link=tap)
    wait_until(lambda: tap.lost, "the first tick")
    wait_until(lambda: asks_for_parts(tap.published_to(work_queue("Watched", code_of(FILE)))), "a probe, due to a tick")
    serve(agents)
    assert answer(future) == ANSWER


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


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGINT, -signal.SIGINT, "Watched: interrupted"),
        (signal.SIGTERM, 128 + signal.SIGTERM, "SIGTERM ends the script; Watched: "),
        (signal.SIGHUP, 128 + signal.SIGHUP, "SIGHUP ends the script; Watched: "),
    ],
)
def test_ctrl_c_and_signals_end_a_job_with_one_line_and_its_parts_stop(broker, agents, watched, number, code, says):
    serve(agents)
    script = (
        "from amqp_jobs import *\n"
        "from pymar.datasource import DataSourceFactory\n"
        f"Watched.folder, Watched.slow, Watched.slow_seconds = {str(watched)!r}, 0, 3_600.0\n"
        f"Watched(mq_server='127.0.0.1:{broker.port}').map(DataSourceFactory(Steps))"
    )
    environ = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    with subprocess.Popen([sys.executable, "-c", script], env=environ, stderr=subprocess.PIPE, text=True) as producer:
        wait_until(lambda: executions(watched).get(0), "the slow part")
        parts = [int(path.name.split("-")[1]) for path in watched.glob("0-*")]
        producer.send_signal(number)
        _, err = producer.communicate(timeout=PATIENCE)
    assert producer.returncode == code
    assert err.splitlines()[-1].startswith(says)
    assert "Traceback" not in err
    wait_until(lambda: not any(map(is_running, parts)), "the end of its parts")
    mine = f".{producer.pid}."
    wait_until(lambda: not [one for one in broker.queues("pymar.job.") if mine in one], "the end of the job's queue")
