"""Worker processes compute jobs with modules of their own: each process those of one version, at most two a slot."""

import pytest
from conftest import PATIENCE, wait_until

from pymar.parts import Part
from pymar.slots.pool import SlotPool
from pymar.slots.queue import Reports, work_by_value
from pymar.testing import Numbers, Total

#: Reads the module as its process finds it.
HELPER = "NAME = {name!r}\n"


class Finding(Total):
    @staticmethod
    def reduce_fn(values):
        import importlib
        import os

        return importlib.import_module("code_of_slots_helper").NAME, os.getpid()


@pytest.fixture
def pool():
    one = SlotPool()
    yield one
    one.shutdown()


@pytest.fixture
def works(tmp_path):
    """Returns the work of a job whose helper says a name."""
    from pymar.datasource import DataSourceFactory
    from pymar.job.plan import Plan
    from pymar.producer import Producer

    bare = work_by_value(Plan(Finding(), DataSourceFactory(Numbers), Producer).spec)

    def work(name):
        folder = tmp_path / name
        (folder / "0").mkdir(parents=True, exist_ok=True)
        (folder / "0" / "code_of_slots_helper.py").write_text(HELPER.format(name=name))
        return bare._replace(code=(str(folder), (("/at/the/producer", True),), False)) if name else bare

    return work


def found(pool, work, slots=1):
    """What a part of a job finds: the name, and its process."""
    from pymar.serialization import loads

    run = pool.start(work, slots, 1, Reports())
    run.submit([Part(0, 0, 0, 10, None)])
    while True:
        reports = run.next(PATIENCE)
        assert reports
        for report in reports:
            if hasattr(report, "value"):
                run.close()
                return loads(report.value)
            assert type(report).__name__ == "Running", report


def test_jobs_that_alternate_keep_their_processes(pool, works):
    seen = [found(pool, works(name)) for name in ("one", "two") * 3]
    assert [name for name, _ in seen] == ["one", "two"] * 3
    assert len({process for _, process in seen}) == 2


def test_there_are_at_most_two_processes_a_slot(pool, works):
    seen = [found(pool, works(name)) for name in ("one", "two", "three", "one", "two", "three")]
    assert [name for name, _ in seen] == ["one", "two", "three"] * 2
    assert len(pool.supervisor) <= 2


def test_processes_beyond_the_slots_end_after_a_while(pool, works, monkeypatch):
    monkeypatch.setattr("pymar.slots.pool.KEEP_OTHERS", 0.1)
    for name in ("one", "two"):
        found(pool, works(name))
    wait_until(lambda: len(pool.supervisor) == 1, "the end of a process")


def test_a_process_that_has_computed_nothing_is_taken_for_any_job(pool, works):
    pool.warm(1, 1)
    _, first = found(pool, works("one"))
    assert found(pool, works("one")) == ("one", first)
