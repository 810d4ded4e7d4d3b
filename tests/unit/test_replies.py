"""Reports of slots become messages: small values together, large ones in pieces, nothing pickled without a key."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.amqp import protocol
from pymar.amqp.agent import replies
from pymar.amqp.agent.ledger import Reply
from pymar.amqp.agent.replies import Replies, shortened, unsendable
from pymar.amqp.chunks import Assembly
from pymar.parts import Cause, Done, Failed, Failure, Lost, Refused, Returned
from pymar.serialization.plain import PLAIN_MARK

ME = protocol.Agent(b"a" * 16, "here (pid 1)", "queue", 2)
JOB = b"j" * 16
MEBIBYTE = 1 << 20


def outgoing(*reports, has_key=True, max_result=1 << 30, first=100):
    executions = tuple(range(first, first + len(reports)))
    return list(Replies(has_key, max_result).messages(ME, Reply(JOB, "reply", reports, executions)))


def only_message(*reports, **given):
    """The one message of the one group, which is all there is."""
    (group,) = outgoing(*reports, **given)
    (message,) = group.messages
    assert group.total == 1
    return message


def done(index, value=b"value", seconds=0.5):
    return Done(index, value, seconds)


def test_values_travel_together_with_their_executions():
    (group,) = outgoing(done(3, b"a"), done(5, b"b"))
    assert list(group.messages) == [protocol.Partial(ME, JOB, [[3, b"a", 0.5], [5, b"b", 0.5]])]
    assert group.executions == (100, 101)
    assert group.total == 1


def test_a_message_is_full_once_its_values_are_larger_than_a_mebibyte():
    half = bytes(MEBIBYTE // 2)
    groups = outgoing(done(0, half), done(1, half), done(2, b"x"), done(3, half))
    assert [[row[0] for row in next(iter(group.messages)).results] for group in groups] == [[0, 1, 2], [3]]
    assert [group.executions for group in groups] == [(100, 101, 102), (103,)]


@given(st.lists(st.sampled_from([0, 1, 300, 900, 1_100, 5_000, 12_000]), min_size=1, max_size=20))
def test_every_value_is_in_one_group_whole_and_no_message_is_too_large(sizes):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replies, "_TOGETHER", 1_000)
        patched.setattr(protocol, "CHUNK", 4_000)
        values = [bytes([65 + index]) * size for index, size in enumerate(sizes)]
        found, executions = {}, []
        for group in outgoing(*[done(index, value) for index, value in enumerate(values)]):
            messages = list(group.messages)
            assert len(messages) == group.total
            executions += group.executions
            for message in messages:
                if isinstance(message, protocol.Partial):
                    held = [len(row[1]) for row in message.results]
                    assert sum(held[:-1]) <= 1_000
                    found |= {index: value for index, value, _ in message.results}
                else:
                    assert len(message.data) <= 4_000
            if isinstance(messages[0], protocol.Chunk):
                found[messages[0].index] = put_together(messages)
    assert found == dict(enumerate(values))
    assert sorted(executions) == list(range(100, 100 + len(sizes)))


def put_together(chunks):
    whole = Assembly(chunks[0].total, chunks[0].digest)
    for chunk in reversed(chunks):
        whole.add(chunk.start, chunk.data)
    return whole.whole()


@pytest.mark.parametrize(("size", "pieces"), [(10, 1), (11, 2), (20, 2), (21, 3), (99, 10)])
def test_a_large_value_goes_in_pieces_that_are_confirmed_together(monkeypatch, size, pieces):
    monkeypatch.setattr(protocol, "CHUNK", 10)
    value = bytes(range(size))
    (group,) = outgoing(done(7, value))
    chunks = list(group.messages)
    assert (group.executions, group.total, len(chunks)) == ((100,), pieces, pieces)
    assert {(chunk.agent, chunk.job, chunk.index, chunk.seconds, chunk.total) for chunk in chunks} == {
        (ME, JOB, 7, 0.5, size)
    }
    assert [chunk.start for chunk in chunks] == list(range(0, size, 10))
    assert put_together(chunks) == value


def test_a_value_below_the_size_of_a_piece_is_not_cut(monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 10)
    assert isinstance(only_message(done(7, b"x" * 9)), protocol.Partial)


def test_two_executions_of_a_part_send_pieces_that_can_be_told_apart(monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 10)
    first, second = outgoing(done(7, bytes(20)), done(7, bytes(20)))
    names = [{chunk.execution for chunk in group.messages} for group in (first, second)]
    assert [len(one) for one in names] == [1, 1]
    assert not names[0] & names[1]


def test_a_large_value_between_small_ones_parts_nobody_from_its_execution(monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 10)
    groups = outgoing(done(0, b"a"), done(1, bytes(30)), done(2, b"c"))
    assert sorted(group.executions for group in groups) == [(100, 102), (101,)]


def test_pieces_are_made_one_after_the_other(monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 10)
    (group,) = outgoing(done(7, bytes(30)))
    assert iter(group.messages) is group.messages, "all at once would be as large as the value again"


def test_a_value_larger_than_this_worker_sends_is_a_failure_that_says_what_to_do(monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 10)
    failed = only_message(done(7, bytes(1_001)), max_result=1_000)
    assert isinstance(failed, protocol.Failed)
    assert failed.index == 7
    for noun in ("UsageError", "1,001", "1,000", "--max-result"):
        assert noun in failed.error
    (chunked,) = outgoing(done(7, bytes(1_000)), max_result=1_000)
    assert chunked.total == 100


def test_the_failure_of_a_value_that_is_too_large_has_its_own_execution(monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 10)
    groups = outgoing(done(0, b"a"), done(1, bytes(2_000)), max_result=1_000)
    assert sorted(group.executions for group in groups) == [(100,), (101,)]


def test_without_a_key_plain_values_are_sent():
    message = only_message(done(0, PLAIN_MARK + b"\x01"), has_key=False)
    assert message.results == [[0, PLAIN_MARK + b"\x01", 0.5]]


@pytest.mark.parametrize("value", [b"", b"\x80\x05K\x01.", PLAIN_MARK[:2]])
def test_without_a_key_nothing_else_is(value):
    with pytest.raises(ValueError, match="without a key"):
        outgoing(done(0, PLAIN_MARK + b"\x01"), done(1, value), has_key=False)


def failed(exception=b"pickled", error="ValueError: no", traceback="trace", variables="x = 1"):
    return Failed(3, "slot 1 (pid 7) on here", Failure(error, traceback, variables, exception))


def test_a_failure_is_sent_whole():
    assert only_message(failed()) == protocol.Failed(
        ME, JOB, 3, "slot 1 (pid 7) on here", "ValueError: no", "trace", "x = 1", b"pickled"
    )


def test_an_exception_travels_only_with_a_key():
    sent = only_message(failed(), has_key=False)
    assert sent.exception == b""
    assert sent.error == "ValueError: no"


@pytest.mark.parametrize(("size", "is_sent"), [(MEBIBYTE, True), (MEBIBYTE + 1, False)])
def test_an_exception_that_is_too_large_is_told_in_words(size, is_sent):
    sent = only_message(failed(exception=bytes(size)))
    assert bool(sent.exception) == is_sent
    assert sent.error == "ValueError: no"


def test_an_exception_that_cannot_travel_is_none():
    assert only_message(failed(exception=None)).exception == b""


def test_texts_of_failures_fit_into_a_message_and_do_nothing_to_a_terminal(caplog):
    caplog.set_level(logging.INFO)
    long = "\x1b[2J" + "x" * 1_000_000
    sent = only_message(failed(error=long, traceback=long, variables=long))
    for text in (sent.error, sent.traceback, sent.variables):
        assert len(text) < protocol.LONGEST_TEXT + 100
    assert "\x1b" not in caplog.text
    assert JOB.hex()[:8] in caplog.text


def test_a_lost_part_is_sent_with_its_cause(caplog):
    sent = only_message(Lost(3, Cause("memory", "too much\nof it" + "x" * 1_000_000)))
    assert sent[:4] == (ME, JOB, 3, "memory")
    assert len(sent.text) < protocol.LONGEST_TEXT + 100
    assert "part 3 was lost: too much" in caplog.text
    assert "of it" not in caplog.text, "a line of its own would be one of somebody else's"


def test_parts_that_are_handed_back_go_in_one_message():
    (group,) = outgoing(Returned(3), Returned(5, alone=False))
    assert list(group.messages) == [protocol.Returned(ME, JOB, [3, 5])]
    assert group.executions == (100, 101)


def test_a_refusal_says_why(caplog):
    assert only_message(Refused((3, 5), "its code is another")) == protocol.Refused(
        ME, JOB, [3, 5], "its code is another"
    )
    assert "its code is another" in caplog.text


@given(st.integers(0, 300))
def test_a_text_is_cut_in_its_middle_if_it_is_too_long(length):
    text = "".join(chr(0x4E00 + number) for number in range(length))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(protocol, "LONGEST_TEXT", 100)
        short = shortened(text)
    if length <= 100:
        assert short == text
    else:
        assert short == f"{text[:50]}\n[...]\n{text[-50:]}"


def test_what_cannot_be_sent_is_a_failure_of_its_part():
    assert unsendable(3, "why") == Failed(3, "the agent", Failure("why"))


def test_without_a_key_a_large_value_that_is_not_plain_is_not_sent_either(monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 10)
    (group,) = outgoing(done(0, PLAIN_MARK + bytes(20)), has_key=False)
    assert group.total == 3
    for limit in (1_000, 10):
        with pytest.raises(ValueError, match="without a key"):
            outgoing(done(0, bytes(20)), has_key=False, max_result=limit)
