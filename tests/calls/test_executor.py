"""The executor: what concurrent.futures promises, and what is promised beyond it."""

import asyncio
import gc
import os
import sys
import threading
import traceback
import weakref
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, as_completed, wait
from functools import partial

import executor_jobs as jobs
import pytest
from conftest import wait_until

import pymar
from pymar.exceptions import BrokerRefused, NotPicklable, PartFailed, UsageError


@pytest.fixture(params=["serial", "processes://2"])
def engine(request):
    return request.param


@pytest.fixture
def executor():
    with pymar.Executor("processes://2") as one:
        yield one


@pytest.fixture
def serial():
    with pymar.Executor("serial") as one:
        yield one


#: A script's main thread may have ended before the first process is started.
starts_at_exit = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2), reason="Python 3.12.0 and 3.12.1 start no process then (gh-113964)"
)


def threads_of_executors():
    return [thread for thread in threading.enumerate() if thread.name == "pymar-executor"]


# Results


def test_results_are_those_of_the_calls(engine):
    with pymar.Executor(engine) as executor:
        futures = [executor.submit(jobs.squared, number) for number in range(50)]
        assert [future.result() for future in futures] == [number**2 for number in range(50)]
        assert executor.submit(dict, [(1, 2)], third=3).result() == {1: 2, "third": 3}


def test_lambdas_closures_methods_and_partials_can_be_submitted(engine):
    shift = 7
    with pymar.Executor(engine) as executor:
        assert executor.submit(lambda number: number + shift, 1).result() == 8
        assert executor.submit("a-b".split, "-").result() == ["a", "b"]
        assert executor.submit(partial(jobs.squared, 3)).result() == 9


def test_arguments_are_taken_as_they_are_at_submit(executor):
    numbers = [1, 2]
    future = executor.submit(sum, numbers)
    numbers.append(100)
    assert future.result() == 3


SCRIPT = """
import pymar
x = 7
model = None
class Box:
    def get(self):
        return x
def load():
    global model, other
    model, other = "loaded", 3
def f():
    return x
def g():
    return f()
def predict():
    return model, other, x
def boxed():
    return Box()
{guard}
    with pymar.Executor("processes://1", setup=load) as executor:
        def seen():
            calls = [f, g, lambda: x, Box().get, predict]
            return [executor.submit(call).result() for call in calls]
        print(*seen())
        x = 8
        print(*seen())
        def f():
            return "new"
        print(executor.submit(g).result(), type(executor.submit(boxed).result()) is Box)
"""


@pytest.mark.parametrize("guard", ["if True:", "if __name__ == '__main__':"])
def test_functions_of_a_script_see_its_variables_as_they_are_and_what_the_setup_has_assigned(script, guard):
    lines = script(SCRIPT.format(guard=guard)).stdout.splitlines()
    assert lines == ["7 7 7 7 ('loaded', 3, 7)", "8 8 8 8 ('loaded', 3, 8)", "new True"]


def test_map_yields_results_in_order(engine):
    with pymar.Executor(engine) as executor:
        assert list(executor.map(pow, range(10), range(10))) == [number**number for number in range(10)]


@pytest.mark.parametrize("chunksize", [1, 3, 10, 100])
def test_map_takes_chunks(executor, chunksize):
    assert list(executor.map(divmod, range(10), [3] * 10, chunksize=chunksize)) == [
        divmod(number, 3) for number in range(10)
    ]


def test_a_chunk_of_no_items_is_refused(executor):
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(jobs.squared, [1], chunksize=0)


def test_map_stops_at_its_timeout_and_cancels_what_runs(executor, tmp_path):
    held = partial(jobs.held, until=tmp_path / "never")
    with pytest.raises(TimeoutError):
        list(executor.map(held, [tmp_path / "one", tmp_path / "two"], timeout=0.2))
    assert executor.submit(jobs.squared, 2).result() == 4


def test_random_numbers_depend_on_seed_and_number_of_the_call():
    def drawn(engine, seed):
        with pymar.Executor(engine, seed=seed) as executor:
            return [future.result() for future in [executor.submit(jobs.drawn) for _ in range(5)]]

    assert drawn("serial", 7) == drawn("processes://2", 7) != drawn("serial", 8)


def test_each_process_is_set_up_before_its_first_call():
    with pymar.Executor("processes://2", setup=jobs.set_up) as executor:
        assert executor.submit(jobs.was_set_up).result() == "yes"


