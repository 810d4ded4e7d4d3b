"""A part that dies, hangs, grows or misbehaves in its worker process costs its own attempts and nothing else."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, redirect_stderr

import pytest
from conftest import is_running, wait_until
from where import Where

from pymar.datasource import DataSourceFactory
from pymar.engines.processes import ProcessesEngine
from pymar.exceptions import PartFailed, PartLost
from pymar.job.plan import Plan
from pymar.parts import Done, Part, Running
from pymar.producer import Producer
from pymar.slots.pool import SlotPool, shutdown
from pymar.slots.queue import Reports, work_by_value
from pymar.testing import Numbers, Total


class Once(Total):
    """Does something terrible on one record, the first time only: while `marker`, a file, is not there."""

    marker = ""
    record = 500
    how = ""

    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            if number == Once.record and not os.path.exists(Once.marker):
                open(Once.marker, "x").close()
                TERRIBLE[Once.how]()
            yield number


TERRIBLE = {
    "exit": lambda: os._exit(9),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "closing every pipe": lambda: os.closerange(3, 256),
    "stopping": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


def total(producer, parts=10, engine="processes://2", **settings):
    """The producer's answer, computed in this many parts; the class is left as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(producer, "WORKERS_NUMBER", parts)
        return producer(engine=engine).map(DataSourceFactory(Numbers, **settings))


@pytest.fixture(params=["exit", "segfault", "abort", "SIGKILL", "closing every pipe"])
def terrible(request, tmp_path, monkeypatch):
    monkeypatch.setattr(Once, "marker", str(tmp_path / "marker"))
    monkeypatch.setattr(Once, "how", request.param)


@pytest.mark.usefixtures("terrible")
@pytest.mark.parametrize("parts", [1, 10, 1_000])
def test_a_process_that_dies_costs_its_part_only(parts):
    assert total(Once, parts) == 499_500
    assert os.path.exists(Once.marker)


def test_a_stopped_process_meets_the_time_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Once, "marker", str(tmp_path / "marker"))
    monkeypatch.setattr(Once, "how", "stopping")
    monkeypatch.setattr(Once, "PART_TIMEOUT", 0.5)
    assert total(Once) == 499_500


class Poison(Total):
    WORKERS_NUMBER = 1_000

    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            if number == 5:
                print("about to go", file=sys.stderr)
                os._exit(9)
            yield number


def test_parts_that_shared_a_batch_with_a_poison_part_are_not_charged():
    with pytest.raises(PartLost) as lost:
        Poison(engine="processes://2").map(DataSourceFactory(Numbers))
    assert lost.value.index == 5
    assert len(lost.value.causes) == 4
    for cause in lost.value.causes:
        assert "exit code 9" in cause
        assert "about to go" in cause
        assert "peak memory" in cause


class Hanging(Total):
    PART_TIMEOUT = 0.3
    BACKUPS = 0
    stubborn = False
    pids = ""

    @staticmethod
    def map_fn(data_source):
        if data_source.offset == 500:
            with open(Hanging.pids, "a") as file:
                print(os.getpid(), file=file)
            while True:
                try:
                    time.sleep(60)  # never ends
                except KeyboardInterrupt:
                    if not Hanging.stubborn:
                        raise
        return data_source


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_part_that_never_ends_is_really_killed(stubborn, tmp_path, monkeypatch):
    monkeypatch.setattr(Hanging, "pids", str(tmp_path / "pids"))
    monkeypatch.setattr(Hanging, "stubborn", stubborn)
    with pytest.raises(PartLost, match="PART_TIMEOUT") as lost:
        total(Hanging)
    assert len(lost.value.causes) == 2
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)), "the end of the worker processes")


class Greedy(Total):
    MEMORY_LIMIT = 200_000_000

    @staticmethod
    def map_fn(data_source):
        if data_source.offset == 500:
            block = bytearray(400_000_000)
            time.sleep(30)  # until it is stopped
            del block
        return data_source


def test_a_process_over_its_memory_limit_is_stopped():
    with pytest.raises(PartLost, match="MEMORY_LIMIT of 200,000,000") as lost:
        total(Greedy)
    assert len(lost.value.causes) == 2


class Failing(Total):
    how = ""

    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            if number == 500:
                FAILING[Failing.how]()
            elif number > 500:
                time.sleep(3_600)  # the others take longer than any test
            yield number


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.lock = open(os.devnull)  # noqa: SIM115 - something that cannot travel


