"""One line for each agent that joins, leaves or is lost; few for one that flaps. The time is given."""

import logging

import pytest

from pymar.job.arrivals import BURST, EVERY, Arrivals
from pymar.parts import Done, Joined, Left


@pytest.fixture
def arrivals():
    return Arrivals()


def test_each_agent_has_one_line_for_its_coming_and_one_for_its_going(arrivals):
    reports = [Joined("node03 4711", 8), Joined("node04 12", 2), Joined("node03 4711", 6), Left("node03 4711")]
    lines = [line for report in reports for line in arrivals.lines(report, 0.0)]
    assert lines == [
        (logging.INFO, "node03 4711 has joined, with 8 slots"),
        (logging.INFO, "node04 12 has joined, with 2 slots"),
        (logging.INFO, "node03 4711 has 6 slots now"),
        (logging.INFO, "node03 4711 has left"),
    ]


@pytest.mark.parametrize(("parts", "again"), [(1, "; 1 part runs again"), (1_234, "; 1,234 parts run again"), (0, "")])
def test_a_loss_is_a_warning_with_its_parts(arrivals, parts, again):
    [(level, text)] = arrivals.lines(Left("node03 4711", parts, "sends no heartbeats"), 0.0)
    assert level == logging.WARNING
    assert text == f"node03 4711 is lost: sends no heartbeats{again}"


def test_what_is_no_arrival_has_no_line(arrivals):
    assert arrivals.lines(Done(1, b"", 0.1), 0.0) == []


def test_a_host_that_flaps_has_few_lines_and_the_others_theirs(arrivals):
    shown = []
    for second in range(600):
        for report in (Joined(f"flaps {second}", 2), Left(f"flaps {second}", 1)):
            shown += arrivals.lines(report, float(second))
    assert BURST <= len(shown) <= BURST + 600 / EVERY
    assert "were left out before" in shown[-1][1]
    assert arrivals.lines(Joined("node04 1", 2), 600.0) == [(logging.INFO, "node04 1 has joined, with 2 slots")]


def test_a_thousand_hosts_have_a_line_each(arrivals):
    assert all(arrivals.lines(Joined(f"node{number} 1", 2), 0.0) for number in range(1_000))
