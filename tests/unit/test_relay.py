"""The relay of printed lines: a bounded rate, an exact count, and the last lines of what fails. The time is given."""

import random

import pytest

from pymar.amqp.agent.relay import BAR_EVERY, BURST, COUNT_EVERY, LAST_LINES, LINES_A_SECOND, Relay
from pymar.amqp.protocol import LONGEST_LINE
from pymar.slots.quota import OF_A_JOB, Rate

JOB, OTHER = b"job", b"other"
A, B = "slot 1 (pid 7) on here", "slot 2 (pid 8) on here"


class Agent:
    """Takes lines as an agent does, at a time that the test sets, and keeps what it would send."""

    def __init__(self):
        self.logged, self.sent, self.now, self.total = [], [], 100.0, 0
        self.relay = Relay(self.logged.append, self.now)

    def prints(self, line, index=0, worker=A, lines=1, job=JOB):
        self.relay.printed(job, worker, index, line, lines, self.now)

    def looks(self):
        """Send what is due, and return the lines of it."""
        found = []
        for job in self.relay.look(self.now):
            first, total, lines = self.relay.take(job, self.now)
            assert first == len(self.sent)
            assert len(lines) <= total
            found += lines
            self.sent += lines
            self.total = total
        return found


@pytest.fixture
def agent():
    return Agent()


