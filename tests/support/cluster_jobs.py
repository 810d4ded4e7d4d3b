"""Jobs and tests that are the same on a Dask and on a Ray cluster."""

import os
import re
import signal
import subprocess
import sys
import time
from typing import ClassVar

import executor_jobs
import pytest
from conftest import PATIENCE, is_running, needed, wait_until
from places import SUPPORT
from where import Where

import pymar
from pymar.datasource import DataSourceFactory
from pymar.events import JobProgress
from pymar.exceptions import ClusterRefused, JobTimeout
from pymar.keyed import Mean, Sum
from pymar.parts import Joined, Left
from pymar.testing import IsolatedContract, Numbers, Total

#: The import path on which processes of a cluster find the modules of tests.
MODULES = os.pathsep.join(map(str, (SUPPORT, SUPPORT.parent, SUPPORT.parent / "engines")))


class Killing(Total):
    """The part of the record 500 kills the cluster's own worker that it runs on, once: while `marker` is not there."""

    marker = ""

    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            if number == 500 and not os.path.exists(Killing.marker):
                os.close(os.open(Killing.marker, os.O_CREAT))
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)  # this process ends with the worker, which is its parent
            yield number


class Waiting(Total):
    """The part of the record 0 writes its process's id to `marker` and sleeps until `release` is there."""

    marker = release = ""

    @staticmethod
    def map_fn(data_source):
        if data_source.offset == 0:
            with open(Waiting.marker + ".new", "w") as file:
                print(os.getpid(), file=file)
            os.rename(Waiting.marker + ".new", Waiting.marker)
            while not os.path.exists(Waiting.release):
                time.sleep(0.02)  # between two looks; the test that waits has a deadline
        return data_source


class SlowAmongFast(Total):
    """After 600 fast parts come four slow ones, one after the other; each adds its process's id to `marker`."""

    WORKERS_NUMBER = 1_000
    BACKUPS = 0
    marker = ""

    @staticmethod
    def map_fn(data_source):
        if 600 <= data_source.offset < 604:
            with open(SlowAmongFast.marker, "a") as file:
                print(os.getpid(), file=file)
            time.sleep(0.5)  # what makes it slow
        return data_source


class Inner(Total):
    """The id of the process that computes it."""

    WORKERS_NUMBER = 1

    @staticmethod
    def map_fn(data_source):
        yield os.getpid()

    @staticmethod
    def reduce_fn(pids):
        return max(pids)


class Outer(Total):
    """Each part runs jobs of its own, one for each way to choose an engine; True if all of them ran in its process."""

    WORKERS_NUMBER = 2
    cluster = ""

    @staticmethod
    def map_fn(data_source):
        ways = ({}, {"engine": "processes://2"}, {"engine": Outer.cluster}, {"mq_server": ""}, {"local_mode": True})
        yield all(Inner(**way).map(DataSourceFactory(Numbers)) == os.getpid() for way in ways)

    @staticmethod
    def reduce_fn(shared):
        return all(shared)