def test_what_the_setup_raises_is_raised_by_each_future():
    with pymar.Executor("processes://1", setup=partial(jobs.inverse, 0)) as executor:
        for _ in range(2):
            assert isinstance(executor.submit(jobs.slot).exception(), ZeroDivisionError)


# Errors


def test_an_exception_is_the_original_with_the_traceback_of_the_worker(engine):
    with pymar.Executor(engine) as executor:
        error = executor.submit(jobs.inverse, 0).exception()
    assert type(error) is ZeroDivisionError
    assert isinstance(error.__cause__, PartFailed)
    text = "".join(traceback.format_exception(error))
    assert "return 1 / number" in text
    assert "number = 0" in text
    assert "calling.py" not in text


def test_a_failed_call_can_be_replayed_here(executor):
    error = executor.submit(jobs.inverse, 0).exception()
    with pytest.raises(ZeroDivisionError):
        pymar.Producer().replay(error.__cause__)


def test_stop_iteration_arrives_as_it_is(engine):
    with pymar.Executor(engine) as executor:
        assert isinstance(executor.submit(next, iter(())).exception(), StopIteration)


def test_an_exception_that_cannot_be_made_again_is_a_part_failed(executor):
    error = executor.submit(jobs.raise_unreadable).exception()
    assert isinstance(error, PartFailed)
    assert "two arguments are needed" in str(error)


def test_arguments_that_cannot_be_sent_fail_their_own_future(executor):
    error = executor.submit(print, threading.Lock()).exception()
    assert isinstance(error, NotPicklable)
    assert "print" in str(error)
    assert executor.submit(jobs.squared, 2).result() == 4


def test_a_result_that_cannot_be_sent_fails_its_own_future(executor):
    error = executor.submit(threading.Lock).exception()
    assert "lock" in str(error)
    assert executor.submit(jobs.squared, 2).result() == 4


def test_a_result_that_cannot_be_read_fails_its_own_future(executor):
    error = executor.submit(jobs.make_spoilt).exception()
    assert isinstance(error, LookupError)
    assert executor.submit(jobs.squared, 2).result() == 4


def test_a_call_is_retried_if_asked_for(tmp_path):
    with pymar.Executor("processes://2", retries=1) as executor:
        assert executor.submit(jobs.raised_until, tmp_path / "raised").result() == 7


def test_an_asynchronous_function_is_refused_with_the_remedy(executor):
    with pytest.raises(UsageError, match=r"asyncio\.run"):
        executor.submit(jobs.asynchronous)


def test_an_engine_that_cannot_start_fails_the_futures_and_breaks_the_executor(monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", "k" * 43)
    executor = pymar.Executor("amqp://127.0.0.1:1?pool=nobody")
    assert isinstance(executor.submit(jobs.slot).exception(), BrokerRefused)
    with pytest.raises(BrokenExecutor, match="has failed"):
        executor.submit(jobs.slot)
    executor.shutdown()


@pytest.mark.parametrize("address", ["amqp://127.0.0.1:1", "amqp://127.0.0.1:1?pool=some"])
def test_without_a_key_and_a_pool_amqp_is_refused_with_the_remedy(address, monkeypatch):
    if "pool" not in address:
        monkeypatch.setenv("PYMAR_KEY", "k" * 43)
    with pytest.raises(UsageError, match=r"pymar keygen.*--pool NAME.*pymar\.map"):
        pymar.Executor(address)


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"retries": "one"}, {"part_timeout": -1}, {"setup": 3}, {"listeners": [3]}]
)
def test_wrong_options_are_refused_at_once(options):
    with pytest.raises(UsageError):
        pymar.Executor("serial", **options)


# Cancelling


def test_a_running_future_can_be_cancelled_and_its_process_stops(executor, tmp_path):
    future = executor.submit(jobs.held, tmp_path / "began", tmp_path / "never")
    wait_until((tmp_path / "began").exists, "the call to begin")
    wait_until(future.running, "the future to run")
    pid = int((tmp_path / "began").read_text())
    assert future.cancel()
    assert future.cancelled()
    assert not future.running()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its process to end")


