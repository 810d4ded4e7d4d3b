"""The supervisor of a detached run: it starts the script, again if it was killed, and notes what became of it.

    FOLDER/                 mode 700: ~/.local/state/pymar/.runs/run-1a2b3c4d on the host
      plan.json             what to start: arguments, folder, variables, without secrets
      lock                  held while the supervisor lives: so others see that it does, whatever became of its host
      status.json           how far it is; whole or not at all
      cancelled             there once `pymar cancel` has asked it to end
      stdout  stderr        of the script: stdout of the last start, stderr of all
      files/  state/  checkpoints/    the script and its files; the cluster, as this host sees it; what is finished

`pymar run --detach` starts it as `python -m pymar.hosts.supervisor FOLDER`, in a session of its own: it lives on when
ssh has ended. The script ends if the supervisor is killed (on Linux): nobody would note what becomes of it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from pymar.exceptions import PymarError

#: Seconds before the second, third and fourth start of a script that was killed.
PAUSES = (1.0, 10.0, 60.0)
#: Signals that a script does not get because somebody wants it to end.
CRASHES = frozenset(
    {signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
)
#: Bytes that stdout may have, and stderr; and what is kept of stderr when it has more.
MOST, KEPT = 1 << 30, 64 << 20
#: Seconds that the script has to end after SIGTERM.
GRACE = 10.0
#: Seconds between two looks at the sizes of its output; and between two attempts to write to a full disk.
_LOOK, _AGAIN = 1.0, 5.0
#: Seconds that other processes of the script's group have when it has ended.
_LAST = 3.0
#: PR_SET_PDEATHSIG of prctl(2).
_PDEATHSIG = 1
#: The states of a run that is over. Others: "running", "waiting" (for its next start).
ENDED = frozenset({"ended", "cancelled", "stopped", "failed"})


class Supervisor:
    """One script, from its first start to its end. It owns its process group. Main thread only."""

    def __init__(self, folder: Path, most: int = MOST, pauses: tuple[float, ...] = PAUSES) -> None:
        self._folder = folder
        self._most = most
        self._pauses = pauses
        self._plan: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        self._status: dict[str, Any] = {"began": time.time(), "host": socket.gethostname(), "attempts": 0}
        self._script: subprocess.Popen[bytes] | None = None
        #: Why the script has to end, and the state of the run then.
        self._asked: tuple[str, str] | None = None
        #: Readable when a signal has come.
        self._wakes = -1

    def run(self) -> None:
        """Start the script until it ends by itself, or was killed too often."""
        self._wakes, wake = os.pipe()
        for end in (self._wakes, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._end)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # not SIG_IGN, which the script would inherit
        with suppress(FileNotFoundError):  # of the run before this one, which this one continues
            before = json.loads((self._folder / "status.json").read_text(encoding="utf-8"))
            self._status |= {"began": before["began"], "attempts": before["attempts"]}
        for pause in (0.0, *self._pauses):
            if pause:
                self._note("waiting", why=f"{self._killed_by()}; the next start is in {pause:g} s")
                self._wait(lambda: None, pause)
            if self._asked:
                break
            try:
                code = self._started()
            except OSError as error:
                self._note("failed", why=f"{error.filename or self._plan['argv'][0]}: {error.strerror}", code=1)
                return
            if self._asked or -code not in CRASHES:
                break
        if self._asked:
            state, why = self._asked
            self._note(state, why=why, code=self._code(128 + signal.SIGTERM))
        elif -self._code(0) in CRASHES:
            self._note("ended", why=f"{self._killed_by()}, as after {len(self._pauses)} starts before")
        else:
            self._note("ended", why="")
            if self._code(1) == 0:
                remove_checkpoints(self._folder / "checkpoints")

    def _code(self, otherwise: int) -> int:
        return otherwise if self._script is None else self._script.returncode

    def _killed_by(self) -> str:
        name = signal.Signals(-self._code(0)).name
        why = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the script was killed by {name}{why}"

    def _started(self) -> int:
        """Start the script, wait for its end, and return its exit code, or minus its signal."""
        self._status["attempts"] += 1
        attempt = self._status["attempts"]
        environ = {name: text for name, text in os.environ.items() if not name.startswith("SSH_")}
        path = [*self._plan["path"], *environ.get("PYTHONPATH", "").split(os.pathsep)]
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        for name in self._plan["without"]:
            environ.pop(name, None)
        environ |= self._plan["environ"]
        with (
            open(self._folder / "stdout", "ab") as out,
            open(self._folder / "stderr", "ab") as err,
        ):
            out.truncate(0)  # what an earlier start has printed, this one prints again
            if attempt > 1:
                err.write(f"pymar: start {attempt} of the script\n".encode())
                err.flush()
            self._script = subprocess.Popen(
                self._plan["argv"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self._plan["cwd"],
                env=environ,
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()),
            )
        self._note("running", pid=self._script.pid)
        self._wait(self._script.poll, float("inf"))
        self._end_group()
        return self._script.returncode

    def _end_group(self) -> None:
        """End what the script has left in its process group."""
        deadline = time.monotonic() + _LAST
        self._kill(signal.SIGTERM)
        while self._kill(0) and time.monotonic() < deadline:
            time.sleep(0.05)  # for the next look
        self._kill(signal.SIGKILL)

    def _wait(self, is_over: Callable[[], int | None], seconds: float) -> None:
        """Wait for the end of the script, or for some seconds; end it if somebody asks for that, or if it prints too
        much."""
        deadline = time.monotonic() + seconds
        hard = float("inf")
        while is_over() is None and (now := time.monotonic()) < deadline:
            if self._asked and self._script is not None and self._script.returncode is None:
                if hard == float("inf"):
                    hard = now + GRACE
                    self._kill(signal.SIGTERM)
                elif now > hard:
                    self._kill(signal.SIGKILL)
            elif self._asked:
                return
            self._check_output()
            self._sleep(min(_LOOK, deadline - now, max(hard - now, 0.05)))

    def _sleep(self, seconds: float) -> None:
        """Sleep, at most until a signal comes or the script ends."""
        if select.select([self._wakes], [], [], max(seconds, 0.0))[0]:
            os.read(self._wakes, 4096)

    def _check_output(self) -> None:
        """Keep the output of the script within bounds."""
        if (self._folder / "stdout").stat().st_size > self._most and not self._asked:
            self._asked = "failed", f"it has printed more than {self._most:,} bytes: write results to files or a sink"
        path = self._folder / "stderr"
        if path.stat().st_size > self._most:
            with open(path, "rb+") as file:
                file.seek(-min(KEPT, self._most // 2), os.SEEK_END)
                kept = file.read()
                file.truncate(0)
            with open(path, "ab") as file:
                file.write(b"pymar: older lines were dropped\n" + kept)

    def _end(self, number: int, frame: FrameType | None) -> None:
        is_cancelled = (self._folder / "cancelled").exists()
        if self._asked is None:
            self._asked = (
                ("cancelled", "by pymar cancel")
                if is_cancelled
                else ("stopped", "its supervisor got SIGTERM, as when its host shuts down")
            )

    def _kill(self, number: int) -> bool:
        """Send a signal to the group of the script; return True if there is any process in it."""
        assert self._script is not None
        try:
            os.killpg(self._script.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _note(self, state: str, *, why: str = "", pid: int = 0, code: int | None = None) -> None:
        """Write the status file."""
        if state in ENDED:
            found = self._code(1) if code is None else code
            self._status |= {"code": found if found >= 0 else 128 - found, "ended": time.time()}
        self._status |= {"state": state, "why": why, "pid": pid, "supervisor": os.getpid()}
        while True:
            try:
                write(self._folder / "status.json", self._status)
                return
            except OSError:  # the disk is full: the script may go on, but how it has ended must be noted
                if state not in ENDED:
                    return
                time.sleep(_AGAIN)


def _end_with(parent: int) -> Callable[[], None] | None:
    """Return what a child calls so that it ends when this process does; None where the system has no such thing."""
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None

    def end() -> None:
        prctl(_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return end


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a script that has ended well, with what its keyed jobs have exchanged."""
    from pymar.keyed.checkpoints import cleaned

    for path in folder.glob("*.ckpt"):
        with suppress(PymarError, OSError):  # a store for exchanges may be away: `pymar clean` knows it
            cleaned(str(path))
    shutil.rmtree(folder, ignore_errors=True)


def write(path: Path, found: dict[str, Any]) -> None:
    """Write a file of JSON, whole or not at all, with mode 600."""
    aside = path.with_name(f"{path.name}.new")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(found, file)
    os.replace(aside, path)


def locked(folder: Path) -> IO[bytes] | None:
    """Return the lock of a run, which is held until it is closed; None if another supervisor has it."""
    file = open(folder / "lock", "ab")  # noqa: SIM115 - it is open as long as this process runs
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        return file  # a file system without locks
    return file


def main(arguments: list[str]) -> None:
    """Supervise the run of a folder."""
    folder = Path(arguments[0])
    os.umask(0o077)
    lock = locked(folder)
    if lock is None:
        sys.exit("another supervisor runs this")
    with lock:
        Supervisor(folder).run()


if __name__ == "__main__":
    main(sys.argv[1:])
