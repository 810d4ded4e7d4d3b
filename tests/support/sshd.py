"""Hosts that tests reach by ssh: real sshd's, each on an address of its own, with a home and processes of its own.

    this process, and the system's ssh with a configuration of its own     10.A.B.1    bed.root_address, bed.environ
        |  a bridge
        +-- veth -- node1: namespaces for network, processes, mounts, name   10.A.B.11   sshd, port 22
        +-- veth -- node2                                                    10.A.B.12

The first process of a host reads a pipe from here. When this process ends, however it does, the pipe closes, that
process ends, and the kernel ends the rest of the host and removes its link; a bridge that was left is removed by the
next bed. Where namespaces are not permitted, hosts are sshd's on ports of 127.0.0.1; tests that cut links are skipped.
"""

import contextlib
import functools
import itertools
import json
import os
import pwd
import random
import re
import select
import shlex
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import children_of, command_of, free_port, is_running, need, wait_until
from places import ROOT

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
#: Where a login finds programs; python3 is taken away or replaced in the first two.
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
#: The Python of this process outside of its virtual environment: what hosts call python3, unless told otherwise.
PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
SAME, NONE = object(), None
#: The number of the first user whom only a host has.
OTHER_USERS = 5001

_beds, _links = itertools.count(), itertools.count()


@functools.cache
def namespaces_are_permitted():
    if os.geteuid() or not shutil.which("ip"):
        return False
    within = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--uts", "--ipc", "sh", "-c"]
    return not subprocess.run(
        [*within, "ip link add name veth1 type veth peer name veth2 && hostname a"], capture_output=True
    ).returncode


def need_namespaces():
    """Skip a test that needs hosts of their own; in CI too, since many a CI has no right to make them."""
    if not namespaces_are_permitted():
        pytest.skip("network namespaces are not permitted (they need root)")


