"""`pymar run --detach`: a script runs on a host of the cluster, whatever becomes of this one, and is exact."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from conftest import children_of, wait_until
from places import ROOT
from sshd import Bed

from pymar.hosts import broker as brokers

#: The interpreter of the tests is on each host, with this Pymar: no environment has to be made.
UP = ("up", "--bare", "--python", sys.executable, "-H")
SOURCE = {"PYTHONPATH": ROOT / "src"}
#: Notes each part, in a file that all hosts see; part 5 waits as long as the file `wait` is there.
SLOW = """
    import os, sys, time
    import pymar

    def noted(number):
        with open(os.path.join({shared!r}, "notes"), "a") as file:
            file.write(f"{{number}}\\n")
        while number == 5 and os.path.exists(os.path.join({shared!r}, "wait")):
            time.sleep(0.01)
        return number * number

    print("begun", file=sys.stderr, flush=True)
    print("first", flush=True)
    print(sum(pymar.map(noted, range(40))))
"""
ANSWER = f"first\n{sum(number * number for number in range(40))}\n"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """The hosts of all tests here, and a user who reaches them."""
    bed = Bed(tmp_path_factory.mktemp("bed"))
    yield bed
    bed.close()


@pytest.fixture(scope="module")
def command(hosts):
    """Run the command `pymar` as that user."""

    def run(*words, code=0, **options):
        settings = {"timeout": 60, "cwd": hosts.folder, **options}
        done = hosts.run(sys.executable, "-m", "pymar", *words, **settings)
        assert done.returncode == code, (done.stdout, done.stderr)
        return done

    return run


@pytest.fixture(scope="module")
def node(hosts, command):
    """A host, with a cluster of it that is up."""
    one = hosts.host("node1", environ=SOURCE)
    command(*UP, "node1/2")
    yield one
    command("down", "--force")


@pytest.fixture(scope="module")
def broker(hosts, tmp_path_factory):
    """The address of a broker that belongs to no cluster, and that all hosts reach."""
    folder = tmp_path_factory.mktemp("broker") / "broker"
    made = brokers.start(folder, names=[hosts.root_address])
    yield made.url(hosts.root_address, made.cafile)
    brokers.stop(folder)


@pytest.fixture
def cluster(hosts, broker, command):
    """Start a cluster of one more host, with that broker; it is down after the test."""
    started = []

    def start(name, **options):
        host = hosts.host(f"of-{name}", environ=SOURCE, **options)
        command(*UP, f"of-{name}/2", "--name", name, "-q", broker)
        started.append(name)
        return host

    yield start
    for name in started:
        if (hosts.folder / "home/.local/state/pymar" / name / "cluster.json").exists():
            command("down", "--force", "--name", name)


@pytest.fixture
def pymar(command, tmp_path):
    """Run the command `pymar` in a folder of the test."""
    return lambda *words, **options: command(*words, **{"cwd": tmp_path, **options})


@pytest.fixture
def start(pymar, tmp_path):
    """Start a script with `pymar run --detach`; return its id."""

    def run(text, *arguments, options=()):
        (tmp_path / "job.py").write_text(textwrap.dedent(text))
        return pymar("run", "--detach", *options, tmp_path / "job.py", *arguments).stdout.strip()

    return run


class Slow:
    """A script one of whose parts waits until `release`."""

    def __init__(self, folder, start):
        self.folder, self._start = folder, start
        folder.mkdir()
        (folder / "wait").touch()

    def start(self, **options):
        """Start it, and return its id once all other parts were computed."""
        job = self._start(SLOW.format(shared=str(self.folder)), **options)
        wait_until(lambda: len(self.notes()) == 40, "all parts")
        return job

    def release(self):
        (self.folder / "wait").unlink()

    def notes(self):
        path = self.folder / "notes"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def slow(hosts, start, request):
    one = Slow(hosts.shared / request.node.name, start)
    yield one
    (one.folder / "wait").unlink(missing_ok=True)


def folder_of(node, job):
    return node.home / ".local/state/pymar/.runs" / job


def status(node, job):
    return json.loads((folder_of(node, job) / "status.json").read_text())


def processes(node, job):
    """The processes there whose arguments contain the id, by process id."""
    return {line.split()[0]: line for line in node.processes() if job in line}


def kill(node, job, what):
    """Kill the process of a run whose arguments contain a text."""
    (pid,) = (pid for pid, line in processes(node, job).items() if what in line)
    node.run(f"kill -9 {pid}")


def test_the_result_is_byte_by_byte_what_the_script_printed(node, start, pymar):
    job = start("""
        import sys
        import pymar
        sys.stdout.buffer.write(bytes(range(256)) + b"\\r\\n\\x00")
        sys.stdout.buffer.write(str(sum(pymar.map(abs, range(-100, 0)))).encode())
    """)
    assert re.fullmatch("run-[0-9a-f]{8}", job)
    assert f"{job} (job.py on node1): ended with exit code 0\n" in pymar("wait", job).stderr
    assert pymar("result", job, text=False).stdout == bytes(range(256)) + b"\r\n\x005050"
    assert "it has ended with exit code 0" in pymar("run", "--again", job, code=1).stderr


def test_arguments_helpers_and_files_are_as_here(node, start, pymar, tmp_path):
    arguments = ["a b", "it's", '"q"', "$HOME", "--detach", "*", "{folder}", "", "ü\n"]
    (tmp_path / "helper.py").write_text("def double(number): return 2 * number\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.txt").write_text("read")
    job = start(
        """
        import os, sys
        import helper, pymar
        print(sys.argv[1:], pymar.map(helper.double, [21]))
        print(open("data/in.txt").read(), open(os.path.join(os.path.dirname(__file__), "data", "in.txt")).read())
        print(repr(sys.stdin.read()))
        """,
        *arguments,
        options=["--file", tmp_path / "data"],
    )
    pymar("wait", job)
    assert pymar("result", job).stdout == f"{arguments} [42]\nread read\n''\n"


@pytest.mark.parametrize(("code", "expected"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 15)", 143)])
def test_wait_exits_with_the_code_of_the_script(node, start, pymar, code, expected):
    job = start(f"import os, sys\nprint('so far')\n{code}")
    pymar("wait", job, code=expected)
    done = pymar("result", job, code=1)
    assert (done.stdout, f"exit code {expected}" in done.stderr) == ("", True)
    assert pymar("result", "--partial", job, code=1).stdout == "so far\n"


def test_the_log_is_what_it_wrote_to_stderr(node, start, pymar):
    job = start("import sys\nfor number in range(5): print('line', number, file=sys.stderr)\n")
    assert pymar("logs", "-f", job).stdout == "".join(f"line {number}\n" for number in range(5))
    assert pymar("logs", "-n", "2", job).stdout == "line 3\nline 4\n"


def test_a_script_that_is_killed_goes_on_from_what_is_finished(node, slow, pymar):
    job = slow.start()
    kill(node, job, "files/")
    wait_until(lambda: status(node, job)["attempts"] == 2, "the second start")
    slow.release()
    assert "ended with exit code 0" in pymar("wait", job).stderr
    assert pymar("result", job).stdout == ANSWER
    assert 41 <= len(slow.notes()) <= 48  # the part that waited, and those whose partials were on their way
    assert pymar("logs", job).stdout == "begun\npymar: start 2 of the script\nbegun\n"


def test_a_killed_supervisor_is_told_and_the_run_goes_on_again(node, slow, pymar):
    job = slow.start()
    kill(node, job, "pymar.hosts.supervisor")
    said = pymar("wait", job, code=1).stderr
    assert f"its supervisor has ended. pymar run --again {job} goes on" in said
    wait_until(lambda: not processes(node, job), "the script to end with it")
    slow.release()
    pymar("run", "--again", job)
    pymar("wait", job)
    assert pymar("result", job).stdout == ANSWER
    assert len(slow.notes()) <= 48


def test_a_run_that_is_cancelled_leaves_no_process(node, slow, pymar):
    job = slow.start()
    assert f"{job} (job.py on node1): cancelled" in pymar("cancel", job).stdout
    assert not processes(node, job)
    assert "cancelled" in pymar("wait", job, code=143).stderr


def test_two_runs_at_once_have_nothing_in_common(node, start, pymar):
    code = "import pymar, sys\nby = int(sys.argv[1])\nprint(sum(pymar.map(lambda n: n * by, range(10))))"
    jobs = [start(code, number) for number in (2, 3)]
    assert "which one? " in pymar("wait", code=1).stderr
    for job, answer in zip(jobs, ("90\n", "135\n"), strict=True):
        pymar("wait", job)
        assert pymar("result", job).stdout == answer


def test_no_secret_is_in_a_list_of_processes_and_nobody_else_may_read_the_files(node, slow, hosts):
    job = slow.start()
    record = json.loads((hosts.folder / "home/.local/state/pymar/default/cluster.json").read_text())
    secrets = [record["key"], record["url"].partition("://")[2].partition("@")[0].partition(":")[2]]
    everything = node.run("ps axeww").stdout
    assert "pymar.hosts.supervisor" in everything
    assert not [secret for secret in secrets if secret in everything]
    folder = folder_of(node, job)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not [path for path in folder.rglob("*") if path.lstat().st_mode & 0o077]


def test_wait_survives_a_cut_of_the_line(node, slow, hosts):
    job = slow.start()
    command = [sys.executable, "-m", "pymar", "wait", job]
    with subprocess.Popen(command, env=hosts.environ, stderr=subprocess.PIPE, text=True) as waiting:
        assert "running" in waiting.stderr.readline()
        (ssh,) = children_of(waiting.pid)
        os.kill(int(ssh), signal.SIGKILL)
        assert "cannot be reached" in waiting.stderr.readline()
        slow.release()
        assert "ended with exit code 0" in waiting.stderr.readline()
    assert waiting.returncode == 0


def test_ctrl_c_ends_the_waiting_only(node, slow, hosts, pymar):
    job = slow.start()
    command = [sys.executable, "-m", "pymar", "wait", job]
    with subprocess.Popen(command, env=hosts.environ, stderr=subprocess.PIPE, text=True) as waiting:
        while "running" not in (line := waiting.stderr.readline()):
            assert line
        waiting.send_signal(signal.SIGINT)
        while f"{job} goes on" not in (line := waiting.stderr.readline()):
            assert line
    assert waiting.returncode == 130
    slow.release()
    pymar("wait", job)


def test_the_user_is_told_that_the_broker_is_here(node, pymar, tmp_path):
    (tmp_path / "job.py").write_text("pass")
    said = pymar("run", "--detach", tmp_path / "job.py").stderr
    assert "the broker of this cluster runs on this host, which has to stay on" in said


@pytest.mark.parametrize("words", [("wait",), ("result",), ("logs",), ("run", "--again")])
def test_an_unknown_id_is_named(pymar, words):
    assert "run-00000000: no such run was started from this host" in pymar(*words, "run-00000000", code=1).stderr


def test_without_detach_the_script_runs_here(node, pymar, tmp_path):
    (tmp_path / "job.py").write_text("import os, pymar\nprint(os.getpid(), *pymar.map(lambda _: os.uname()[1], [1]))")
    with subprocess.Popen(
        [sys.executable, "-m", "pymar", "run", "job.py"],
        env=node.bed.environ, cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        pid, where = process.stdout.read().split()
    assert int(pid) == process.pid
    assert where == "node1" or not node.bed.isolated


def test_what_is_too_large_is_named_and_not_sent(node, pymar, tmp_path):
    (tmp_path / "job.py").write_text("pass")
    with open(tmp_path / "big", "wb") as file:
        file.truncate(300 << 20)
    said = pymar("run", "--detach", "--file", tmp_path / "big", tmp_path / "job.py", code=1).stderr
    assert re.search(r"/big \(300 MiB\) where the hosts see it", said)


def test_a_full_disk_is_said_and_nothing_is_left(hosts, cluster, pymar, tmp_path):
    if not hosts.isolated:
        pytest.skip("a file system of a size needs namespaces")
    node = cluster("small", home_bytes=2_000_000)
    (tmp_path / "job.py").write_text("pass")
    (tmp_path / "data").write_bytes(os.urandom(4_000_000))
    said = pymar("run", "--detach", "--name", "small", "--file", tmp_path / "data", tmp_path / "job.py", code=1).stderr
    assert re.search(r"of-small +failed at files: .*No space left.*free disk space there", said)
    assert not list((node.home / ".local/state/pymar/.runs").iterdir())


def test_down_is_refused_while_a_script_runs_and_keeps_what_was_printed(cluster, slow, start, pymar):
    node = cluster("other")
    over = start("print('kept')", options=["--name", "other"])
    pymar("wait", over)
    job = slow.start(options=["--name", "other"])
    assert f"{job} (job.py on of-other): running" in pymar("down", "--name", "other", code=1).stderr
    assert "cancelled" in pymar("down", "--name", "other", "--force").stdout
    assert (node.processes(), list((node.home / ".local/state/pymar").iterdir())) == ([], [])
    assert pymar("result", over).stdout == "kept\n"
    pymar("wait", over)
    assert pymar("result", "--partial", job, code=1).stdout == "first\n"
    assert "begun" in pymar("logs", job).stdout


def test_this_host_may_be_switched_off(hosts, cluster, slow, pymar, tmp_path):
    """Without a way from here to the host, a process of this user's, or what was kept here, the run goes on."""
    node = cluster("far")
    job = slow.start(options=["--name", "far"])
    (hosts.folder / "home").rename(hosts.folder / "away")
    node.stop_sshd()
    slow.release()
    wait_until(lambda: status(node, job)["state"] == "ended", "the end")
    node.start_sshd()
    (hosts.folder / "away").rename(hosts.folder / "home")
    pymar("wait", job)
    assert pymar("result", job).stdout == ANSWER
    assert "which has to stay on" not in pymar("run", "--detach", "--name", "far", tmp_path / "job.py").stderr