def raise_unpicklable():
    raise UnpicklableError(1, 2)


def raise_group():
    raise ExceptionGroup("several", [ValueError("first"), KeyError("second")])


def raise_chain():
    try:
        {}["key"]
    except KeyError as error:
        raise RuntimeError("wrapped") from error


FAILING = {
    "exit": lambda: sys.exit("bye"),
    "unpicklable": raise_unpicklable,
    "group": raise_group,
    "chain": raise_chain,
    "generator exit": lambda: next(iter(())),
    "recursion": lambda: FAILING["recursion"](),
}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("exit", "SystemExit: bye"),
        ("unpicklable", "UnpicklableError: 1 and 2"),
        ("group", "ValueError: first"),
        ("chain", "KeyError: 'key'"),
        ("generator exit", "generator raised StopIteration"),
        ("recursion", "RecursionError"),
    ],
)
def test_whatever_user_code_raises_is_reported_at_once(how, says, monkeypatch):
    monkeypatch.setattr(Failing, "how", how)
    with pytest.raises(PartFailed) as failed:
        total(Failing)
    assert says in str(failed.value)
    assert (failed.value.index, failed.value.offset, failed.value.limit) == (5, 500, 100)
    assert "pid" in failed.value.worker


def test_the_original_exception_is_the_cause(monkeypatch):
    monkeypatch.setattr(Failing, "how", "chain")
    with pytest.raises(PartFailed) as failed:
        total(Failing)
    assert type(failed.value.__cause__) is RuntimeError


def test_the_other_parts_are_stopped_when_one_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(Hanging, "pids", str(tmp_path / "pids"))
    monkeypatch.setattr(Hanging, "PART_TIMEOUT", None)
    partials = Hanging(engine="processes://2").partials(DataSourceFactory(Numbers))
    wait_until(lambda: next(partials) is not None and (tmp_path / "pids").exists(), "the part that hangs")
    partials.close()
    (pid,) = (tmp_path / "pids").read_text().split()
    wait_until(lambda: not is_running(pid), "the end of the worker process")
    assert total(Total) == 499_500


class Printing(Total):
    @staticmethod
    def map_fn(data_source):
        print("hello from", data_source.offset)
        print("no end of line", end="")
        os.write(2, b"raw bytes\n")
        return data_source


def test_prints_appear_on_stderr_with_the_number_of_the_part(capsys):
    assert total(Printing, 5) == 499_500
    out, err = capsys.readouterr()
    assert out == ""
    for index in range(5):
        assert f"[part {index}] hello from {index * 200}\n" in err
    assert err.count("no end of line\n") == 5
    assert err.count("raw bytes\n") >= 1  # they come through a pipe of their own: others may still be on their way


class Reading(Total):
    @staticmethod
    def map_fn(data_source):
        return [len(sys.stdin.read())]


def test_a_process_has_nothing_on_stdin():
    assert total(Reading) == 0


class Forking(Total):
    @staticmethod
    def map_fn(data_source):
        if data_source.offset == 0 and os.fork() == 0:
            time.sleep(60)  # outlives the part
        if data_source.offset == 900:
            os._exit(3)
        return data_source


def test_a_fork_of_a_worker_process_that_holds_its_pipes_hides_no_death():
    with pytest.raises(PartLost, match="exit code 3"):
        total(Forking)


class Starting(Total):
    pids = ""

    @staticmethod
    def map_fn(data_source):
        process = subprocess.Popen(["sleep", "60"])
        with open(Starting.pids, "w") as file:
            print(process.pid, file=file)
        os._exit(1)


def test_what_a_dead_process_has_started_is_ended_too(tmp_path, monkeypatch):
    monkeypatch.setattr(Starting, "pids", str(tmp_path / "pid"))
    with pytest.raises(PartLost):
        total(Starting, 1)
    pid = (tmp_path / "pid").read_text().strip()
    wait_until(lambda: not is_running(pid), "the end of what it has started")


class Uneven(Total):
    """Fast parts, then slow ones: batches that were sized for the fast ones overrun."""

    WORKERS_NUMBER = 1_000

    @staticmethod
    def map_fn(data_source):
        if data_source.offset >= 400:
            time.sleep(0.002)  # the slow parts
        return [data_source.offset]


