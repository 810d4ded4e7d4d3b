"""An agent has the modules of jobs on its host: found there, or fetched in pieces, once for all that wait."""

import random
from queue import SimpleQueue

import pytest

from pymar.amqp import protocol, timing
from pymar.amqp.agent import archives
from pymar.amqp.agent.archives import Archives
from pymar.amqp.chunks import digest_of
from pymar.serialization import archive, codecache
from pymar.serialization.codefiles import FoundFile, Root

ONE, TWO = b"1" * 16, b"2" * 16
#: Seconds that a thread may take.
PATIENCE = 10


class Clock:
    now = 1_000.0


class Loop:
    """Keeps the calls of threads until the test runs them."""

    def __init__(self):
        self.calls = SimpleQueue()

    def call_soon(self, function, *arguments):
        self.calls.put((function, arguments))

    def run_next(self):
        function, arguments = self.calls.get(timeout=PATIENCE)
        function(*arguments)


@pytest.fixture(autouse=True)
def clock(monkeypatch, tmp_path):
    """Pieces have ten bytes, time stands still, and the cache is empty."""
    clock = Clock()
    monkeypatch.setattr(protocol, "CODE_CHUNK", 10)
    monkeypatch.setattr(archives, "monotonic", lambda: clock.now)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(codecache, "_whole", set())
    return clock


@pytest.fixture
def made(tmp_path):
    """An archive of one module that does not become smaller."""
    path = tmp_path / "helper.py"
    path.write_bytes(random.Random(1).randbytes(60))
    return archive._packed([Root(str(tmp_path), True)], [FoundFile(str(path), "0/helper.py", 60, 0)])


@pytest.fixture
def sent(made):
    return made.reference(digest_of(made.data))


@pytest.fixture
def asked():
    return []


@pytest.fixture
def placed():
    return []


@pytest.fixture
def fetching():
    return []


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def some(loop, asked, placed, fetching):
    return Archives(
        loop, lambda job, start: asked.append((job, start)), fetching.append, lambda *one: placed.append(one)
    )


def piece(made, start, job=ONE):
    return protocol.CodePiece(job, start, made.data[start : start + 10])


def fetched(some, made, job=ONE, order=lambda starts: starts):
    for start in order(range(0, len(made.data), 10)):
        some.received(piece(made, start, job))


def test_modules_that_are_on_the_host_are_not_fetched(some, loop, made, sent, asked, placed):
    folder = codecache.unpacked(sent, made.data)
    codecache._whole.clear()  # by another process
    some.place(ONE, sent)
    loop.run_next()
    assert placed == [(ONE, (folder, sent.roots, False), "")]
    some.place(TWO, sent)  # seen before: at once
    assert placed[1:] == [(TWO, (folder, sent.roots, False), "")]
    assert not asked


@pytest.mark.parametrize(
    "order", [list, reversed, lambda starts: [*starts, *starts]], ids=["in order", "back", "twice"]
)
def test_modules_are_fetched_in_pieces_and_unpacked(some, loop, made, sent, asked, placed, order):
    some.place(ONE, sent)
    loop.run_next()
    assert asked == [(ONE, 0), (ONE, 10), (ONE, 20), (ONE, 30)]
    fetched(some, made, order=order)
    loop.run_next()
    assert placed == [(ONE, (codecache.known(sent), sent.roots, False), "")]
    assert ONE not in some


def test_each_piece_is_requested_once(some, loop, made, sent, asked):
    some.place(ONE, sent)
    loop.run_next()
    fetched(some, made)
    loop.run_next()
    assert asked == [(ONE, start) for start in range(0, len(made.data), 10)]


def test_several_jobs_with_the_same_modules_fetch_them_once(some, loop, made, sent, asked, placed, fetching):
    elsewhere = sent._replace(roots=(("/elsewhere", False),))
    some.place(ONE, sent)
    assert not fetching
    loop.run_next()
    some.place(TWO, elsewhere)
    assert fetching == [ONE, TWO]
    assert len(asked) == 4
    fetched(some, made)
    loop.run_next()
    folder = codecache.known(sent)
    assert placed == [(ONE, (folder, sent.roots, False), ""), (TWO, (folder, elsewhere.roots, False), "")]


