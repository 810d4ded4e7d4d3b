"""The broker of `pymar up` dies: its keeper starts it again, and no part is lost or counted twice."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pika
import pytest
from clusters import SLOW, SUM, clusters, folder, ours, some, up
from conftest import is_running, wait_until
from places import ROOT

from pymar.amqp import cluster
from pymar.amqp.cluster import Cluster
from pymar.amqp.link.client import connected
from pymar.exceptions import UsageError
from pymar.hosts import background, keeper
from pymar.hosts import broker as brokers
from pymar.hosts.up import Options, down, locked, wait_for_broker

#: A module that runs until SIGTERM.
SLEEPER = "import sys, time\nprint(sys.argv[1:], flush=True)\nwhile True: time.sleep(1)\n"


# The node alone.


@pytest.fixture
def node(tmp_path):
    one = brokers.start(tmp_path / "broker")
    yield one
    brokers.stop(tmp_path / "broker")


def taken(port):
    """Listen at a port, once the node that was killed has closed it."""

    def server():
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))

    return wait_until(server, "the port to be free")


def die(pid):
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the process to end")


def test_again_it_has_its_address_its_password_its_queues_and_their_messages(node):
    folder = Path(node.folder)
    with contextlib.closing(connected(node.address)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("pymar.work.x", durable=True)
        channel.basic_publish("", "pymar.work.x", b"part", pika.BasicProperties(delivery_mode=2), mandatory=True)
    die(node.pid)
    one = brokers.again(folder)
    assert one._replace(pid=node.pid) == node
    assert brokers.find(folder) == one
    with contextlib.closing(connected(one.address)) as connection:
        assert connection.channel().basic_get("pymar.work.x", auto_ack=True)[2] == b"part"
    # One that runs is left alone.
    assert brokers.again(folder) == one


def test_a_port_that_another_program_has_taken_is_named_with_it_and_the_data_stay(node, monkeypatch):
    monkeypatch.setattr(brokers, "PORT_PATIENCE", 0.1)
    folder = Path(node.folder)
    die(node.pid)
    with taken(node.port), pytest.raises(UsageError, match=f"process {os.getpid()}"):
        brokers.again(folder)
    assert brokers.again(folder).port == node.port


def test_a_node_of_another_host_with_the_same_home_is_not_started_here(tmp_path):
    one = brokers.Broker("127.0.0.1", brokers.free_port(False), "user", "password", False, "", 1, str(tmp_path))
    brokers.write(tmp_path / "broker.json", json.dumps({**one._asdict(), "began": 1, "started_on": "node7"}).encode())
    with pytest.raises(UsageError, match="started on the host node7"):
        brokers.again(tmp_path)


def test_what_was_never_started_is_not_started_again(tmp_path):
    with pytest.raises(UsageError, match="no broker was started"):
        brokers.again(tmp_path / "broker")
    assert not (tmp_path / "broker").exists()


def test_a_node_that_dies_again_and_again_is_started_after_growing_pauses():
    pauses = [0.0]
    for _ in range(8):
        pauses.append(keeper.pause_after(5.0, pauses[-1]))
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert keeper.pause_after(60.0, pauses[-1]) == 0


# Processes that are found by their arguments.


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    """Starts processes of a module of its own."""
    (tmp_path / "a_sleeper.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT / 'src'}")
    started = []

    def start(pool, *words):
        with open(tmp_path / "said", "a") as output:
            started.append(background.start("a_sleeper", pool, words, tmp_path, output))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def test_processes_are_found_by_module_and_pool(sleeper):
    one, other = sleeper("default-1234", "x y"), sleeper("default-12345")
    assert [*background.found("a_sleeper", "default-1234")] == [one.pid]
    background.end("a_sleeper", "default-1234")
    assert one.wait() == -signal.SIGTERM
    assert other.poll() is None


def test_one_that_ignores_sigterm_is_killed(sleeper, monkeypatch):
    monkeypatch.setattr(background, "_ENDS", 0.2)
    one = sleeper("default-1")
    one.send_signal(signal.SIGSTOP)
    background.end("a_sleeper", "default-1")
    assert one.wait() == -signal.SIGKILL


def test_processes_of_another_user_are_never_matched(sleeper, monkeypatch):
    one = sleeper("default-1")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert background.found("a_sleeper", "default-1") == {}
    background.end("a_sleeper", "default-1")
    assert one.poll() is None


# A cluster without workers.


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A cluster with a broker and a keeper; it is taken down, and then nothing of it runs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("PYMAR_CLUSTER", "default")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    one = Cluster("default", os.urandom(4).hex(), "", "k" * 32, 0.0, True, [], Options()._asdict(), {})
    cluster.write(one)
    node = brokers.start(one.folder / "broker")
    one = one._replace(url=node.url("127.0.0.1"))
    cluster.write(one)
    keeper.start(one)
    yield one
    if cluster.names():
        down("default", 0.0, say=print)
    assert keepers(one) == []
    while keeper._started:
        keeper._started.pop().wait()
    assert [path.name for path in one.folder.parent.iterdir() if path.name.startswith("default")] == ["default.lock"]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", node.port))


def keepers(made):
    return [*background.found("pymar.hosts.keeper", made.pool)]


def node_of(made):
    return brokers.find(made.folder / "broker")


def log_of(made):
    return (made.folder / "keeper.log").read_text()


def wait_for_another(made, pid):
    wait_until(lambda: (one := node_of(made)) and one.pid != pid, "the broker to be started again")


def test_a_job_that_begins_while_the_broker_is_being_started_again_waits_for_it(made):
    before = node_of(made)
    die(before.pid)
    engine, name = cluster.engine_that_is_up()
    assert (name, engine.address.port) == ("default", before.port)
    assert f"process {before.pid}) has ended" in log_of(made)


def test_a_keeper_that_died_alone_is_replaced_by_the_next_command(made):
    node = node_of(made)
    die(*keepers(made))
    said = []
    for _ in range(2):
        wait_for_broker(made, say=said.append)
    assert len(said) == len(keepers(made)) == 1
    assert node_of(made) == node


def test_no_keeper_is_started_while_another_command_works_on_the_cluster(made):
    die(*keepers(made))
    with locked("default"):
        wait_for_broker(made, say=print)
    assert keepers(made) == []


def test_down_leaves_nothing_while_the_node_is_being_started_again(made):
    die(node_of(made).pid)
    wait_until(lambda: "beam.smp" in running_in(made.folder / "broker"), "the node to begin")
    assert node_of(made) is None
    down("default", 0.0, say=print)


def running_in(folder):
    names = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"={folder}\0".encode() in path.read_bytes():
                names.add((path.parent / "comm").read_text().strip())
    return names


def test_down_leaves_nothing_of_two_keepers_one_of_them_frozen(made, monkeypatch):
    monkeypatch.setattr(background, "_ENDS", 1.0)
    with open(made.folder / "keeper.log", "a") as output:
        second = background.start("pymar.hosts.keeper", made.pool, [str(made.folder)], made.folder, output)
    before = node_of(made)
    os.kill(min(keepers(made)), signal.SIGSTOP)
    die(before.pid)
    wait_for_another(made, before.pid)
    down("default", 0.0, say=print)
    second.wait()


def test_a_port_that_is_taken_for_good_is_named_by_the_log_and_by_commands(made, monkeypatch):
    monkeypatch.setattr(keeper, "PATIENCE", 6.0)
    node = node_of(made)
    die(*keepers(made))
    die(node.pid)
    with taken(node.port):
        with pytest.raises(UsageError, match="does not start again") as raised:
            wait_for_broker(made, say=print)
        said = rf"its port, {node.port}, is taken by .*process {os.getpid()}"
        assert re.search(said, log_of(made))
        assert re.search(rf"{said}.*pymar down --name default", str(raised.value))


def test_a_keeper_ends_once_its_cluster_is_not_up(made):
    (pid,) = keepers(made)
    node = node_of(made)
    (made.folder / "cluster.json").rename(made.folder / "aside")
    wait_until(lambda: not is_running(pid), "the keeper to end")
    assert node_of(made) == node
    (made.folder / "aside").rename(made.folder / "cluster.json")


# A cluster with workers.


def broker_of(hosts):
    return brokers.find(folder(hosts) / "default" / "broker")


def test_a_broker_that_is_killed_in_the_middle_of_a_job_costs_no_part_and_no_part_counts_twice(
    hosts, pymar, begun, tmp_path
):
    nodes = some(hosts, 2)
    up(pymar, "-H", "node[1-2]/2")
    code = textwrap.dedent(SLOW).replace("time.sleep(0.1)", f"time.sleep(0.1); note({str(hosts.shared)!r}, number)")
    note = "def note(folder, number): open(f'{folder}/{number}', 'w').close()\n"
    (tmp_path / "job.py").write_text(f"{note}{code}print(len(answers))\n")
    job = begun(sys.executable, tmp_path / "job.py", stdout=subprocess.PIPE)
    wait_until(lambda: len(list(hosts.shared.iterdir())) > 5, "some parts")
    before = broker_of(hosts).pid
    die(before)
    assert job.wait(90) == 0
    assert job.stdout.read().split() == ["780", "node1", "node2", "40"]
    assert broker_of(hosts).pid != before
    log = (folder(hosts) / "default" / "keeper.log").read_text()
    assert f"process {before}) has ended" in log
    assert "started again" in log
    pymar("down")
    assert ([node.processes() for node in nodes], ours(hosts), clusters(hosts)) == ([[], []], [], [])


def test_without_a_keeper_a_job_is_told_and_status_starts_both_again(hosts, pymar):
    some(hosts, 1)
    up(pymar, "-H", "node1")
    (pid,) = [int(line.split()[0]) for line in ours(hosts) if "pymar.hosts.keeper" in line]
    before = broker_of(hosts).pid
    die(pid)
    die(before)
    said = hosts.run(sys.executable, "-c", SUM).stderr
    assert "has ended, and so has its keeper: pymar status starts both" in said
    assert "pymar down --name default" in said
    assert "started again" in pymar("status", check=False).stderr
    assert broker_of(hosts).pid != before
    wait_until(lambda: "1 workers" in pymar("status", check=False).stdout, "the worker to come back")
    pymar("down")
    assert (ours(hosts), clusters(hosts)) == ([], [])


def test_after_a_reboot_down_ends_no_process_that_has_an_old_number(hosts, pymar, begun):
    up(pymar, "-H", "localhost")
    stranger = begun("sleep", "1000")
    for line in ours(hosts):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    wait_until(lambda: ours(hosts) == [], "all processes to end")
    record = folder(hosts) / "default" / "broker" / "broker.json"
    fields = Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()
    record.write_text(json.dumps({**json.loads(record.read_text()), "pid": stranger.pid, "began": int(fields[19])}))
    for path in folder(hosts).glob("default-*/pid"):
        path.write_text(str(stranger.pid))
    pymar("down")
    assert stranger.poll() is None
    assert (ours(hosts), clusters(hosts)) == ([], [])
    assert sorted(path.name for path in folder(hosts).iterdir()) == ["default.lock"]
