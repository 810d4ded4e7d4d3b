"""Datasets over AMQP without a key: functions go by name, and a message makes a worker call nothing else."""

import uuid

import dataset_jobs as jobs
import pytest

import pymar
from pymar.amqp.producer import run
from pymar.calls.calling import Call
from pymar.datasource import DataSourceFactory
from pymar.exceptions import JobTimeout, PartFailed, UsageError
from pymar.keyed import Collect, Count, Mean, Sum
from pymar.serialization import plain
from pymar.serialization.definition import define, spec_of
from pymar.slots.task import Task

NUMBERS = range(40)


@pytest.fixture
def engine(broker, agents):
    agents.start(jobs.__file__, "-p", "calls", "-w", "2")
    return broker.engine()


def results(engine):
    numbers = pymar.dataset(NUMBERS, engine=engine, parts=4).map(jobs.kept)
    rows = numbers.map(jobs.row)
    aggregations = {"n": Count(), "total": Sum("v"), "mean": Mean("w"), "all": Collect("v")}
    yield "narrow", numbers.filter(jobs.is_small).flat_map(jobs.twice).map_parts(jobs.halves).collect()
    yield "sample", numbers.sample(0.5).collect()
    yield "best", (numbers.top(3, jobs.parity), rows.min("w"), rows.max(("k", "v")), numbers.map(float).sum())
    yield "reduce", numbers.reduce(jobs.smaller)
    yield "take", numbers.map(str).take(3)
    yield "groups", numbers.group_by(jobs.parity).map_groups(jobs.spread).collect()
    yield "folded", numbers.group_by((jobs.parity, jobs.is_small)).reduce(jobs.smaller).collect()
    yield "rows", rows.group_by("k").aggregate(**aggregations).collect()
    yield "sorted", rows.sort(("k", "w"), reverse=True).collect()
    yield "joined", rows.join(rows.group_by("k").sum("v"), "k").map(len).collect()
    yield "by function", numbers.join(numbers.filter(jobs.is_small), jobs.parity, "semi").sort().distinct().collect()
    yield "another module", numbers.map(jobs.parity).map(jobs.squared).collect()


def test_every_step_and_result_go_by_name(engine):
    assert dict(results(engine)) == dict(results("serial"))


def test_stages_whose_functions_come_from_several_files_go_to_the_one_that_has_them_all(engine):
    numbers = pymar.dataset(NUMBERS, engine=engine, parts=4)
    counted = numbers.map(jobs.squared).group_by().count().map(len).filter(jobs.is_small)
    assert counted.collect(timeout=60, on_timeout="fail") == [2] * len(NUMBERS)


CALLS, PIPED = "pymar.calls.calling.Calls", "pymar.datasets.producers.Piped"
SQUARED = ["name", "squared"]
FORMAT = ("{0.__init__.__globals__[os].environ}", uuid.UUID(int=1))
STRANGE = {
    "reads the environment": [CALLS, "x", {"call_fn": ["of python", "str", "format"]}, {"STARRED": True}],
    "reads it by a mapping": [CALLS, "x", {"call_fn": ["of python", "str", "format_map"]}, {"STARRED": True}],
    "a name of no function": [CALLS, "x", {"call_fn": ["name", "__builtins__"]}, {}],
    "another function of Python": [CALLS, "x", {"call_fn": ["of python", "builtins", "eval"]}, {}],
    "a private one": [CALLS, "x", {"call_fn": ["of python", "str", "__new__"]}, {}],
    "in place of a method": [CALLS, "x", {"call_fn": SQUARED, "routing_key": SQUARED}, {}],
    "data in place of a method": [CALLS, "x", {"call_fn": SQUARED}, {"map_fn": 1}],
    "a step that is no step": [PIPED, "x", {"step_1": SQUARED}, {"STEPS": [["map", "__class__", None]]}],
    "a step with a number for a name": [PIPED, "x", {"step_1": SQUARED}, {"STEPS": [["map", 1, None]]}],
    "a kind that is none": [PIPED, "x", {"step_1": SQUARED}, {"STEPS": [["eval", "step_1", None]]}],
    "steps of another form": [PIPED, "x", {"step_1": SQUARED}, {"STEPS": 5}],
    "a name that no class can have": [CALLS, "x\0", {"call_fn": SQUARED}, {}],
    "a number for a name": [CALLS, "x", {5: SQUARED}, {}],
    "a number for a setting": [CALLS, "x", {"call_fn": SQUARED}, {5: 5}],
    "no form at all": [CALLS, "x", {"call_fn": 5}, {}],
    "a class of its own": ["os.system", "x", {}, {}],
    "a state of another form": [
        CALLS, "x", {"call_fn": ["of pymar", "pymar.datasets.steps.Columns", {"__class__": ["plain", 5]}]}, {}
    ],
    "a state that lacks all": [CALLS, "x", {"call_fn": ["of pymar", "pymar.datasets.steps.Columns", {}]}, {}],
}  # fmt: skip


def strange(spec, description):
    """Return the definition of a job with another description of its class."""
    fields = {**plain.loads(define(spec)), "producer": description, "settings": []}
    return plain.dumps(fields)


@pytest.mark.parametrize("what", STRANGE)
def test_what_a_stranger_describes_is_refused_or_fails_and_tells_nothing(what):
    spec = Call("map", jobs.parity, ([1],), {})._producer._plan(DataSourceFactory([FORMAT])).spec
    try:
        task = Task(spec_of(strange(spec, STRANGE[what]), jobs), dumps=plain.dumps, loads=plain.loads)
        found = list(task.spec.producer.map_fn([FORMAT]))
    except (UsageError, TypeError, KeyError, AttributeError) as error:
        found = [error]
    assert isinstance(found[0], Exception)
    assert "environ(" not in str(found)


def test_it_costs_no_worker(engine, monkeypatch):
    for what in ("reads the environment", "a number for a name", "a step that is no step", "steps of another form"):
        with monkeypatch.context() as patched:
            patched.setattr(run, "define", lambda spec, given=STRANGE[what]: strange(spec, given))
            with pytest.raises((PartFailed, JobTimeout)):
                pymar.map(jobs.parity, [FORMAT], engine=engine, timeout=2, on_timeout="fail")
    assert pymar.map(jobs.parity, [3], engine=engine) == [1]
