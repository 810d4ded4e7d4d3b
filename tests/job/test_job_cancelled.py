"""Futures of jobs that are cancelled while they run: the job stops, and leaves nothing behind."""

import asyncio
import os
import threading
import time
from concurrent.futures import as_completed, wait
from typing import ClassVar

import pytest
from conftest import is_running, wait_until

from pymar.datasource import DataSourceFactory
from pymar.keyed import KeyedProducer, Sum
from pymar.producer import Producer

#: Seconds that a part takes at most which is not stopped.
LONG = 100
PARTS = range(40)


def held(folder, number):
    """Note the process of a part; return once the file "end" exists."""
    with open(f"{folder}/{number}", "w") as file:
        file.write(str(os.getpid()))
    deadline = time.monotonic() + LONG
    while not os.path.exists(f"{folder}/end") and time.monotonic() < deadline:
        time.sleep(0.005)


class Held(Producer[int]):
    WORKERS_NUMBER = 40
    folder = ""

    @classmethod
    def map_fn(cls, numbers):
        for number in numbers:
            held(cls.folder, number)
            yield number

    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)


class HeldByKey(KeyedProducer):
    WORKERS_NUMBER = 40
    folder = ""
    reduce_fn = Sum()

    @classmethod
    def map_fn(cls, numbers):
        for number in numbers:
            held(cls.folder, number)
            yield number % 7, number


class HeldSecondStage(KeyedProducer):
    """Its first stage is short, and its second is held."""

    folder: ClassVar[str] = ""

    @staticmethod
    def map_fn(numbers):
        for number in numbers:
            yield number % 7, number

    @staticmethod
    def reduce_fn(key, values):
        return sum(values)

    @classmethod
    def finish_fn(cls, key, value):
        held(cls.folder, key)
        return value


@pytest.fixture(params=[Held, HeldByKey, HeldSecondStage])
def job(request, tmp_path, monkeypatch):
    monkeypatch.setattr(request.param, "folder", str(tmp_path / "parts"))
    (tmp_path / "parts").mkdir()
    return request.param


def pids(job):
    found = set()
    for entry in os.scandir(job.folder):
        with open(entry.path) as file:
            found.add(int(file.read() or 0))
    return found - {0}


def threads_of(job):
    return [thread for thread in threading.enumerate() if thread.name == f"pymar-{job.__name__}"]


def begun(job, **options):
    future = job(engine="processes://2").submit(DataSourceFactory(PARTS), **options)
    wait_until(lambda: pids(job), "a part to begin")
    return future


def test_a_job_that_runs_can_be_cancelled_and_its_processes_stop(job):
    future = begun(job)
    assert future.running()
    processes = pids(job)
    assert future.cancel()
    assert future.cancelled()
    assert not future.running()
    wait_until(lambda: not any(map(is_running, processes)), "the processes to end")
    wait_until(lambda: not threads_of(job), "the thread to end")


def test_who_waits_is_woken_once_the_job_has_stopped(job, tmp_path):
    future = begun(job, checkpoint=tmp_path / "checkpoint")
    assert future.cancel()
    assert wait([future], 30).done == {future}
    assert list(as_completed([future], 30)) == [future]
    # The checkpoint is free at once.
    (tmp_path / "parts" / "end").touch()
    again = job(engine="processes://2").submit(DataSourceFactory(PARTS), checkpoint=tmp_path / "checkpoint")
    expected = {key: sum(range(key, 40, 7)) for key in range(7)}
    answer = again.result(60)
    assert answer == sum(PARTS) if job is Held else dict(answer) == expected
    assert not again.cancel()
    assert not again.cancelled()


def test_cancelling_twice_is_true_twice(job):
    future = begun(job)
    assert future.cancel()
    assert future.cancel()
    wait([future], 30)


def test_a_job_that_has_ended_cannot_be_cancelled():
    future = Numbers(engine="serial").submit(DataSourceFactory(range(5)))
    assert future.result(30) == 10
    assert not future.cancel()


class Numbers(Producer[int]):
    @staticmethod
    def map_fn(numbers):
        return numbers

    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)


class Stubborn(Held):
    """Its reduce_fn, at the producer, takes whatever the job raises for the end of the partials."""

    @staticmethod
    def reduce_fn(numbers):
        total = 0
        try:
            for number in numbers:
                total += number
        except Exception:
            return -1
        return total


def test_a_reduction_that_hides_errors_does_not_hide_that(tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    monkeypatch.setattr(Stubborn, "folder", str(tmp_path / "parts"))
    future = begun(Stubborn)
    assert future.cancel()
    wait([future], 30)
    assert future.cancelled()
    wait_until(lambda: not threads_of(Stubborn), "the thread to end")


def test_one_cancelled_job_leaves_the_others(job):
    future = begun(job)
    other = Numbers(engine="processes://2").submit(DataSourceFactory(range(1_000)))
    future.cancel()
    assert other.result(60) == sum(range(1_000))
    wait([future], 30)


def test_a_cancelled_task_of_asyncio_stops_its_job(job):
    async def main():
        future = job(engine="processes://2").submit(DataSourceFactory(PARTS))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(future), 0.3)
        return future

    future = asyncio.run(main())
    assert future.cancelled()
    wait([future], 30)
    wait_until(lambda: not threads_of(job), "the thread to end")
