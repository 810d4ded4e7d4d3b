"""Data of parts is asked for in pieces: some ahead, again what does not come, all of it if it was wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.amqp import protocol, timing
from pymar.amqp.agent import fetches
from pymar.amqp.agent.fetches import Fetches
from pymar.amqp.chunks import LARGEST, digest_of
from pymar.parts import Part
from pymar.serialization.records import Encoded

JOB = b"j" * 16
DATA = bytes(range(95))


class Clock:
    now = 1_000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Pieces have ten bytes, and time stands still."""
    clock = Clock()
    monkeypatch.setattr(protocol, "CHUNK", 10)
    monkeypatch.setattr(fetches, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def asked():
    return []


@pytest.fixture
def some(asked):
    return Fetches(lambda index, start: asked.append((index, start)))


def part(index=7, data=DATA, size=None, digest=None):
    return Part(index, 0, 70, 10, [len(data) if size is None else size, digest or digest_of(data)])


def piece(start, index=7, data=DATA):
    return protocol.Piece(JOB, index, start, data[start : start + 10])


def taken(asked):
    """The starts that were asked for since the last call."""
    starts = [start for _, start in asked]
    asked.clear()
    return starts


def test_some_pieces_are_asked_for_ahead(some, asked):
    some.begin(part())
    assert asked == [(7, 0), (7, 10), (7, 20), (7, 30)]
    assert 7 in some


def test_no_more_is_asked_for_than_there_is(some, asked):
    some.begin(part(data=DATA[:15]))
    assert taken(asked) == [0, 10]


def test_for_each_piece_that_comes_another_is_asked_for(some, asked):
    some.begin(part())
    taken(asked)
    for number in range(9):
        assert some.received(piece(10 * number)) is None
        assert taken(asked) == ([10 * number + 40] if number < 6 else [])
    assert some.received(piece(90)) == Part(7, 0, 70, 10, Encoded(DATA))
    assert 7 not in some


def test_a_piece_that_comes_twice_asks_for_nothing(some, asked):
    some.begin(part())
    some.received(piece(0))
    taken(asked)
    assert some.received(piece(0)) is None
    assert taken(asked) == []


def test_pieces_may_come_in_any_order(some, asked):
    some.begin(part())
    for start in (30, 10, 0, 20, 50, 40, 90, 80, 60):
        assert some.received(piece(start)) is None
    assert some.received(piece(70)).data == Encoded(DATA)


def test_a_piece_of_what_nobody_waits_for_is_nothing(some, asked):
    assert some.received(piece(0, index=9)) is None
    some.begin(part())
    some.forget(7)
    some.forget(7)
    taken(asked)
    assert some.received(piece(0)) is None
    assert taken(asked) == []
    assert 7 not in some


@pytest.mark.parametrize("size", [0, -1, LARGEST + 1])
def test_a_size_that_no_data_has_is_refused_and_nothing_waits(some, asked, size):
    with pytest.raises(ValueError, match="size"):
        some.begin(part(size=size))
    assert 7 not in some
    assert not asked


def test_a_piece_that_does_not_fit_has_the_data_fetched_from_the_beginning_in_a_while(some, asked, clock):
    some.begin(part())
    some.received(piece(0))
    taken(asked)
    with pytest.raises(ValueError, match="outside"):
        some.received(protocol.Piece(JOB, 7, 90, bytes(10)))
    assert 7 in some
    assert taken(asked) == []
    some.retry(clock.now + timing.FETCH_AGAIN + 1)
    assert taken(asked) == [0]


def test_data_with_another_digest_is_fetched_again(some, asked, clock):
    some.begin(part(data=DATA[:20]))
    some.received(protocol.Piece(JOB, 7, 0, b"x" * 10))
    with pytest.raises(ValueError, match="not the sum"):
        some.received(piece(10))
    taken(asked)
    some.retry(clock.now + timing.FETCH_AGAIN + 1)
    assert taken(asked) == [0]
    assert some.received(piece(0)) is None
    assert taken(asked) == [10]
    assert some.received(piece(10)).data == Encoded(DATA[:20])


def test_what_has_not_come_for_long_is_asked_for_from_its_first_gap(some, asked, clock):
    some.begin(part())
    for start in (0, 20, 30):
        some.received(piece(start))
    taken(asked)
    some.retry(clock.now + timing.FETCH_AGAIN)
    assert taken(asked) == []
    some.retry(clock.now + timing.FETCH_AGAIN + 1)
    assert taken(asked) == [10]


def test_what_was_asked_for_just_now_is_not_asked_for_again(some, asked, clock):
    some.begin(part())
    clock.now += timing.FETCH_AGAIN
    some.received(piece(0))
    taken(asked)
    some.retry(clock.now + timing.FETCH_AGAIN)
    assert taken(asked) == []


def test_on_a_new_queue_all_is_asked_for_again(some, asked):
    some.begin(part(7))
    some.begin(part(8, DATA[:15]))
    some.received(piece(0))
    asked.clear()
    some.ask_again()
    assert asked == [(7, 10), (7, 20), (7, 30), (7, 40), (8, 0), (8, 10)]


def test_parts_are_fetched_beside_each_other(some):
    some.begin(part(7, DATA[:10]))
    some.begin(part(8, DATA[10:20]))
    assert some.received(piece(0, 8, DATA[10:20])).index == 8
    assert 7 in some
    assert 8 not in some
    assert some.received(piece(0, 7, DATA[:10])).data == Encoded(DATA[:10])


@given(
    st.binary(min_size=1, max_size=120),
    st.lists(st.sampled_from(["lose", "twice", "queue", "late"]), max_size=30),
    st.data(),
)
def test_all_data_comes_whatever_is_lost_or_comes_twice(value, faults, data):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(protocol, "CHUNK", 10)
        asked, faults, now = [], list(faults), 1_000.0
        patched.setattr(fetches, "monotonic", lambda: now)
        some = Fetches(lambda index, start: asked.append(start))
        some.begin(part(data=value))
        found = None
        for _ in range(1_000):
            fault = faults.pop() if faults else ""
            if fault == "queue":
                asked.clear()
                some.ask_again()
            if fault == "late" or not asked:
                now += timing.FETCH_AGAIN + 1
                some.retry(now)
            start = asked.pop(data.draw(st.integers(0, len(asked) - 1)) if faults else 0)
            if fault == "lose":
                continue
            found = some.received(piece(start, data=value)) or found
            if found:
                break
            if fault == "twice":
                assert some.received(piece(start, data=value)) is None
        assert found is not None
        assert found.data == Encoded(value)
        assert 7 not in some
