"""Worker processes that do not start, and agents that cannot take part: the reason is reported, and the job ends."""

import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import children_of, wait_until

from pymar.amqp import timing as times
from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartLost, PymarError
from pymar.parts import Done, Joined, Lost, Refused
from pymar.serialization.jobfile import load
from pymar.serialization.values import dumps
from pymar.slots.pool import shutdown
from pymar.slots.starts import TRIES, Starts
from pymar.testing import Numbers, Total


def test_after_three_failures_in_a_row_the_next_try_is_after_a_pause_that_grows():
    starts, now, pauses = Starts(), 0.0, []
    for number in range(TRIES + 6):
        assert starts.may(now)
        assert starts.failed(f"cause {number}", now, now) == (number >= TRIES - 1)
        assert starts.keep_failing == (number >= TRIES - 1)
        pauses.append(starts.wait(now))
        now += pauses[-1]
    assert [round(pause) for pause in pauses[TRIES - 1 :]] == [5, 10, 20, 40, 60, 60, 60]
    assert starts.why == f"cause {TRIES + 5}"
    starts.succeeded()
    assert not starts.keep_failing
    assert not starts.failed("again", now, now)


def test_processes_that_were_started_together_fail_once():
    starts = Starts()
    for _ in range(10):
        starts.failed("killed", began=1.0, now=2.0)
    assert not starts.keep_failing


class Starting(Total):
    """Its worker processes die in `setup_fn`: all of them, or the first."""

    WORKERS_NUMBER = 20
    how = ""
    log = ""

    @staticmethod
    def setup_fn():
        with open(Starting.log, "a") as log:
            print(os.getpid(), file=log)
            is_first = log.tell() < 12
        if Starting.how == "kill" or (Starting.how == "kill the first" and is_first):
            os.kill(os.getpid(), signal.SIGKILL)
        if Starting.how == "interrupt":
            raise KeyboardInterrupt


@pytest.fixture
def starting(tmp_path, monkeypatch):
    """Run the job; return its events."""

    def run(how, engine="processes://2"):
        events = []
        monkeypatch.setattr(Starting, "how", how)
        assert Starting(engine=engine, listeners=[events.append]).map(DataSourceFactory(Numbers)) == 499_500
        return events

    run.log = tmp_path / "log"
    monkeypatch.setattr(Starting, "log", str(run.log))
    return run


def test_a_process_that_dies_while_it_loads_the_job_costs_no_part_an_attempt(starting):
    assert not [event for event in starting("kill the first") if isinstance(event, Lost)]


@pytest.mark.parametrize(
    ("how", "cause"), [("kill", "killed by SIGKILL"), ("interrupt", "KeyboardInterrupt was raised in setup_fn")]
)
def test_a_job_that_kills_each_process_that_loads_it_ends_with_the_reason_and_few_processes(starting, how, cause):
    with pytest.raises(PartLost, match="ended while they loaded the job") as lost:
        starting(how)
    assert cause in str(lost.value)
    assert len(starting.log.read_text().split()) <= 2 * TRIES + 2
    assert starting("")


@pytest.fixture
def no_processes(monkeypatch):
    """No worker process runs; the test may change `sys.executable`, and put it back with `undo()`."""
    shutdown()
    yield monkeypatch
    monkeypatch.undo()
    shutdown()


@pytest.mark.parametrize(
    ("executable", "says"),
    [
        ("#!/bin/false\n", "ended: exit code 1"),
        ("#!/nowhere\n", "[Errno 2]"),
        ("neither", "[Errno 8]"),
    ],
)
def test_where_no_process_starts_the_job_ends_with_the_reason_and_the_next_may_work(
    no_processes, executable, says, tmp_path
):
    python = tmp_path / "python"
    python.write_text(executable)
    python.chmod(0o755)
    no_processes.setattr(sys, "executable", str(python))
    with pytest.raises(PartLost) as lost:
        Total(engine="processes://2").map(DataSourceFactory(Numbers))
    assert says in str(lost.value)
    assert not [pid for pid in children_of("self") if "pymar.slots.child" in Path(f"/proc/{pid}/cmdline").read_text()]
    no_processes.undo()
    assert Total(engine="processes://2").map(DataSourceFactory(Numbers)) == 499_500


FEW_FILES = """
import os, resource
from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartLost
from pymar.testing import Numbers, Total

resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + {more}, 4_096))
try:
    print(Total(engine="processes://2").map(DataSourceFactory(Numbers)))
except PartLost as lost:
    print(lost)
"""


