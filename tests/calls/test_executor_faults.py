"""The executor under faults: processes that die, calls that are cancelled at any time, a great many calls."""

import os
import random
import signal
import threading
from concurrent.futures import BrokenExecutor, wait
from contextlib import suppress
from pathlib import Path

import executor_jobs as jobs
import pytest
from conftest import children_of, command_of, is_running, wait_until

import pymar
from pymar.exceptions import BrokerRefused, PartLost


@pytest.fixture
def executor():
    with pymar.Executor("processes://2") as one:
        yield one


def test_a_call_whose_process_is_killed_is_computed_again(executor, tmp_path):
    future = executor.submit(jobs.held, tmp_path / "began", tmp_path / "end")
    wait_until((tmp_path / "began").exists, "the call to begin")
    pid = int(wait_until((tmp_path / "began").read_text, "its process"))
    os.kill(pid, signal.SIGKILL)
    (tmp_path / "end").touch()
    assert future.result() != pid


def test_a_call_that_kills_its_process_once_has_a_result(executor, tmp_path):
    assert executor.submit(jobs.die_once, tmp_path / "died").result() == 7


def test_a_call_that_kills_each_process_fails_alone(executor):
    others = [executor.submit(jobs.squared, number) for number in range(50)]
    lost = executor.submit(jobs.die)
    others += [executor.submit(jobs.squared, number) for number in range(50, 100)]
    error = lost.exception()
    assert isinstance(error, PartLost)
    assert len(error.causes) == 4
    assert [future.result() for future in others] == [number**2 for number in range(100)]


def test_as_many_attempts_are_made_as_asked_for():
    with pymar.Executor("processes://1", attempts=1) as executor:
        assert len(executor.submit(jobs.die).exception().causes) == 1


def test_a_call_over_its_time_is_stopped_and_fails_alone(tmp_path):
    with pymar.Executor("processes://2", part_timeout=0.2, attempts=1) as executor:
        held = executor.submit(jobs.held, tmp_path / "began", tmp_path / "never")
        other = executor.submit(jobs.squared, 3)
        assert "PART_TIMEOUT" in str(held.exception())
        assert other.result() == 9


def test_cancelling_some_that_run_leaves_the_others_right(executor, tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    end = tmp_path / "end"
    futures = [executor.submit(jobs.held, tmp_path / f"began-{number}", end) for number in range(2)]
    futures += [executor.submit(jobs.squared, number) for number in range(200)]
    wait_until((tmp_path / "began-0").exists, "a call to begin")
    cancelled = {number for number in range(2, 202) if chance.random() < 0.5}
    for number in chance.sample(sorted(cancelled), len(cancelled)):
        assert futures[number].cancel() or futures[number].done()
    assert futures[0].cancel()
    end.touch()
    wait(futures)
    assert futures[1].result()
    for number, future in enumerate(futures[2:], 2):
        assert future.cancelled() or future.result() == (number - 2) ** 2
        assert future.cancelled() <= (number in cancelled)


def test_processes_that_are_stopped_again_and_again_are_replaced(executor, tmp_path):
    for number in range(8):
        began = tmp_path / f"began-{number}"
        future = executor.submit(jobs.held, began, tmp_path / "never")
        wait_until(began.exists, "the call to begin")
        assert future.cancel()
    assert executor.submit(jobs.squared, 3).result() == 9


def test_nothing_runs_once_all_is_cancelled(tmp_path):
    executor = pymar.Executor("processes://2")
    began = [tmp_path / f"began-{number}" for number in range(2)]
    futures = [executor.submit(jobs.held, path, tmp_path / "never") for path in began]
    wait_until(lambda: all(path.exists() and path.read_text() for path in began), "both calls to begin")
    assert all(future.cancel() for future in futures)
    executor.shutdown()
    pids = [int(path.read_text()) for path in began]
    wait_until(lambda: not any(map(is_running, pids)), "their processes to end")


def test_ten_thousand_calls_from_four_threads_come_back_each_to_its_own_future(executor):
    found = [[] for _ in range(4)]

    def submit(own, start):
        own += [executor.submit(jobs.squared, number) for number in range(start, start + 2_500)]

    threads = [threading.Thread(target=submit, args=(found[number], 2_500 * number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [future.result() for futures in found for future in futures]
    assert results == [number**2 for number in range(10_000)]


def test_the_processes_of_a_script_that_is_killed_end_with_it(script, tmp_path):
    done = script(
        f"""
import os, signal, time
import pymar
def hold(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(100)
executor = pymar.Executor("processes://1")
executor.submit(hold, {str(tmp_path / "began")!r})
while not os.path.exists({str(tmp_path / "began")!r}) or not open({str(tmp_path / "began")!r}).read():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
""",
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(Path(tmp_path / "began").read_text())
    wait_until(lambda: not is_running(pid), "the worker process to end")


def test_an_executor_whose_pool_has_ended_fails_its_futures(tmp_path):
    from pymar.slots import pool

    executor = pymar.Executor("processes://1")
    future = executor.submit(jobs.held, tmp_path / "began", tmp_path / "never")
    wait_until((tmp_path / "began").exists, "the call to begin")
    pool.shutdown()
    assert "pool" in str(future.exception())
    executor.shutdown()
    with pymar.Executor("processes://1") as other:
        assert other.submit(jobs.squared, 2).result() == 4


def test_a_broker_that_refuses_fails_all_that_was_submitted(monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", "k" * 43)
    with pymar.Executor("amqp://127.0.0.1:1?pool=nobody") as executor:
        futures = []
        with suppress(BrokenExecutor):  # the later ones, if it has been refused by then
            futures += [executor.submit(jobs.slot)]
            futures += [executor.submit(jobs.slot)]
        assert futures
        assert all(isinstance(future.exception(), BrokerRefused) for future in futures)


def test_the_worker_processes_stay_for_the_next_executor():
    def processes():
        return {pid for pid in children_of("self") if "pymar.slots.child" in command_of(pid)}

    with pymar.Executor("processes://2") as executor:
        wait([executor.submit(jobs.slot) for _ in range(10)])
    before = processes()
    with pymar.Executor("processes://2") as executor:
        wait([executor.submit(jobs.slot) for _ in range(10)])
    assert processes() == before