class OnACluster(IsolatedContract):
    """The contract, and the further promises on a Dask or Ray cluster."""

    def test_calls_and_datasets_give_the_bits_of_this_process(self):
        """Those of floats depend on the order of their terms."""
        numbers, shift = range(300), 0.1

        def results(engine):
            floats = pymar.dataset(numbers, parts=7).map(lambda number: (number % 3, number * shift))
            sums = floats.group_by(lambda pair: pair[0]).aggregate(total=Sum(1), mean=Mean(1))
            yield pymar.map(lambda number: number * shift, numbers, engine=engine)
            yield sums.map(lambda pair: (pair[0], pair[1]["total"] / shift)).collect(engine=engine)
            yield floats.map(lambda pair: pair[1]).sum(engine=engine)

        assert repr([*results(self.engine())]) == repr([*results("serial")])

    def test_scikit_learn_over_joblib_finds_the_same(self):
        joblib, _ = needed("joblib"), needed("sklearn")
        import joblib_jobs

        import pymar.joblib

        pymar.joblib.register()
        for fit in (joblib_jobs.searched, joblib_jobs.grown):
            with joblib.parallel_config(n_jobs=1):
                expected = fit()
            with joblib.parallel_config("pymar", engine=self.engine()):
                assert fit() == expected

    def test_a_killed_worker_of_the_cluster_costs_only_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Killing, "marker", str(tmp_path / "killed"))
        assert self.compute(Killing) == 499_500

    def test_data_of_the_producer_survives_it_too(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Killing, "marker", str(tmp_path / "killed"))
        assert self.compute(Killing, DataSourceFactory(list(range(1_000)))) == 499_500

    def test_a_job_within_a_job_shares_its_slot(self, monkeypatch):
        monkeypatch.setattr(Outer, "cluster", self.address())
        assert self.compute(Outer) is True

    def test_closing_early_stops_what_runs(self, tmp_path, monkeypatch):
        pid = self.abandoned(tmp_path, monkeypatch)
        wait_until(lambda: not is_running(pid), "the end of the part", patience=3)
        assert self.compute(Total) == 499_500

    def test_an_executor_stops_a_call_that_is_cancelled_and_computes_the_others(self, tmp_path):
        with pymar.Executor(self.engine()) as executor:
            future = executor.submit(executor_jobs.held, tmp_path / "began", tmp_path / "never")
            others = [executor.submit(executor_jobs.squared, number) for number in range(20)]
            pid = int(
                wait_until(lambda: (tmp_path / "began").exists() and (tmp_path / "began").read_text(), "the call")
            )
            assert future.cancel()
            wait_until(lambda: not is_running(pid), "the end of the call")
            assert [other.result() for other in others] == [number**2 for number in range(20)]
            assert isinstance(executor.submit(executor_jobs.inverse, 0).exception(), ZeroDivisionError)
            assert executor.slots() >= 2

    def abandoned(self, tmp_path, monkeypatch):
        """Close a job while a part runs; return the id of the part's process."""
        monkeypatch.setattr(Waiting, "marker", str(tmp_path / "begun"))
        monkeypatch.setattr(Waiting, "release", str(tmp_path / "never"))
        partials = Waiting(engine=self.engine()).partials(DataSourceFactory(Numbers))
        next(partials)
        pid = int(wait_until(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text(), "the part"))
        partials.close()
        return pid

    def test_a_time_out_of_the_job_is_kept(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Waiting, "marker", str(tmp_path / "begun"))
        monkeypatch.setattr(Waiting, "release", str(tmp_path / "never"))
        ahead = 0.0
        monkeypatch.setattr("pymar.job.runner.monotonic", lambda: time.monotonic() + ahead)

        def time_passes_once_nothing_else_does(event):
            nonlocal ahead
            if isinstance(event, JobProgress) and event.done == 9 and (tmp_path / "begun").exists():
                ahead = 1_000.0

        producer = Waiting(engine=self.engine(), listeners=[time_passes_once_nothing_else_does])
        with pytest.raises(JobTimeout) as ran_out:
            producer.map(DataSourceFactory(Numbers), timeout=500, on_timeout="fail")
        assert ran_out.value.done == 9
        pid = int((tmp_path / "begun").read_text())
        wait_until(lambda: not is_running(pid), "the end of the part")

    def test_a_checkpoint_is_resumed(self, tmp_path):
        path = tmp_path / "run.ckpt"
        producer = Total(engine=self.engine())
        partials = producer.partials(DataSourceFactory(Numbers), checkpoint=path)
        next(partials)
        partials.close()
        events = []
        again = Total(engine=self.engine(), listeners=[events.append])
        assert again.map(DataSourceFactory(Numbers), checkpoint=path) == 499_500
        assert [event.done for event in events if isinstance(event, JobProgress)][-1] == 10

    def test_workers_show_in_the_progress(self):
        events = []
        Total(engine=self.engine(), listeners=[events.append]).map(DataSourceFactory(Numbers))
        assert sum(event.slots for event in events if isinstance(event, Joined)) == 2
        assert not [event for event in events if isinstance(event, Left)]
        assert [event.slots for event in events if isinstance(event, JobProgress)][-1] == 2

    def test_other_versions_are_refused_with_both_sides_named(self, monkeypatch):
        theirs = {"Python": "3.99", "Pymar": "0.0.1", "cloudpickle": "1.0"}
        monkeypatch.setattr("pymar.engines.cluster.producer.versions", lambda: theirs)
        error = self.failure(Total, ClusterRefused)
        assert "Python 3.99, Pymar 0.0.1, cloudpickle 1.0" in str(error)
        assert f"Python {'.'.join(map(str, os.sys.version_info[:2]))}, Pymar" in str(error)

    def test_parts_behind_a_slow_one_are_moved_to_others(self, tmp_path, monkeypatch):
        monkeypatch.setattr(SlowAmongFast, "marker", str(tmp_path / "slow"))
        wait_until(lambda: len(self.compute(Where)) == 2, "two worker processes that are up")
        assert self.compute(SlowAmongFast) == 499_500
        pids = (tmp_path / "slow").read_text().split()
        # The part that ran when its batch was recalled may be computed by another process too.
        assert 4 <= len(pids) <= 5, pids
        assert len(set(pids)) == 2, pids

    def test_the_jobs_definition_travels_once_a_worker_and_not_with_parts(self, monkeypatch):
        from pymar.engines.cluster import producer

        sent = []
        dumps = producer.dumps

        def encoded(batch):
            sent.append(len(data := dumps(batch)))
            return data

        monkeypatch.setattr(producer, "dumps", encoded)
        monkeypatch.setattr(Total, "large", b"x" * 1_000_000, raising=False)
        monkeypatch.setattr(Total, "WORKERS_NUMBER", 100)
        assert self.compute(Total) == 499_500
        assert len(sent) >= 4
        assert sum(sent) < 20_000

    def test_edited_modules_run_as_they_are_now(self, tmp_path, script):
        code = SCRIPT.replace("ENGINE", repr(self.address()))
        for factor in (2, 3):
            (tmp_path / "edited.py").write_text(f"def scaled(number):\n    return number * {factor}\n")
            done = script(code, **self.environ)
            assert done.stdout == f"Answer: {499_500 * factor}\n"

    def test_a_module_that_came_with_another_is_loaded_anew_once_it_is_edited(self, tmp_path, script):
        (tmp_path / "pack").mkdir()
        (tmp_path / "pack" / "__init__.py").write_text("from pack import x, y\n")
        (tmp_path / "pack" / "y.py").write_text("def scaled(number):\n    return number\n")
        for factor, module in ((2, "y"), (3, "x")):
            (tmp_path / "pack" / "x.py").write_text(f"def scaled(number):\n    return number * {factor}\n")
            code = SCRIPT.replace("import edited", f"from pack import {module} as edited")
            done = script(code.replace("ENGINE", repr(self.address())), **self.environ)
        assert done.stdout == f"Answer: {499_500 * 3}\n"

    def test_jobs_from_two_folders_find_their_own_modules(self, tmp_path, script):
        for folder, factor in (("one", 1), ("two", 2)):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "edited.py").write_text(f"def scaled(number):\n    return number * {factor}\n")
        own = "import sys\nsys.path.insert(0, FOLDER)\n"
        unused = own.replace("FOLDER", repr(str(tmp_path / "one"))) + SCRIPT.replace(
            "import edited", "import math as edited"
        )
        code = own.replace("FOLDER", repr(str(tmp_path / "two"))) + SCRIPT
        for script_of in (unused.replace("edited.scaled", "edited.fabs"), code):
            done = script(script_of.replace("ENGINE", repr(self.address())), **self.environ)
        assert done.stdout == f"Answer: {499_500 * 2}\n"

    def test_parts_that_an_outcome_does_not_mention_are_handed_out_again(self, monkeypatch):
        from pymar.engines.cluster import producer
        from pymar.engines.cluster.worker import Outcome

        read, times = producer.read, iter(range(1_000))
        monkeypatch.setattr(producer, "read", lambda data: read(data) if next(times) else Outcome([], []))
        assert self.compute(Total) == 499_500

    def test_a_module_that_the_workers_lack_is_named(self, tmp_path, script):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "edited.py").write_text("def scaled(number):\n    return number\n")
        (tmp_path / ".pymarignore").write_text("edited.py\n")
        code = HIDDEN.replace("FOLDER", repr(str(tmp_path / "elsewhere"))) + SCRIPT.replace(
            "ENGINE", repr(self.address())
        )
        done = script(code, check=False, **self.environ)
        assert "the module edited" in done.stderr
        assert "install it on the workers" in done.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_and_a_signal_end_all_with_one_line(self, tmp_path, number):
        begun = tmp_path / "begun"
        code = f"from cluster_jobs import *\nWaiting.marker, Waiting.release = {str(begun)!r}, 'never'\n"
        code += f"Waiting(engine={self.address()!r}).map(DataSourceFactory(Numbers))"
        environ = {
            **os.environ,
            **self.environ,
            "PYTHONPATH": MODULES,
        }
        with subprocess.Popen([sys.executable, "-c", code], env=environ, stderr=subprocess.PIPE, text=True) as producer:
            wait_until(begun.exists, "the part")
            producer.send_signal(number)
            _, err = producer.communicate(timeout=PATIENCE)
        assert producer.returncode not in (0, None), err
        assert number == signal.SIGINT or producer.returncode == 128 + number
        says = "Waiting: interrupted" if number == signal.SIGINT else "SIGTERM ends the script; Waiting"
        assert re.fullmatch(rf"{says}.*\d+ parts.*", err.strip().splitlines()[-1]), err
        assert "Traceback" not in err
        pid = int(begun.read_text())
        wait_until(lambda: not is_running(pid), "the end of the part")

    #: Environment variables with which a process reaches the cluster.
    environ: ClassVar[dict[str, str]] = {}

    def address(self):
        """Return the engine as a string that another process can use."""
        raise NotImplementedError


#: A module that only this process can import.
HIDDEN = """
import sys
from importlib.util import spec_from_file_location

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return spec_from_file_location(name, FOLDER + "/edited.py") if name == "edited" else None

sys.meta_path.append(Finder)
"""

SCRIPT = """
import edited
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer

class Scaling(Producer):
    WORKERS_NUMBER = 10

    @staticmethod
    def map_fn(data_source):
        return map(edited.scaled, data_source)

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)

print("Answer:", Scaling(engine=ENGINE).map(DataSourceFactory(range(1_000))))
"""

#: Two jobs at once, before anything has connected to the cluster.
TWO_FIRST_JOBS = """
from pymar import DataSourceFactory, Producer

class Total(Producer):
    WORKERS_NUMBER = 2
    @staticmethod
    def map_fn(data_source):
        return [sum(data_source)]
    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)

first = Total(engine=ENGINE).submit(DataSourceFactory(range(10)))
second = Total(engine=ENGINE).submit(DataSourceFactory(range(5)))
print(first.result(), second.result())
"""
