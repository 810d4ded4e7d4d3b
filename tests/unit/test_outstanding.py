"""Parts as they are sent: in messages that a broker takes, together what went together, and data that is fetched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.amqp import protocol
from pymar.amqp.chunks import digest_of
from pymar.amqp.producer.outstanding import Outstanding, packed
from pymar.exceptions import NotPicklable, UsageError
from pymar.parts import Part
from pymar.serialization import records


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Ten bytes travel with a part."""
    monkeypatch.setattr(protocol, "INLINE", 10)


def part(index, data=None):
    return Part(index, 0, 10 * index, 10, data)


def encode(data, what):
    return data


def rows(batches):
    return [[row[0] for row in batch.rows] for batch in batches]


def test_parts_without_data_go_in_one_message_as_they_are():
    batches, failed = packed([part(index) for index in range(500)], encode)
    assert [len(batch.rows) for batch in batches] == [500]
    assert batches[0].rows[3] == [3, 0, 30, 10, None]
    assert (batches[0].large, failed) == ({}, [])


def test_no_parts_are_no_message():
    assert packed([], encode) == ([], [])


@pytest.mark.parametrize(
    ("sizes", "messages"),
    [
        ([10], [[0]]),
        ([5, 5], [[0, 1]]),
        ([5, 6], [[0], [1]]),
        ([0, 0, 10], [[0, 1, 2]]),
        ([9, 9, 1, 9], [[0], [1, 2], [3]]),
    ],
)
def test_data_goes_together_as_far_as_a_message_takes_it(sizes, messages):
    batches, _ = packed([part(index, bytes(size)) for index, size in enumerate(sizes)], encode)
    assert rows(batches) == messages


def test_data_that_is_too_large_is_fetched_and_its_part_tells_size_and_digest():
    data = bytes(range(11))
    ((batch,), failed) = packed([part(0, b"small"), part(1, data), part(2, b"small")], encode)
    assert batch.rows == [[0, 0, 0, 10, b"small"], [1, 0, 10, 10, [11, digest_of(data)]], [2, 0, 20, 10, b"small"]]
    assert batch.large == {1: data}
    assert failed == []


def test_data_is_encoded_under_the_name_of_its_part():
    names = []
    packed([part(3, [1, 2]), part(4)], lambda data, what: names.append(what) or b"")
    assert len(names) == 1
    assert "part 3" in names[0]


@pytest.mark.parametrize("kind", [UsageError, NotPicklable])
def test_data_that_cannot_travel_fails_its_part_and_no_other(kind):
    def encode_some(data, what):
        if data == b"bad":
            raise kind(f"{what} cannot be pickled")
        return data

    batches, failed = packed([part(0, b"a"), part(1, b"bad"), part(2, b"c")], encode_some)
    assert rows(batches) == [[0, 2]]
    ((index, _, failure),) = failed
    assert index == 1
    assert kind.__name__ in failure.error
    assert "part 1" in failure.error
    assert packed([part(1, b"bad")], encode_some)[0] == []


def test_data_that_no_frame_holds_fails_its_part(monkeypatch):
    monkeypatch.setattr(records, "LARGEST", 100)
    batches, failed = packed([part(0, bytes(101)), part(1, bytes(100))], encode)
    assert rows(batches) == [[1]]
    assert [one.index for one in failed] == [0]


def test_an_error_of_the_encoder_that_is_none_of_the_users_is_not_swallowed():
    def broken(data, what):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        packed([part(0, b"x")], broken)


@given(st.lists(st.none() | st.binary(max_size=15), max_size=20))
def test_every_part_is_in_one_message_in_order_and_no_message_is_too_large(data):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(protocol, "INLINE", 10)
        batches, failed = packed([part(index, one) for index, one in enumerate(data)], encode)
    sent = [row for batch in batches for row in batch.rows]
    large = {index: one for batch in batches for index, one in batch.large.items()}
    assert failed == []
    assert [row[0] for row in sent] == list(range(len(data)))
    for batch in batches:
        assert batch.rows
        assert sum(len(row[4]) for row in batch.rows if type(row[4]) is bytes) <= 10
        assert set(batch.large) == {row[0] for row in batch.rows if type(row[4]) is list}
    assert [large.get(row[0], row[4]) for row in sent] == data


@pytest.fixture
def out():
    """Parts 0 to 2 went with serial 1, and 3 and 4 with serial 2."""
    one = Outstanding()
    one.sent([row(index) for index in range(3)], 1)
    one.sent([row(3), row(4)], 2)
    return one


def row(index):
    return [index, 0, 10 * index, 10, None]


def test_what_was_sent_is_outstanding_until_it_is_finished(out):
    assert (list(out), len(out)) == ([0, 1, 2, 3, 4], 5)
    out.forget(3)
    out.forget(3)
    out.forget(99)
    assert 3 not in out
    assert 4 in out
    assert "x" not in out
    assert (list(out), len(out)) == ([0, 1, 2, 4], 4)
    out.clear()
    assert (list(out), len(out)) == ([], 0)


def test_what_went_together_goes_together_again(out):
    assert out.as_sent([4, 2, 0, 3]) == [[row(4), row(3)], [row(2), row(0)]]
    out.forget(0)
    assert out.as_sent([0, 99, 1]) == [[row(1)]]
    assert out.as_sent([]) == []


def test_what_is_sent_again_is_of_its_new_message(out):
    out.sent([row(0), row(3)], 3)
    assert len(out) == 5
    assert out.as_sent([0, 1, 3]) == [[row(0), row(3)], [row(1)]]


def test_what_was_published_before_a_serial(out):
    assert out.before(1) == []
    assert out.before(2) == [0, 1, 2]
    assert out.before(3) == [0, 1, 2, 3, 4]
    out.sent([row(1)], 3)
    assert out.before(3) == [0, 2, 3, 4]


def test_data_is_given_in_pieces(out, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 4)
    out.keep({3: b"0123456789"})
    assert [out.piece(3, start) for start in (0, 4, 8)] == [b"0123", b"4567", b"89"]
    assert out.piece(3, 1) == b"1234"


@pytest.mark.parametrize("start", [10, 11, 1 << 70, -1, -10])
def test_where_data_has_nothing_nothing_is_given(out, start):
    out.keep({3: b"0123456789"})
    assert out.piece(3, start) == b""


def test_there_is_no_data_of_what_is_not_fetched_or_is_finished(out):
    assert out.piece(3, 0) is None
    for end in (lambda: out.forget(3), out.clear):
        out.keep({3: b"x"})
        assert out.piece(3, 0) == b"x"
        end()
        assert out.piece(3, 0) is None