def test_a_rate_allows_a_burst_and_then_so_many_a_second():
    rate = Rate(10.0, 5, 0.0)
    assert [rate.may(0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [rate.may(0.2) for _ in range(3)] == [True, True, False]
    assert sum(rate.may(1_000.0) for _ in range(20)) == 5


def test_a_rate_holds_over_any_time():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    draw, rate, now, times = random.Random(seed), Rate(50.0, 200, 0.0), 0.0, []
    for _ in range(20_000):
        now += draw.choice((0.0, 0.0, 0.001, 0.05, 1.0)) * draw.random()
        times += [now] * rate.may(now)
    for start in range(0, len(times), 97):
        for end in range(start, len(times), 89):
            assert end - start + 1 <= 200 + 50 * (times[end] - times[start]) + 1e-6


def test_a_rate_leaves_what_is_spared_to_others():
    rate = Rate(1.0, 10, 0.0)
    assert sum(rate.may(0.0, spare=4) for _ in range(20)) == 6
    assert sum(rate.may(0.0) for _ in range(20)) == 4


def test_a_clock_that_goes_back_gives_nothing_away():
    rate = Rate(1.0, 1, 100.0)
    assert rate.may(100.0)
    assert not rate.may(0.0)


def test_lines_are_sent_in_order_each_with_its_part(agent):
    for index in range(3):
        agent.prints(f"line {index}", index)
    agent.prints("of nobody", -1)
    assert agent.looks() == [(0, "line 0"), (1, "line 1"), (2, "line 2"), (-1, "of nobody")]
    assert agent.logged == ["[part 0] line 0", "[part 1] line 1", "[part 2] line 2", f"[{A}] of nobody"]
    assert agent.relay.is_idle()


def test_of_a_flood_a_bounded_number_is_sent_and_each_line_is_counted(agent):
    for number in range(10_000):
        agent.now += 0.001
        agent.prints(str(number))
        agent.looks()
    agent.now += COUNT_EVERY
    agent.looks()
    assert len(agent.sent) <= BURST + 10 * LINES_A_SECOND
    assert len(agent.sent) >= 10 * LINES_A_SECOND
    assert agent.total == 10_000
    assert [int(text) for _, text in agent.sent] == sorted({int(text) for _, text in agent.sent})


def test_lines_that_cannot_be_sent_take_no_memory_and_are_counted(agent):
    for number in range(5_000):
        agent.now += 0.1  # long enough for each to be sent, were there a link
        agent.prints(str(number))
    assert len(agent.looks()) < BURST
    assert agent.total == 5_000


def test_what_a_worker_process_has_dropped_itself_is_counted_and_logged(agent):
    agent.prints("shown")
    agent.prints("... and 99 more lines were dropped", lines=99)
    assert agent.looks() == [(0, "shown")]
    assert agent.total == 100
    assert "99 more lines" in agent.logged[-1]


@pytest.mark.parametrize("worker", [A, B])
def test_the_last_lines_of_what_fails_are_sent_in_any_case(agent, worker):
    for number in range(1_000):
        for one in (A, B):
            agent.prints(str(number), worker=one)
    agent.looks()
    agent.relay.failed(JOB, worker, agent.now)
    assert agent.looks() == [(0, str(number)) for number in range(1_000 - LAST_LINES, 1_000)]


def test_the_last_lines_are_without_a_gap_whenever_a_line_was_let_through(agent):
    for number in range(1_000):
        agent.now += 0.0101  # now and then one may be sent
        agent.prints(str(number))
    agent.relay.failed(JOB, A, agent.now)
    agent.looks()
    numbers = [int(text) for _, text in agent.sent]
    assert numbers[-LAST_LINES:] == [*range(1_000 - LAST_LINES, 1_000)]
    assert numbers == sorted({*numbers})


def test_the_end_of_a_flood_is_sent_once_there_is_room(agent):
    for number in range(1_000):
        agent.prints(str(number))
    agent.looks()
    assert not agent.relay.is_idle()
    agent.now += LAST_LINES / LINES_A_SECOND + 0.01
    agent.looks()
    assert agent.sent[-1] == (0, "999")
    assert agent.relay.is_idle()


def test_failures_do_not_lift_the_bound(agent):
    for _ in range(100):
        for number in range(100):
            agent.prints(str(number))
        agent.relay.failed(JOB, A, agent.now)
        agent.looks()
    assert len(agent.sent) == BURST


def test_a_progress_bar_is_shown_once_a_second_as_it_is_then(agent):
    for step in range(80):
        agent.prints(f"\r{step}%")
        agent.looks()
        agent.now += BAR_EVERY / 8
    assert len(agent.sent) == 10
    assert agent.sent[0] == (0, "0%")
    agent.now += BAR_EVERY
    assert agent.looks() == [(0, "79%")], "its last state comes without another line"
    assert agent.total == 11, "what another state has replaced is no dropped line"
    assert agent.relay.is_idle()


def test_a_progress_bar_that_ends_is_shown_whole_before_the_next_line(agent):
    for text in ("\r0%", "\r50%", "\r100%", "", "done"):
        agent.prints(text)
    assert [text for _, text in agent.looks()] == ["0%", "100%", "done"]
    agent.prints("")
    assert agent.looks() == [(0, "")], "an empty line of its own is a line"


def test_a_progress_bar_of_a_part_that_is_over_does_not_wait(agent):
    agent.prints("\r0%", 4)
    agent.prints("99%\r", 4)
    agent.prints("\r0%", 5, B)
    agent.prints("\r7%", 5, B)
    agent.relay.finished(JOB, [4], agent.now)
    assert agent.looks() == [(4, "0%"), (5, "0%"), (4, "99%")]


def test_nothing_of_strangers_reaches_a_terminal_raw(agent):
    agent.prints("\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m\tand\x9b1m\u202e\x00")
    [(_, text)] = agent.looks()
    assert text.replace("\t", "").isprintable()
    assert "red\tand" in text
    assert "[31m" not in text


@pytest.mark.parametrize("line", ["x" * 100_000, "\x1b" * 100_000, "\r" * 100_000 + "a", "\udce9" * 5_000])
def test_a_long_line_is_cut(agent, line):
    agent.prints(line)
    agent.now += BAR_EVERY
    [(_, text)] = agent.looks()
    assert len(text) <= LONGEST_LINE + 10
    assert text.isprintable()


def test_the_log_of_a_host_has_a_bound_as_well(agent, monkeypatch):
    monkeypatch.setattr("pymar.amqp.agent.relay.OF_A_JOB", (30, OF_A_JOB[1]))
    for number in range(100):
        agent.prints(str(number))
    agent.relay.forget(JOB)
    assert len(agent.logged) == 31
    assert "70 more lines" in agent.logged[-1]


def test_jobs_are_counted_apart_and_forgotten(agent):
    agent.prints("mine")
    agent.prints("another's", job=OTHER)
    assert agent.relay.total(JOB) == agent.relay.total(OTHER) == 1
    agent.relay.forget(JOB)
    assert agent.relay.total(JOB) == 0
    assert agent.relay.look(agent.now) == [OTHER]
    agent.relay.failed(JOB, A, agent.now)
    agent.relay.finished(JOB, [0], agent.now)
    assert not agent.relay.has(JOB)
