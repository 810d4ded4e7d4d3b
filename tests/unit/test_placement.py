"""Tasks on the workers of a cluster: each is somewhere once, and none waits where another worker is idle."""

from hypothesis import given
from hypothesis import strategies as st

from pymar.engines.cluster.placement import AHEAD, RELIEVE_AFTER, Placement

WORKERS = {"a": 1, "b": 2, "c": 1}


def placed(count):
    placement = Placement()
    placement.there_are(WORKERS)
    for number in range(count):
        placement.add(str(number))
    return placement, dict(placement.moves(0.0))


def test_each_worker_gets_what_it_has_slots_for_and_one_more():
    _, where = placed(100)
    assert sorted(where.values()) == ["a", "a", "b", "b", "b", "c", "c"]


def test_free_slots_are_filled_before_anybody_waits():
    _, where = placed(4)
    assert sorted(where.values()) == ["a", "b", "b", "c"]


def test_nothing_is_placed_without_workers():
    placement = Placement()
    placement.add("0")
    assert not list(placement.moves(0.0))
    placement.there_are({"a": 1})
    assert list(placement.moves(1.0)) == [("0", "a")]


def test_who_waits_behind_a_dear_task_goes_to_an_idle_worker():
    placement, where = placed(7)
    waiting = next(task for task in reversed(where) if where[task] == "a")
    for task, worker in where.items():
        if worker != "a":
            placement.ended(task, 1.0)
    assert not list(placement.moves(RELIEVE_AFTER / 2))  # it may have begun by now
    ((moved, to),) = placement.moves(1.0)
    assert (moved, to) == (waiting, "b")
    assert not list(placement.moves(2.0))


@given(st.lists(st.tuples(st.sampled_from(["add", "end", "workers"]), st.integers(0, 100)), max_size=200))
def test_a_task_is_at_one_worker_at_most_whatever_happens(steps):
    placement, where, living, now = Placement(), {}, [], 0.0
    for number, (step, pick) in enumerate(steps):
        now += 0.1
        if step == "add":
            living.append(str(number))
            placement.add(str(number))
        elif step == "end" and living:
            ended = living.pop(pick % len(living))
            placement.ended(ended, now)
            where.pop(ended, None)
        elif step == "workers":
            there = {name: slots for name, slots in WORKERS.items() if pick % (ord(name) - 95)}
            placement.there_are(there)
            where = {task: worker for task, worker in where.items() if worker in there}
            living = [task for task in living if task in where or task in placement._held]
        where.update(placement.moves(now))
        assert set(where) <= set(living)
        for worker in set(where.values()):
            assert list(where.values()).count(worker) <= WORKERS[worker] + AHEAD