def ip(*words):
    done = subprocess.run(["ip", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(map(str, words))}: {done.stderr}"
    return done.stdout


class Bed:
    """Hosts, and the configuration with which ssh reaches them; owns all of it until `close`."""

    def __init__(self, folder, isolated=None):
        need(SSHD and shutil.which("ssh"), "openssh-server")
        self.folder = folder
        self.isolated = namespaces_are_permitted() if isolated is None else isolated
        #: A folder that all hosts see under the same path, as on a shared file system.
        self.shared = folder / "shared"
        self.known_hosts, self.config = folder / "known_hosts", folder / "ssh_config"
        self.key, self.etc_hosts = folder / "key", folder / "etc_hosts"
        self._hosts, self._entries, self._known, self._listening, self._proxy = {}, {}, {}, [], None
        for made in (self.shared, folder / "bin", folder / "home"):
            made.mkdir()
        make_key(self.key)
        for program in ("ssh", "scp", "sftp"):
            wrapper = folder / "bin" / program
            wrapper.write_text(f'#!/bin/sh\nexec {shutil.which(program)} -F {shlex.quote(str(self.config))} "$@"\n')
            wrapper.chmod(0o755)
        #: The environment of processes that use the hosts: that ssh comes first, and HOME is a folder of the bed.
        self.environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("SSH_", "XDG_", "PYMAR_"))
        }
        self.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
        self.environ["HOME"] = str(folder / "home")
        self.environ["PYTHONPATH"] = str(ROOT / "src")
        self.root_address = self._add_bridge() if self.isolated else "127.0.0.1"
        self._write()

    def host(self, name, **options):
        """Start a host: see `Host` for the options."""
        made = (Host if self.isolated else LoopbackHost)(self, name, len(self._hosts), **options)
        self._hosts[name] = made
        self.reach(name, made.address, made.port, made.public_key)
        made.boot()
        return made

    def hosts(self, count, **options):
        """Start node1, node2, ..."""
        return [self.host(f"node{number}", **options) for number in range(1, count + 1)]

    def silent(self, name):
        """Add a name under which connections are accepted and nothing is ever said."""
        listening = socket.create_server((self.root_address, 0), backlog=64)
        self._listening.append(listening)
        self.reach(name, *listening.getsockname())

    def reach(self, name, address, port, public_key=None):
        """Let ssh find a name there; its host key is known if it is given."""
        self._entries[name] = f"Host {name}\n    HostName {address}\n    Port {port}\n"
        self.know(name, address, port, public_key)

    def know(self, name, address, port, public_key):
        """Replace what the client knows of a host's key; with None it knows nothing."""
        self._known[name] = (f"{address}" if port == 22 else f"[{address}]:{port}", public_key)
        self._write()

    def run(self, *command, **options):
        """Run a command of a client: one that finds the bed's ssh."""
        settings = {"capture_output": True, "text": True, "timeout": 60, "stdin": subprocess.DEVNULL, **options}
        return subprocess.run(list(map(str, command)), env=self.environ, **settings)

    def old_python(self):
        """Return a `python3` that is this one and says that it is 3.9: a real one is seldom at hand."""
        folder = self.shared / "python3.9"
        if not folder.exists():
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            site = folder / "lib" / f"python{version}" / "site-packages"
            site.mkdir(parents=True)
            (folder / "bin").mkdir()
            shutil.copy(PYTHON, folder / "bin" / "python3.9")
            (folder / "pyvenv.cfg").write_text(f"home = {PYTHON.parent}\n")
            (site / "says_old.pth").write_text("import says_old\n")  # Debian has a sitecustomize of its own
            (site / "says_old.py").write_text(
                "import sys\n"
                "sys.version_info = type('version_info', (tuple,), dict(major=3, minor=9, micro=18))"
                "((3, 9, 18, 'final', 0))\n"
                "sys.version, sys.hexversion = '3.9.18' + sys.version[sys.version.index(' '):], 0x030912f0\n"
            )
        return folder / "bin" / "python3.9"

    def proxy(self):
        """Return the address of a proxy to the package index, for hosts that have no other way out."""
        if self._proxy is None:
            self._proxy = Proxy((self.root_address, 0), Tunnel)
            threading.Thread(target=self._proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://{self.root_address}:{self._proxy.server_address[1]}"

    def close(self):
        for host in self._hosts.values():
            host.kill()
        for listening in self._listening:
            listening.close()
        if self._proxy:
            self._proxy.shutdown()
            self._proxy.server_close()
        if self.isolated:
            ip("link", "del", self.bridge)
            self._claim.close()

    def _write(self):
        everywhere = {
            "IdentityFile": self.key,
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
        }
        lines = [f"    {name} {value}\n" for name, value in everywhere.items()]
        self.config.write_text("".join([*self._entries.values(), "Host *\n", *lines]))
        self.known_hosts.write_text("".join(f"{where} {key}\n" for where, key in self._known.values() if key))
        # In place: it is mounted on the /etc/hosts of each host.
        named = [f"{host.address} {name}\n" for name, host in self._hosts.items() if self.isolated]
        self.etc_hosts.write_text("".join(["127.0.0.1 localhost\n", "::1 localhost\n", *named]))

    def _add_bridge(self):
        links = json.loads(ip("-j", "address"))
        for link in links:  # of a process that was killed
            ours = re.fullmatch(r"pm(\d+)-b\d+", link["ifname"])
            if ours and not is_running(ours[1]):
                with contextlib.suppress(AssertionError):  # another process has just done it
                    ip("link", "del", link["ifname"])
        taken = {info.get("local", "").rpartition(".")[0] for link in links for info in link["addr_info"]}
        chance = random.SystemRandom()
        while True:
            network = f"10.{chance.randrange(64, 192)}.{chance.randrange(256)}"
            self._claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                self._claim.bind(f"\0pymar-bed-{network}")  # one process has it, until it ends
            except OSError:
                self._claim.close()
                continue
            if network not in taken:
                break
            self._claim.close()
        self.network, self.bridge = network, f"pm{os.getpid()}-b{next(_beds)}"
        ip("link", "add", "name", self.bridge, "type", "bridge")
        ip("address", "add", f"{network}.1/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        return f"{network}.1"


class Host:
    """A host of a bed.

    port            of its sshd; 22 by default
    python          what `python3` is there: SAME, NONE, or the path of another
    shell           the login shell
    home            a folder; that of another host, for a home that both share. By default an empty one of its own
    home_bytes      the home is a file system of that size
    home_read_only
    login           "key"; "refused" (no key is accepted); "password" (which nobody has)
    clock           seconds that its processes are ahead of the real time (libfaketime: the kernel has one real time)
    internet        its processes are given a proxy to the package index
    environ         more variables of its logins
    users           names of other users, whom the same key lets in: `ada@node1`, with a home in `homes`
    """

    def __init__(self, bed, name, number, *, port=None, python=SAME, shell="/bin/sh", home=None, home_bytes=0,
                 home_read_only=False, login="key", clock=0, internet=False, environ=(), users=()):  # fmt: skip
        self.bed, self.name, self.python, self.shell = bed, name, python, shell
        self.home_bytes, self.home_read_only, self.login = home_bytes, home_read_only, login
        self.user, self.users = pwd.getpwuid(os.getuid()), users
        self.folder = bed.folder / f"host-{name}"
        self.address, self.port = self._find_place(number, port)
        self.process, self.sshd_starts = None, 0
        for made in ("home", "homes", "tmp", "run/sshd", "run/pymar"):
            (self.folder / made).mkdir(parents=True)
        (self.folder / "tmp").chmod(0o1777)
        #: The home as seen from here, and as its own processes call it.
        self.home = Path(home) if home else self.folder / "home"
        self.home_there = Path("/home") / self.user.pw_name
        self.homes = {name: self.folder / "homes" / name for name in users}
        for number, home in enumerate(self.homes.values(), OTHER_USERS):
            home.mkdir(0o700)
            if not bed.isolated:
                pytest.skip("another user needs namespaces (they need root)")
            os.chown(home, number, number)
        self.public_key = make_key(self.folder / "run" / "pymar" / "host_key")
        self.environ = dict(environ)
        if clock:
            found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
            need(found, "libfaketime")
            self.environ |= {"LD_PRELOAD": found[0], "FAKETIME": f"{clock:+}", "DONT_FAKE_MONOTONIC": "1"}
        if internet:
            self.environ |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
            self.environ |= {"https_proxy": bed.proxy(), "http_proxy": bed.proxy()} if bed.isolated else {}

    def run(self, command, **options):
        """Run a command of the shell in the host, past ssh; return a CompletedProcess with texts."""
        settings = {"capture_output": True, "text": True, "timeout": 60, "stdin": subprocess.DEVNULL, **options}
        return subprocess.run(self._within(command), **settings)

    def processes(self):
        """Return the processes there as "pid arguments", without sshd's and the host's first."""
        return [line.strip() for line in self.run("exec ps -eo pid=,args=").stdout.splitlines() if not is_ours(line)]

    def kill(self):
        """End the host as a power cut does: all its processes at once, and no last packet leaves it."""
        if self.process and self.process.poll() is None:
            self.cut()
            os.kill(self.pid, signal.SIGKILL)
            self.process.wait()
            with contextlib.suppress(AssertionError):  # the kernel has just done it
                ip("link", "del", self.link)
        self._close_pipes()

    def cut(self):
        """Take its link down: packets are lost, both ways."""
        ip("link", "set", self.link, "down")

    def mend(self):
        ip("link", "set", self.link, "up")

    def stop_sshd(self):
        """End the sshd that listens; sessions go on."""
        self.run(f"kill {self._pid_file.read_text()}")
        wait_until(lambda: not self._pid_file.exists(), "sshd to end")

    def start_sshd(self):
        self.run(self._sshd_command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, capture_output=False)
        self._wait_for_sshd()

    def change_known_key(self):
        """Let the client know another key than the host has."""
        other = self.folder / f"other_key{time.monotonic_ns()}"
        self.bed.know(self.name, self.address, self.port, make_key(other))

    def forget_key(self):
        """Let the client know no key of this host."""
        self.bed.know(self.name, self.address, self.port, None)

    @property
    def log(self):
        """What its sshd has logged."""
        return (self.folder / "run" / "pymar" / "log").read_text()

    def boot(self):
        """Start it; once more after `kill`."""
        self._pid_file.unlink(missing_ok=True)
        (self.folder / "run" / "pymar" / "sshd_config").write_text(self._sshd_config("/run/pymar"))
        (self.folder / "run" / "pymar" / "authorized_keys").write_text(self._authorized())
        self.link = f"pm{os.getpid()}-{next(_links)}"
        unshare = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--ipc"]
        (self.folder / "boot.sh").write_text(self._boot_script())
        with open(self.folder / "boot.log", "wb") as out:
            self.process = subprocess.Popen(
                [*unshare, "sh", "-e", str(self.folder / "boot.sh")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, start_new_session=True, env={"PATH": PATH},
            )  # fmt: skip
        self._wait_for("namespaces")
        self.pid = int(children_of(self.process.pid)[0])
        ip(
            "link",
            "add",
            "name",
            self.link,
            "master",
            self.bed.bridge,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.pid,
        )
        ip("link", "set", self.link, "up")
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()
        self._wait_for("started")
        self._wait_for_sshd()
        if self.home_bytes:
            self.home = Path(f"/proc/{self.pid}/root{self.home_there}")

    def _find_place(self, number, port):
        return f"{self.bed.network}.{11 + number}", port or 22

    def _within(self, command):
        names = {"HOME": self.home_there, "PATH": PATH, "USER": self.user.pw_name, "LC_ALL": "C.UTF-8", **self.environ}
        given = [f"{name}={value}" for name, value in names.items()]
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        return [*enter, "env", "-i", *given, "/bin/sh", "-c", f"cd && {command}"]

    @property
    def _pid_file(self):
        return self.folder / "run" / "pymar" / "pid"

    def _authorized(self):
        return "" if self.login == "refused" else self.bed.key.with_suffix(".pub").read_text()

    def _sshd_config(self, folder):
        asks = self.login == "password"
        settings = {
            "ListenAddress": self.address,
            "Port": self.port,
            "HostKey": f"{folder}/host_key",
            "AuthorizedKeysFile": f"{folder}/authorized_keys",
            "PidFile": f"{folder}/pid",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PubkeyAuthentication": "no" if asks else "yes",
            "PasswordAuthentication": "yes" if asks else "no",
            "KbdInteractiveAuthentication": "no",
            "AcceptEnv": "LANG LC_*",
            "Subsystem": "sftp internal-sftp",
        }
        if self.environ:
            settings["SetEnv"] = " ".join(f'"{name}={value}"' for name, value in self.environ.items())
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _sshd_command(self):
        return f"{SSHD} -f /run/pymar/sshd_config -E /run/pymar/log"

    def _wait_for(self, word):
        said = self.process.stdout.readline().decode().strip()
        assert said == word, f"{self.name} does not start: {said} {(self.folder / 'boot.log').read_text()}"

    def _wait_for_sshd(self):
        wait_until(lambda: self._pid_file.exists() and self._pid_file.read_text().strip(), f"sshd of {self.name}")

    def _close_pipes(self):
        if self.process:
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()

    def _boot_script(self):
        """What its first process runs: mounts, the link, sshd; then it waits for the end of this process."""
        covers = {"/run": self.folder / "run", "/home": self.folder / "homes", "/tmp": self.folder / "tmp"}
        lines = ["echo namespaces", "read -r _", f"hostname {self.name}", "mount -t tmpfs tmpfs /dev/shm"]
        lines += ["ip link set lo up", f"ip address add {self.address}/24 dev eth0", "ip link set eth0 up"]
        lines += [f"ip route add default via {self.bed.root_address}"]
        # Nobody answers for DNS: what is not in /etc/hosts fails at once, not after 10 s.
        files = {"passwd": self._passwd(), "shadow": self._shadow(), "resolv.conf": "nameserver 127.0.0.1\n"}
        for name, text in files.items():
            (self.folder / name).write_text(text)
            lines += [f"test ! -e /etc/{name} || mount --bind {quoted(self.folder / name)} /etc/{name}"]
        lines += [f"mount --bind {quoted(self.bed.etc_hosts)} /etc/hosts", *self._python_lines()]
        place = self.folder / "homes" / self.user.pw_name
        place.mkdir(exist_ok=True)
        if self.home_bytes:
            lines += [f"mount -t tmpfs -o size={self.home_bytes},mode=700 tmpfs {quoted(place)}"]
        else:
            lines += [f"mount --bind {quoted(self.home)} {quoted(place)}"]
        if self.home_read_only:
            lines += [f"mount -o remount,bind,ro {quoted(place)}"]
        for seen in (self.bed.shared, ROOT, Path(sys.prefix), Path(sys.base_prefix)):
            for target, source in covers.items():
                if seen.is_relative_to(target):
                    place = source / seen.relative_to(target)
                    place.mkdir(parents=True, exist_ok=True)
                    lines += [f"mount --bind {quoted(seen)} {quoted(place)}"]
        # What hides the folder of this host comes last.
        for target, source in sorted(covers.items(), key=lambda cover: self.folder.is_relative_to(cover[0])):
            lines += [f"mount --rbind {quoted(source)} {target}"]
        lines += [f"cd {self.home_there}", f"{self._sshd_command()} < /dev/null > /dev/null 2>&1"]
        # Orphans become children of this process; with SIGCHLD ignored, the kernel buries them.
        return "\n".join([*lines, "echo started", "exec env --ignore-signal=CHLD cat > /dev/null"])

    def _passwd(self):
        """The users, with the login shell of ours, and those that are only here."""
        lines = Path("/etc/passwd").read_text().splitlines()
        ours = [f"{self.user.pw_name}:x:{self.user.pw_uid}:{self.user.pw_gid}::{self.home_there}:{self.shell}"]
        ours += [
            f"{name}:x:{number}:{number}::/home/{name}:/bin/sh" for number, name in enumerate(self.users, OTHER_USERS)
        ]
        names = {line.partition(":")[0] for line in ours}
        return "\n".join([*ours, *(line for line in lines if line.partition(":")[0] not in names), ""])

    def _shadow(self):
        """No password fits, and no account is locked."""
        return "".join(f"{name}:*:19000:0:99999:7:::\n" for name in (self.user.pw_name, *self.users))

    def _python_lines(self):
        if self.python is SAME and Path("/usr/bin/python3").resolve() == PYTHON:
            return []
        top = self.folder / "python"
        top.mkdir(exist_ok=True)
        lines = [f"mount -t tmpfs tmpfs {quoted(top)}"]
        for folder in ("/usr/local/bin", "/usr/bin"):
            upper, work = top / f"upper{folder.replace('/', '-')}", top / f"work{folder.replace('/', '-')}"
            where = quoted(f"lowerdir={folder},upperdir={upper},workdir={work}")
            lines += [f"mkdir {quoted(upper)} {quoted(work)}", f"mount -t overlay -o {where} overlay {folder}"]
            lines += [f"rm -f {folder}/python", f"rm -f {folder}/python3"]
            if self.python is not SAME:
                found = [path for path in Path(folder).glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name)]
                lines += [f"rm -f {quoted(path)}" for path in found if str(path) != str(self.python)]
            if self.python is not NONE:
                lines += [f"cp {quoted(self._write_starter(self.folder))} {folder}/python3"]
        return lines

    def _write_starter(self, folder):
        """Return a `python3` that starts a Python by its own path: through a link, `venv` takes another's library."""
        path = folder / "python3"
        path.write_text(f'#!/bin/sh\nexec {quoted(PYTHON if self.python is SAME else self.python)} "$@"\n')
        path.chmod(0o755)
        return path


class LoopbackHost(Host):
    """The same on a port of 127.0.0.1: its processes are known by a variable of their environment."""

    def boot(self):
        if self.home_bytes:
            pytest.skip("a home of a certain size needs namespaces")
        self.home_there = self.home
        self.home.chmod(0o500 if self.home_read_only else 0o700)
        self._pid_file.unlink(missing_ok=True)
        folder = self.folder / "run" / "pymar"
        mine = {
            "HOME": self.home,
            "PATH": self._path(),
            "PYMAR_TEST_HOST": f"{self.folder}",
            "TMPDIR": self.folder / "tmp",
        }
        self.environ |= mine
        # sshd starts a command in the home of the user's entry in passwd, by the shell that is there.
        login = f'cd "$HOME" || exit\ntest -z "${{SSH_ORIGINAL_COMMAND+x}}" && exec {self.shell} -l\n'
        (folder / "login").write_text(f'{login}exec {self.shell} -c "$SSH_ORIGINAL_COMMAND"\n')
        (folder / "authorized_keys").write_text(self._authorized())
        (folder / "sshd_config").write_text(self._sshd_config(folder) + f'ForceCommand exec /bin/sh "{folder}/login"\n')
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        self.start_sshd()

    def start_sshd(self):
        command = [SSHD, "-D", "-f", self.folder / "run/pymar/sshd_config", "-E", self.folder / "run/pymar/log"]
        self.process = subprocess.Popen(
            list(map(str, command)), env={"PATH": PATH}, stdin=subprocess.DEVNULL, start_new_session=True
        )
        self._wait_for_sshd()

    def stop_sshd(self):
        self.process.terminate()
        self.process.wait()
        self._pid_file.unlink(missing_ok=True)

    def processes(self):
        return [f"{pid} {command_of(pid).replace(chr(0), ' ').strip()}" for pid in self._pids()]

    def kill(self):
        if self.process:
            for pid in children_of(self.process.pid):
                with contextlib.suppress(ProcessLookupError):  # sessions of sshd
                    os.kill(int(pid), signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        while pids := self._pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def cut(self):
        pytest.skip("to cut a link needs network namespaces")

    mend = cut

    def _pids(self):
        mark, found = f"PYMAR_TEST_HOST={self.folder}\0".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes() and is_running(path.parent.name):
                    found.append(int(path.parent.name))
        return sorted(found)

    def _find_place(self, number, port):
        return "127.0.0.1", port or free_port()

    def _within(self, command):
        given = [f"{name}={value}" for name, value in {"USER": self.user.pw_name, **self.environ}.items()]
        return ["env", "-i", *given, "/bin/sh", "-c", f"cd && {command}"]

    def _path(self):
        own = self.folder / "bin"
        own.mkdir(exist_ok=True)
        if self.python is NONE:  # all programs but those
            for path in itertools.chain.from_iterable(Path(folder).glob("*") for folder in PATH.split(":")):
                if not path.name.startswith("python") and not (own / path.name).is_symlink():
                    (own / path.name).symlink_to(path)
            return own
        self._write_starter(own)
        return f"{own}:{PATH}"


class Proxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy for `CONNECT`, which is what pip and uv use for https."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 64


class Tunnel(socketserver.StreamRequestHandler):
    def handle(self):
        method, where, _ = self.rfile.readline(1000).decode().split()
        while self.rfile.readline(10_000).strip():
            pass
        if method != "CONNECT":
            self.wfile.write(b"HTTP/1.1 405 Only CONNECT\r\n\r\n")
            return
        host, _, port = where.rpartition(":")
        try:
            other = socket.create_connection((host, int(port)), 20)
        except OSError as error:
            self.wfile.write(f"HTTP/1.1 502 {error}\r\n\r\n".encode())
            return
        with other, contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            ends = {self.connection: other, other: self.connection}
            while True:
                for one in select.select(list(ends), [], [])[0]:
                    if not (data := one.recv(65_536)):
                        return
                    ends[one].sendall(data)


def is_ours(line):
    """True for a line of ps that every host has: its first process, sshd, and ps itself."""
    pid, _, arguments = line.strip().partition(" ")
    return (
        pid == "1" or arguments.startswith(("sshd: ", f"{SSHD} ", "sshd-session")) or arguments == "ps -eo pid=,args="
    )


def make_key(path):
    """Write a pair of keys; return the public one."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pymar", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def quoted(path):
    return shlex.quote(str(path))
