"""What goes away says so first: since when, until when, what to write instead, and at the user's own line."""

import warnings
from types import SimpleNamespace

import pytest

from pymar import DataSourceFactory
from pymar.deprecation import PymarDeprecationWarning, warn_deprecated
from pymar.engines import Choice, named
from pymar.parts import BATCH_SECONDS, Joined, Left
from pymar.testing import Total


def old_name():
    warn_deprecated("old_name", since="0.5", removed_in="0.7", instead="write new_name")
    return 1


def line_of(function):
    """The number of the only line of a function's body."""
    return function.__code__.co_firstlineno + 1


def recorded(call):
    """What a call returns, and the one warning that it gives."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        value = call()
    (warning,) = found
    return value, warning


def test_the_warning_says_since_when_until_when_and_what_to_write():
    value, warning = recorded(old_name)
    assert value == 1
    assert warning.category is PymarDeprecationWarning
    assert str(warning.message) == "old_name is deprecated since Pymar 0.5 and will be removed in 0.7: write new_name"


def test_python_shows_it_as_a_deprecation():
    assert issubclass(PymarDeprecationWarning, DeprecationWarning)


@pytest.mark.parametrize("report", [Joined("node7", 4), Left("node7")], ids=["Joined", "Left"])
def test_worker_of_a_report_of_agents_is_its_agent_and_warns(report):
    def use():
        return report.worker

    value, warning = recorded(use)
    assert value == report.agent == "node7"
    assert f"{type(report).__name__}.agent" in str(warning.message)
    assert (warning.filename, warning.lineno) == (__file__, line_of(use))


SCRIPT = """from pymar import DataSourceFactory
from pymar.engines import named
from pymar.testing import Total


class Old:
    name = "old"

    def start(self, job, /):
        return named("serial").start(job)


if __name__ == "__main__":
    producer = Total(engine=Old())
    factory = DataSourceFactory([1, 2, 3])
    print(producer.map(factory))
"""


class OldEngine:
    """An engine as they were written for 0.4, without `batch_seconds`."""

    name = "old"

    def start(self, job, /):
        return named("serial").start(job)


def test_an_engine_without_batch_seconds_warns_and_computes():
    def compute():
        return Total(engine=OldEngine()).map(DataSourceFactory([1, 2, 3]))

    value, warning = recorded(compute)
    assert value == 6
    assert (warning.filename, warning.lineno) == (__file__, line_of(compute))
    assert warning.category is PymarDeprecationWarning
    assert f"batch_seconds = {BATCH_SECONDS}" in str(warning.message)
    assert "OldEngine" in str(warning.message)


def test_a_script_with_an_old_engine_shows_the_warning_at_its_own_line(script):
    done = script(SCRIPT)
    assert "job.py:16: PymarDeprecationWarning: an engine without batch_seconds (Old)" in done.stderr
    assert done.stdout == "6\n"


def test_an_engine_without_batch_seconds_has_the_default():
    value, _ = recorded(lambda: Choice(OldEngine(), "").batch_seconds)
    assert value == BATCH_SECONDS


def test_an_engine_that_says_batch_seconds_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Choice(SimpleNamespace(batch_seconds=0.5), "").batch_seconds == 0.5
