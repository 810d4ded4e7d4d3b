"""The contract on a Ray cluster of this host, and what only Ray can do to a job."""

import gc
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec

import pytest
from cluster_jobs import MODULES, TWO_FIRST_JOBS, OnACluster, Waiting
from conftest import PATIENCE, free_port, is_running, is_stopped, need, wait_until

from pymar.datasource import DataSourceFactory
from pymar.engines.cluster.package import EncodedPackage
from pymar.events import JobProgress
from pymar.exceptions import ClusterLost, ClusterRefused, UsageError
from pymar.parts import Joined, Left
from pymar.serialization.values import dumps
from pymar.testing import Numbers, Total

need(find_spec("ray"), "ray (pip install 'pymar[ray]')")
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
os.environ |= QUIET
import ray  # noqa: E402 - only if it is there, and once it is quiet
from ray.cluster_utils import Cluster  # noqa: E402

from pymar.engines.ray import RayTasks  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),  # of Ray's own code
]


@pytest.fixture(scope="module")
def folder():
    """Short: Ray has sockets there, whose paths may have 107 characters."""
    path = tempfile.mkdtemp(prefix="pymar-ray-", dir="/tmp")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _what_is_left():
    yield
    gc.collect()  # here, where warnings about what Ray leaves open are ignored, not in some other test


class TestRay(OnACluster):
    @pytest.fixture(scope="class", autouse=True)
    def _cluster(self, folder):
        ray.init(num_cpus=2, include_dashboard=False, logging_level="WARNING", log_to_driver=False, _temp_dir=folder)
        type(self).environ = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        yield
        ray.shutdown()

    def engine(self):
        return "ray://"

    def address(self):
        return "ray://"

    def test_a_producer_that_is_killed_leaves_nothing_running(self, tmp_path):
        pid = killed_in_the_middle(self.address(), tmp_path, self.environ)
        wait_until(lambda: not is_running(pid), "the end of the part", patience=10)

    def test_two_jobs_that_both_need_the_first_connection_share_it(self, script):
        assert script(TWO_FIRST_JOBS.replace("ENGINE", "'ray://'"), **self.environ).stdout == "45 10\n"

    def test_a_fork_of_a_connected_process_is_refused(self, script):
        done = script(TWO_FIRST_JOBS.replace("ENGINE", "'ray://'") + FORK, **self.environ)
        assert re.search("^UsageError .*fork.*Ray", done.stdout, re.MULTILINE)


FORK = """
import os
pid = os.fork()
if not pid:
    try:
        Total(engine="ray://").map(DataSourceFactory(range(10)))
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


def killed_in_the_middle(address, tmp_path, environ):
    """Kill a producer while a part runs; the part's process."""
    code = f"from cluster_jobs import *\nWaiting.marker, Waiting.release = {str(tmp_path / 'begun')!r}, 'never'\n"
    code += f"Waiting(engine={address!r}).map(DataSourceFactory(Numbers))"
    environ = {**os.environ, **environ, "PYTHONPATH": MODULES}
    with subprocess.Popen([sys.executable, "-c", code], env=environ) as producer:
        wait_until((tmp_path / "begun").exists, "the part")
        producer.send_signal(signal.SIGKILL)
    return int((tmp_path / "begun").read_text())


def test_nodes_that_join_and_leave_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("pymar.engines.cluster.producer.LOOK_EVERY", 0.1)
    monkeypatch.setattr(Waiting, "marker", str(tmp_path / "begun"))
    monkeypatch.setattr(Waiting, "release", str(tmp_path / "go"))
    events = []

    def kinds(kind):
        return [event for event in events if isinstance(event, kind)]

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(cluster.address, logging_level="WARNING", log_to_driver=False)
        node = cluster.add_node(num_cpus=1)
        future = Waiting(engine="ray://", listeners=[events.append]).submit(DataSourceFactory(Numbers))
        wait_until((tmp_path / "begun").exists, "the part")
        cluster.add_node(num_cpus=1)
        wait_until(lambda: kinds(JobProgress)[-1].slots == 2, "two nodes")
        cluster.remove_node(node, allow_graceful=False)
        wait_until(lambda: kinds(Left), "the one that leaves")
        (tmp_path / "go").touch()
        assert future.result(PATIENCE) == 499_500
        assert len(kinds(Joined)) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()


#: A cluster that other hosts may connect to, until its stdin is closed.
SERVER = """
import sys
import ray
from ray.util.client.server.server import serve
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1])
server = serve("127.0.0.1", int(sys.argv[2]))
sys.stdin.read()
server.stop(0)
ray.shutdown()
"""


class TestAnotherHost:
    """Through Ray's own client, as from a host that is not part of the cluster."""

    @pytest.fixture(scope="class")
    def server(self, folder):
        """The process that takes clients, and its port."""
        port = free_port()
        with subprocess.Popen([sys.executable, "-c", SERVER, folder, str(port)], stdin=subprocess.PIPE) as server:
            wait_until(lambda: answers(port), "Ray's server for clients")
            yield server, port
            server.stdin.close()

    @pytest.fixture(scope="class")
    def engine(self, server):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "2")  # seconds; its client tries for thirty
            yield f"ray://127.0.0.1:{server[1]}"
            ray.shutdown()  # once: the server ends its cluster when the last client leaves

    def test_the_answer_is_the_same(self, engine):
        assert Total(engine=engine).map(DataSourceFactory(Numbers)) == 499_500

    def test_closing_early_stops_what_runs(self, engine, tmp_path, monkeypatch):
        contract = OnACluster()
        contract.engine = lambda: engine
        contract.test_closing_early_stops_what_runs(tmp_path, monkeypatch)

    def test_a_head_that_dies_ends_the_job_with_an_error(self, engine, server, tmp_path, monkeypatch):
        """The last one of these: nothing answers there any more."""
        monkeypatch.setattr(Waiting, "marker", str(tmp_path / "begun"))
        monkeypatch.setattr(Waiting, "release", str(tmp_path / "never"))
        future = Waiting(engine=engine).submit(DataSourceFactory(Numbers))
        wait_until((tmp_path / "begun").exists, "the part")
        tasks = RayTasks(EncodedPackage(b"", b"", dumps, None), "a job")
        tasks.send(b"")  # Ray's client knows the function from now on, and waits for nothing but a task's id
        server[0].send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(server[0].pid), "the server to stop")
        threading.Timer(0.3, server[0].kill).start()
        with pytest.raises(ClusterLost, match="checkpoint="):
            tasks.send(b"")
        with pytest.raises(ClusterLost, match="checkpoint="):
            future.result(PATIENCE)


def answers(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_a_cluster_that_is_not_there_is_named():
    with pytest.raises(ClusterRefused, match=r"ray://127\.0\.0\.1:9: .*`ray start --head`"):
        Total(engine="ray://127.0.0.1:9").map(DataSourceFactory(Numbers))


def test_an_address_that_is_none_is_an_error_at_once_and_repeats_no_password():
    for address in ("127.0.0.1", "127.0.0.1:x", "me:secret@127.0.0.1:10001"):
        with pytest.raises(UsageError, match="HOST:PORT") as caught:
            Total(engine=f"ray://{address}").map(DataSourceFactory(Numbers))
        assert "secret" not in str(caught.value)
