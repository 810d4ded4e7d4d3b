"""The engine of docs/extending.md keeps the contract, and its pace."""

import sys
from collections import deque

import pytest
from places import ROOT

from pymar.engines import named
from pymar.parts import Done, Part
from pymar.testing import EngineContract, IsolatedContract

EXAMPLES = ROOT / "examples" / "extending"
sys.path.insert(0, str(EXAMPLES))

from paced_engine import PacedEngine, PacedRun  # noqa: E402


class TestPacedProcesses(IsolatedContract):
    def engine(self):
        return PacedEngine("processes://2", parts_per_second=1e6)


class TestPacedSerial(EngineContract):
    def engine(self):
        return PacedEngine(named("serial"), parts_per_second=1e6)


class Recorded:
    """A run that records what it is called with."""

    def __init__(self):
        self.submitted, self.cancelled, self.patience = [], [], deque()
        self.closed = 0

    def submit(self, parts):
        self.submitted += [part.index for part in parts]

    def next(self, timeout):
        self.patience.append(timeout)
        return [Done(7, b"", 0.0)]

    def cancel(self, index):
        self.cancelled.append(index)

    def close(self):
        self.closed += 1


@pytest.fixture
def inner():
    return Recorded()


@pytest.fixture
def run(inner):
    run = PacedRun(inner, interval=10.0)
    run.submit([Part(number, 0, number, 1) for number in range(4)])
    return run


def test_a_part_is_held_back_until_it_is_time(run, inner):
    assert run.hand_out(now=100.0) == 10.0
    assert run.hand_out(now=109.0) == 1.0
    assert inner.submitted == [0]
    assert run.hand_out(now=110.0) == 10.0
    assert inner.submitted == [0, 1]


def test_time_without_parts_is_not_saved_up(run, inner):
    run.hand_out(now=100.0)
    run.hand_out(now=1_000.0)
    assert run.hand_out(now=1_000.0) == 10.0
    assert inner.submitted == [0, 1]


def test_it_waits_for_reports_no_longer_than_until_the_next_part(run, inner):
    assert run.next(60.0) == [Done(7, b"", 0.0)]
    assert 0 < inner.patience.pop() <= 10.0
    assert run.next(0.5)
    assert inner.patience.pop() == 0.5


def test_a_cancelled_part_is_not_submitted(run, inner):
    run.cancel(0)
    run.hand_out(now=100.0)
    assert inner.submitted == [1]
    assert inner.cancelled == [0]


def test_nothing_is_submitted_once_it_is_closed(run, inner):
    run.close()
    run.close()
    assert run.hand_out(now=100.0) == float("inf")
    assert inner.submitted == []
    assert inner.closed == 2


def test_the_program_prints_its_answer(script):
    assert script((EXAMPLES / "paced_engine.py").read_text()).stdout == "Total length: 15\n"