def test_the_parts_of_a_batch_that_overruns_are_shared_with_idle_processes():
    events = []
    producer = Uneven(engine="processes://2", listeners=[events.append])
    assert producer.map(DataSourceFactory(Numbers)) == 499_500
    assert sum(isinstance(event, Done) for event in events) == 1_000


class Version(Producer):
    WORKERS_NUMBER = 40
    number = 1

    @staticmethod
    def map_fn(data_source):
        time.sleep(0.005)  # the work of a part
        return [Version.number]

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)


def test_jobs_at_once_with_other_settings_do_not_mix(monkeypatch):
    engine = ProcessesEngine("2")
    runs = []
    for number in (1, 2, 3):
        monkeypatch.setattr(Version, "number", number)
        partials = Version(engine=engine).partials(DataSourceFactory(Numbers))
        runs.append((number, next(partials), partials))
    for number, first, partials in runs:
        assert {first, *partials} == {number}


class Silent(Total):
    """Dies and prints nothing."""

    @staticmethod
    def map_fn(data_source):
        os.kill(os.getpid(), signal.SIGKILL)
        return data_source


def test_what_another_job_has_printed_explains_no_death(capfd):
    total(Printing, 4, engine="processes://1")
    with pytest.raises(PartLost) as lost:
        total(Silent, 1, engine="processes://1")
    assert "|" not in str(lost.value)


def test_processes_live_on_when_a_job_is_over():
    pids = wait_until(lambda: len(found := total(Where, 4)) == 2 and found, "two worker processes that are up")
    assert set().union(*(total(Where, 4) for _ in range(30))) == pids


@pytest.fixture
def pool():
    one = SlotPool()
    yield one
    one.shutdown()


def begun(pool, producer, slots=1):
    """A run of a job on a pool of a test's own."""
    spec = Plan(producer(), DataSourceFactory(Numbers), Producer).spec
    return pool.start(work_by_value(spec), slots, slots, Reports())


def test_the_pool_ends_with_its_processes(pool):
    pool.warm(2, 2)
    run = begun(pool, Total, 2)
    pids = wait_until(lambda: [slot.process.pid for slot in pool.supervisor if slot.ready], "a worker process")
    run.close()
    pool.shutdown()
    assert not any(map(is_running, pids))


class Slow(Total):
    log = ""

    @staticmethod
    def map_fn(data_source):
        with open(Slow.log, "a") as log:
            print(os.getpid(), file=log)
        time.sleep(0.05)  # what makes it slow: time to take the rest away
        return data_source


class SlowAndFailing(Slow):
    @staticmethod
    def reduce_fn(numbers):
        raise ValueError(*numbers)


@pytest.mark.parametrize("producer", [Slow, SlowAndFailing])
def test_a_process_whose_unbegun_parts_were_taken_away_computes_none_of_them_and_lives_on(
    pool, producer, tmp_path, monkeypatch
):
    monkeypatch.setattr(Slow, "log", str(tmp_path / "log"))
    parts = [Part(index, 0, index, 1) for index in range(3)]
    for _ in range(10):
        run = begun(pool, producer)
        run.submit(parts)
        ended = []
        while len(ended) < len(parts):
            run.recall(0.0)
            ended += [report for report in run.next(0.01) if not isinstance(report, Running)]
        run.close()
    pids = (tmp_path / "log").read_text().split()
    assert len(pids) == 10
    assert len(set(pids)) == 1


class Stuck(Total):
    @staticmethod
    def setup_fn():
        time.sleep(60)  # an import that hangs; the process is ended long before


def test_a_process_that_loads_a_job_that_is_over_is_ended(pool):
    def has_reported(run, kind):
        return any(isinstance(report, kind) for report in run.next(0.01))

    part = Part(0, 0, 0, 1)
    stuck = begun(pool, Stuck)
    stuck.submit([part])
    wait_until(lambda: has_reported(stuck, Running), "the part to be sent to a process, which starts")
    # The pool is late: the process is up and loads, and the pool has not read that yet.
    pool.loop.call_soon(time.sleep, 1.0)
    stuck.cancel(0)
    stuck.close()
    run = begun(pool, Total)
    run.submit([part])
    wait_until(lambda: has_reported(run, Done), "the next job's part")


