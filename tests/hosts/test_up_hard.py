"""`pymar up` and `down` when what is here is not as one would wish: disk, terminal, state file, home."""

import json
import os
import subprocess
import sys

import pytest
from places import ROOT

from pymar.amqp import cluster as state
from pymar.amqp.cluster import Cluster
from pymar.hosts.names import Host
from pymar.hosts.remote import Way
from pymar.hosts.up import Options, down, up

HERE = Way(("sh", "-c"))
SUM = "import pymar\nprint(sum(pymar.map(lambda number: number * number, range(1000))))\n"
ANSWER = sum(number * number for number in range(1000))
#: ssh that loses the line once it has sent the request to start a worker, and that worker is connected.
CUT = """#!{python}
import glob, os, subprocess, sys, threading, time
there = subprocess.Popen(["sh", "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

def back():
    while data := os.read(there.stdout.fileno(), 65536):
        if b'"pid"' not in data:
            os.write(1, data)

threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 65536):
    there.stdin.write(data)
    there.stdin.flush()
    while b'"do": "start"' in data:
        if glob.glob(os.path.expanduser("~/.local/state/pymar/*~cut/connected")):
            os._exit(255)
        time.sleep(0.01)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of this user's own, in which `pymar` and jobs run."""
    for name in [name for name in os.environ if name.startswith(("XDG_", "PYMAR_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    yield tmp_path
    for name in state.names():
        command("down", "--name", name, "--forget")


def command(*words, **options):
    settings = {"capture_output": True, "text": True, "timeout": 100, "stdin": subprocess.DEVNULL, **options}
    return subprocess.run([sys.executable, "-m", "pymar", *map(str, words)], **settings)


def job():
    return subprocess.run([sys.executable, "-c", SUM], capture_output=True, text=True, timeout=100)


def written(home, **changes):
    """Write the state of a cluster that is up, in part."""
    made = Cluster("default", "1234", "", "k" * 40, 0.0, True, [], Options()._asdict(), {}, os.uname().nodename)
    state.write(made._replace(**changes))
    return home / ".local/state/pymar/default/cluster.json"


def workers(home):
    found = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if "pymar worker" in line and str(home) in line]


def up_here(broker, *words, **options):
    return command("up", "--bare", "--python", sys.executable, "-q", f"127.0.0.1:{broker.port}", *words, **options)


def test_a_terminal_or_a_pipe_that_is_closed_changes_nothing(home, broker):
    reading, writing = os.pipe()
    os.close(reading)
    done = up_here(broker, "-H", "localhost/1", stdout=writing, capture_output=False)
    assert done.returncode == 0
    assert job().stdout.strip() == str(ANSWER)
    assert command("down", stdout=writing, capture_output=False).returncode == 0
    os.close(writing)
    assert (workers(home), state.names()) == ([], [])


def test_a_host_whose_line_was_cut_while_its_worker_started_is_taken_down(home, broker, tmp_path):
    ssh = tmp_path / "ssh"
    ssh.write_text(CUT.format(python=sys.executable))
    ssh.chmod(0o755)
    said = []
    up(
        "default",
        [Host("localhost", slots=1), Host("cut", slots=1)],
        Options(python=sys.executable, bare=True),
        None,
        way=lambda host: Way((str(ssh),)) if host.name == "cut" else HERE,
        url=f"127.0.0.1:{broker.port}",
        say=said.append,
    )
    assert any(line.startswith("cut") and "failed at" in line for line in said)
    assert [host["name"] for host in state.read("default").hosts] == ["localhost", "cut"]
    path = state.folder_of("default") / "cluster.json"
    path.write_text(path.read_text().replace(str(ssh), "sh").replace('"way": [\n    "sh"\n', '"way": ["sh", "-c"'))
    down("default", 0.0, say=said.append)
    assert (workers(home), state.names()) == ([], [])


def test_a_job_does_not_run_on_a_cluster_that_has_no_broker_yet(home):
    written(home)
    done = job()
    assert "'default' has no broker yet: wait for pymar up" in done.stderr
    assert "has no broker yet" in command("status").stderr
    assert command("down").returncode == 0


def test_a_cluster_is_not_taken_down_from_another_host_with_this_home(home):
    written(home, url="amqp://a:b@127.0.0.1:1/", here="login1")
    done = command("down")
    assert "was started on login1, where its broker is: pymar down there" in done.stderr
    assert state.names() == ["default"]
    assert command("down", "--forget").returncode == 0
    assert state.names() == []


def test_a_state_that_cannot_be_written_is_one_line(home):
    (home / ".local").write_text("")
    done = command("up", "--bare", "-H", "localhost")
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert "XDG_STATE_HOME" in done.stderr


def test_slots_of_hosts_are_not_given_by_w(home):
    assert "name a host with its slots, as in -H node1/4" in command("up", "-H", "node1", "-w", "4").stderr


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda whole: "",
        lambda whole: json.dumps(whole)[:-5],
        lambda whole: "[]",
        lambda whole: json.dumps(whole | {"url": None}),
        lambda whole: json.dumps(whole | {"hosts": [{"name": "node1"}]}),
        lambda whole: json.dumps(whole | {"settings": {"option": "of another version"}}),
    ],
    ids=["empty", "cut", "list", "kind", "hosts", "settings"],
)
def test_a_state_file_that_is_damaged_is_one_line_and_can_be_taken_down(home, spoiled):
    path = written(home, url="amqp://a:b@127.0.0.1:1/")
    path.write_text(spoiled(json.loads(path.read_text())))
    for words in (("add", "node1"), ("logs",), ("down",)):
        done = command(*words)
        assert "is damaged, or of another version of Pymar: pymar down --forget" in done.stderr
        assert done.stderr.count("\n") == 1
    assert command("down", "--forget").returncode == 0
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--bare", "--freeze"), "--bare installs nothing"),
        (("--tunnel", "-q", "broker"), "--tunnel leads to a broker that pymar up starts here"),
        (("--away", "nan"), "--idle and --away are seconds"),
        (("--idle", "-1"), "--idle and --away are seconds"),
    ],
)
def test_options_that_contradict_are_refused_before_anything_starts(home, words, said):
    assert said in command("up", "-H", "localhost", *words).stderr