def test_a_pending_future_that_is_cancelled_never_starts(tmp_path):
    with pymar.Executor("processes://1") as executor:
        first = executor.submit(jobs.held, tmp_path / "began", tmp_path / "end")
        wait_until((tmp_path / "began").exists, "the first call to begin")
        pending = [executor.submit(jobs.note, tmp_path / f"note-{number}") for number in range(30)]
        assert all(future.cancel() for future in pending)
        last = executor.submit(jobs.slot)
        (tmp_path / "end").touch()
        assert last.result() == first.result()
    assert not list(tmp_path.glob("note-*"))


def test_a_future_that_has_ended_cannot_be_cancelled(executor):
    future = executor.submit(jobs.squared, 2)
    assert future.result() == 4
    assert not future.cancel()
    assert not future.cancelled()


def test_cancelling_twice_is_true_twice(executor, tmp_path):
    future = executor.submit(jobs.held, tmp_path / "began", tmp_path / "never")
    assert future.cancel()
    assert future.cancel()


def test_waiters_and_callbacks_hear_of_a_cancelled_running_future(executor, tmp_path):
    future = executor.submit(jobs.held, tmp_path / "began", tmp_path / "never")
    wait_until((tmp_path / "began").exists, "the call to begin")
    called = []
    future.add_done_callback(called.append)
    threading.Timer(0.05, future.cancel).start()
    assert wait([future], timeout=30, return_when=FIRST_COMPLETED).done == {future}
    assert list(as_completed([future], timeout=30)) == [future]
    wait_until(lambda: called == [future], "the callback")