class Returning(Total):
    """Batches overrun and are shared, and parts of them fail and are computed again by any idle slot."""

    RETRIES = 3
    BACKUPS = 0
    folder = ""

    @staticmethod
    def map_fn(data_source):
        index = data_source.offset
        if index >= 1_500:
            if index % 10 == 0:
                time.sleep(0.02)  # slow: the parts behind it are moved to other slots
            else:
                marker = os.path.join(Returning.folder, str(index))
                if not os.path.exists(marker):
                    open(marker, "x").close()
                    raise ValueError("the first time")
        return data_source


def test_a_part_that_was_taken_from_a_process_may_come_back_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Returning, "folder", str(tmp_path))
    assert total(Returning, 2_000, length=2_000) == 1_999_000


class Blamed(Total):
    ATTEMPTS = 1
    BACKUPS = 0

    @staticmethod
    def map_fn(data_source):
        if data_source.offset == 903:
            time.sleep(0.02)  # slow: the rest of its batch is moved before it dies
            os._exit(3)
        return data_source


def test_no_innocent_part_is_blamed_when_a_batch_was_shared():
    for _ in range(5):
        with pytest.raises(PartLost) as lost:
            total(Blamed, 1_000)
        assert lost.value.index == 903


class Endless(Total):
    PART_TIMEOUT = 0.5

    @staticmethod
    def map_fn(data_source):
        while data_source.offset == 500:
            print("x" * 20)
        return data_source


@contextmanager
def nobody_reads():
    """What parts print is thrown away. Within a test: pytest sets its own stderr between a fixture and its test."""
    with open(os.devnull, "w") as nothing, redirect_stderr(nothing):
        yield


def test_a_part_that_prints_without_end_meets_its_time_out():
    with nobody_reads(), pytest.raises(PartLost, match="PART_TIMEOUT"):
        total(Endless)


class Unterminated(Total):
    @staticmethod
    def map_fn(data_source):
        for _ in range(20):
            os.write(2, b"x" * 1_000_000)
        os.write(2, b"the reason")
        os._exit(1)


def test_output_without_line_ends_costs_little_and_its_end_is_kept(capsys):
    began = time.process_time()
    with pytest.raises(PartLost, match="the reason"):
        total(Unterminated, 1)
    assert time.process_time() - began < 10
    capsys.readouterr()


class Alarmed(Total):
    @staticmethod
    def map_fn(data_source):
        class Alarm(Exception):
            pass

        def alarm(*_):
            raise Alarm

        signal.signal(signal.SIGALRM, alarm)
        for _ in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005)
                while True:
                    print("line" * 200)
            except Alarm:
                pass
        return data_source


class Forked(Total):
    @staticmethod
    def map_fn(data_source):
        forks = []
        for _ in range(2):
            forks.append(os.fork())
            if forks[-1] == 0:
                for number in range(50):
                    print(str(number) * 9_000)
                if data_source.offset == 250:
                    return data_source  # the fork goes on in our code, instead of os._exit
                sys.exit(0)  # and so does this one, by an exception
        for pid in forks:
            os.waitpid(pid, 0)
        return data_source


@pytest.mark.parametrize("producer", [Alarmed, Forked])
def test_signals_and_forks_in_a_part_do_not_corrupt_what_is_sent(producer):
    with nobody_reads():
        assert total(producer, 4) == 499_500


class Unshowable:
    def __repr__(self):
        sys.exit("no")

    def __reduce__(self):
        sys.exit("no")


class Showing(Total):
    @staticmethod
    def map_fn(data_source):
        number, odd, many = 10**5_000, Unshowable(), Counter(range(100_000))
        raise ValueError(number and odd and many and "bad")


@pytest.mark.parametrize("engine", ["serial", "processes://2"])
def test_variables_that_cannot_be_shown_hide_no_failure(engine):
    with pytest.raises(PartFailed) as failed:
        total(Showing, engine=engine)
    for name, *nouns in (
        ("number", "int", "16,610 bits"),
        ("odd", "Unshowable", "SystemExit"),
        ("many", "Counter", "100,000"),
    ):
        (line,) = (line for line in failed.value.variables.splitlines() if line.strip().startswith(f"{name} = "))
        assert all(noun in line for noun in nouns)
    with pytest.raises(PartFailed, match="the data of part 1"):
        Total(engine="processes://2").map(DataSourceFactory([1, Unshowable()]))


def test_the_start_of_an_interpreter_counts_for_no_part(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(0.8)")  # twice what a part may take
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(Total, "PART_TIMEOUT", 0.4, raising=False)
    shutdown()
    assert total(Total) == 499_500
    shutdown()
