"""The membership of a job: who takes part, what follows from silence; what is handed out anew, nobody computes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.amqp.producer.members import MISSES, Membership
from pymar.amqp.protocol import Agent
from pymar.amqp.timing import SILENT_TICKS
from pymar.parts import Joined, Left, Lost, Returned, Running


def agent(letter, slots=2):
    return Agent(letter.encode() * 16, f"host-{letter} (pid 1)", f"queue {letter}", slots)


A, B = agent("a"), agent("b")


@pytest.fixture
def outstanding():
    """Ten parts are handed out."""
    return set(range(10))


@pytest.fixture
def members(outstanding):
    one = Membership(outstanding)
    one.heard(A)
    one.heard(B)
    return one


def list_of(members, who, *indices):
    return members.listed(who, dict.fromkeys(indices, ""))


def test_an_agent_joins_with_its_first_word_and_once():
    members = Membership(set())
    assert members.heard(A) == [Joined(A.name, 2)]
    assert members.heard(A) == []
    assert [member.agent for member in members.all()] == [A]


def test_an_agent_with_more_slots_joins_anew(members):
    larger = agent("a", slots=5)
    assert members.heard(larger) == [Joined(A.name, 5)]
    assert {member.agent for member in members.all()} == {larger, B}


def test_an_agent_that_is_back_joins_again(members):
    members.gone(A)
    assert members.heard(A) == [Joined(A.name, 2)]


def test_a_part_is_running_from_the_first_list_that_has_it(members):
    assert members.listed(A, {3: "slot 1 (pid 7) on here"}) == ([Running(3, "slot 1 (pid 7) on here")], [])
    assert members.listed(A, {3: "slot 1 (pid 7) on here"}) == ([], [])
    assert members.runners(3) == [A]


def test_a_slot_whose_name_is_not_known_is_called_by_its_agent(members):
    ((running,), _) = list_of(members, A, 3)
    assert A.name in running.worker


def test_what_nobody_wants_is_told_and_is_no_part_of_anybody(members, outstanding):
    assert list_of(members, A, 3, 99) == ([Running(3, f"a slot of {A.name}")], [99])
    outstanding.discard(3)
    members.finished(3)
    assert list_of(members, A, 3, 99) == ([], [3, 99])
    assert members.runners(3) == members.runners(99) == []


def test_a_part_that_is_missing_from_as_many_lists_in_a_row_is_handed_back(members):
    list_of(members, A, 3)
    for _ in range(MISSES - 1):
        assert list_of(members, A) == ([], [])
    assert list_of(members, A) == ([Returned(3)], [])
    assert list_of(members, A) == ([], [])


def test_a_list_with_the_part_begins_the_count_anew(members):
    list_of(members, A, 3)
    for _ in range(3):
        assert list_of(members, A) == ([], [])
        assert list_of(members, A, 3) == ([], [])


def test_a_part_that_is_missing_here_and_runs_there_is_not_handed_back(members):
    list_of(members, A, 3)
    list_of(members, B, 3)
    for _ in range(MISSES):
        assert list_of(members, A) == ([], [])
    assert members.runners(3) == [B]


def test_a_finished_part_is_not_missed(members, outstanding):
    list_of(members, A, 3)
    outstanding.discard(3)
    members.finished(3)
    for _ in range(MISSES + 1):
        assert list_of(members, A) == ([], [])


def test_who_is_silent_for_some_ticks_is_dead_and_its_parts_are_lost(members):
    list_of(members, A, 3, 4)
    for _ in range(SILENT_TICKS - 1):
        assert members.tick() == []
        members.heard(B)
    left, *lost = members.tick()
    assert left[:2] == (A.name, 2), "how many parts run again"
    assert "no heartbeats" in left.why
    assert [(one.index, one.cause.kind, one.again) for one in lost] == [(3, "died", True), (4, "died", True)]
    assert all(A.name in one.cause.text for one in lost)
    assert [member.agent for member in members.all()] == [B]


def test_a_word_begins_the_silence_anew(members):
    for _ in range(3 * SILENT_TICKS):
        assert members.tick() == []
        members.heard(A)
        members.heard(B)


def test_while_the_broker_was_away_nobody_was_silent(members):
    for _ in range(3):
        for _ in range(SILENT_TICKS - 1):
            assert members.tick() == []
        members.reconnected()


def test_who_leaves_by_itself_hands_its_parts_back(members):
    list_of(members, A, 3)
    assert members.gone(A) == [Left(A.name, 1), Returned(3)]


def test_who_dies_is_charged_also_if_another_has_the_part(members):
    list_of(members, A, 3)
    list_of(members, B, 3)
    left, lost = members.gone(A, "agent a fell silent")
    assert left == Left(A.name, 0, "agent a fell silent")
    assert isinstance(lost, Lost)
    assert not lost.again


def test_who_leaves_by_itself_hands_back_nothing_that_another_has(members):
    list_of(members, A, 3)
    list_of(members, B, 3)
    assert members.gone(A) == [Left(A.name)]


def test_who_is_no_member_cannot_leave(members):
    assert members.gone(agent("z"), "it died") == []
    members.gone(A)
    assert members.gone(A) == []


def test_nothing_finished_is_charged_to_who_dies(members, outstanding):
    list_of(members, A, 3)
    outstanding.clear()
    assert members.gone(A, "it died") == [Left(A.name, 0, "it died")]


STEPS = st.one_of(
    st.tuples(st.just("list"), st.sampled_from("abc"), st.sets(st.integers(0, 5), max_size=4)),
    st.tuples(st.just("heard"), st.sampled_from("abc"), st.integers(1, 2)),
    st.tuples(st.just("gone"), st.sampled_from("abc"), st.sampled_from(["", "it died"])),
    st.tuples(st.just("tick"), st.none(), st.none()),
    st.tuples(st.just("finish"), st.none(), st.integers(0, 5)),
    st.tuples(st.just("hand out"), st.none(), st.integers(0, 5)),
)


@given(st.lists(STEPS, max_size=60))
def test_what_is_to_be_handed_out_again_is_outstanding_and_nobody_computes_it(steps):
    outstanding = set(range(4))
    members = Membership(outstanding)
    there = set()
    for step, who, what in steps:
        reports = []
        match step:
            case "list":
                reports += members.heard(agent(who))
                found, unwanted = members.listed(agent(who), dict.fromkeys(what, ""))
                reports += found
                assert set(unwanted) == what - outstanding
                assert {index for index in what if agent(who) in members.runners(index)} == what & outstanding
            case "heard":
                reports += members.heard(agent(who, what))
            case "gone":
                reports += members.gone(agent(who), what)
            case "tick":
                reports += members.tick()
            case "finish":
                outstanding.discard(what)
                members.finished(what)
            case "hand out":
                outstanding.add(what)
        for report in reports:
            match report:
                case Joined(name):
                    there.add(name)
                case Left(name):
                    assert name in there, "who was never there leaves"
                    there.discard(name)
                case Returned(index) | Lost(index, again=True):
                    assert index in outstanding
                    assert not members.runners(index)
                case Lost(index):
                    assert index in outstanding
                    assert members.runners(index)
                case Running(index):
                    assert index in outstanding
        assert {member.agent.name for member in members.all()} == there
