"""The contract on a Dask cluster of two processes, and what only Dask can do to a job."""

import os
import re
import signal
import subprocess
import sys
from functools import partial
from importlib.util import find_spec

import pytest
from cluster_jobs import MODULES, TWO_FIRST_JOBS, OnACluster, Waiting
from conftest import PATIENCE, is_running, need, wait_until

from pymar.datasource import DataSourceFactory
from pymar.engines.cluster.worker import Outcome, compute
from pymar.events import JobProgress
from pymar.exceptions import ClusterLost, ClusterRefused, UsageError
from pymar.parts import Joined, Left, Running
from pymar.testing import Numbers, Total

need(find_spec("distributed"), "distributed (pip install 'pymar[dask]')")
from distributed import Client, LocalCluster  # noqa: E402 - only if it is there


def local_cluster(folder, workers, threads=1):
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        dashboard_address="127.0.0.1:0",
        local_directory=str(folder),
        host="127.0.0.1",
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with local_cluster(tmp_path_factory.mktemp("dask"), 2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with Client(cluster, set_as_default=False) as client:
        yield client


def out_of_files(fetch, batch, where, slots, is_wanted):
    raise OSError(24, "Too many open files")


def returned(value, fetch, batch, where, slots, is_wanted):
    return value


def _set_compute(function):
    from pymar.engines import dask as engine

    engine.compute = function


@pytest.fixture
def workers_compute(client):
    """Have the cluster's workers call another function for each batch."""
    client.wait_for_workers(2)  # one that a test has killed is back
    yield lambda function: client.run(_set_compute, function)
    client.run(_set_compute, compute)


class TestDask(OnACluster):
    @pytest.fixture(autouse=True)
    def _client(self, cluster, client):
        client.wait_for_workers(2)  # one that a test has killed is back
        self.cluster, self.client = cluster, client

    def engine(self):
        return self.client

    def address(self):
        return self.cluster.scheduler_address.replace("tcp://", "dask://")

    def test_a_string_names_the_scheduler(self):
        assert Total(engine=self.address()).map(DataSourceFactory(Numbers)) == 499_500

    def test_without_an_address_it_is_the_client_of_this_process(self):
        with self.client.as_current():
            assert Total(engine="dask://").map(DataSourceFactory(Numbers)) == 499_500

    def test_a_fork_of_the_producer_has_a_client_of_its_own(self, script):
        code = f"""
import os
from pymar import DataSourceFactory, Producer

class Total(Producer):
    map_fn = staticmethod(list)
    reduce_fn = staticmethod(sum)

def run():
    print(Total(engine={self.address()!r}).map(DataSourceFactory(range(1_000))), flush=True)

run()
pid = os.fork()
if not pid:
    run()
    os._exit(0)
os.waitpid(pid, 0)
"""
        assert script(code).stdout == "499500\n499500\n"

    def test_an_error_of_the_task_itself_ends_the_job(self, workers_compute):
        workers_compute(out_of_files)
        error = self.failure(Total, ClusterRefused)
        assert "Too many open files" in str(error)

    def test_dasks_settings_are_left_as_they_were(self):
        import dask

        before = dask.config.get("distributed.admin.large-graph-warning-threshold")
        futures = [Total(engine=self.client).submit(DataSourceFactory(Numbers)) for _ in range(4)]
        assert [future.result(PATIENCE) for future in futures] == [499_500] * 4
        assert dask.config.get("distributed.admin.large-graph-warning-threshold") == before

    def test_a_producer_that_is_killed_leaves_nothing_running(self, tmp_path, monkeypatch):
        code = f"from cluster_jobs import *\nWaiting.marker, Waiting.release = {str(tmp_path / 'begun')!r}, 'never'\n"
        code += f"Waiting(engine={self.address()!r}).map(DataSourceFactory(Numbers))"
        environ = {**os.environ, "PYTHONPATH": MODULES}
        with subprocess.Popen([sys.executable, "-c", code], env=environ) as producer:
            wait_until((tmp_path / "begun").exists, "the part")
            producer.send_signal(signal.SIGKILL)
        pid = int((tmp_path / "begun").read_text())
        wait_until(lambda: not is_running(pid), "the end of the part")


def test_the_cluster_restarts_in_the_middle(tmp_path, monkeypatch):
    """One of its own: a nanny of Dask's sometimes ends with the worker that it was to start again."""
    monkeypatch.setattr(Waiting, "marker", str(tmp_path / "begun"))
    monkeypatch.setattr(Waiting, "release", str(tmp_path / "go"))
    with local_cluster(tmp_path, 2) as cluster, Client(cluster, set_as_default=False) as client:
        future = Waiting(engine=client).submit(DataSourceFactory(Numbers))
        wait_until((tmp_path / "begun").exists, "the part")
        before = set(client.scheduler_info()["workers"])
        client.restart(wait_for_workers=False)
        wait_until(lambda: set(client.scheduler_info()["workers"]) - before, "a worker that is back")
        (tmp_path / "go").touch()
        assert future.result(PATIENCE) == 499_500


def test_workers_that_join_and_leave_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("pymar.engines.cluster.producer.LOOK_EVERY", 0.1)
    monkeypatch.setattr(Waiting, "marker", str(tmp_path / "begun"))
    monkeypatch.setattr(Waiting, "release", str(tmp_path / "go"))
    events = []

    def kinds(kind):
        return [event for event in events if isinstance(event, kind)]

    with local_cluster(tmp_path, 0) as cluster, Client(cluster, set_as_default=False) as client:
        future = Waiting(engine=client, listeners=[events.append]).submit(DataSourceFactory(Numbers))
        cluster.scale(1)
        wait_until(lambda: len(kinds(Joined)) == 1, "a worker")
        cluster.scale(2)
        wait_until(lambda: kinds(JobProgress) and kinds(JobProgress)[-1].slots == 2, "two workers")
        wait_until((tmp_path / "begun").exists, "the part")
        cluster.scale(1)
        wait_until(lambda: kinds(Left), "the one that leaves")
        (tmp_path / "go").touch()
        assert future.result(PATIENCE) == 499_500


def test_a_job_waits_for_workers_and_logs_that(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("pymar.engines.cluster.producer.WARN_WAITING_AFTER", 0.2)
    monkeypatch.setattr("pymar.engines.cluster.producer.LOOK_EVERY", 0.1)
    with local_cluster(tmp_path, 0) as cluster, Client(cluster, set_as_default=False) as client:
        future = Total(engine=client).submit(DataSourceFactory(Numbers))
        wait_until(lambda: "has no workers" in caplog.text, "the warning")
        cluster.scale(1)
        assert future.result(PATIENCE) == 499_500


def test_workers_with_threads_compute_in_processes(tmp_path):
    with local_cluster(tmp_path, 1, threads=3) as cluster, Client(cluster, set_as_default=False) as client:
        contract = OnACluster()
        contract.engine = lambda: client
        contract.test_a_part_draws_the_same_numbers_wherever_it_runs()


def test_a_scheduler_that_dies_ends_the_job_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Waiting, "marker", str(tmp_path / "begun"))
    monkeypatch.setattr(Waiting, "release", "never")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen([*command, "--no-dashboard"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as scheduler:
        address = next(filter(None, (re.search(r"Scheduler at: *(tcp://\S+)", line) for line in scheduler.stderr)))[1]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
        with subprocess.Popen([*worker, "--no-dashboard"], cwd=tmp_path, stderr=subprocess.DEVNULL) as one:
            with Client(address, set_as_default=False, timeout=1) as client:
                future = Waiting(engine=client).submit(DataSourceFactory(Numbers))
                wait_until((tmp_path / "begun").exists, "the part")
                scheduler.kill()
                with pytest.raises(ClusterLost, match="checkpoint="):
                    future.result(PATIENCE)
            one.kill()


def test_a_scheduler_that_is_not_there_is_named():
    with pytest.raises(ClusterRefused, match=r"tcp://127\.0\.0\.1:9"):
        Total(engine="dask://127.0.0.1:9").map(DataSourceFactory(Numbers))


def test_no_client_at_all_is_an_error(monkeypatch):
    with pytest.raises(UsageError, match="dask://HOST:PORT"):
        Total(engine="dask://").map(DataSourceFactory(Numbers))


def test_an_address_that_is_none_is_an_error_at_once_and_repeats_no_password():
    for address in ("127.0.0.1", "127.0.0.1:x", "me:secret@127.0.0.1:8786", ""):
        with pytest.raises(UsageError, match="HOST:PORT") as caught:
            Total(engine=f"dask://{address}").map(DataSourceFactory(Numbers))
        assert "secret" not in str(caught.value)


OPEN_AT_THE_END = """
from pymar import DataSourceFactory, Producer

class Slow(Producer):
    WORKERS_NUMBER = 6
    @staticmethod
    def map_fn(data_source):
        import time
        for number in data_source:
            time.sleep(0.5)  # the work of a part: others still run when the first is done
            yield number
    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)

found = Slow(engine=ENGINE).partials(DataSourceFactory(range(6)))
print("first", next(found) >= 0)
"""


def test_an_iterator_that_is_open_at_the_end_of_the_script_does_not_hold_it_up(cluster, script):
    address = cluster.scheduler_address.replace("tcp://", "dask://")
    done = script(OPEN_AT_THE_END.replace("ENGINE", repr(address)))
    assert done.stdout == "first True\n"
    assert "the script has ended while Slow ran" in done.stderr


def test_threads_that_need_the_first_client_share_it(cluster, script):
    address = cluster.scheduler_address.replace("tcp://", "dask://")
    code = TWO_FIRST_JOBS.replace("ENGINE", repr(address)) + "from pymar.engines import dask\nprint(len(dask._clients))"
    assert script(code).stdout == "45 10\n1\n"


def test_a_client_in_a_fork_of_its_process_is_an_error(cluster, script, monkeypatch):
    code = f"""
import os, sys
from distributed import Client
from pymar import DataSourceFactory, Producer
from pymar.engines import dask

dask.FIRST_PATIENCE = 0.5

class Total(Producer):
    map_fn = staticmethod(list)
    reduce_fn = staticmethod(sum)

client = Client({cluster.scheduler_address!r})
pid = os.fork()
if not pid:
    try:
        Total(engine=client).map(DataSourceFactory(range(10)))
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
    printed = script(code).stdout
    assert printed.startswith("ClusterRefused")
    assert "fork" in printed
    assert "dask://HOST:PORT" in printed


@pytest.mark.parametrize("other", [Running(3, "a worker"), 5], ids=["a report", "none at all"])
def test_what_a_cluster_reports_and_nobody_understands_is_an_error(client, monkeypatch, other):
    monkeypatch.setattr("pymar.engines.cluster.producer.read", lambda data: Outcome([], [other]))
    with pytest.raises(ClusterRefused, match="what no job understands"):
        Total(engine=client).map(DataSourceFactory(Numbers))


@pytest.mark.parametrize("ending", [b"junk", b"", 5, None.__class__], ids=repr)
def test_what_a_task_returns_and_nobody_can_read_is_an_error(client, workers_compute, ending):
    workers_compute(partial(returned, ending))
    with pytest.raises(ClusterRefused, match=r"cannot be read here|cannot compute parts"):
        Total(engine=client).map(DataSourceFactory(Numbers))
