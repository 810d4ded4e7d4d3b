"""Frames: what a pool and its worker processes send comes out as it went in, and whatever else comes is noticed."""

import marshal
import os
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pymar.slots.frames import PIPE_BYTES, READ_BYTES, Garbled, Sender, Unpacker, pack

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
FRAMES = st.lists(st.lists(PLAIN, max_size=4).map(tuple), max_size=5)
ONE = b"".join(pack(("done", 1, [(0, b"value", 0.5)], True)))
#: A frame's head, without its length, and its tail.
MARK, TAIL = ONE[:4], ONE[-4:]
HEAD_BYTES = 12


def joined(frames):
    return b"".join(piece for frame in frames for piece in pack(frame))


def unpacked(*pieces):
    unpacker = Unpacker()
    return [frame for piece in pieces for frame in unpacker.feed(piece)]


def head(length):
    return MARK + struct.pack("<Q", length)


@pytest.fixture
def pipe():
    """A pipe that does not block, and nothing else holds."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue  # the test has closed it


@given(FRAMES, st.lists(st.integers(0, 1_000), max_size=8))
def test_frames_come_out_in_order_however_the_stream_is_chopped(frames, places):
    stream = joined(frames)
    ends = sorted({min(place, len(stream)) for place in places} | {len(stream)})
    assert unpacked(*(stream[start:end] for start, end in zip([0, *ends], ends, strict=False))) == frames


@given(FRAMES)
def test_frames_come_out_in_order_byte_by_byte(frames):
    stream = joined(frames)
    assert unpacked(*(stream[place : place + 1] for place in range(len(stream)))) == frames


def test_a_frame_comes_out_with_its_last_byte_and_not_before():
    unpacker = Unpacker()
    assert list(unpacker.feed(ONE[:-1])) == []
    assert list(unpacker.feed(ONE[-1:])) == [("done", 1, [(0, b"value", 0.5)], True)]


def test_an_empty_piece_is_nothing():
    assert unpacked(b"", ONE[:5], b"", ONE[5:], b"") == unpacked(ONE)


def test_a_large_value_is_not_copied_to_be_packed():
    assert [len(piece) for piece in pack(("x",))][::2] == [HEAD_BYTES, len(TAIL)]


@given(st.binary(min_size=12).filter(lambda junk: junk[:4] != MARK))
@example(b"Traceback (most recent call last):\n")
@example(ONE[1:])
@example(b"\0" * 16)
def test_junk_before_a_frame_is_noticed(junk):
    with pytest.raises(Garbled, match="is no frame"):
        unpacked(junk + ONE)


@pytest.mark.parametrize("end", [b"\0\0\0\0", TAIL[:3] + b"x", b"x" + TAIL[1:], MARK])
def test_a_frame_that_does_not_end_where_it_should_is_noticed(end):
    with pytest.raises(Garbled, match="end"):
        unpacked(ONE[: -len(TAIL)] + end)


@given(st.binary(min_size=1, max_size=30), st.integers(HEAD_BYTES, len(ONE) - 1))
@example(TAIL, len(ONE) - len(TAIL))
@example(TAIL[1:], len(ONE) - len(TAIL) + 1)
def test_junk_that_is_written_into_a_frame_is_noticed(junk, place):
    """Behind its head, which goes into a page of a pipe whole."""
    with pytest.raises(Garbled):
        unpacked(ONE[:place] + junk + ONE[place:], ONE, ONE, ONE)


@given(st.binary(min_size=12).filter(lambda junk: junk[:4] != MARK))
def test_what_came_before_junk_is_given_out_first(junk):
    coming = Unpacker().feed(ONE + junk)
    assert next(coming) == unpacked(ONE)[0]
    with pytest.raises(Garbled):
        next(coming)


@pytest.mark.parametrize("length", [(1 << 40) + 1, (1 << 63), (1 << 64) - 1])
def test_a_length_that_no_frame_has_is_not_waited_for(length):
    with pytest.raises(Garbled, match="is no frame"):
        unpacked(head(length))


@pytest.mark.parametrize("wrong", [-1, 1, -5, 4])
def test_a_length_that_is_not_the_bodys_is_noticed(wrong):
    body = marshal.dumps(("done", b"value"))
    with pytest.raises(Garbled):
        unpacked(head(len(body) + wrong) + body + TAIL + ONE)


@pytest.mark.parametrize("body", [b"", b"\xff", b"(", marshal.dumps((1, "x" * 100))[:-1], marshal.dumps([b"x"])[:-1]])
def test_a_body_that_cannot_be_read_is_noticed(body):
    with pytest.raises(Garbled, match="cannot be read"):
        unpacked(head(len(body)) + body + TAIL)


@pytest.mark.parametrize("value", [None, [], "done", {}, 5])
def test_a_body_that_is_no_tuple_is_noticed(value):
    body = marshal.dumps(value)
    with pytest.raises(Garbled, match="no tuple"):
        unpacked(head(len(body)) + body + TAIL)


def test_memory_is_not_taken_for_what_is_only_announced():
    unpacker = Unpacker()
    assert list(unpacker.feed(head(1 << 40))) == []
    assert unpacker.wanted() == PIPE_BYTES


def test_as_much_is_asked_for_as_a_large_frame_needs():
    unpacker = Unpacker()
    assert unpacker.wanted() == READ_BYTES
    size = 5 * READ_BYTES
    list(unpacker.feed(head(size)))
    assert unpacker.wanted() == size + len(TAIL)
    list(unpacker.feed(bytes(size - 10)))
    assert unpacker.wanted() == READ_BYTES


def test_a_frame_is_asked_for_anew_after_a_large_one():
    unpacker = Unpacker()
    assert list(unpacker.feed(joined([("x", bytes(3 * READ_BYTES))]))) == [("x", bytes(3 * READ_BYTES))]
    assert unpacker.wanted() == READ_BYTES


def through(pipe, frames):
    """Send frames while they are read at the other end; what was read, and how often the pipe was full."""
    reading, writing = pipe
    sender, unpacker, found, full = Sender(writing), Unpacker(), [], 0
    for frame in frames:
        sender.put(frame)
    while not sender.flush():
        full += 1
        found += unpacker.feed(os.read(reading, unpacker.wanted()))
    while len(found) < len(frames):
        found += unpacker.feed(os.read(reading, unpacker.wanted()))
    return found, full


def test_what_is_put_goes_with_the_next_flush(pipe):
    reading, writing = pipe
    sender = Sender(writing)
    sender.put(("end",))
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    assert sender.flush()
    assert os.read(reading, 1_000) == joined([("end",)])


def test_there_may_be_nothing_to_flush(pipe):
    assert Sender(pipe[1]).flush()


def test_a_value_that_is_larger_than_the_pipe_goes_in_pieces(pipe):
    frames = [("batch", bytes(range(256)) * (1 << 13)), ("end",)]
    found, full = through(pipe, frames)
    assert found == frames
    assert full


def test_more_frames_than_a_system_call_takes_keep_their_order(pipe):
    frames = [("number", number) for number in range(200)]
    assert through(pipe, frames) == (frames, 0)


@given(sizes=st.lists(st.sampled_from([0, 1, 1_000, 65_520, 65_536, 300_000]), max_size=4))
def test_frames_of_any_size_keep_their_order_on_a_pipe_that_is_full(sizes):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        frames = [(number, bytes(size)) for number, size in enumerate(sizes)]
        assert through((reading, writing), frames)[0] == frames
    finally:
        os.close(reading)
        os.close(writing)


def test_what_was_put_later_does_not_overtake_what_is_half_written(pipe):
    reading, writing = pipe
    sender, unpacker = Sender(writing), Unpacker()
    sender.put(("first", bytes(1 << 20)))
    assert not sender.flush()
    sender.put(("second",))
    found = []
    while len(found) < 2:
        sender.flush()
        found += unpacker.feed(os.read(reading, unpacker.wanted()))
    assert [frame[0] for frame in found] == ["first", "second"]


def test_what_is_dropped_does_not_go(pipe):
    reading, writing = pipe
    sender = Sender(writing)
    sender.put(("batch",))
    sender.drop()
    assert sender.flush()
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)


def test_a_pipe_that_nobody_reads_is_an_error(pipe):
    reading, writing = pipe
    os.close(reading)
    sender = Sender(writing)
    sender.put(("end",))
    with pytest.raises(BrokenPipeError):
        sender.flush()