def test_too_few_files_for_any_process_are_named_with_the_remedy(script):
    printed = script(FEW_FILES.format(more=6)).stdout
    assert "[Errno 24]" in printed
    assert "ulimit -n" in printed


def test_too_few_files_for_all_processes_cost_time_only(script):
    assert script(FEW_FILES.format(more=14)).stdout == "499500\n"


class Refusing:
    """An engine whose first worker refuses every part that it is given, and whose second, if there is one, computes."""

    name = "refusing"
    batch_seconds = 0.002

    def __init__(self, has_other):
        self.has_other, self.given, self.news = has_other, 0, [Joined("both", 2)]

    def start(self, job):
        return self

    def submit(self, parts):
        self.given += 1
        if self.has_other and self.given % 3 == 0:
            self.news += [Done(part.index, dumps(part.limit, "a value"), 0.1) for part in parts]
        else:
            self.news.append(Refused(tuple(part.index for part in parts), "its code is another"))

    def next(self, timeout):
        news, self.news = self.news, []
        return news

    def cancel(self, index):
        pass

    def close(self):
        pass


def test_parts_that_an_engine_refuses_are_handed_out_again():
    engine = Refusing(has_other=True)
    assert Total(engine=engine).map(DataSourceFactory(range(20)), timeout=30, on_timeout="fail") == 20


def test_a_job_whose_parts_are_all_refused_ends_with_the_reason():
    engine = Refusing(has_other=False)
    with pytest.raises(PartLost, match="its code is another"):
        Total(engine=engine).map(DataSourceFactory(range(20)), timeout=30, on_timeout="fail")


def test_a_report_of_no_kind_ends_the_job_and_is_shown():
    engine = Refusing(has_other=False)
    engine.news.append(("what", 1))
    with pytest.raises(PymarError, match=r"\('what', 1\)"):
        Total(engine=engine).map(DataSourceFactory(range(20)), timeout=30, on_timeout="fail")


JOB = """
import os, signal, sys, time
from pathlib import Path
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer

if os.environ.get("HOST_IS_SMALL") == "as they start" and "PYMAR_SLOT" in os.environ:
    os.kill(os.getpid(), signal.SIGKILL)

class Small(Producer):
    WORKERS_NUMBER = 20
    BACKUPS = 0
    folder = ""

    @staticmethod
    def setup_fn():
        if os.environ.get("HOST_IS_SMALL") == "in setup_fn":
            os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def map_fn(data_source):
        if Small.folder:
            Path(Small.folder, f"{data_source.offset}-{os.getpid()}").touch()
        time.sleep(0.1)  # the work of a part
        return data_source

    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)
"""


@pytest.fixture
def small(broker, tmp_path, monkeypatch):
    """Submit the job; its events are in `events`."""
    file = tmp_path / "small.py"
    file.write_text(JOB)
    folder = tmp_path / "executions"
    folder.mkdir()

    def submit():
        producer = load(file).Small
        monkeypatch.setattr(producer, "folder", str(folder), raising=False)
        made = producer(mq_server=broker.url, listeners=[submit.events.append])
        return made.submit(DataSourceFactory(range(20)), timeout=60, on_timeout="fail")

    submit.events, submit.file, submit.folder = [], file, folder
    return submit


@pytest.mark.timeout(180)
def test_a_worker_whose_processes_die_as_they_start_takes_no_parts_and_says_why(broker, agents, small, caplog):
    bad = agents.start(small.file, "-w", "2", environ={"HOST_IS_SMALL": "as they start"})
    wait_until(lambda: "this worker cannot compute" in bad.said(), "the agent to log it")
    future = small()
    wait_until(lambda: "takes no parts at present" in caplog.text, "the producer to log it")
    assert "killed by SIGKILL" in caplog.text
    agents.start(small.file, "-w", "2")
    assert future.result(60) == sum(range(20))
    assert not [event for event in small.events if isinstance(event, Lost)]
    assert bad.stop() == 0


@pytest.mark.timeout(180)
def test_a_worker_whose_processes_die_in_setup_fn_costs_each_part_one_attempt_at_most(broker, agents, small, caplog):
    bad = agents.start(small.file, "-w", "2", environ={"HOST_IS_SMALL": "in setup_fn"})
    future = small()
    wait_until(lambda: "ended while they loaded the job" in caplog.text, "the producer to log it")
    agents.start(small.file, "-w", "2")
    assert future.result(60) == sum(range(20))
    lost = [event.index for event in small.events if isinstance(event, Lost)]
    assert lost
    assert len(lost) <= bad.said().count("no worker process is started")
    assert bad.stop() == 0


