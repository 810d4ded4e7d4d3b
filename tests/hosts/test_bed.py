"""The bed of hosts itself: what tests of `pymar up` rely on."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import is_running, wait_until
from sshd import NONE, Bed, need_namespaces

#: As `pymar up` calls it: never a question.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")


@pytest.fixture(params=["namespaces", "loopback"])
def bed(request, tmp_path):
    """A bed of each kind."""
    if request.param == "namespaces":
        need_namespaces()
    (folder := tmp_path / "bed").mkdir()
    one = Bed(folder, isolated=request.param == "namespaces")
    yield one
    one.close()


@pytest.fixture
def isolated(tmp_path):
    """A bed with namespaces."""
    need_namespaces()
    (folder := tmp_path / "bed").mkdir()
    one = Bed(folder)
    yield one
    one.close()


def ask(bed, host, command, *options):
    return bed.run("ssh", *options, *SSH[1:], getattr(host, "name", host), command)


def test_a_host_answers_the_systems_ssh_by_its_name(bed):
    host = bed.host("node1")
    done = ask(bed, host, "echo $HOME; pwd")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(host.home_there)] * 2


def test_ssh_says_what_it_would_do(bed):
    host = bed.host("node1")
    assert f"hostname {host.address}\nport {host.port}\n" in bed.run("ssh", "-G", "node1").stdout


def test_hosts_are_reached_by_their_addresses_too(bed):
    host = bed.host("node1")
    assert bed.run(*SSH, "-p", str(host.port), host.address, "true").returncode == 0


def test_a_host_has_the_python_of_the_tests(bed):
    code = "import sys; print(sys.version)"
    assert ask(bed, bed.host("node1"), f'python3 -c "{code}"').stdout.strip() == sys.version


def test_a_virtual_environment_is_made_there(bed):
    command = "python3 -m venv --without-pip v && v/bin/python3 -c 'import subprocess, sys; print(sys.version)'"
    assert ask(bed, bed.host("node1"), command).stdout.strip() == sys.version


def test_each_host_has_a_home_of_its_own(bed):
    one, other = bed.hosts(2)
    ask(bed, one, "echo mine > ~/file")
    assert (one.home / "file").read_text() == "mine\n"
    assert list(other.home.iterdir()) == []


def test_two_hosts_may_share_a_home(bed):
    one = bed.host("node1")
    other = bed.host("node2", home=one.home)
    ask(bed, one, "echo ours > ~/file")
    assert ask(bed, other, "cat ~/file").stdout == "ours\n"


def test_the_shared_folder_is_everywhere(bed):
    (bed.shared / "file").write_text("from here")
    assert ask(bed, bed.host("node1"), f"cat {bed.shared}/file").stdout == "from here"


def test_the_processes_of_a_host_are_seen_and_end_with_it(bed):
    one, other = bed.hosts(2)
    ask(bed, one, "sleep 1234 > /dev/null 2>&1 &")
    assert [line.partition(" ")[2] for line in one.processes()] == ["sleep 1234"]
    assert other.processes() == []
    one.kill()
    assert ask(bed, one, "true", "-o", "ConnectTimeout=1").returncode == 255
    assert ask(bed, other, "true").returncode == 0


def test_a_host_that_was_killed_starts_again(bed):
    host = bed.host("node1")
    (host.home / "file").write_text("kept")
    host.kill()
    host.boot()
    assert ask(bed, host, "cat ~/file").stdout == "kept"


def test_sshd_stops_and_starts_while_the_host_goes_on(bed):
    host = bed.host("node1")
    ask(bed, host, "sleep 1234 > /dev/null 2>&1 &")
    host.stop_sshd()
    assert "refused" in ask(bed, host, "true").stderr
    assert len(host.processes()) == 1
    host.start_sshd()
    assert ask(bed, host, "true").returncode == 0


def test_a_refused_key(bed):
    assert "Permission denied (publickey)" in ask(bed, bed.host("node1", login="refused"), "true").stderr


def test_a_password_is_asked_for_and_batch_mode_refuses(bed):
    assert "Permission denied (password)" in ask(bed, bed.host("node1", login="password"), "true").stderr


def test_a_changed_host_key(bed):
    host = bed.host("node1")
    host.change_known_key()
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in ask(bed, host, "true").stderr


def test_a_host_key_that_nobody_knows(bed):
    host = bed.host("node1")
    host.forget_key()
    assert "Host key verification failed" in ask(bed, host, "true").stderr


def test_a_host_that_never_answers_the_handshake(bed):
    bed.silent("mute")
    assert "timed out" in ask(bed, "mute", "true", "-o", "ConnectTimeout=1").stderr


def test_an_unknown_name(bed):
    done = ask(bed, "nowhere.invalid", "true")
    assert (done.returncode, "Could not resolve hostname" in done.stderr) == (255, True)


def test_a_host_without_python(bed):
    assert ask(bed, bed.host("node1", python=NONE), "python3 --version").returncode == 127


@pytest.mark.parametrize("option", ["-c", "-I", "-E"])
def test_a_host_with_an_old_python(bed, option):
    code = "import sys; print(sys.version_info[:2], sys.version_info >= (3, 11), sys.version.split()[0])"
    done = ask(bed, bed.host("node1", python=bed.old_python()), f'python3 {option.rstrip("c-") and option} -c "{code}"')
    assert done.stdout == "(3, 9) False 3.9.18\n", done.stderr


def test_a_clock_that_is_an_hour_ahead(bed):
    done = ask(bed, bed.host("node1", clock=3600), "python3 -c 'import time; print(time.time())'; date +%s")
    assert [round((float(word) - time.time()) / 60) for word in done.stdout.split()] == [60, 60]


def test_a_clock_that_is_an_hour_behind(bed):
    assert round((float(ask(bed, bed.host("node1", clock=-3600), "date +%s").stdout) - time.time()) / 60) == -60


def test_a_login_shell_that_prints(bed):
    host = bed.host("node1", shell="/bin/bash")
    (host.home / ".bashrc").write_text("echo hello; echo there >&2\n")
    done = ask(bed, host, "echo answer")
    assert ("hello\nanswer\n" in done.stdout) or not bed.isolated  # bash looks whether sshd has started it


@pytest.mark.parametrize(("shell", "text"), [("fish", "set x 1; echo $x"), ("tcsh", "set x=1; echo $x")])
def test_other_login_shells(bed, shell, text):
    if not (path := shutil.which(shell)):
        pytest.skip(f"{shell} is not installed")
    assert ask(bed, bed.host("node1", shell=path), text).stdout == "1\n"


def test_what_a_client_runs_finds_the_configuration(bed):
    bed.host("node1")
    code = "import subprocess; print(subprocess.check_output(['ssh', 'node1', 'echo yes']))"
    assert bed.run(sys.executable, "-c", code).stdout == "b'yes\\n'\n"
    assert bed.environ["HOME"] != os.environ.get("HOME")


def test_a_host_has_a_name_an_address_and_a_network_of_its_own(isolated):
    one, other = isolated.hosts(2)
    assert ask(isolated, one, "hostname; hostname -I").stdout.split() == ["node1", one.address]
    assert ask(isolated, other, "getent hosts node1").stdout.split() == [one.address, "node1"]
    assert "ssh-ed25519" in ask(isolated, other, "ssh-keyscan -t ed25519 node1").stdout


def test_a_host_reaches_what_listens_on_the_root_address(isolated):
    host = isolated.host("node1")
    isolated.silent("mute")
    port = isolated.run("ssh", "-G", "mute").stdout.partition("\nport ")[2].split()[0]
    code = f"import socket; print(socket.create_connection(('{isolated.root_address}', {port}), 5).getpeername()[0])"
    assert host.run(f'python3 -c "{code}"').stdout.strip() == isolated.root_address


def test_a_link_is_cut_and_mended(isolated):
    host = isolated.host("node1")
    host.cut()
    assert ask(isolated, host, "true", "-o", "ConnectTimeout=1").returncode == 255
    host.mend()
    assert ask(isolated, host, "true").returncode == 0


def test_a_connection_to_a_host_that_dies_hears_nothing_more(isolated):
    host = isolated.host("node1")
    command = [*SSH, "node1", "echo started; exec sleep 1234"]
    with subprocess.Popen(command, env=isolated.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as ssh:
        assert ssh.stdout.readline() == b"started\n"
        host.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            ssh.wait(0.5)
        ssh.kill()


def test_a_home_that_is_read_only(isolated):
    host = isolated.host("node1", home_read_only=True)
    assert "Read-only file system" in ask(isolated, host, "touch file").stderr


def test_a_home_that_is_full(isolated):
    host = isolated.host("node1", home_bytes=1_000_000)
    assert "No space left" in ask(isolated, host, "head -c 2000000 /dev/zero > file").stderr
    assert (host.home / "file").stat().st_size <= 1_000_000 + os.sysconf("SC_PAGE_SIZE")


def test_another_user_of_a_host_has_a_home_of_his_own(isolated):
    host = isolated.host("node1", users=["ada", "bob"])
    done = ask(isolated, "bob@node1", "id -un; echo $HOME; touch file; cat /home/ada/file")
    assert (done.stdout, "Permission denied" in done.stderr) == ("bob\n/home/bob\n", True)
    assert [path.name for path in host.homes["bob"].iterdir()] == ["file"]


def test_tmp_of_a_host_is_its_own(isolated):
    one, other = isolated.hosts(2)
    ask(isolated, one, "touch /tmp/mine")
    assert "mine" not in ask(isolated, other, "ls /tmp").stdout
    assert not Path("/tmp/mine").exists()


def test_eight_handshakes_at_once_are_accepted(isolated):
    """sshd drops more: its MaxStartups is the default, 10:30:100."""
    isolated.host("node1")
    command = [*SSH, "node1", "true"]
    with contextlib.ExitStack() as stack:
        burst = [
            stack.enter_context(subprocess.Popen(command, env=isolated.environ, stderr=subprocess.DEVNULL))
            for _ in range(8)
        ]
        assert [one.wait(30) for one in burst] == [0] * 8


def test_a_bed_leaves_nothing(tmp_path):
    need_namespaces()
    (folder := tmp_path / "bed").mkdir()
    bed = Bed(folder)
    host = bed.host("node1")
    ask(bed, host, "sleep 1234 > /dev/null 2>&1 &")
    pid = host.pid
    bed.close()
    assert not is_running(pid)
    assert not {bed.bridge, host.link} & {
        link["ifname"] for link in json.loads(subprocess.check_output(["ip", "-j", "link"]))
    }
    shutil.rmtree(folder)


def test_hosts_end_with_a_process_that_is_killed_and_the_next_bed_removes_its_bridge(tmp_path):
    need_namespaces()
    (folder := tmp_path / "bed").mkdir()
    code = "import sys, time; sys.path[:0] = eval(sys.argv[1]); from pathlib import Path; from sshd import Bed\n"
    code += "bed = Bed(Path(sys.argv[2])); print(bed.bridge, bed.host('node1').pid, flush=True); time.sleep(1000)"
    with subprocess.Popen(
        [sys.executable, "-c", code, repr(sys.path), folder], stdout=subprocess.PIPE, text=True
    ) as one:
        bridge, pid = one.stdout.readline().split()
        one.kill()
    wait_until(lambda: not is_running(pid), "the host to end")
    (other := tmp_path / "other").mkdir()
    Bed(other).close()
    assert bridge not in subprocess.check_output(["ip", "link"], text=True)


def test_beds_at_once_do_not_collide(tmp_path):
    need_namespaces()
    with contextlib.ExitStack() as stack:
        beds = []
        for name in ("one", "other"):
            (folder := tmp_path / name).mkdir()
            beds.append(Bed(folder))
            stack.callback(beds[-1].close)
        assert beds[0].root_address != beds[1].root_address
        for bed in beds:
            bed.host("node1")
        assert [ask(bed, "node1", "hostname").stdout for bed in beds] == ["node1\n"] * 2


def test_a_host_reaches_the_internet_through_a_proxy(isolated):
    """What listens on 127.0.0.1 here stands for the package index: the tests need no internet."""
    host = isolated.host("node1", internet=True)
    with socket.create_server(("127.0.0.1", 0)) as index:
        code = (
            "import os, socket; from urllib.parse import urlsplit; proxy = urlsplit(os.environ['https_proxy']);"
            "one = socket.create_connection((proxy.hostname, proxy.port), 5);"
            f"one.sendall(b'CONNECT 127.0.0.1:{index.getsockname()[1]} HTTP/1.1\\r\\n\\r\\n'); print(one.recv(100))"
        )
        assert "200 Connected" in ask(isolated, host, f'python3 -c "{code}"').stdout
