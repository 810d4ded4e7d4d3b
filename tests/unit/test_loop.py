"""The loop: all happens in its one thread, in the order that is promised, and its end is told whatever ended it."""

import os
import threading
from time import monotonic

import pytest

from pymar.exceptions import PymarError
from pymar.slots.loop import READ, WRITE, Loop

#: Seconds that a test waits at most.
PATIENCE = 10


class Told:
    """What a loop says of itself, and a way to wait for it."""

    def __init__(self):
        self.failures, self.rounds, self.ends = [], 0, 0
        self.over = threading.Event()

    def after_round(self):
        self.rounds += 1

    def ended(self):
        self.ends += 1
        self.over.set()


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def idle():
    """A loop whose thread has not been started."""
    return Loop("a loop of a test")


@pytest.fixture
def loop(idle, told):
    idle.start(after_round=told.after_round, failed=told.failures.append, ended=told.ended)
    yield idle
    idle.stop(PATIENCE)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for descriptor in ends:
        os.close(descriptor)


def in_loop(loop, function):
    """What a function returns in the loop's thread."""
    done, found = threading.Event(), []

    def call():
        found.append(function())
        done.set()

    loop.call_soon(call)
    assert done.wait(PATIENCE)
    return found[0]


def settled(loop):
    """Wait until all that the loop was given before is done."""
    in_loop(loop, lambda: None)


def test_actions_run_in_the_loops_own_thread(loop):
    assert in_loop(loop, threading.get_ident) not in (threading.get_ident(), None)
    assert in_loop(loop, lambda: threading.current_thread().name) == "a loop of a test"


