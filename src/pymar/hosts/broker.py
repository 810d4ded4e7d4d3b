"""A RabbitMQ node of one's own: started from the installed server, found again, and ended.

    FOLDER/                    mode 700; all files 600
      broker.json              the record: address, user, password, process; written once a login has worked
      advanced.config          RabbitMQ's settings, among them user and password
      .erlang.cookie           Erlang wants one; nothing listens that would ask for it
      ca.pem                   clients verify the node with it; server.pem, server.key: its own
      data/  log/  out         its queues; what it logs; what it prints

The node is a daemon in a session of its own: it lives on when whoever started it has ended. Each `start` begins with a
new user, password and certificate, and without the queues of an earlier one; `again` goes on with all of them, after
the node has died.

It has no management plugin and takes no part in Erlang's distribution (`-dist_listen false`): it has one port, that of
AMQP, no epmd, and cannot be asked by rabbitmqctl. What belongs to it is known by a variable in the environment of its
processes, so that `stop` also finds what a start that was killed has left.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pymar.amqp.address import Address
from pymar.amqp.link.client import asking, connected
from pymar.amqp.owner import listening
from pymar.exceptions import BrokerRefused, UsageError
from pymar.hosts import certificate
from pymar.hosts.background import wait
from pymar.serialization.redaction import printable

#: Bytes that stay free on the disk: with less, the node takes no messages. RabbitMQ's own 50 MB are too few for others.
DISK_LIMIT = 256 << 20
#: The part of the memory that the node may use before it takes no more messages: RabbitMQ's own, before 4.0.
MEMORY_SHARE = 0.4
#: Seconds that a node has until a login works. It takes about 3 where nothing else runs; after a death it first reads
#: all messages that it had, so that has no bound but this one.
PATIENCE, PATIENCE_AGAIN = 90.0, 1800.0
#: Seconds that the port of a node which has died may be another program's: that of an outgoing connection, say.
PORT_PATIENCE = 3.0
#: Seconds that killed processes have until they are gone.
_GONE_AFTER = 10.0
#: How many free ports are tried: another program may take one between the look at it and its use.
_TRIES = 5
#: Seconds between two looks.
_PAUSE = 0.05

#: Where packages put the script. Theirs in /usr/sbin becomes the user of the service first, which only root may.
PLACES = (
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    "/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/sbin/rabbitmq-server",
)
_SWITCHING = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
#: The package manager that is there, and what installs the server.
_INSTALL = {
    "apt-get": "apt-get install rabbitmq-server",
    "dnf": "dnf install rabbitmq-server",
    "pacman": "pacman -S rabbitmq",
    "zypper": "zypper install rabbitmq-server",
    "brew": "brew install rabbitmq",
}
_WITHOUT_ROOT = "conda install -c conda-forge rabbitmq-server"

#: In the environment of each process of a node: its folder.
_MARK = "PYMAR_BROKER_FOLDER"
#: What a node's processes inherit from whoever starts it; nothing else, so that no secret is in their environment.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_NODE = "pymar@localhost"
#: -sname and the three after it: a node with a name, which listens for no others and asks no epmd for them; the port is
#: never used, but 0 would mean asking. An Erlang without -dist_listen listens on the loopback interface only.
#: -noinput: without a terminal; +B i: Ctrl-C in a shell is not for it.
_ERLANG = (
    f"-noinput +B i -sname {_NODE} -dist_listen false -start_epmd false -erl_epmd_port 1 "
    "-kernel inet_dist_use_interface {127,0,0,1}"
)
#: The name of its folder for the node itself: RabbitMQ calls df without quotes, and then watches no disk if there is a
#: space in the path.
_HERE = "/proc/self/cwd"
_RECORD, _CA, _SERVER, _KEY = "broker.json", "ca.pem", "server.pem", "server.key"
_LOG, _OUT = "log/server.log", "out"
#: Of the node before, which has died.
_LOG_BEFORE, _OUT_BEFORE = f"{_LOG}.before", f"{_OUT}.before"
_FILES = (
    _RECORD,
    _CA,
    _SERVER,
    _KEY,
    _OUT,
    _OUT_BEFORE,
    "advanced.config",
    "plugins",
    ".erlang.cookie",
    "erl_crash.dump",
)
_FOLDERS = ("data", "log")
_LOCK = "lock"
_BUSY = "a broker is being started or stopped in {}: wait for that, and try again"


class Broker(NamedTuple):
    """A node that runs. Its text does not contain the password."""

    host: str
    """The address by which this host reaches it."""
    port: int
    user: str
    password: str
    tls: bool
    cafile: str
    """The file with the certificate of the authority; "" without TLS."""
    pid: int
    folder: str

    def __repr__(self) -> str:
        return f"Broker({'amqps' if self.tls else 'amqp'}://{self.host}:{self.port}, process {self.pid})"

    def url(self, host: str, cafile: str = "") -> str:
        """Return its address for clients that reach it by this name; it contains the password.

        `cafile` is the path of a copy of `self.cafile`, where the clients run.
        """
        shown = f"[{host}]" if ":" in host else host
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        options = f"?cafile={quote(cafile, safe='/')}" if cafile else ""
        return f"{'amqps' if self.tls else 'amqp'}://{login}@{shown}:{self.port}/{options}"

    @property
    def address(self) -> Address:
        """Its address for clients on this host."""
        cafile = self.cafile or None
        return Address(
            self.host, self.port, self.user, self.password, tls=self.tls, cafile=cafile, is_password_given=True
        )


class _PortTaken(Exception):
    """Another program listens at the port."""


def start(folder: Path, *, names: Sequence[str] = (), port: int | None = None) -> Broker:
    """Start a node and return it once a login has worked.

    With `names` it listens at all addresses of this host, over TLS, and its certificate is good for these host names
    and IP addresses, and for `localhost`, 127.0.0.1 and ::1. Without, it listens at 127.0.0.1 only, without TLS. The
    port is a free one if none is given. What a start that was cut off has left in this folder is ended and removed.

    Raises:
        UsageError: a node runs from this folder; there is no server, or it does not start; the folder is not usable.
        MissingExtra: TLS needs a library that is not installed.
    """
    server = _server()
    folder = usable(folder)
    made = certificate.made_for([*names, "localhost", "127.0.0.1", "::1"]) if names else None
    with exclusive(folder, _LOCK, _BUSY.format(folder)):
        if running := find(folder):
            raise UsageError(f"a broker runs from {folder} already (process {running.pid}): stop that one first")
        try:
            for _ in range(1 if port else _TRIES):
                _end(folder)
                _clear(folder)
                with suppress(_PortTaken):
                    return _started(folder, server, made, port or free_port(bool(names)))
            if port:
                raise UsageError(f"port {port} is taken by another program: give another one, or none")
            raise UsageError(f"{_TRIES} free ports were taken by other programs before their use: try again")
        except BaseException:  # also Ctrl-C: no node is left half started
            _end(folder)
            for name in (_RECORD, _KEY, "advanced.config", ".erlang.cookie"):  # the log stays, to be read
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "data", ignore_errors=True)
            raise


def again(folder: Path) -> Broker:
    """Start the node of this folder again, after it has died, and return it once a login has worked.

    Its address, user, password and certificate are those of before, and it has the durable queues and messages. A node
    that runs is left alone. One whose start was cut off is ended first: there are never two on the same data.

    Raises:
        UsageError: there was none, or it was on another host; it does not start. Its files stay, for another try.
    """
    if (known := recorded(folder)) is None:
        raise UsageError(f"no broker was started in {folder}")
    server = _server()
    folder = usable(folder)
    with exclusive(folder, _LOCK, _BUSY.format(folder)):
        if running := find(folder):
            return running
        if (known := recorded(folder)) is None:
            raise UsageError(f"the broker in {folder} was stopped")
        if known.host != socket.gethostname():
            raise UsageError(f"the broker in {folder} was started on the host {known.host}: start it again there")
        try:
            _end(folder)
            _wait_for_port(known.broker)
            for name, before in ((_LOG, _LOG_BEFORE), (_OUT, _OUT_BEFORE)):
                with suppress(FileNotFoundError):  # what it says from now on is told apart from what it said then
                    (folder / name).replace(folder / before)
            return _ready(known.broker, server, PATIENCE_AGAIN)
        except _PortTaken:
            raise UsageError(_taken(known.broker.port)) from None
        except BaseException:  # also Ctrl-C: no node is left half started
            _end(folder)
            raise


def find(folder: Path) -> Broker | None:
    """Return the node that runs from this folder, or None."""
    known = recorded(folder)
    if known is None or known.began != _began(known.broker.pid):
        return None
    # After a reboot, another process may have its number, and may have begun at the same tick.
    return known.broker if _belongs(known.broker.pid, Path(known.broker.folder)) else None


def ended_within(broker: Broker, seconds: float) -> bool:
    """Wait until the node has ended, but so many seconds at most; return True if it has."""
    folder = Path(broker.folder)
    try:
        one = os.pidfd_open(broker.pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # a system without them
        deadline = time.monotonic() + seconds
        while find(folder) == broker and time.monotonic() < deadline:
            time.sleep(min(0.5, seconds))  # without a handle nothing tells of its end
        return find(folder) != broker
    try:
        if find(folder) == broker:  # the handle is for this very process
            wait([one], seconds)
        return find(folder) != broker
    finally:
        os.close(one)


class Record(NamedTuple):
    """What the file of a node says; it may have died."""

    broker: Broker
    began: int
    """When its process began, in the ticks of proc(5)."""
    host: str
    """Of which it is a process; several may share the folder."""


def recorded(folder: Path) -> Record | None:
    """Return what is known of the node that was started in this folder and not stopped; it may have died."""
    try:
        with open(folder / _RECORD, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                return None
            record = json.load(file)
        began, host = record.pop("began"), record.pop("started_on")
        return Record(Broker(**record), began, host)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # none was started, or its start was cut off: then `stop` knows it by its environment


def stop(folder: Path) -> list[str]:
    """End all processes of the node of this folder, at once, and remove its files; return what was ended, for people.

    Its messages are lost. Without a node, and without a folder, nothing is done.

    Raises:
        UsageError: the folder is another user's, or a process does not end.
    """
    if not folder.exists():
        return _end(folder.absolute().parent.resolve() / folder.name)
    folder = usable(folder)
    with exclusive(folder, _LOCK, _BUSY.format(folder)):
        ended = _end(folder)
        _clear(folder)
    with suppress(OSError):  # the caller has other files in it
        folder.rmdir()
    return ended


def alarms(broker: Broker) -> list[str]:
    """Return what keeps the node from taking messages, or soon will, each with the remedy; nothing if all is well.

    Raises:
        BrokerRefused: it cannot be reached.
    """
    found = []
    if reason := _blocked(broker):
        found.append(f"the broker takes no messages ({printable(reason)}) until there is room again")
    free = shutil.disk_usage(broker.folder).free
    if free < 2 * DISK_LIMIT:
        found.append(
            f"{free >> 20} MiB are free on the disk of {broker.folder}, and below {DISK_LIMIT >> 20} MiB the broker "
            "takes no messages: remove files there"
        )
    used, limit = _resident(broker.pid), int(_memory() * MEMORY_SHARE)
    if used > 0.8 * limit:
        found.append(
            f"the broker uses {used >> 20} of the {limit >> 20} MiB of memory that it may: let jobs send smaller "
            "partials, or run it on a host with more memory"
        )
    return found


def _blocked(broker: Broker) -> str:
    """Return why the node blocks publishers, by its own words; "" if it does not. A publisher is told, nobody else."""
    reasons: list[str] = []
    returned: list[bool] = []
    with asking(broker.address) as connection:
        connection.add_on_connection_blocked_callback(lambda _, frame: reasons.append(str(frame.method.reason)))
        channel = connection.channel()
        channel.add_on_return_callback(lambda *_: returned.append(True))
        # To no queue: it comes back at once, or not at all.
        channel.basic_publish("", f"pymar.nobody.{os.urandom(8).hex()}", b"", mandatory=True)
        deadline = time.monotonic() + 5
        while not reasons and not returned and time.monotonic() < deadline:
            connection.process_data_events(0.05)
    if reasons or returned:
        return reasons[0] if reasons else ""
    return "it does not answer: is its host overloaded?"


def _started(folder: Path, server: str, made: certificate.Certificate | None, port: int) -> Broker:
    """Start a node in an empty folder."""
    user, password = f"pymar-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
    _check_disk(folder)
    for name in _FOLDERS:
        (folder / name).mkdir(mode=0o700)
    if made:
        for name, content in ((_CA, made.authority), (_SERVER, made.server), (_KEY, made.key)):
            write(folder / name, content)
    write(folder / "advanced.config", _settings(user, password, port, bool(made)).encode())
    write(folder / "plugins", b"[].\n")
    write(folder / ".erlang.cookie", secrets.token_hex(32).encode(), 0o400)
    cafile = str(folder / _CA) if made else ""
    return _ready(Broker("127.0.0.1", port, user, password, bool(made), cafile, 0, str(folder)), server, PATIENCE)


def _ready(broker: Broker, server: str, patience: float) -> Broker:
    """Start the node of a folder in which all settings are, wait until a login works, and write the record."""
    folder = Path(broker.folder)
    broker = broker._replace(pid=_launched(folder, server))
    _wait(broker, patience)
    record = {**broker._asdict(), "began": _began(broker.pid), "started_on": socket.gethostname()}
    write(folder / _RECORD, json.dumps(record, indent=1).encode())
    return broker


def _settings(user: str, password: str, port: int, tls: bool) -> str:
    """Return RabbitMQ's settings as Erlang's terms, which it reads faster than rabbitmq.conf; a key that this version
    does not have is no error there."""
    if tls:
        files = f'{{cacertfile,"{_CA}"}}, {{certfile,"{_SERVER}"}}, {{keyfile,"{_KEY}"}}'
        listeners = (
            f"{{tcp_listeners, []}}, {{ssl_listeners, [{port}]}},\n  {{ssl_options, [{files},"
            " {versions,['tlsv1.3','tlsv1.2']}, {verify,verify_none}, {fail_if_no_peer_cert,false}]}"
        )
    else:
        listeners = f'{{tcp_listeners, [{{"127.0.0.1",{port}}}]}}'
    return f"""[{{rabbit, [
  {listeners},
  {{default_user, <<"{user}">>}}, {{default_pass, <<"{password}">>}}, {{default_user_tags, []}},
  {{default_permissions, [<<".*">>, <<".*">>, <<".*">>]}}, {{loopback_users, []}},
  {{disk_free_limit, {DISK_LIMIT}}}, {{vm_memory_high_watermark, {{absolute, {int(_memory() * MEMORY_SHARE)}}}}},
  {{log, [{{file, [{{level,info}}, {{size,10485760}}, {{count,1}}]}},
          {{categories, [{{connection, [{{level,warning}}]}}]}}]}}
]}}].
"""


def _launched(folder: Path, server: str) -> int:
    """Start the node as a daemon, and return its process."""
    environ = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environ["PATH"] = f"{environ.get('PATH', '')}:/usr/local/bin:/usr/bin:/bin"
    environ |= {
        _MARK: str(folder),
        "HOME": str(folder),
        "RABBITMQ_NODENAME": _NODE,
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),  # not the file of the system
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": f"{_HERE}/data",
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": str(folder / _LOG),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
        "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the node, and no shell waits for it
        "ERL_CRASH_DUMP_SECONDS": "0",  # a dump of its memory would have the password in it
    }
    # A shell starts it and ends: so the node is nobody's child, and no zombie of a process that started it long ago.
    command = ["/bin/sh", "-c", 'umask 077; "$0" < /dev/null >> "$1" 2>&1 & echo $!', server, _OUT]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True
        )
        return int(done.stdout)
    except (OSError, ValueError) as error:
        raise UsageError(f"{server} cannot be started: {error}") from error


def _wait_for_port(broker: Broker) -> None:
    """Return once no other program has the node's port.

    Raises:
        _PortTaken: one has it all the time.
    """
    deadline = time.monotonic() + PORT_PATIENCE
    while not _is_free(broker):
        if time.monotonic() > deadline:
            raise _PortTaken
        time.sleep(_PAUSE)  # nothing tells when another program lets go of a port


def _is_free(broker: Broker) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the node does: closed connections do not matter
        try:
            one.bind(("0.0.0.0" if broker.tls else "127.0.0.1", broker.port))
        except OSError:
            return False
    return True


def _taken(port: int) -> str:
    """Return the message that another program has the port, and which one if that can be seen."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc") else []
    holders = ", ".join(f"{_name(pid)} (process {pid})" for pid in _holders(port, pids))
    return f"its port, {port}, is taken by {holders or 'another program'}: end that one"


