"""Large values are put together from pieces in any order, and what does not fit is refused before it takes memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.amqp.chunks import _SENDERS, LARGEST, Assemblies, Assembly, digest_of

VALUE = b"0123456789"


def assembly(value=VALUE):
    return Assembly(len(value), digest_of(value))


def pieces_of(value, ends):
    """The value cut at these places, each piece with its start."""
    ends = sorted({end for end in ends if end < len(value)} - {0} | {len(value)})
    return [(start, value[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


PIECES = st.binary(min_size=1, max_size=40).flatmap(
    lambda value: st.tuples(st.just(value), st.sets(st.integers(1, 40)).map(lambda ends: pieces_of(value, ends)))
)


@given(PIECES, st.data())
def test_a_value_is_whole_once_all_of_it_has_come_in_any_order_and_however_often(cut, data):
    value, pieces = cut
    one, came = assembly(value), set()
    for start, piece in data.draw(st.permutations(pieces + pieces)):
        came.add(start)
        one.add(start, piece)
        missing = [start for start, _ in pieces if start not in came]
        assert one.whole() == (None if missing else value)
        assert one.next_start == (missing[0] if missing else len(value))
        assert one.size == sum(len(piece) for start, piece in pieces if start in came)


@pytest.mark.parametrize("total", [0, -1, LARGEST + 1, 1 << 63])
def test_a_size_that_no_value_has_is_refused(total):
    with pytest.raises(ValueError, match="size"):
        Assembly(total, b"")


def test_the_largest_value_takes_no_memory_before_it_comes():
    one = Assembly(LARGEST, b"")
    one.add(LARGEST - 1, b"x")
    assert one.size == 1
    assert one.next_start == 0


@pytest.mark.parametrize(
    ("start", "piece"), [(-1, b"x"), (0, b""), (10, b"x"), (9, b"xx"), (0, VALUE + b"x"), (1 << 70, b"x")]
)
def test_a_piece_outside_of_its_value_is_refused(start, piece):
    one = assembly()
    with pytest.raises(ValueError, match="outside"):
        one.add(start, piece)
    assert one.size == 0


def test_pieces_that_are_more_than_the_value_overlap():
    one = assembly()
    one.add(0, VALUE[:6])
    with pytest.raises(ValueError, match="overlap"):
        one.add(5, VALUE[5:])


def test_pieces_that_overlap_and_leave_a_gap_are_no_value():
    one = assembly()
    one.add(0, VALUE[:5])
    one.add(4, VALUE[4:9])
    with pytest.raises(ValueError, match="not the sum"):
        one.whole()


def test_a_piece_that_is_here_already_changes_nothing_whatever_it_is():
    one = assembly()
    one.add(0, VALUE[:5])
    one.add(0, b"xxx")
    one.add(5, VALUE[5:])
    assert one.whole() == VALUE


def test_a_value_with_another_digest_is_refused():
    one = Assembly(len(VALUE), digest_of(b"another"))
    one.add(0, VALUE)
    with pytest.raises(ValueError, match="not the sum"):
        one.whole()


def test_a_digest_tells_values_apart_in_16_bytes():
    assert len(digest_of(b"")) == len(digest_of(VALUE)) == 16
    assert digest_of(b"a") != digest_of(b"b")


def sender(number):
    return b"agent %d" % number, b"execution"


def put(assemblies, number, start, piece, index=7, value=VALUE):
    return assemblies.add(index, sender(number), len(value), digest_of(value), (start, piece))


def test_two_who_send_a_parts_value_do_not_disturb_each_other():
    assemblies = Assemblies()
    assert put(assemblies, 1, 0, VALUE[:5]) is None
    assert put(assemblies, 2, 5, VALUE[5:]) is None
    assert put(assemblies, 2, 0, VALUE[:5]) == VALUE
    assert put(assemblies, 1, 5, VALUE[5:]) == VALUE


def test_values_of_two_parts_are_told_apart():
    assemblies = Assemblies()
    assert put(assemblies, 1, 0, VALUE[:5], index=1) is None
    assert put(assemblies, 1, 5, VALUE[5:], index=2) is None
    assert put(assemblies, 1, 5, VALUE[5:], index=1) == VALUE


def test_the_oldest_of_too_many_senders_begins_anew():
    assemblies = Assemblies()
    for number in range(_SENDERS + 1):
        assert put(assemblies, number, 0, VALUE[:5]) is None
    for number in range(1, _SENDERS + 1):
        assert put(assemblies, number, 5, VALUE[5:]) == VALUE
    assert put(assemblies, 0, 5, VALUE[5:]) is None


def test_who_sends_without_end_takes_no_memory_without_end():
    assemblies = Assemblies()
    for number in range(1_000):
        put(assemblies, number, 0, VALUE[:5])
    assert [len(of_part) for of_part in assemblies._values.values()] == [_SENDERS]


@pytest.mark.parametrize("piece", [(20, b"x"), (0, b""), (0, VALUE[::-1])])
def test_what_does_not_fit_is_forgotten_and_may_come_again(piece):
    assemblies = Assemblies()
    with pytest.raises(ValueError):  # noqa: PT011 - each of its kinds
        put(assemblies, 1, *piece)
    assert put(assemblies, 1, 5, VALUE[5:]) is None
    assert put(assemblies, 1, 0, VALUE[:5]) == VALUE


def test_a_size_that_no_value_has_costs_nothing():
    assemblies = Assemblies()
    with pytest.raises(ValueError, match="size"):
        assemblies.add(7, sender(1), LARGEST + 1, b"", (0, b"x"))
    assert put(assemblies, 1, 0, VALUE) == VALUE


def test_what_is_forgotten_begins_anew():
    for forget in (lambda some: some.forget(7), Assemblies.clear):
        assemblies = Assemblies()
        assemblies.forget(7)
        put(assemblies, 1, 0, VALUE[:5])
        forget(assemblies)
        assert put(assemblies, 1, 5, VALUE[5:]) is None
