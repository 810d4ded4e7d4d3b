"""CPython's own tests of executors (test.test_concurrent_futures), run on pymar.Executor.

They come with Python, or as Debian's libpython3.11-testsuite and its like: from 3.12 on a package, before that a file.
Of the mixins that hold for any executor, all tests run but those in LEFT_OUT.
"""

import concurrent.futures
import importlib.util
import os
import sys
import unittest
from pathlib import Path

import pytest
from conftest import need

import pymar

NAME = "test_concurrent_futures"
#: Where it may be: this Python's own, Debian's, or unpacked anywhere.
FOLDERS = [
    *os.environ.get("PYMAR_CPYTHON_TESTS", "").split(os.pathsep),
    str(Path(os.__file__).parent / "test"),
    f"/usr/lib/python{sys.version_info.major}.{sys.version_info.minor}/test",
]
#: A name of its own, since Python's `test` package may lack it; no worker finds that, so that functions go by value.
HERE = "cpython_tests_of_executors"
#: In which module of the package each mixin is.
MIXINS = {
    "ExecutorTest": "executor",
    "ExecutorShutdownTest": "test_shutdown",
    "WaitTests": "test_wait",
    "AsCompletedTests": "test_as_completed",
}
_SCRIPT = "it runs a script that imports the executor from concurrent.futures; test_executor.py has it for this one"
#: Tests of the mixins that do not run, and why.
LEFT_OUT = {
    "test_interpreter_shutdown": _SCRIPT,
    "test_submit_after_interpreter_shutdown": _SCRIPT,
    "test_hang_gh83386": _SCRIPT,
    "test_hang_gh94440": "it is of ProcessPoolExecutor, by its multiprocessing context",
    "test_max_workers_negative": "there is no max_workers: the engine says how many processes there are",
    "test_free_reference": (
        "it looks at once whether a result is let go of, which the thread that has set it may be about to do; "
        "test_executor.py waits for that"
    ),
    "test_free_reference_yielded_future": "it collects garbage dozens of times, which takes minutes in a large process",
    "test_map_timeout": "it sleeps for 6 s; test_executor.py has it with a shorter time",
    "test_timeout": "it waits for 5 s, and test_zero_timeout and test_first_completed see the same",
}


def found():
    """Return the file or package of the tests, or None."""
    for folder in filter(None, FOLDERS):
        for path in (Path(folder, NAME, "__init__.py"), Path(folder, f"{NAME}.py")):
            if path.exists():
                return path
    return None


PATH = found()
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
if PATH is None and not Path(f"/usr/lib/python{VERSION}").is_dir():
    pytest.skip(f"Debian has no tests of executors for Python {VERSION}", allow_module_level=True)
need(PATH, f"test.{NAME} (apt install libpython{VERSION}-testsuite)")
need(importlib.util.find_spec("test.support"), f"test.support (apt install libpython{VERSION}-testsuite)")


def loaded(path):
    folders = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(HERE, path, submodule_search_locations=folders)
    module = sys.modules[HERE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TESTS = loaded(PATH)


def mixin_of(name):
    module = TESTS if PATH.name == f"{NAME}.py" else importlib.import_module(f"{HERE}.{MIXINS[name]}")
    return getattr(module, name)


class Cancelling(pymar.Executor):
    """Cancels at its end what still runs: a test leaves calls that sleep for seconds."""

    def __init__(self):
        super().__init__("processes://5")
        self.futures = []

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        self.futures.append(future)
        return future

    def end(self):
        for future in self.futures:
            future.cancel()
        self.shutdown()


class OnPymar:
    """What the mixins need of a test case. They run unchanged."""

    worker_count = 5
    executor_type = Cancelling

    def setUp(self):
        self.executor = Cancelling()

    def tearDown(self):
        self.executor.end()


class Forgetting(OnPymar):
    """For the tests that look what an executor refers to."""

    def setUp(self):
        self.executor = pymar.Executor("processes://5")

    def tearDown(self):
        self.executor.shutdown()


def cases():
    for name in MIXINS:
        mixin = mixin_of(name)
        for test in sorted(vars(mixin)):
            if test.startswith("test_") and test not in LEFT_OUT:
                base = Forgetting if "reference" in test else OnPymar
                yield pytest.param(type(name, (mixin, base, unittest.TestCase), {}), test, id=f"{name}.{test}")


@pytest.mark.parametrize(("case", "test"), list(cases()))
def test_of_cpython(case, test):
    result = unittest.TestResult()
    case(test).run(result)
    for _, text in result.errors + result.failures:
        pytest.fail(text)
    assert result.testsRun == 1


def test_what_is_left_out_is_there():
    """A list of reasons for tests that are not there any more would hide what is."""
    ours = {test for name in MIXINS for test in vars(mixin_of(name)) if test.startswith("test_")}
    assert len(ours & LEFT_OUT.keys()) >= len(LEFT_OUT) - 1  # the newest has come with 3.12
    assert issubclass(pymar.Executor, concurrent.futures.Executor)