def _wait(broker: Broker, patience: float) -> None:
    """Return once a login at the node works.

    Raises:
        _PortTaken: another program has its port.
        UsageError: the node has ended, or does not become ready.
    """
    folder, deadline = Path(broker.folder), time.monotonic() + patience
    last = "it does not listen"
    while time.monotonic() < deadline:
        if not _began(broker.pid):
            raise _reason_of_end(folder)
        # The password is for the node, not for who was faster with this port.
        if _listens(folder, broker.port):
            try:
                connected(broker.address).close()
                return
            except BrokerRefused as error:
                last = str(error)
        time.sleep(_PAUSE)  # a node does not tell when it listens
    raise UsageError(
        f"the broker is not ready after {patience:g} s ({last}). It says: {last_words(folder)} ({folder / _LOG})"
    )


def _reason_of_end(folder: Path) -> Exception:
    """Return the error for a node that has ended while it started."""
    said = _said(folder)
    if "eaddrinuse" in said:
        return _PortTaken()
    if "enospc" in said or "No space left" in said:
        return UsageError(f"the broker did not start: no space is left on the disk of {folder}: remove files there")
    log = folder / (_LOG if (folder / _LOG).exists() else _OUT)
    return UsageError(f"the broker did not start: {last_words(folder)} (all of it is in {log})")