def test_actions_of_one_thread_keep_their_order_whatever_others_do(loop):
    seen = []

    def give(name):
        for number in range(300):
            loop.call_soon(seen.append, (name, number))

    threads = [threading.Thread(target=give, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settled(loop)
    for name in "abc":
        assert [number for who, number in seen if who == name] == list(range(300))


def test_what_was_given_before_the_start_is_done_after_it(idle, told):
    seen = []
    idle.call_soon(seen.append, 1)
    assert not idle.is_running()
    idle.start(ended=told.ended)
    settled(idle)
    assert seen == [1]
    idle.stop(PATIENCE)


def test_an_action_that_waits_for_the_next_goes_before_it(loop):
    seen = []
    loop.call_with_next(seen.append, "first")
    loop.call_soon(seen.append, "second")
    settled(loop)
    assert seen == ["first", "second"]


def test_an_action_that_gives_another_has_it_done_too(loop):
    seen, done = [], threading.Event()

    def again():
        seen.append("again")
        done.set()

    loop.call_soon(lambda: loop.call_soon(again))
    assert done.wait(PATIENCE)
    assert seen == ["again"]


def test_more_wake_up_calls_than_the_pipe_holds_lose_no_action(loop):
    seen, may_go_on = [], threading.Event()
    loop.call_soon(may_go_on.wait, PATIENCE)
    for number in range(70_000):
        loop.call_soon(seen.append, number)
    may_go_on.set()
    settled(loop)
    assert len(seen) == 70_000


def test_promises_are_kept_in_the_order_of_their_times(loop):
    seen, done = [], threading.Event()

    def promise():
        loop.call_later(0.003, seen.append, "third")
        loop.call_later(0.001, seen.append, "first")
        loop.call_later(0.002, seen.append, "second")
        loop.call_later(0.004, done.set)

    loop.call_soon(promise)
    assert done.wait(PATIENCE)
    assert seen == ["first", "second", "third"]


def test_promises_of_one_time_are_kept_in_the_order_they_were_made(loop, monkeypatch):
    seen, done = [], threading.Event()

    def promise():
        with monkeypatch.context() as patched:
            patched.setattr("pymar.slots.loop.monotonic", lambda: 0.0)
            for number in range(10):
                loop.call_later(0.0, seen.append, number)
        loop.call_later(0.0, done.set)

    loop.call_soon(promise)
    assert done.wait(PATIENCE)
    assert seen == list(range(10))


def test_a_promise_is_not_kept_before_its_time(loop):
    done = threading.Event()
    began = monotonic()
    in_loop(loop, lambda: loop.call_later(0.02, done.set))
    assert done.wait(PATIENCE)
    assert monotonic() - began >= 0.02


def test_what_is_called_off_does_not_happen(loop):
    seen, done = [], threading.Event()

    def promise():
        timer = loop.call_later(0.001, seen.append, "called off")
        loop.call_later(0.002, done.set)
        timer.cancel()
        return timer

    timer = in_loop(loop, promise)
    assert done.wait(PATIENCE)
    assert seen == []
    assert timer.action is None


def test_a_promise_may_call_off_one_of_the_same_round(loop):
    seen, done = [], threading.Event()

    def promise():
        loop.call_later(0.0, lambda: second.cancel())
        second = loop.call_later(0.0, seen.append, "called off")
        loop.call_later(0.0, done.set)

    loop.call_soon(promise)
    assert done.wait(PATIENCE)
    assert seen == []


def test_a_promise_that_was_kept_knows_it(loop):
    done = threading.Event()
    timer = in_loop(loop, lambda: loop.call_later(0.0, done.set))
    assert done.wait(PATIENCE)
    settled(loop)
    assert timer.action is None
    timer.cancel()


def test_a_descriptor_is_watched_until_it_is_no_longer(loop, pipe):
    reading, writing = pipe
    came, ready = threading.Event(), []

    def read():
        ready.append(loop.ready)
        os.read(reading, 1)
        came.set()

    in_loop(loop, lambda: loop.watch(reading, READ, read))
    for _ in range(2):
        came.clear()
        os.write(writing, b"x")
        assert came.wait(PATIENCE)
    in_loop(loop, lambda: loop.unwatch(reading))
    os.write(writing, b"x")
    settled(loop)
    settled(loop)
    assert ready == [READ, READ]


def test_what_is_watched_already_is_left_as_it_is(loop, pipe):
    _, writing = pipe
    calls, done = [], threading.Event()

    def write():
        calls.append(loop.ready)
        loop.unwatch(writing)
        done.set()

    def watch_twice():
        loop.watch(writing, WRITE, write)
        loop.watch(writing, READ, write)

    loop.call_soon(watch_twice)
    assert done.wait(PATIENCE)
    assert calls == [WRITE]


def test_another_action_takes_the_place_of_the_one_before(loop, pipe):
    _, writing = pipe
    seen, done = [], threading.Event()

    def second():
        seen.append("second")
        loop.unwatch(writing)
        done.set()

    def watch_twice():
        loop.watch(writing, WRITE, lambda: seen.append("first"))
        loop.watch(writing, WRITE, second)

    loop.call_soon(watch_twice)
    assert done.wait(PATIENCE)
    assert seen == ["second"]


def test_a_descriptor_may_be_watched_for_something_else(loop, pipe):
    reading, writing = pipe
    os.write(writing, b"x")
    seen, done = [], threading.Event()

    def act():
        seen.append(loop.ready)
        loop.unwatch(reading)
        done.set()

    def watch():
        loop.watch(reading, WRITE, act)  # which the end of a pipe that is read is not
        loop.change(reading, READ)

    loop.call_soon(watch)
    assert done.wait(PATIENCE)
    assert seen == [READ]


def test_what_is_not_watched_may_be_changed_and_unwatched(loop, pipe):
    reading, _ = pipe

    def touch():
        loop.change(reading, READ)
        loop.unwatch(reading)
        loop.unwatch(None)
        return True

    assert in_loop(loop, touch)


def test_the_round_is_told_after_what_happened_in_it(idle):
    seen, done = [], threading.Event()

    def after_round():
        seen.append("round")
        if "action" in seen:
            done.set()

    idle.start(after_round=after_round)
    idle.call_soon(seen.append, "action")
    assert done.wait(PATIENCE)
    idle.stop(PATIENCE)
    assert seen[seen.index("action") + 1] == "round"


def test_a_round_waits_no_longer_than_it_is_told(idle):
    rounds = threading.Semaphore(0)
    idle.start(timeout=lambda: 0.001, after_round=rounds.release)
    for _ in range(3):
        assert rounds.acquire(timeout=PATIENCE)
    idle.stop(PATIENCE)


def test_an_action_that_fails_ends_the_loop_and_is_told_once(loop, told):
    problem = ValueError("no")

    def fail():
        raise problem

    loop.call_soon(fail)
    assert told.over.wait(PATIENCE)
    loop.join(PATIENCE)
    assert told.failures == [problem]
    assert told.ends == 1
    assert not loop.is_running()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_so_is_an_error_that_is_no_exception(loop, told, kind):
    def fail():
        raise kind

    loop.call_soon(fail)
    assert told.over.wait(PATIENCE)
    assert [type(error) for error in told.failures] == [kind]


def test_an_error_after_a_round_or_of_a_promise_is_told_too(told):
    def fail():
        raise ValueError("no")

    for number, how in enumerate(("after_round", "timeout", "later")):
        loop = Loop("a loop of a test")
        start = {} if how == "later" else {how: fail}
        if how == "later":
            loop.call_soon(lambda loop=loop: loop.call_later(0.0, fail))
        loop.start(failed=told.failures.append, ended=told.ended, **start)
        loop.call_soon(lambda: None)
        loop.join(PATIENCE)
        assert len(told.failures) == told.ends == number + 1


def test_an_error_of_which_nobody_wants_to_hear_is_logged(idle, caplog):
    def fail():
        raise ValueError("the reason")

    idle.start()
    idle.call_soon(fail)
    idle.join(PATIENCE)
    assert "the reason" in caplog.text


def test_a_loop_that_is_stopped_says_so_and_has_not_failed(loop, told):
    assert loop.is_running()
    loop.stop(PATIENCE)
    assert not loop.is_running()
    assert told.ends == 1
    assert told.failures == []


def test_what_was_given_before_the_stop_is_done(loop):
    seen = []
    for number in range(100):
        loop.call_with_next(seen.append, number)
    loop.stop(PATIENCE)
    assert seen == list(range(100))


def test_a_loop_may_be_stopped_twice_or_before_it_was_started(loop):
    Loop("never started").stop(PATIENCE)
    loop.stop(PATIENCE)
    loop.stop(PATIENCE)


def test_a_loop_whose_pipe_was_taken_away_says_so_and_closes_nothing_of_others(idle, told):
    """As if `os.closerange` had closed it, and its number were used again."""
    idle.start(ended=told.ended, failed=told.failures.append)
    settled(idle)
    reading, writing = os.pipe()
    kept = os.dup(idle._wake)
    try:
        os.dup2(writing, idle._wake)
        with pytest.raises(PymarError, match="closed file descriptors"):
            idle.call_soon(told.failures.append, "not heard")
        assert not idle.is_running()
        os.write(kept, b"!")  # it wakes, and sees
        idle.join(PATIENCE)
        assert (told.failures, told.ends) == ([], 0)
    finally:
        for descriptor in (reading, writing, kept):
            os.close(descriptor)
