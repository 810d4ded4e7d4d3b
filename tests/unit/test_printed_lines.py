"""Lines of other hosts at the producer: each with part and host, once, and the number of those that are missing."""

import pytest

from pymar.amqp.producer.printed import BURST, LINES_A_SECOND, MOST_NAMED, SAY_EVERY, PrintedLines
from pymar.amqp.protocol import LONGEST_LINE, Agent, Printed
from pymar.slots.quota import Rate

HERE, THERE = Agent(b"1", "node03 4711", "queue", 2), Agent(b"2", "node04 12", "queue", 2)


class Terminal:
    """What a job shows, at a time that the test sets."""

    def __init__(self):
        self.shown = []
        self.lines = PrintedLines(self.shown.append, Rate(LINES_A_SECOND, BURST, 100.0))

    def receives(self, *texts, first=0, total=None, agent=HERE, index=17, now=100.0):
        rows = [[index, text] for text in texts]
        self.lines.received(Printed(agent, b"job", first, first + len(texts) if total is None else total, rows), now)


@pytest.fixture
def terminal():
    return Terminal()


def test_a_line_has_its_part_and_its_host(terminal):
    terminal.receives("a", "b")
    terminal.receives("c", agent=THERE, index=-1)
    assert terminal.shown == ["[part 17 @ node03] a", "[part 17 @ node03] b", "[node04] c"]
    terminal.lines.end()
    assert len(terminal.shown) == 3


def test_a_message_that_comes_again_shows_nothing(terminal):
    terminal.receives("a", "b")
    terminal.receives("a", "b")
    terminal.receives("c", first=2)
    terminal.receives("b", first=1)
    terminal.lines.end()
    assert [line[-1] for line in terminal.shown] == ["a", "b", "c"]


def test_missing_lines_are_counted_whoever_has_lost_them(terminal):
    terminal.receives("a", total=11)
    terminal.receives("z", first=5, total=1_000)  # the messages between were lost
    terminal.lines.counted(HERE, 12_347)
    terminal.lines.end()
    assert terminal.shown[-1].startswith("[node03] 12,345 lines were dropped")
    assert "pymar logs node03" in terminal.shown[-1]


def test_hosts_are_counted_apart(terminal):
    terminal.lines.counted(HERE, 5)
    terminal.lines.counted(THERE, 7)
    terminal.lines.counted(THERE, 6)
    terminal.lines.end()
    assert [line.partition(" lines")[0] for line in terminal.shown] == ["[node04] 7", "[node03] 5"]  # the most first


def test_what_was_dropped_is_said_now_and_then_and_in_all_at_the_end(terminal):
    for second in range(100):
        terminal.lines.counted(HERE, 10 * second)
        terminal.lines.look(1_000.0 + second)
    assert 100 / SAY_EVERY - 2 <= len(terminal.shown) <= 100 / SAY_EVERY
    assert all("so far" in line for line in terminal.shown)
    terminal.lines.end()
    assert terminal.shown[-1].startswith("[node03] 990 lines were dropped:")


def test_a_line_of_a_stranger_is_cut(terminal):
    terminal.receives("\\x1b" * 2_000)
    assert len(terminal.shown[0]) < LONGEST_LINE + 100


def test_a_flood_of_strangers_is_bounded_here_too_and_counted(terminal):
    for number in range(100):
        terminal.receives(*["x"] * 100, first=100 * number)
    assert len(terminal.shown) == BURST
    terminal.lines.end()
    assert terminal.shown[-1].startswith(f"[node03] {10_000 - BURST:,} lines were dropped")


def test_of_very_many_hosts_the_noisiest_are_named_at_the_end(terminal):
    for number in range(20_000):
        agent = Agent(number.to_bytes(8), f"host{number} 1", "queue", 1)
        terminal.lines.counted(agent, 2 if number == 5_000 else 1)
    terminal.lines.end()
    assert terminal.shown[0].startswith("[host5000] 2 lines")
    assert terminal.shown[-1] == f"[{10_000 - MOST_NAMED:,} others] {10_000 - MOST_NAMED:,} lines were dropped"
    assert len(terminal.shown) == MOST_NAMED + 1


def test_who_does_not_want_it_sees_nothing():
    lines = PrintedLines(None, Rate(1.0, 1, 0.0))
    lines.received(Printed(HERE, b"job", 0, 5, [[0, "a"]]), 0.0)
    lines.counted(HERE, 9)
    lines.look(100.0)
    lines.end()