_STAMP = re.compile(r"^\d{4}-\d\d-\d\d [\d:.+]+ (\[\w+\] )?(<[\d.]+> )?|\x1b\[[\d;]*m")
_TELLING = re.compile(r"error|fail|cannot|can't|denied|not found|no such|invalid|refused|unsupported", re.IGNORECASE)


def last_words(folder: Path) -> str:
    """Return the last line of what the node has printed and logged that tells something; of many words, the first."""
    lines = [_STAMP.sub("", line).strip(" =*") for line in _said(folder).splitlines()]
    lines = [line for line in lines if len(line.split()) > 1]
    telling = [line for line in lines if _TELLING.search(line)]
    line = (telling or lines or ["nothing"])[-1]
    return printable(line if len(line) <= 300 else f"{line[:297]}...")


def _said(folder: Path) -> str:
    texts = []
    for name in (_LOG, _OUT):
        with suppress(OSError), open(folder / name, encoding="utf-8", errors="replace") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 100_000))
            texts.append(file.read())
    return "\n".join(texts)


def _listens(folder: Path, port: int) -> bool:
    """True if the node of this folder itself listens at this port."""
    return any(_holders(port, (pid for pid, _ in _processes(folder))))


def _holders(port: int, pids: Iterable[int]) -> Iterator[int]:
    """Yield those of these processes that listen at this port, as far as this user may see it."""
    sockets = {f"socket:[{inode}]" for inode in listening(port)}
    for pid in pids if sockets else ():
        with suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{name}") in sockets:
                        yield pid
                        break