def test_one_of_many_threads_ends_a_future(executor):
    """However many cancel it while it ends, all of them agree on how it has."""
    for _ in range(50):
        future = executor.submit(jobs.squared, 2)
        answers = []

        def cancel(future=future, answers=answers):
            answers.append(future.cancel())

        threads = [threading.Thread(target=cancel) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait([future])
        assert set(answers) == {future.cancelled()}


def test_shutdown_cancels_what_waits_and_completes_what_runs(tmp_path):
    executor = pymar.Executor("processes://1")
    first = executor.submit(jobs.held, tmp_path / "began", tmp_path / "end")
    wait_until((tmp_path / "began").exists, "the call to begin")
    rest = [executor.submit(jobs.squared, number) for number in range(50)]
    executor.shutdown(wait=False, cancel_futures=True)
    wait(rest)
    assert all(future.cancelled() for future in rest)
    assert not first.done()
    (tmp_path / "end").touch()
    executor.shutdown()
    assert first.result()


def test_a_context_that_ctrl_c_ends_stops_what_runs(tmp_path):
    futures = []

    def interrupted():
        with pymar.Executor("processes://2") as executor:
            futures.append(executor.submit(jobs.held, tmp_path / "began", tmp_path / "never"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert futures[0].cancelled()


# The life of an executor


def test_nothing_is_taken_after_shutdown(engine):
    executor = pymar.Executor(engine)
    future = executor.submit(jobs.squared, 3)
    executor.shutdown()
    executor.shutdown()
    assert future.result(timeout=0) == 9
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(jobs.squared, 3)


def test_without_waiting_shutdown_still_completes_what_was_submitted(executor):
    other = pymar.Executor("processes://2")
    futures = [other.submit(jobs.squared, number) for number in range(30)]
    other.shutdown(wait=False)
    assert [future.result() for future in futures] == [number**2 for number in range(30)]


def test_an_executor_that_nobody_has_any_more_ends_after_its_calls(tmp_path):
    before = set(threads_of_executors())
    executor = pymar.Executor("processes://2")
    future = executor.submit(jobs.held, tmp_path / "began", tmp_path / "end")
    (mine,) = set(threads_of_executors()) - before
    gone = weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None
    (tmp_path / "end").touch()
    assert future.result()
    mine.join(30)
    assert not mine.is_alive()


def test_an_executor_without_calls_starts_no_thread():
    before = len(threads_of_executors())
    executor = pymar.Executor("processes://2")
    assert len(threads_of_executors()) == before
    executor.shutdown()


def test_arguments_and_results_are_let_go_of(executor):
    given = jobs.Result()
    gone = weakref.ref(given)
    executor.submit(id, given).result()
    del given
    wait_until(lambda: gone() is None, "the argument to be collected")
    found = executor.submit(jobs.result, 1).result()
    gone = weakref.ref(found)
    del found
    wait_until(lambda: gone() is None, "the result to be collected")


@starts_at_exit
def test_a_script_that_ends_waits_for_its_futures(script):
    done = script("""
import pymar, time
def shout(text):
    time.sleep(0.3)  # it outlives the last line of the script
    print(text, flush=True)
executor = pymar.Executor("processes://2")
executor.submit(shout, "apple")
""")
    assert "apple" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@starts_at_exit
def test_a_script_that_shuts_down_without_waiting_does_not_hang(script):
    done = script("""
import pymar, time
executor = pymar.Executor("processes://2")
executor.submit(print, "apple")
executor.shutdown(wait=False)
""")
    assert "apple" in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_handlers_can_submit_nothing(script):
    done = script("""
import atexit
import pymar
@atexit.register
def run_last():
    try:
        executor.submit(id, None)
    except RuntimeError as error:
        print(error)
executor = pymar.Executor("processes://2")
executor.submit(id, 42).result()
""")
    assert "cannot schedule new futures" in done.stdout


def test_a_script_that_ctrl_c_ends_stops_what_runs(script, tmp_path):
    done = script(
        """
import os, signal, threading, time
import pymar
executor = pymar.Executor("processes://2")
future = executor.submit(time.sleep, 100)
while not future.running():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(100)
""",
        check=False,
    )
    assert "KeyboardInterrupt" in done.stderr


def test_a_fork_cannot_use_the_executor_and_its_parent_can(executor):
    assert executor.submit(jobs.squared, 2).result() == 4
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            executor.submit(jobs.squared, 2)
        except RuntimeError as error:
            os.write(write, str(error).encode())
        executor.shutdown()
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as said:
        assert "forked" in said.read()
    assert executor.submit(jobs.squared, 3).result() == 9


# Around it


def test_calls_within_a_call_of_the_serial_engine_are_computed_at_once(serial):
    def total(numbers):
        return sum(serial.map(jobs.squared, numbers))

    assert serial.submit(total, [1, 2, 3]).result() == 14
    assert isinstance(serial.submit(lambda: serial.submit(jobs.inverse, 0).result()).exception(), ZeroDivisionError)


def test_a_call_may_use_an_executor_of_its_own(executor):
    def total(numbers):
        with pymar.Executor() as inner:
            return sum(inner.map(jobs.squared, numbers))

    assert executor.submit(total, [1, 2, 3]).result() == 14


def test_a_callback_may_submit(executor):
    found = []
    future = executor.submit(jobs.squared, 2)
    future.add_done_callback(lambda one: found.append(executor.submit(jobs.squared, one.result())))
    wait_until(lambda: found, "the callback")
    assert found[0].result() == 16


def test_many_threads_may_submit(executor):
    found = {}

    def submit(start):
        futures = [executor.submit(jobs.squared, number) for number in range(start, start + 100)]
        found[start] = [future.result() for future in futures]

    threads = [threading.Thread(target=submit, args=(start,)) for start in range(0, 1_000, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [value for start in sorted(found) for value in found[start]] == [number**2 for number in range(1_000)]


def test_two_executors_share_the_processes_of_this_host():
    with pymar.Executor("processes://2") as one, pymar.Executor("processes://2") as other:
        pids = {one.submit(jobs.slot).result() for _ in range(5)} | {other.submit(jobs.slot).result() for _ in range(5)}
    assert len(pids) <= 2


def test_asyncio_runs_calls_in_it(executor):
    async def main():
        loop = asyncio.get_running_loop()
        found = await asyncio.gather(*(loop.run_in_executor(executor, jobs.squared, number) for number in range(20)))
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(executor, jobs.inverse, 0)
        return found

    assert asyncio.run(main()) == [number**2 for number in range(20)]


def test_a_cancelled_task_stops_the_process_of_its_call(executor, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(executor, jobs.held, tmp_path / "began", tmp_path / "never")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await future
        return future.cancelled()

    assert asyncio.run(main())
    if (tmp_path / "began").exists():
        pid = int((tmp_path / "began").read_text())
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its process to end")


def test_listeners_hear_of_an_executor():
    events = []
    with pymar.Executor("serial", listeners=[events.append]) as executor:
        executor.submit(jobs.squared, 2).result()
    assert {"JobStarted", "Done", "JobEnded"} <= {type(event).__name__ for event in events}


def test_the_number_of_slots_is_known(executor, serial):
    assert executor.slots() == 2
    assert serial.slots() == 1