SHORT = """
import os, signal, time
from pathlib import Path
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer

def here(name):
    return Path(__file__).parent / name

class Short(Producer):
    WORKERS_NUMBER = 4
    BACKUPS = 0

    @staticmethod
    def map_fn(data_source):
        here(f"{data_source.offset}-{os.getpid()}").touch()
        while Path(__file__).parent.name != "another" and not here("go on").exists():
            time.sleep(0.01)  # until the test has seen what it wants to see
        return data_source

    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)

if here("too small").exists() and not here("go on").exists():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(180)
def test_a_worker_with_fewer_processes_than_slots_keeps_nothing_waiting(broker, agents, tmp_path):
    def begun(folder):
        return [path.name.partition("-") for path in folder.glob("[0-3]-*")]

    file = tmp_path / "short.py"
    file.write_text(SHORT)
    worker = agents.start(file, "-w", "2")
    future = load(file).Short(mq_server=broker.url).submit(DataSourceFactory(range(4)), timeout=60, on_timeout="fail")
    (kept, _, _), (_, _, dies) = wait_until(lambda: len(found := begun(tmp_path)) == 2 and found, "two parts to begin")
    (tmp_path / "too small").touch()
    os.kill(int(dies), signal.SIGKILL)
    wait_until(lambda: "no worker process is started" in worker.said(), "the agent to lack a worker process")
    another = tmp_path / "another"
    another.mkdir()
    (another / "short.py").write_text(SHORT)
    agents.start(another / "short.py", "-w", "1")
    others = set("0123") - {kept}
    wait_until(lambda: {first for first, _, _ in begun(another)} == others, "all others, though one takes long")
    (tmp_path / "go on").touch()
    assert future.result(60) == sum(range(4))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["other", "half", "gone"])
def test_a_worker_whose_job_file_was_another_for_a_moment_serves_again(broker, agents, small, how):
    worker = agents.start(small.file, "-w", "2")
    future = small()
    wait_until(lambda: len(os.listdir(small.folder)) >= 3, "some parts to begin")
    {
        "other": lambda: small.file.write_text(f"{JOB}\n# edited\n"),
        "half": lambda: small.file.write_text(JOB[: len(JOB) // 2]),
        "gone": small.file.unlink,
    }[how]()
    os.kill(int(wait_until(lambda: children_of(worker.pid), "a worker process")[0]), signal.SIGKILL)
    wait_until(lambda: "no parts are taken" in worker.said(), "the worker to refuse")
    small.file.write_text(JOB)
    assert future.result(60) == sum(range(20))
    assert "taking parts again" in worker.said()
    assert worker.stop() == 0


HELPED = """
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
import helper

class Helped(Producer):
    WORKERS_NUMBER = 500

    @staticmethod
    def map_fn(data_source):
        return [helper.scaled(number) for number in data_source]

    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)
"""


@pytest.mark.timeout(180)
def test_what_a_worker_with_another_module_refuses_goes_to_others_at_once_and_all_of_it(
    broker, agents, tmp_path, monkeypatch
):
    for name, value in (("good", 1), ("bad", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helped.py").write_text(HELPED)
        (tmp_path / name / "helper.py").write_text(f"def scaled(number):\n    return {value} * number\n")
    # A probe behind the parts would find dropped ones missing, and hand them out again: none is sent here.
    monkeypatch.setattr(times, "PROBE_AFTER", 1_000.0)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "good"), *sys.path])
    bad = agents.start(tmp_path / "bad" / "helped.py", "-w", "2")
    producer = load(tmp_path / "good" / "helped.py").Helped
    future = producer(mq_server=broker.url).submit(DataSourceFactory(range(500)), timeout=60, on_timeout="fail")
    wait_until(lambda: "the module helper differs" in bad.said(), "the worker to refuse")
    agents.start(tmp_path / "good" / "helped.py", "-w", "2")
    assert future.result(60) == sum(range(500))
    (tmp_path / "bad" / "helper.py").write_bytes((tmp_path / "good" / "helper.py").read_bytes())
    agents.running[-1].stop()
    again = producer(mq_server=broker.url).submit(DataSourceFactory(range(500)), timeout=60, on_timeout="fail")
    assert again.result(60) == sum(range(500))
