"""The executor over AMQP, where functions go by value: with a key and a pool."""

import os
from concurrent.futures import wait

import executor_jobs as jobs
import pytest
from conftest import is_running, wait_until

import pymar
from pymar.amqp.keys import new_key
from pymar.exceptions import PartFailed, PartLost

POOL = "executor"


@pytest.fixture
def executor(broker, agents, monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    agents.start("--pool", POOL, "-w", "2")
    with pymar.Executor(f"{broker.url}?pool={POOL}") as one:
        yield one


def test_results_and_errors_are_those_of_the_calls(executor):
    shift = 7
    futures = [executor.submit(lambda number: number + shift, number) for number in range(100)]
    assert [future.result() for future in futures] == [number + 7 for number in range(100)]
    error = executor.submit(jobs.inverse, 0).exception()
    assert isinstance(error, ZeroDivisionError)
    assert isinstance(error.__cause__, PartFailed)
    assert "return 1 / number" in str(error.__cause__)
    assert executor.slots() == 2


def test_a_running_future_can_be_cancelled_and_its_process_stops(executor, tmp_path):
    first, other = (executor.submit(jobs.held, tmp_path / f"began-{number}", tmp_path / "end") for number in range(2))
    began = [tmp_path / f"began-{number}" for number in range(2)]
    wait_until(lambda: all(path.exists() and path.read_text() for path in began), "both calls to begin")
    assert first.cancel()
    pid = int(began[0].read_text())
    wait_until(lambda: not is_running(pid), "its process to end")
    (tmp_path / "end").touch()
    assert other.result() == int(began[1].read_text())
    assert executor.submit(jobs.squared, 3).result() == 9


def test_a_call_that_kills_each_process_fails_alone(executor):
    lost = executor.submit(os._exit, 3)
    others = [executor.submit(jobs.squared, number) for number in range(20)]
    assert isinstance(lost.exception(), PartLost)
    assert [future.result() for future in others] == [number**2 for number in range(20)]


def test_workers_that_come_later_compute_what_waits(broker, agents, monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    with pymar.Executor(f"{broker.url}?pool=later") as executor:
        futures = [executor.submit(jobs.squared, number) for number in range(20)]
        assert not wait(futures, 0.1).done
        agents.start("--pool", "later", "-w", "2")
        assert [future.result() for future in futures] == [number**2 for number in range(20)]
