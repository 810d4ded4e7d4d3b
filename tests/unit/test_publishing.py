"""What waits for the broker keeps its order, wherever it waits; and each sender is told what became of its message."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.amqp.link import Message, publishing
from pymar.amqp.link.publishing import Outbox, Unconfirmed


def message(body, done=None):
    return Message("", "queue", body, done)


def bodies(box):
    return [one.body for one in box.take_all()]


@pytest.fixture
def files(monkeypatch, temporary_files):
    """Ten bytes are held in memory; the files that were made."""
    monkeypatch.setattr(publishing, "IN_MEMORY", 10)
    return temporary_files


def test_messages_are_taken_in_their_order_and_once():
    box = Outbox()
    for body in (b"a", b"", b"c"):
        box.put(message(body))
    assert bodies(box) == [b"a", b"", b"c"]
    assert bodies(box) == []


def test_what_is_to_be_first_keeps_its_own_order():
    box = Outbox()
    box.put(message(b"c"))
    box.put_first([message(b"a"), message(b"b")])
    box.put(message(b"d"))
    assert bodies(box) == [b"a", b"b", b"c", b"d"]


def test_what_was_not_taken_waits_on():
    box = Outbox()
    for body in (b"a", b"b", b"c"):
        box.put(message(body))
    assert next(box.take_all()).body == b"a"
    assert bodies(box) == [b"b", b"c"]


def test_a_message_comes_back_whole_from_the_file(files):
    box = Outbox()
    heard = []
    sent = Message("exchange", "key", b"x" * 1_000, heard.append, lasting=False)
    box.put(sent)
    assert len(files) == 1
    assert list(box.take_all()) == [sent]
    assert heard == []


def test_what_fits_in_memory_makes_no_file(files):
    box = Outbox()
    box.put(message(b"x" * 10))
    box.put(message(b""))
    assert not files
    box.put(message(b"x"))
    assert len(files) == 1


def test_memory_that_is_free_again_is_used_again(files):
    box = Outbox()
    for _ in range(5):
        box.put(message(b"x" * 10))
        assert bodies(box) == [b"x" * 10]
    assert not files


def test_the_file_is_closed_once_nothing_is_in_it(files):
    box = Outbox()
    for _ in range(3):
        box.put(message(b"x" * 11))
    assert bodies(box) == [b"x" * 11] * 3
    assert [file.closed for file in files] == [True]
    box.put(message(b"y" * 11))
    assert bodies(box) == [b"y" * 11]
    assert [file.closed for file in files] == [True, True]


def test_what_is_dropped_is_gone_with_its_file(files):
    box = Outbox()
    box.put(message(b"x" * 5))
    box.put(message(b"x" * 50))
    box.clear()
    assert bodies(box) == []
    assert files[0].closed
    box.put(message(b"y" * 10))
    assert len(files) == 1, "all of the memory is free"
    assert bodies(box) == [b"y" * 10]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.lists(st.binary(max_size=12), min_size=1, max_size=1)),
            st.tuples(st.just("put_first"), st.lists(st.binary(max_size=12), max_size=3)),
            st.tuples(st.just("take"), st.integers(0, 4)),
        ),
        max_size=25,
    )
)
def test_order_and_bodies_hold_whatever_waits_where(steps):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(publishing, "IN_MEMORY", 20)
        box, model = Outbox(), []
        for step, what in steps:
            if step == "put":
                box.put(message(what[0]))
                model += what
            elif step == "put_first":
                box.put_first([message(body) for body in what])
                model[:0] = what
            else:
                assert [one.body for one in islice(box.take_all(), what)] == model[:what]
                del model[:what]
        assert bodies(box) == model


@pytest.fixture
def unconfirmed():
    return Unconfirmed()


def published(unconfirmed, count):
    """So many messages; what each of their senders has heard."""
    heard = {}
    for number in range(1, count + 1):
        heard[number] = []
        assert unconfirmed.add(message(b"%d" % number, heard[number].append)) == str(number)
    return heard


def told(heard):
    return {number: said for number, said in heard.items() if said}


def test_a_message_that_was_taken_is_told_to_its_sender_once(unconfirmed):
    heard = published(unconfirmed, 3)
    assert unconfirmed.confirmed(2, multiple=False, was_taken=True) == []
    assert unconfirmed.confirmed(2, multiple=False, was_taken=True) == []
    assert told(heard) == {2: [True]}
    assert unconfirmed


def test_one_confirmation_may_be_of_all_before(unconfirmed):
    heard = published(unconfirmed, 4)
    unconfirmed.confirmed(2, multiple=False, was_taken=True)
    assert unconfirmed.confirmed(3, multiple=True, was_taken=True) == []
    assert told(heard) == {1: [True], 2: [True], 3: [True]}
    unconfirmed.confirmed(4, multiple=True, was_taken=True)
    assert not unconfirmed


def test_what_no_queue_took_is_told_when_it_is_confirmed(unconfirmed):
    heard = published(unconfirmed, 3)
    unconfirmed.returned("2")
    assert not told(heard)
    unconfirmed.confirmed(3, multiple=True, was_taken=True)
    assert told(heard) == {1: [True], 2: [False], 3: [True]}


def test_what_the_broker_could_not_take_is_sent_again_and_nobody_is_told(unconfirmed):
    heard = published(unconfirmed, 3)
    assert [one.body for one in unconfirmed.confirmed(2, multiple=True, was_taken=False)] == [b"1", b"2"]
    assert not told(heard)
    assert [one.body for one in unconfirmed.confirmed(3, multiple=False, was_taken=False)] == [b"3"]
    assert not unconfirmed


def test_a_sender_need_not_want_to_know(unconfirmed):
    unconfirmed.add(message(b"x"))
    assert unconfirmed.confirmed(1, multiple=False, was_taken=True) == []


@pytest.mark.parametrize("name", [None, "", "x", "-1", "1.5", "99"])
def test_an_id_that_is_none_of_ours_changes_nothing(unconfirmed, name):
    heard = published(unconfirmed, 1)
    unconfirmed.returned(name)
    unconfirmed.confirmed(1, multiple=False, was_taken=True)
    assert told(heard) == {1: [True]}


def test_a_confirmation_of_what_was_never_sent_changes_nothing(unconfirmed):
    heard = published(unconfirmed, 1)
    assert unconfirmed.confirmed(7, multiple=False, was_taken=False) == []
    assert unconfirmed.confirmed(0, multiple=True, was_taken=True) == []
    assert not told(heard)
    assert unconfirmed


def test_what_a_broken_connection_left_is_taken_in_order_and_the_next_one_counts_anew(unconfirmed):
    published(unconfirmed, 3)
    unconfirmed.returned("1")
    unconfirmed.confirmed(2, multiple=False, was_taken=True)
    assert [one.body for one in unconfirmed.take_all()] == [b"1", b"3"]
    assert not unconfirmed
    heard = published(unconfirmed, 1)
    unconfirmed.confirmed(1, multiple=False, was_taken=True)
    assert told(heard) == {1: [True]}, "what came back on another connection"


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), max_size=20), st.sets(st.integers(0, 12)))
def test_each_message_is_told_or_returned_or_left_and_only_one_of_these(confirmations, returned):
    unconfirmed = Unconfirmed()
    heard = published(unconfirmed, 10)
    for number in returned:
        unconfirmed.returned(str(number))
    again = []
    for last, multiple, was_taken in confirmations:
        again += unconfirmed.confirmed(last, multiple, was_taken)
    left = [int(one.body) for one in unconfirmed.take_all()]
    assert sorted([*told(heard), *(int(one.body) for one in again), *left]) == list(range(1, 11))
    assert left == sorted(left)
    for number, said in told(heard).items():
        assert said == [number not in returned]
