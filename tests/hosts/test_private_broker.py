"""A RabbitMQ of one's own: only its user gets in, nobody sees its secrets, and nothing of it is left behind."""

import contextlib
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pika
import pytest
from conftest import is_running, need, needed, wait_until
from places import ROOT

from pymar.amqp.address import parse
from pymar.amqp.link.client import connected
from pymar.amqp.owner import TABLES, rows_of
from pymar.exceptions import BrokerRefused, UsageError
from pymar.hosts import broker, certificate

START = """
import sys
from pathlib import Path
from pymar.hosts import broker
broker.start(Path(sys.argv[1]))
"""
NAMES = ("node7.example", "xn--bcher-kva.example", "10.1.2.3", "fd00::7")


def python(code, *arguments, **options):
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environ, **options)


@pytest.fixture(scope="module", autouse=True)
def _server():
    need(any(map(os.path.exists, broker.PLACES)), "rabbitmq-server")


@pytest.fixture(scope="module")
def loopback(tmp_path_factory):
    """A node of this host alone, whose starter has ended."""
    folder = tmp_path_factory.mktemp("loopback") / "broker"
    assert python(START, folder).wait() == 0
    yield broker.find(folder)
    broker.stop(folder)


@pytest.fixture(scope="module")
def open_to_others(tmp_path_factory):
    """A node for other hosts, in a folder with a long path and spaces in it."""
    needed("cryptography")
    folder = tmp_path_factory.mktemp("with spaces # and 'quotes'") / ("long" * 40) / "broker"
    yield broker.start(folder, names=NAMES)
    broker.stop(folder)


@pytest.fixture
def folder(tmp_path):
    """A folder from which whatever runs is ended."""
    yield tmp_path / "broker"
    (tmp_path / "broker").is_dir() and (tmp_path / "broker").chmod(0o700)
    broker.stop(tmp_path / "broker")


def processes(folder):
    """Return the processes of a node, by their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"={folder}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def listens_at(pids):
    """Return the addresses and ports at which these processes listen."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(fd))
    rows = [row for table in TABLES for row in rows_of(Path(table).read_text())]
    return {row.here for row in rows if row.state == "0A" and f"socket:[{row.inode}]" in sockets}


def login(node, **changes):
    connected(node.address._replace(**changes)).close()


@pytest.fixture(params=["loopback", "open_to_others"])
def node(request):
    return request.getfixturevalue(request.param)


def test_its_user_may_log_in(node):
    login(node)


def test_its_url_leads_to_it(node):
    connected(parse(node.url("localhost", node.cafile))).close()


def test_a_wrong_password_is_refused(node):
    with pytest.raises(BrokerRefused, match=node.user):
        login(node, password=f"{node.password}x")


def test_rabbitmqs_own_guest_is_refused(node):
    with pytest.raises(BrokerRefused, match="guest"):
        login(node, user="guest", password="guest")


def test_it_lives_on_when_its_starter_has_ended(loopback):
    assert is_running(loopback.pid)


