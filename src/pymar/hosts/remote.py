"""A conversation with one host: a command of the system starts `onhost.py` there, and requests and answers follow.

    pymar up --stdin--> ssh HOST (or srun, or a shell here) --> sh finds a Python --> onhost.py
                <-stdout-                                                            answers, a line each

The system's ssh is used as it is set up: its configuration, jump hosts, agents and known hosts. It never asks a
question, and never accepts an unknown host key.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import IO, Any, NamedTuple

from pymar.hosts.names import Host
from pymar.serialization.redaction import printable

#: What an answer begins with; the same in onhost.py.
MARK = b"\x1epymar "
#: Seconds until ssh has connected; until a host has answered the first time; until any answer after that; and until
#: an environment is made.
CONNECT, FIRST, ANSWER, INSTALL = 10, 40.0, 90.0, 900.0
#: Handshakes at a time: sshd drops some of more than ten (MaxStartups of sshd_config(5), "10:30:100").
AT_ONCE = 8
#: Times that a connection is tried which sshd drops before the handshake.
TRIES = 3
#: Hosts that are this one: a shell is enough.
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})

#: Seconds before a connection that sshd has dropped is tried again.
_PAUSE = 0.5

_handshakes = threading.BoundedSemaphore(AT_ONCE)
#: The commands that run now, for `abandoning`.
_running: set[subprocess.Popen[bytes]] = set()
_abandoned = threading.Event()


@contextmanager
def abandoning() -> Iterator[None]:
    """End all conversations of this process at once, and let none begin meanwhile: the threads that wait for one, or
    for their turn, end."""
    _abandoned.set()
    for process in list(_running):
        _kill(process)
    try:
        yield
    finally:
        _abandoned.clear()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with all that it has started here: a child that lives on would keep its pipes open."""
    with suppress(OSError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


class HostFailed(Exception):
    """A step at a host did not work: `step`, `text` (the last that was said) and `remedy`. It stays in here."""

    def __init__(self, step: str, text: str, remedy: str, *, is_cut: bool = True) -> None:
        super().__init__(step, text, remedy)
        self.is_cut: bool = is_cut
        """False if the host itself has answered that it did not work."""
        self.step: str = step
        self.text: str = text
        self.remedy: str = remedy

    def __str__(self) -> str:
        return f"{self.step}: {self.text}: {self.remedy}" if self.remedy else f"{self.step}: {self.text}"


class Way(NamedTuple):
    """How commands are started at a host."""

    words: tuple[str, ...]
    """What stands before the command, as one word for a shell there."""
    lingers: bool = False
    """True if what was started there ends with the command, as with srun: then it stays."""


def way_to(host: Host) -> Way:
    """Return how commands are started at a host: by ssh, or by a shell, if it is this one."""
    if host.name in _HERE and not host.user and not host.port:
        return Way(("sh", "-c"))
    return Way(ssh_to(host))


def ssh_to(host: Host) -> tuple[str, ...]:
    """Return the command of ssh to this host: it asks no question, and notices a line that is cut."""
    # The last two: what a configuration may say for logins of people. Without a log, no failure has a reason.
    options = ("BatchMode=yes", f"ConnectTimeout={CONNECT}", "ServerAliveInterval=15", "ServerAliveCountMax=3",
               "RemoteCommand=none", "LogLevel=INFO")  # fmt: skip
    return ("ssh", *(word for option in options for word in ("-o", option)), "-T", host.destination)


def _command(python: str, minor: str) -> str:
    """Return the command that finds a Python and has it read a program from its standard input."""
    candidates = [python] if python else [f"python{minor}", "python3", "python"]
    program = (
        "import sys; sys.version_info > (3, 8) or sys.exit('pymar: old Python ' + sys.version.split()[0]); "
        "exec(compile(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())), 'pymar', 'exec'))"
    )
    # A shim, as that of pyenv, may be there without a Python behind it. One that was named says itself what is wrong.
    works = "" if python else '"$p" -c "" < /dev/null > /dev/null 2>&1 && '
    look = (
        'PATH="$HOME/.local/bin:$PATH:/usr/local/bin:/usr/bin:/bin"; export PATH; '
        f"for p in {' '.join(map(shlex.quote, candidates))}; do "
        f'command -v "$p" > /dev/null 2>&1 && {works}exec "$p" -c "{program}"; done; '
        f"echo 'pymar: no Python: {' '.join(candidates)}' >&2; exit 77"
    )
    return f"exec /bin/sh -c {shlex.quote(look)}"


class Remote:
    """One conversation. It owns the command that carries it. One thread only, but `close` may come from any.

    Raises:
        HostFailed: the host cannot be reached, or has no Python.
    """

    def __init__(self, way: Way, python: str = "", minor: str = "3") -> None:
        self._way = way
        self._command = [*way.words, _command(python, minor)]
        self._is_closed = False
        for left in reversed(range(TRIES)):
            try:
                with _handshakes:
                    self.facts: dict[str, Any] = self._opened()
                return
            except HostFailed as error:
                if "exchange_identification" not in error.text or not left:
                    raise
                time.sleep(_PAUSE)  # sshd drops what comes in a burst

    def _opened(self) -> dict[str, Any]:
        if _abandoned.is_set():
            raise HostFailed("ssh", "interrupted", "try again")
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for `pymar up`, which ends these itself
            )
        except OSError as error:
            what = self._way.words[0]
            raise HostFailed(
                "ssh", f"{what}: {error.strerror}", f"install {what} (apt-get install openssh-client)"
            ) from None
        _running.add(self._process)
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        program = files("pymar.hosts").joinpath("onhost.py").read_bytes()
        return self._answer(b"%d\n%b" % (len(program), program), FIRST)

    def ask(self, do: str, data: bytes = b"", patience: float = ANSWER, **request: Any) -> dict[str, Any]:
        """Send a request, and return the answer, for which `patience` seconds are waited.

        Raises:
            HostFailed: it did not work, or the line to the host is cut.
        """
        line = json.dumps({"do": do, "size": len(data), **request}).encode()
        return self._answer(line + b"\n" + data, patience)

    def linger(self) -> int:
        """Leave the command running, since the host's worker ends with it; return its process id."""
        self._is_closed = True
        _running.discard(self._process)
        return self._process.pid

    def close(self) -> None:
        """End the conversation."""
        if self._is_closed:
            return
        self.hang_up()
        self._is_closed = True
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            _kill(self._process)
            self._process.wait()
        _running.discard(self._process)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._reader.join(1)  # longer, if a child in the background holds the pipe, such as a master of ssh

    def hang_up(self) -> None:
        """Say that there is no more request, without waiting for the end."""
        if self._is_closed:
            return
        try:
            assert self._process.stdin is not None
            self._process.stdin.close()
        except OSError:
            _kill(self._process)  # it has ended, or its pipe is full

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            return  # it has ended: the answer that does not come says why

    def _answer(self, request: bytes, patience: float) -> dict[str, Any]:
        late = threading.Event()

        def give_up() -> None:
            late.set()
            _kill(self._process)

        timer = threading.Timer(patience, give_up)
        timer.daemon = True
        timer.start()
        try:
            self._send(request)  # which may wait too: a host that reads nothing, and a full pipe
            assert self._process.stdout is not None
            for line in self._process.stdout:
                if line.startswith(MARK):
                    found: dict[str, Any] = json.loads(line[len(MARK) :])
                    if "failed" in found:
                        raise HostFailed(found["failed"], printable(found["text"]), found["remedy"], is_cut=False)
                    return found
        finally:
            timer.cancel()
        code = self._process.wait()
        self._reader.join(1)
        self.close()
        if late.is_set():
            raise HostFailed("ssh", f"no answer within {patience:g} s", "log in there and look what is slow")
        raise diagnosed(self._errors, code, self._command)

    def _read_errors(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = printable(line.decode(errors="replace").strip())
                if text:
                    self._errors = [*self._errors[-50:], text]


#: Texts of ssh, and what to do.
_REMEDIES = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known here. If that is right, ssh-keygen -R removes the old one",
    ),
    ("Host key verification failed", "its host key is not known here: log in once with ssh, and compare the key"),
    ("Could not resolve hostname", "is the name right? `ssh` with it has to work from here"),
    ("Permission denied", "log in by a key, without a password: ssh-copy-id, or ssh-add for a key with a passphrase"),
    ("Too many authentication failures", "name the key in ~/.ssh/config: IdentityFile, IdentitiesOnly yes"),
    ("Connection refused", "is sshd running there, at this port?"),
    ("timed out", "is it on, and may this host reach it? A jump host goes into ~/.ssh/config (ProxyJump)"),
    ("No route to host", "is it on, and may this host reach it? A jump host goes into ~/.ssh/config (ProxyJump)"),
    ("exchange_identification", "its sshd drops connections: raise MaxStartups there"),
    ("Broken pipe", "the line to it is cut: try again"),
)


def diagnosed(errors: Sequence[str], code: int, command: Sequence[str]) -> HostFailed:
    """Return the error of a command that has ended without an answer, with the last of what it said."""
    last = next((line for line in reversed(errors) if not line.startswith("debug")), f"it ended with {code}")
    if code == 77 and "pymar: no Python" in last:
        tried = last.partition("no Python: ")[2]
        return HostFailed("Python", f"there is none ({tried})", "install Python there, or name it: --python PATH")
    if "pymar: old Python" in last:
        remedy = f"name one of {'{}.{}'.format(*sys.version_info)} with --python"
        return HostFailed("Python", last.partition("pymar: ")[2], remedy)
    together = "\n".join(errors)
    for text, remedy in _REMEDIES:
        if text in together:
            said = next(line for line in errors if text in line) if text.isupper() else last
            return HostFailed("ssh", said, remedy)
    step = "ssh" if code == 255 else "Python"
    return HostFailed(step, last, f"does this work? {shlex.join([*command[:-1], 'true'])}")
