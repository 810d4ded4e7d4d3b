"""The conversation with a host, where it, its shell, ssh's configuration or its Python are not as one would wish."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.resources import files

import pytest
from conftest import is_running, need, wait_until

from pymar.hosts.names import Host
from pymar.hosts.remote import HostFailed, Remote, Way, abandoning, way_to

HERE = Way(("sh", "-c"))
#: Answers as onhost.py does the first time, and then neither reads nor says anything.
DEAF = """#!/bin/sh
printf '\\n\\036pymar {"python": "3.11.7"}\\n'
exec sleep 1000
"""
#: In place of the Python of an environment: it runs, and installs nothing.
EMPTY = """#!/bin/sh
case "$*" in *purelib*) echo {target};; esac
"""
#: In place of a Python that makes environments: `python -m venv FOLDER`.
MAKER = """#!/bin/sh
mkdir -p "$3/bin" && cp {empty} "$3/bin/python"
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The home of the host, which is this one."""
    made = tmp_path / "ein Häuschen"
    made.mkdir()
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(made))
    return made


@pytest.fixture
def reached(hosts, monkeypatch):
    """Let this process find the ssh of the bed."""
    monkeypatch.setenv("PATH", hosts.environ["PATH"])
    return hosts


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def configured(hosts, text):
    hosts.config.write_text(f"{text}\n{hosts.config.read_text()}")


def started(remote, argv, folder="lab-1234~here", **options):
    return remote.ask("start", b"", folder=folder, argv=["sh", "-c", *argv, folder], files={}, **options)


# ssh and shells.


@pytest.mark.parametrize("text", ["RemoteCommand echo hello", "RequestTTY force", "LogLevel DEBUG3", "SendEnv *"])
def test_what_a_configuration_says_for_people_is_no_obstacle(reached, text):
    reached.host("node1")
    configured(reached, text)
    with Remote(way_to(Host("node1"))) as remote:
        assert remote.facts["name"]


def test_a_failure_has_its_reason_although_ssh_is_told_to_be_quiet(reached):
    reached.host("refused", login="refused")
    configured(reached, "LogLevel QUIET")
    with pytest.raises(HostFailed, match=r"Permission denied.*ssh-copy-id"):
        Remote(way_to(Host("refused")))


@pytest.mark.parametrize("shell", ["csh", "fish"])
def test_the_login_shell_need_not_be_that_of_posix(reached, shell):
    need(shutil.which(shell), shell)
    reached.host("node1", shell=shutil.which(shell))
    with Remote(way_to(Host("node1"))) as remote:
        assert remote.facts["name"]


def test_what_holds_stderr_in_the_background_holds_up_nothing(tmp_path):
    pid = tmp_path / "pid"
    master = f"setsid sh -c 'echo $$ > {pid}; exec sleep 1000' > /dev/null &"
    way = Way((str(program(tmp_path / "way", f'#!/bin/sh\n{master}\nexec sh -c "$1"\n')),))
    remote = Remote(way)
    wait_until(lambda: pid.exists() and pid.read_text(), "the process in the background")
    try:
        remote.close()
        assert is_running(pid.read_text().strip())
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_while_conversations_are_abandoned_none_begins(tmp_path):
    way = Way((str(program(tmp_path / "way", f"#!/bin/sh\ntouch {tmp_path}/begun\n")),))
    with abandoning(), pytest.raises(HostFailed, match="interrupted"):
        Remote(way)
    assert not (tmp_path / "begun").exists()


def test_a_host_that_reads_nothing_more_is_given_up(tmp_path):
    with Remote(HERE, str(program(tmp_path / "python", DEAF))) as remote:
        with pytest.raises(HostFailed, match="no answer within") as caught:
            remote.ask("environment", b"x" * 10_000_000, patience=0.3)
        assert caught.value.is_cut


# Its Python.


def test_a_shim_without_a_python_behind_it_is_passed_over(tmp_path, monkeypatch):
    shims = tmp_path / "shims"
    shims.mkdir()
    program(shims / "python3.11", "#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2\nexit 127\n")
    program(shims / "python3", f'#!/bin/sh\necho prints\nexec {shlex.quote(sys.executable)} "$@"\n')
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")
    with Remote(HERE, "", "3.11") as remote:
        assert remote.facts["python"] == "{}.{}.{}".format(*sys.version_info)


def test_an_environment_whose_python_was_removed_is_made_again(tmp_path, home):
    empty = program(tmp_path / "empty", EMPTY.format(target=tmp_path))
    maker = program(tmp_path / "maker", MAKER.format(empty=empty))
    data = b"\0" * 10_240  # an empty archive
    wanted = {"key": "k", "python": str(maker), "wants": "3.11", "requirements": "", "pins": []}
    with Remote(HERE, sys.executable) as remote:
        made = remote.ask("environment", data, **wanted)["python"]
        assert remote.ask("environment", **wanted)["python"] == made
        os.unlink(made)
        os.symlink("/usr/bin/python3.of.yesterday", made)
        assert remote.ask("environment", **wanted) == {"missing": True}
        assert remote.ask("environment", data, **wanted)["python"] == made
        assert os.access(made, os.X_OK)


# Its worker.


def test_a_worker_is_found_where_there_is_no_ps(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "sleep", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    with Remote(HERE, sys.executable) as remote:
        pid = started(remote, ["touch connected; sleep 1000"])["pid"]
    # Found by its environment at the next conversation: neither ps, nor a wide terminal.
    path = program(tmp_path / "python", f'#!/bin/sh\nPATH={tools} COLUMNS=10 exec {sys.executable} "$@"\n')
    with Remote(HERE, str(path)) as remote:
        assert remote.ask("stop", folder="lab-1234~here", grace=0) == {"ran": True}
    assert not is_running(pid)


def test_a_worker_that_nobody_waits_for_any_more_is_ended(home):
    request = {"do": "start", "folder": "lab-1234~here", "argv": ["sh", "-c", "sleep 1000; :", "lab-1234"], "files": {}}
    text = files("pymar.hosts").joinpath("onhost.py").read_text()
    command = [sys.executable, "-c", text]
    there = home / ".local/state/pymar/lab-1234~here"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        wait_until(lambda: (there / "pid").exists() and (there / "pid").read_text(), "the worker")
        pid = (there / "pid").read_text()
        assert is_running(pid)
    wait_until(lambda: not is_running(pid), "the worker to end")
    assert not there.exists()


def test_a_worker_of_an_environment_imports_nothing_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = f'echo "$PYTHONPATH" >> {tmp_path}/said; touch connected; exec sleep 1000; :'
    with Remote(HERE, sys.executable) as remote:
        for bare in (True, False):
            started(remote, [said], bare=bare)
            assert remote.ask("stop", folder="lab-1234~here", grace=0) is not None
    assert (tmp_path / "said").read_text() == f"{tmp_path}\n\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_what_another_user_has_prepared_for_a_home_that_cannot_be_written_is_not_used(tmp_path):
    prepared = tmp_path / "pymar-0"
    (prepared / "pymar" / "lab-1234~here").mkdir(parents=True)
    os.chown(prepared, 5001, 5001)  # whoever has it can replace what is within, although that is ours
    text = files("pymar.hosts").joinpath("onhost.py").read_text()
    command = [sys.executable, "-c", text.replace('TEMPORARY = "/var/tmp"', f"TEMPORARY = {str(tmp_path)!r}")]
    request = {"do": "start", "folder": "lab-1234~here", "argv": ["touch", str(tmp_path / "started")], "files": {}}
    environ = {**os.environ, "HOME": "/proc/nothing"}
    done = subprocess.run(command, input=json.dumps(request) + "\n", env=environ, capture_output=True, text=True)
    assert f"{prepared} belongs to another user" in done.stdout
    assert not (tmp_path / "started").exists()