def test_it_is_no_child_of_its_starter(open_to_others):
    assert os.getpid() != int(Path(f"/proc/{open_to_others.pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_without_names_it_listens_at_the_loopback_address_only(loopback):
    assert listens_at(processes(loopback.folder)) == {("127.0.0.1", loopback.port)}


def test_its_only_port_is_that_of_amqp(open_to_others):
    assert {port for _, port in listens_at(processes(open_to_others.folder))} == {open_to_others.port}


def test_a_login_without_tls_at_its_tls_port_is_refused(open_to_others):
    with pytest.raises(BrokerRefused, match="TLS"):
        login(open_to_others, tls=False, cafile=None)


def greeted(node, name, version=None):
    """Make a TLS connection, which verifies this name."""
    context = ssl.create_default_context(cafile=node.cafile)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13's default
    if version:
        context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", node.port), 10) as plain,
        context.wrap_socket(plain, server_hostname=name) as one,
    ):
        return one.version()


@pytest.mark.parametrize("name", [*NAMES, "bücher.example", "localhost", "127.0.0.1", "::1"])
def test_its_certificate_is_good_for_each_of_its_names(open_to_others, name):
    assert greeted(open_to_others, name) == "TLSv1.3"


@pytest.mark.parametrize("name", ["node8.example", "example", "10.1.2.4", "a.node7.example"])
def test_its_certificate_is_good_for_no_other_name(open_to_others, name):
    with pytest.raises(ssl.SSLCertVerificationError):
        greeted(open_to_others, name)


def test_it_speaks_tls_1_2(open_to_others):
    assert greeted(open_to_others, "localhost", ssl.TLSVersion.TLSv1_2) == "TLSv1.2"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
def test_it_speaks_no_older_tls(open_to_others):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", open_to_others.port), 10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain)


def test_the_key_that_signed_its_certificate_is_nowhere(open_to_others):
    texts = [path.read_bytes() for path in Path(open_to_others.folder).iterdir() if path.is_file()]
    assert sum(text.count(b"PRIVATE KEY-----") for text in texts) == 2  # the first and last line of its own


@pytest.mark.parametrize("name", ["", "a b", "node7/24", "*", "x" * 300, "node7:5671", "-q,"])
def test_what_is_no_name_of_a_host_is_refused(name):
    needed("cryptography")
    with pytest.raises(UsageError, match="host's name"):
        certificate.made_for([name])


def test_nobody_else_may_read_its_files(node):
    folder = Path(node.folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not [path for path in folder.rglob("*") if path.stat().st_mode & 0o077]


def secrets_of(node):
    return node.password, (Path(node.folder) / ".erlang.cookie").read_text()


@pytest.mark.parametrize("what", [["ps", "-eo", "args"], ["ps", "axeww"]])
def test_no_secret_is_in_an_argument_or_the_environment_of_a_process(node, what):
    shown = subprocess.run(what, capture_output=True, text=True, check=True).stdout
    assert node.folder in shown or "-eo" in what
    assert not [secret for secret in secrets_of(node) if secret in shown]


def test_nothing_of_its_starters_environment_is_in_that_of_its_processes(folder, monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", "a-secret-of-the-starter")
    monkeypatch.setattr(broker, "MEMORY_SHARE", 1e-6)  # for what follows: one start does for both
    one = broker.start(folder)
    assert not [pid for pid in processes(folder) if b"a-secret" in Path(f"/proc/{pid}/environ").read_bytes()]
    # A node that has no memory left says so, and what to do.
    said = broker.alarms(one)
    assert "low on memory" in said[0]
    assert "more memory" in said[1]


def test_its_log_has_no_password(node):
    assert node.password not in "".join(path.read_text() for path in Path(node.folder, "log").iterdir())


def test_its_representation_has_no_password(node):
    assert node.password not in f"{node} {node!r} {[node]}"


def test_it_is_found_by_its_folder(node):
    assert broker.find(Path(node.folder)) == node


def test_two_are_apart(loopback, open_to_others):
    assert not {*loopback} & {*open_to_others} - {"127.0.0.1"}
    with pytest.raises(BrokerRefused):
        login(loopback, user=open_to_others.user, password=open_to_others.password)


def test_a_second_one_in_its_folder_is_refused(loopback):
    with pytest.raises(UsageError, match=f"process {loopback.pid}"):
        broker.start(Path(loopback.folder))
    login(loopback)


def test_nothing_is_wrong_with_one_that_has_room(node):
    assert broker.alarms(node) == []


def test_little_free_disk_is_said_before_it_stops_the_node(loopback, monkeypatch):
    free = os.statvfs(loopback.folder).f_bavail * os.statvfs(loopback.folder).f_frsize
    monkeypatch.setattr(broker, "DISK_LIMIT", free * 2 // 3)
    (said,) = broker.alarms(loopback)
    assert loopback.folder in said
    assert "remove files" in said


def test_it_watches_the_disk_also_in_a_folder_with_spaces(open_to_others):
    log = Path(open_to_others.folder, "log", "server.log").read_text()
    assert "Disk free limit set" in log
    assert "monitor encountered" not in log


def test_it_takes_and_gives_messages(node):
    with contextlib.closing(connected(node.address)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("pymar.work.x", durable=True, arguments={"x-expires": 10_000})
        channel.basic_publish("", "pymar.work.x", b"part", pika.BasicProperties(delivery_mode=2), mandatory=True)
        assert channel.basic_get("pymar.work.x", auto_ack=True)[2] == b"part"


def test_a_start_that_is_killed_leaves_nothing_that_stop_does_not_end(folder):
    starter = python(START, folder)
    wait_until(lambda: [pid for pid in processes(folder) if "beam" in command(pid)], "the node to begin")
    starter.kill()
    starter.wait()
    assert broker.find(folder) is None
    left = processes(folder)
    assert any("RabbitMQ" in what for what in broker.stop(folder))
    assert not [pid for pid in left if is_running(pid)]
    assert not processes(folder)
    assert not folder.exists()


def command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def test_stop_does_nothing_where_nothing_runs(folder):
    assert broker.stop(folder) == []
    folder.mkdir(mode=0o700)
    assert broker.stop(folder) == []
    assert broker.stop(folder) == []


def test_stop_leaves_files_that_are_not_its_own(folder):
    folder.mkdir(mode=0o700)
    (folder / "thesis").write_text("all of it")
    (folder / "broker.json").write_text("half of a recor")
    assert broker.stop(folder) == []
    assert [path.name for path in folder.iterdir()] == ["thesis"]


def test_one_that_runs_is_not_started_again(loopback):
    assert broker.again(Path(loopback.folder)) == loopback


def test_none_is_started_again_where_none_was(folder):
    with pytest.raises(UsageError, match="no broker was started"):
        broker.again(folder)


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"began": 1, "pid": 1}', "null", "\x00"])
def test_a_broken_record_is_no_node(folder, record):
    folder.mkdir(mode=0o700)
    (folder / "broker.json").write_text(record)
    (folder / "broker.json").chmod(0o600)
    assert broker.find(folder) is None


def test_a_record_of_an_earlier_process_of_that_number_is_no_node(loopback, folder):
    folder.mkdir(mode=0o700)
    text = Path(loopback.folder, "broker.json").read_text().replace(str(loopback.pid), str(os.getpid()))
    (folder / "broker.json").write_text(text)
    (folder / "broker.json").chmod(0o600)
    assert broker.find(folder) is None


def test_a_folder_that_others_may_write_to_is_refused(folder):
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UsageError, match="chmod 700"):
        broker.start(folder)


def test_a_folder_of_another_user_is_refused(folder, monkeypatch):
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UsageError, match="another user"):
        broker.start(folder)
    with pytest.raises(UsageError, match="another user"):
        broker.stop(folder)
    monkeypatch.undo()


def test_a_link_is_no_folder(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="no folder"):
        broker.start(link)


def test_a_folder_with_files_that_others_may_read_stays_as_it_is(folder):
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    (folder / "index.html").write_text("for all")
    with pytest.raises(UsageError, match="new folder"):
        broker.start(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/broker"):
        broker.start(tmp_path / "file" / "broker")


@pytest.mark.parametrize(
    ("manager", "says"), [("apt-get", "apt-get install"), ("pacman", "pacman -S"), ("", "conda-forge")]
)
def test_without_a_server_it_says_what_installs_one(folder, tmp_path, monkeypatch, manager, says):
    if manager:
        (tmp_path / manager).write_text("#!/bin/sh\n")
        (tmp_path / manager).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker, "PLACES", ())
    with pytest.raises(UsageError, match=says):
        broker.start(folder)
    assert not folder.exists()


def fake_server(folder, text, monkeypatch):
    path = folder / "rabbitmq-server"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_server_that_does_not_start_is_quoted(folder, tmp_path, monkeypatch):
    fake_server(tmp_path, 'echo "exec: erl: not found"; echo; echo "====="; exit 127', monkeypatch)
    with pytest.raises(UsageError, match=r"erl: not found .*out") as raised:
        broker.start(folder)
    assert "not found" in (folder / "out").read_text()
    assert str(folder) in str(raised.value)


def test_a_server_that_does_not_get_ready_is_ended(folder, tmp_path, monkeypatch):
    fake_server(tmp_path, 'echo "waiting for the moon: failed, again"; exec sleep 1000', monkeypatch)
    monkeypatch.setattr(broker, "PATIENCE", 0.3)
    with pytest.raises(UsageError, match="waiting for the moon"):
        broker.start(folder)
    assert not processes(folder)


def test_a_full_disk_is_said_before_anything_starts(folder, monkeypatch):
    monkeypatch.setattr(broker, "DISK_LIMIT", 1 << 60)
    with pytest.raises(UsageError, match="MiB are free"):
        broker.start(folder)
    assert not processes(folder)


def test_a_port_that_another_program_has_taken_is_named(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is taken"):
            broker.start(folder, port=port)
    assert not processes(folder)


def test_another_port_is_used_if_the_first_is_taken_meanwhile(folder, tmp_path, monkeypatch):
    taken = 'grep -q 1001 advanced.config && { echo "{listen_error, eaddrinuse}"; exit 1; }'
    text = f'{taken}; echo "failed with $(grep listeners advanced.config)"'
    fake_server(tmp_path, text, monkeypatch)
    ports = iter([1001, 1002])
    monkeypatch.setattr(broker, "free_port", lambda everywhere: next(ports))
    with pytest.raises(UsageError, match="1002"):
        broker.start(folder)


@pytest.fixture
def command_of_broker(folder):
    """Starts `pymar broker` in this folder, and returns it with what it has printed first."""
    running = []

    def run(*options):
        environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        one = subprocess.Popen(
            [sys.executable, "-m", "pymar", "broker", "--folder", folder, *options],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        running.append(one)
        lines = []
        for line in one.stdout:
            lines.append(line)
            if line.startswith("Then:"):
                break
        return one, "".join(lines)

    yield run
    for one in running:
        one.kill()
        one.wait()
        one.stdout.close()


def test_the_command_runs_until_sigterm_revives_its_node_and_ends_what_a_killed_one_left(folder, command_of_broker):
    first, said = command_of_broker()
    assert f"{folder}/environment" in said
    node = broker.find(folder)
    assert node.password not in said
    assert (folder / "environment").stat().st_mode & 0o777 == 0o600

    doctor = f". '{folder}/environment'; exec '{sys.executable}' -m pymar doctor"
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    told = subprocess.run(["sh", "-c", doctor], env=environ, capture_output=True, text=True).stdout
    assert f"accepts '{node.user}'" in told

    _, refused = command_of_broker()
    assert "another --folder" in refused

    # It starts a node again that has died.
    os.kill(node.pid, signal.SIGKILL)
    wait_until(lambda: (one := broker.find(folder)) and one.pid != node.pid, "the node to be started again")
    login(node)
    node = broker.find(folder)

    first.kill()
    first.wait()
    second, said = command_of_broker()
    assert f"RabbitMQ (process {node.pid})" in said
    assert not is_running(node.pid)

    node = broker.find(folder)
    with contextlib.closing(connected(node.address)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("pymar.work.x", durable=True, arguments={"x-expires": 60_000})
        channel.basic_publish("", "pymar.work.x", b"part", pika.BasicProperties(delivery_mode=2), mandatory=True)
    os.kill(node.pid, signal.SIGKILL)
    assert "ended by itself" in second.stdout.readline()
    assert "was started again" in second.stdout.readline()
    with contextlib.closing(connected(node.address)) as connection:  # at its address, with its messages
        assert connection.channel().basic_get("pymar.work.x", auto_ack=True)[2] == b"part"
    assert broker.find(folder)._replace(pid=node.pid) == node

    second.send_signal(signal.SIGTERM)
    assert second.wait() == 0
    assert not processes(folder)
    assert not folder.exists()