def test_a_job_that_is_over_stops_the_fetching(some, loop, made, sent, asked, placed):
    some.place(ONE, sent)
    loop.run_next()
    some.forget(ONE)
    fetched(some, made)
    some.retry(1e9)
    some.ask_again()
    assert len(asked) == 4
    assert not placed
    assert codecache.found(sent) is None


def test_a_job_that_is_over_before_the_host_was_searched_fetches_nothing(some, loop, sent, asked, placed):
    some.place(ONE, sent)
    some.forget(ONE)
    loop.run_next()
    assert not asked
    assert not placed


def test_a_job_that_is_over_while_its_modules_are_unpacked_is_not_told(some, loop, made, sent, placed):
    some.place(ONE, sent)
    loop.run_next()
    fetched(some, made)
    some.forget(ONE)
    loop.run_next()
    assert not placed


def test_when_one_producer_is_silent_that_of_another_job_is_asked(some, loop, made, sent, asked, placed, clock):
    some.place(ONE, sent)
    some.place(TWO, sent)
    loop.run_next()
    some.received(piece(made, 0))
    asked.clear()
    some.retry(clock.now + timing.FETCH_AGAIN)
    assert not asked
    clock.now += timing.FETCH_AGAIN + 1
    some.retry(clock.now)
    assert asked == [(TWO, 10)]
    some.forget(ONE)
    fetched(some, made, TWO)
    loop.run_next()
    assert [job for job, *_ in placed] == [TWO]


def test_after_a_reconnection_what_is_missing_is_requested_again(some, loop, made, sent, asked):
    some.place(ONE, sent)
    loop.run_next()
    some.received(piece(made, 0))
    asked.clear()
    some.ask_again()
    assert asked == [(ONE, 10), (ONE, 20), (ONE, 30), (ONE, 40)]


def test_pieces_that_were_changed_are_refused_and_fetched_anew(some, loop, made, sent, placed, clock):
    some.place(ONE, sent)
    loop.run_next()
    bad = made._replace(data=made.data[:-1] + b"!")
    with pytest.raises(ValueError, match="not the sum of its pieces"):
        fetched(some, bad)
    with pytest.raises(ValueError, match="outside"):
        some.received(protocol.CodePiece(ONE, 1_000, b"x"))
    clock.now += timing.FETCH_AGAIN + 1
    some.retry(clock.now)
    fetched(some, made)
    loop.run_next()
    assert placed == [(ONE, (codecache.known(sent), sent.roots, False), "")]


def test_what_is_no_archive_of_modules_is_an_error_of_the_job(some, loop, made, sent, placed):
    bad = made._replace(data=b"no archive")
    some.place(ONE, bad.reference(digest_of(bad.data)))
    loop.run_next()
    fetched(some, bad)
    loop.run_next()
    [(job, code, why)] = placed
    assert (job, code) == (ONE, None)
    assert "damaged" in why


@pytest.mark.parametrize("size", [0, -1, 1 << 40])
def test_a_size_that_no_archive_has_is_refused(some, sent, size):
    with pytest.raises(ValueError, match="size"):
        some.place(ONE, sent._replace(size=size))


def test_pieces_of_a_job_that_waits_for_nothing_are_dropped(some, made):
    some.received(piece(made, 0))


def test_an_error_of_the_system_is_an_error_of_the_job(some, loop, made, sent, placed, monkeypatch):
    def broken(*_):
        raise MemoryError

    monkeypatch.setattr(codecache, "unpacked", broken)
    some.place(ONE, sent)
    loop.run_next()
    fetched(some, made)
    loop.run_next()
    assert "MemoryError" in placed[0][2]
