"""`pymar up`, `add`, `remove` and `down`, by the system's ssh, on hosts with processes and a home of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from clusters import ANSWER, BARE, SLOW, SOURCE, SUM, clusters, folder, ours, some, state, up
from conftest import is_running, wait_until
from sshd import NONE


@pytest.fixture
def python(hosts, tmp_path):
    """Run a script as that user."""

    def run(code, **options):
        (tmp_path / "job.py").write_text(textwrap.dedent(code))
        done = hosts.run(sys.executable, tmp_path / "job.py", **{"timeout": 100, **options})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


# From nothing to the answer, and back to nothing.


def test_two_commands_from_nothing_to_the_answer_and_one_that_leaves_nothing(hosts, pymar, python):
    nodes = some(hosts, 4)
    said = up(pymar, "-H", "node[1-4]").stdout
    assert len(re.findall(r"^node\d  Python 3\.\d+\.\d+, Pymar \S+, \d+ slots of \d+ cores", said, re.MULTILINE)) == 4
    assert python(SUM) == str(ANSWER)
    record = state(hosts)
    secrets = [record["key"], record["url"].partition("://")[2].partition("@")[0].partition(":")[2]]
    assert all(len(secret) > 20 for secret in secrets)
    for node in nodes:
        everything = "\n".join([*node.processes(), node.run("ps axeww").stdout])
        assert "pymar worker --pool default-" in everything
        assert not [secret for secret in secrets if secret in everything]
    assert not [secret for secret in secrets if secret in subprocess.check_output(["ps", "axeww"], text=True)]
    pymar("down")
    assert [node.processes() for node in nodes] == [[], [], [], []]
    assert [list((node.home / ".local/state/pymar").iterdir()) for node in nodes] == [[], [], [], []]
    assert ours(hosts) == []
    assert [path.name for path in folder(hosts).iterdir()] == ["default.lock"]


def test_a_job_uses_all_hosts_and_the_log_says_which_cluster(hosts, pymar, python):
    some(hosts, 2)
    up(pymar, "-H", "node[1-2]/2")
    assert python(SLOW) == "780 node1 node2"
    said = hosts.run(sys.executable, "-c", f"import logging; logging.basicConfig(level=20)\n{SUM}").stderr
    assert "the cluster 'default' is up" in said


def test_the_state_file_is_for_its_owner_only(hosts, pymar):
    some(hosts, 1)
    up(pymar, "-H", "node1")
    path = folder(hosts) / "default" / "cluster.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert "others may read or write" in pymar("status", check=False).stderr
    path.chmod(0o600)


def test_status_finds_the_cluster(hosts, pymar):
    some(hosts, 1)
    up(pymar, "-H", "node1/3")
    assert "1 workers, 3 slots" in pymar("status").stdout


def test_status_names_a_host_whose_worker_does_not_answer(hosts, pymar):
    nodes = some(hosts, 2)
    up(pymar, "-H", "node[1-2]", "--name", "mine")
    nodes[1].run("pkill -9 -f 'pymar worker'")
    said = pymar("status", "--name", "mine").stdout
    assert "node2: its worker does not answer: pymar logs node2 says why" in said
    assert "node1: its worker" not in said


def test_an_environment_is_made_once_also_for_two_hosts_with_one_home(hosts, pymar, python):
    one = hosts.host("node1", internet=True)
    hosts.host("node2", internet=True, home=one.home)
    said = pymar("up", "-H", "node[1-2]").stdout
    assert said.count("will be installed") == 2
    assert python(SUM) == str(ANSWER)
    assert len([path for path in (one.home / ".cache/pymar/environments").iterdir() if path.is_dir()]) == 1
    pymar("down")
    assert "installed" not in pymar("up", "-H", "node1").stdout


def test_packages_of_a_file_are_installed(hosts, pymar, python, tmp_path):
    hosts.host("node1", internet=True)
    (tmp_path / "needed.txt").write_text("iniconfig  # small\n")
    pymar("up", "-H", "node1", "--requirements", tmp_path / "needed.txt")
    assert python("import pymar\nprint(pymar.map(lambda _: __import__('iniconfig').__name__, [1]))") == "['iniconfig']"


def test_a_package_that_no_index_has_is_named(hosts, pymar, tmp_path):
    hosts.host("node1", internet=True)
    (tmp_path / "needed.txt").write_text("no-such-package-of-pymar\n")
    done = pymar("up", "-H", "node1", "--requirements", tmp_path / "needed.txt", check=False)
    assert re.search(r"node1  failed at packages: .*no-such-package-of-pymar", done.stdout)
    assert done.returncode == 1


def test_a_file_of_this_host_in_the_requirements_is_refused(pymar, tmp_path):
    (tmp_path / "needed.txt").write_text("-e .\n")
    done = pymar("up", "-H", "localhost", "--requirements", tmp_path / "needed.txt", check=False)
    assert "line 1: '-e .' is a file of this host" in done.stderr


def test_hosts_are_added_and_removed(hosts, pymar):
    nodes = some(hosts, 3)
    up(pymar, "-H", "node1")
    pymar("add", "node2", "node3/5")
    assert sorted(one["slots_used"] for one in state(hosts)["hosts"] if one["name"] == "node3") == [5]
    assert "3 workers" in pymar("status").stdout
    pymar("remove", "node1")
    assert nodes[0].processes() == []
    assert "2 workers" in pymar("status").stdout
    assert "no host of the cluster" in pymar("remove", "node1", check=False).stderr
    assert "part of the cluster 'default' already" in pymar("add", "node2", check=False).stderr


def test_the_log_of_a_worker_is_shown(hosts, pymar, python):
    some(hosts, 2)
    up(pymar, "-H", "node[1-2]")
    assert "connected to amqps://" in pymar("logs", "node1").stdout
    assert re.search(r"^node2: .*connected to", pymar("logs").stdout, re.MULTILINE)


def test_foreground_ends_all_with_ctrl_c(hosts, pymar, begun):
    (node,) = some(hosts, 1)
    process = begun(sys.executable, "-m", "pymar", "up", *BARE, "-H", "node1", "--foreground", stdout=subprocess.PIPE)
    while "Ctrl-C ends it" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert node.processes() == []
    assert (ours(hosts), clusters(hosts)) == ([], [])


def test_idle_workers_end(hosts, pymar):
    (node,) = some(hosts, 1)
    up(pymar, "-H", "node1", "--idle", "0.2")
    wait_until(lambda: node.processes() == [], "the idle worker to end")


def test_doctor_says_of_a_file_that_the_cluster_computes_it(hosts, pymar, tmp_path):
    some(hosts, 1)
    up(pymar, "-H", "node1")
    (tmp_path / "job.py").write_text(SUM)
    assert "workers with" in pymar("doctor", tmp_path / "job.py").stdout


def test_a_package_that_workers_lack_is_named_with_what_installs_it(hosts, pymar):
    some(hosts, 1)
    up(pymar, "-H", "node1")
    done = hosts.run(sys.executable, "-c", "import pymar\npymar.map(lambda _: __import__('no_such_package'), [1])")
    assert "The workers have no no_such_package: pymar down, and pymar up with --requirements FILE" in done.stderr


def test_a_traceback_has_the_lines_of_the_script(hosts, pymar, tmp_path):
    some(hosts, 1)
    up(pymar, "-H", "node1")
    (tmp_path / "job.py").write_text("import pymar\n\ndef f(x):\n    return 1 / x  # here\n\npymar.map(f, [0])\n")
    said = hosts.run(sys.executable, tmp_path / "job.py").stderr
    assert re.search(r'On the worker:\n.*\n  File ".*job.py", line 4, in f\n    return 1 / x  # here\n', said), said


def test_a_host_that_is_gone_is_forgotten(hosts, pymar):
    nodes = some(hosts, 2)
    up(pymar, "-H", "node[1-2]")
    nodes[1].stop_sshd()
    assert "with --forget it is left to itself" in pymar("remove", "node2", check=False).stderr
    pymar("remove", "node2", "--forget")
    assert [one["name"] for one in state(hosts)["hosts"]] == ["node1"]


def test_a_cluster_of_this_host_alone_takes_no_others(hosts, pymar):
    some(hosts, 1)
    up(pymar, "-H", "localhost/1")
    assert "is for this host only: pymar down, and pymar up -H" in pymar("add", "node1", check=False).stderr


def test_without_a_cluster_and_a_broker_it_is_said_how_to_start_one(pymar):
    for command in ("status", "jobs"):
        assert "pymar up -H HOSTS starts a cluster" in pymar(command, check=False).stderr


# Hosts that fail: each is named, with the step and the remedy, and the others start.


def test_each_host_that_fails_is_named_with_the_step_and_the_remedy(hosts, pymar, python):
    some(hosts, 1)
    hosts.host("refused", login="refused")
    hosts.host("password", login="password")
    hosts.host("changed").change_known_key()
    hosts.host("unknown-key").forget_key()
    hosts.host("no-python", python=NONE)
    hosts.host("old", python=hosts.old_python())
    hosts.host("ahead", clock=3600, environ=SOURCE)
    hosts.host("dead").kill()
    names = "node1,refused,password,changed,unknown-key,no-python,old,ahead,dead,no-such-host"
    said = pymar("up", "--bare", "-H", names, check=False).stdout
    expected = {
        "refused": r"ssh: .*Permission denied.*ssh-copy-id",
        "password": r"ssh: .*Permission denied.*ssh-copy-id",
        "changed": r"ssh: .*its host key is not the one that is known here",
        "unknown-key": r"ssh: .*its host key is not known here",
        "no-python": r"Python: there is none .*install Python there, or name it: --python",
        "old": r"Python: .*3\.9\.18.*--python",
        "dead": r"ssh: .*(No route to host|timed out|Connection refused)",
        "no-such-host": r"ssh: .*Could not resolve hostname",
    }
    for name, line in expected.items():
        assert re.search(rf"^{name} +failed at {line}", said, re.MULTILINE), said
    assert len(said.splitlines()) >= 10


def test_the_others_start_and_need_decides_if_they_are_enough(hosts, pymar, python):
    nodes = some(hosts, 2)
    hosts.host("refused", login="refused")
    done = up(pymar, "-H", "node1,refused,node2", "--need", "3", check=False)
    assert "2 of 3 hosts can be used, 3 are needed (--need)" in done.stderr
    assert [node.processes() for node in nodes] == [[], []]
    assert (ours(hosts), clusters(hosts)) == ([], [])
    up(pymar, "-H", "node1,refused,node2", "--need", "2")
    assert python(SUM) == str(ANSWER)


def test_a_clock_that_is_off_by_an_hour_is_refused(hosts, pymar):
    hosts.host("ahead", clock=3600, environ=SOURCE)
    assert re.search(r"failed at clock: it differs by \+3[56]\d\d s", up(pymar, "-H", "ahead", check=False).stdout)


def test_another_version_of_pymar_is_refused_where_nothing_is_installed(hosts, pymar):
    hosts.host("node1")
    said = pymar("up", "--bare", "-H", "node1", check=False).stdout
    assert re.search(r"failed at (Pymar|Python): ", said)


def test_a_full_disk_is_said(hosts, pymar):
    hosts.host("node1", internet=True, home_bytes=1_000_000)
    said = pymar("up", "-H", "node1", check=False).stdout
    assert re.search(r"node1  failed at disk: 0 MiB are free in .*free disk space there", said), said


def test_a_home_that_is_read_only_is_not_needed(hosts, pymar, python):
    hosts.host("node1", home_read_only=True, environ=SOURCE)
    up(pymar, "-H", "node1")
    assert python(SUM) == str(ANSWER)


def test_a_login_shell_that_prints_is_no_obstacle(hosts, pymar, python):
    node = hosts.host("node1", shell="/bin/bash", environ=SOURCE)
    (node.home / ".bashrc").write_text("echo welcome; echo '{\"failed\": 1}'\n")
    up(pymar, "-H", "node1")
    assert python(SUM) == str(ANSWER)


def test_a_host_twice_is_refused(pymar):
    assert "named twice" in pymar("up", "-H", "node1", "-H", "node1", check=False).stderr


def test_a_host_that_says_nothing_is_given_up(hosts, pymar, monkeypatch):
    hosts.silent("silent")
    said = pymar("up", "--bare", "-H", "silent", check=False).stdout
    assert re.search(r"silent  failed at ssh: .*timed out.*is it on", said), said


# More than one cluster.


def test_a_second_cluster_needs_a_name_and_jobs_have_to_choose(hosts, pymar, python):
    some(hosts, 1)
    up(pymar, "-H", "node1")
    assert "is up already" in up(pymar, "-H", "node1", check=False).stderr
    up(pymar, "-H", "node1", "--name", "other")
    done = hosts.run(sys.executable, "-c", SUM)
    assert "the clusters default, other are up: choose one, as in PYMAR_CLUSTER=default" in done.stderr
    hosts.environ["PYMAR_CLUSTER"] = "other"
    assert python(SUM) == str(ANSWER)
    pymar("down")
    assert clusters(hosts) == ["default"]
    pymar("up", "--name", "third", *BARE, "-H", "node1")
    del hosts.environ["PYMAR_CLUSTER"]
    assert "the clusters default, third are up: choose one" in pymar("down", check=False).stderr
    pymar("down", "--name", "third")
    hosts.environ["PYMAR_CLUSTER"] = ""
    assert python(SUM) == str(ANSWER)
    del hosts.environ["PYMAR_CLUSTER"]


def test_clusters_of_two_users_of_a_host_do_not_touch(hosts, pymar, python):
    system = "/usr/bin/python{}.{}".format(*sys.version_info)
    if not hosts.isolated or not os.path.exists(system):
        pytest.skip("a second user needs namespaces, and a Python that is not in a private folder")
    node = hosts.host("node1", users=["ada"], internet=True, python=system, environ=SOURCE)
    up(pymar, "-H", "node1")
    said = pymar("up", "-H", "ada@node1", "--name", "adas", check=False)
    assert said.returncode == 0, said.stdout
    users = node.run("ps axo user=,args= | grep 'pymar worker' | grep -v grep").stdout
    assert {line.split()[0] for line in users.splitlines()} == {node.user.pw_name, "ada"}
    pymar("down", "--name", "default")
    users = node.run("ps axo user=,args= | grep 'pymar worker' | grep -v grep").stdout
    assert {line.split()[0] for line in users.splitlines()} == {"ada"}
    assert python(SUM) == str(ANSWER)
    pymar("down", "--name", "adas")
    assert node.processes() == []


def test_a_broker_that_is_given_is_used_and_left_alone(hosts, pymar, python, broker):
    up(pymar, "-H", "localhost/2", "-q", f"127.0.0.1:{broker.port}")
    assert python(SUM) == str(ANSWER)
    pymar("down")
    assert broker.answers()


def test_a_certificate_of_the_client_is_not_sent(pymar):
    address = "amqps://127.0.0.1/?certfile=mine.pem&keyfile=mine.key"
    assert "certificate of yours is not sent" in up(pymar, "-H", "localhost", "-q", address, check=False).stderr


def test_a_broker_elsewhere_needs_tls(pymar):
    done = up(pymar, "-H", "localhost", "-q", "broker.example", check=False)
    assert "is not on this host and lacks TLS" in done.stderr


def test_through_a_tunnel_a_host_needs_no_way_to_this_one(hosts, pymar, python):
    (node,) = some(hosts, 1)
    if not hosts.isolated:
        pytest.skip("to take a way away needs namespaces")
    up(pymar, "-H", "node1", "--tunnel")
    port = int(re.search(r"@127\.0\.0\.1:(\d+)", state(hosts)["url"])[1])
    assert python(SUM) == str(ANSWER)
    reached = node.run("cat /proc/net/tcp").stdout
    assert f":{port:04X} 01" not in reached  # no connection to the broker's port
    pymar("down")
    assert (node.processes(), ours(hosts)) == ([], [])


# What dies.


def test_down_finds_what_an_up_that_was_killed_has_left(hosts, pymar, begun):
    nodes = some(hosts, 2)
    process = begun(
        sys.executable, "-m", "pymar", "up", *BARE, "-H", "node[1-2]", "--foreground", stdout=subprocess.PIPE
    )
    while "started with" not in (line := process.stdout.readline()):
        assert line
    process.kill()
    process.wait()
    pymar("down")
    assert [node.processes() for node in nodes] == [[], []]
    assert (ours(hosts), clusters(hosts)) == ([], [])


def test_an_interrupt_in_the_middle_leaves_nothing(hosts, pymar, begun):
    nodes = some(hosts, 2)
    process = begun(
        sys.executable, "-m", "pymar", "up", *BARE, "-H", "node[1-2]", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not process.stdout.readline().startswith("broker at"):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 1
    assert "what was started is ended" in process.stderr.read()
    assert [node.processes() for node in nodes] == [[], []]
    assert (ours(hosts), clusters(hosts)) == ([], [])


@pytest.mark.parametrize("what", ["worker", "host"])
def test_a_worker_or_a_host_that_dies_costs_no_part(hosts, pymar, begun, tmp_path, what):
    nodes = some(hosts, 2)
    if what == "host" and not hosts.isolated:
        pytest.skip("the end of a host needs namespaces")
    up(pymar, "-H", "node[1-2]/2")
    noted = hosts.shared / "node1"
    code = textwrap.dedent(SLOW).replace("time.sleep(0.1)", f"time.sleep(0.1); note({str(hosts.shared)!r})")
    note = "def note(folder): open(f'{folder}/{socket.gethostname()}', 'w').close()\n"
    (tmp_path / "job.py").write_text(note + code)
    job = begun(sys.executable, tmp_path / "job.py", stdout=subprocess.PIPE)
    wait_until(noted.exists, "a part on the first host")
    if what == "host":
        nodes[0].kill()
    else:
        (pid,) = [line.split()[0] for line in nodes[0].processes() if "pymar worker" in line]
        nodes[0].run(f"kill -9 {pid}")
    assert job.wait(90) == 0
    assert job.stdout.read().split()[0] == "780"


def test_down_says_which_host_it_cannot_reach_and_tries_again(hosts, pymar):
    nodes = some(hosts, 2)
    up(pymar, "-H", "node[1-2]")
    nodes[1].stop_sshd()
    done = pymar("down", check=False)
    assert re.search(r"node2: what runs there could not be ended", done.stderr)
    assert nodes[0].processes() == []
    assert clusters(hosts) == ["default"]
    nodes[1].start_sshd()
    pymar("down")
    assert nodes[1].processes() == []
    assert clusters(hosts) == []


def test_a_job_is_told_that_the_broker_of_its_cluster_is_gone(hosts, pymar):
    up(pymar, "-H", "localhost")
    record = json.loads((folder(hosts) / "default" / "broker" / "broker.json").read_text())
    subprocess.run(["pkill", "-9", "-f", "no-such"], check=False)
    keeper = [line.split()[0] for line in ours(hosts) if "keeper" in line]
    for pid in [*keeper, record["pid"]]:
        os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not is_running(record["pid"]), "the broker to end")
    done = hosts.run(sys.executable, "-c", SUM)
    assert "pymar down --name default ends what is left of it" in done.stderr