def free_port(everywhere: bool) -> int:
    """Return a port that nobody uses now, at the loopback address or at all of them."""
    with socket.socket() as one:
        one.bind(("0.0.0.0" if everywhere else "127.0.0.1", 0))
        return int(one.getsockname()[1])


def _server() -> str:
    """Return the path of the script that starts a node.

    Raises:
        UsageError: RabbitMQ is not installed; the message has the command that installs it.
    """
    on_path = shutil.which("rabbitmq-server") or ""
    own = os.path.join(sys.prefix, "bin", "rabbitmq-server")  # of the conda environment of this Python
    first = [on_path] if os.path.dirname(on_path) not in ("", *_SWITCHING) else []
    for path in (own, *first, *PLACES, on_path):
        if path and os.access(path, os.X_OK):
            return path
    sudo = "" if os.geteuid() == 0 else "sudo "
    command = next((how for manager, how in _INSTALL.items() if shutil.which(manager)), "")
    if command.startswith("brew"):
        sudo = ""
    there = f"{sudo}{command} (without root: {_WITHOUT_ROOT})" if command and sudo else command or _WITHOUT_ROOT
    raise UsageError(f"there is no RabbitMQ server on this host. To install it: {there}; or name a broker with -q")


def usable(folder: Path) -> Path:
    """Return the folder without links in its path, made if it is missing, and of mode 700.

    Raises:
        UsageError: it is another user's, others may write to it, it is no folder, or it has files that are not ours.
    """
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{folder} is no folder: give another one for the broker")
        if found.st_uid != os.geteuid():
            raise UsageError(f"{folder} belongs to another user (uid {found.st_uid}): give a folder of your own")
        if found.st_mode & 0o022:
            raise UsageError(f"others may write to {folder}: chmod 700 {folder}, or give another folder")
        if found.st_mode & 0o077:
            if set(os.listdir(folder)) - {*_FILES, *_FOLDERS, _LOCK}:
                raise UsageError(f"others may read {folder}, which has files of its own: give a new folder")
            folder.chmod(0o700)
        return folder.resolve()
    except OSError as error:
        raise UsageError(f"the folder of the broker, {folder}: {error.strerror}: give another one") from error


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free <= DISK_LIMIT:
        raise UsageError(
            f"the broker needs more than {DISK_LIMIT >> 20} MiB of disk, and {free >> 20} MiB are free at {folder}: "
            "remove files there, or give a folder on another disk"
        )


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a new file; whoever reads it at the same time sees all of it or none."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        part.rename(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _clear(folder: Path) -> None:
    """Remove the files of a node, and no others."""
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in _FILES:
        for one in (name, f"{name}.part"):
            (folder / one).unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path, name: str, otherwise: str) -> Iterator[None]:
    """Hold a lock in this folder; its file is removed at the end.

    Raises:
        UsageError: another process holds it; `otherwise` is the message.
    """
    path = folder / name
    with ExitStack() as stack:
        while True:
            try:
                file = stack.enter_context(open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb"))
            except OSError as error:
                raise UsageError(f"{path} cannot be written: {error.strerror}") from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(otherwise) from None
            except OSError:
                pass  # a file system without locks
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                    break  # else its last holder has just removed it
        stack.callback(path.unlink, missing_ok=True)
        yield


def _end(folder: Path) -> list[str]:
    """Kill the processes of the node of this folder, wait until they are gone, and return what they were."""
    ended: list[str] = []
    deadline = time.monotonic() + _GONE_AFTER
    while found := list(_processes(folder)):
        with ExitStack() as stack:
            killed = []
            for pid, name in found:
                with suppress(OSError):  # it has just ended
                    one = os.pidfd_open(pid)
                    stack.callback(os.close, one)
                    if _belongs(pid, folder):  # what the handle refers to, too: its number was not given away meanwhile
                        signal.pidfd_send_signal(one, signal.SIGKILL)
                        killed.append(one)
                        text = f"{name} (process {pid})"
                        ended += [] if text in ended else [text]
            # All of them: one whose first thread has ended is not found any more, and may still have the port.
            wait(killed, 1.0)
        if time.monotonic() > deadline:
            raise UsageError(f"{', '.join(ended)} of the broker in {folder} do not end: is its disk or its host stuck?")
    return ended


def _processes(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield the processes of the node of this folder, and their names."""
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if _belongs(pid, folder) and (name := _name(pid)):
            yield pid, "RabbitMQ" if name == "beam.smp" else name


def _name(pid: int) -> str:
    """Return the name of a process; "" if it has ended."""
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return printable(file.read().strip())
    return ""


def _belongs(pid: int, folder: Path) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{_MARK}={folder}".encode() in file.read().split(b"\0")
    except OSError:
        return False  # it has ended, or is another user's


def _began(pid: int) -> int:
    """Return when a process began, in the ticks of proc(5); 0 if there is none, or if it has ended and is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def _resident(pid: int) -> int:
    """Return the bytes of memory that a process has; 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _memory() -> int:
    """Return the bytes of memory of this host, or of the control group that this process is in."""
    here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max", "rb") as file:
        here = min(here, int(file.read()))  # "max" is no number
    return here
