"""What runs on a host while `pymar up` and its like talk to it: facts, an environment, its worker, the end of it.

This file travels as text through ssh's standard input to whatever Python is there, so it needs nothing but the standard
library of Python 3.8; an older one is only named. `remote.py` is the other end. Each request is one line of JSON, with
`size` bytes behind it; each answer is one line that begins with MARK, since the login shell may print what it likes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import time
import urllib.parse
from io import BytesIO
from typing import IO, Any

MARK = "\x1epymar "
#: Seconds that a worker has to connect, and to end after each signal.
CONNECTS, ENDS = 30.0, 3.0
#: Bytes that an environment needs at least: 40 MiB with venv and pip.
ENVIRONMENT = 64 << 20
#: Seconds without use, after which an environment is removed when another one is made.
UNUSED = 30 * 24 * 3600.0
#: What one look at a process waits before the next one.
LOOK = 0.05


class Failed(Exception):
    """A step did not work: its name, what the system said, and what to do."""


def main() -> None:
    """Answer one request after the other, until there is no more."""
    answer(facts())
    for line in sys.stdin.buffer:
        request = json.loads(line.decode())
        data = sys.stdin.buffer.read(request.pop("size", 0))
        try:
            answer(OPERATIONS[request.pop("do")](data, **request))
        except Failed as error:
            step, text, remedy = error.args
            answer({"failed": step, "text": text, "remedy": remedy})
        except OSError as error:
            answer({"failed": "files", "text": str(error), "remedy": remedy_of(error)})


def answer(found: dict[str, Any]) -> None:
    """Send an answer."""
    sys.stdout.write(f"\n{MARK}{json.dumps(found)}\n")
    sys.stdout.flush()


def remedy_of(error: OSError) -> str:
    """Return what to do about an error of the file system."""
    text = str(error)
    if "No space" in text or "quota" in text:
        return "free disk space there, or set XDG_CACHE_HOME and XDG_STATE_HOME to another folder there"
    if "Read-only" in text or "ermission" in text:
        return "let XDG_CACHE_HOME and XDG_STATE_HOME there name folders that can be written"
    return "look at the folder there"


def facts() -> dict[str, Any]:
    """Return what is known of this host without doing anything."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return {
        "python": "{}.{}.{}".format(*sys.version_info),
        "executable": sys.executable,
        "platform": f"{sys.platform}-{os.uname().machine}",
        "pymar": installed_version(),
        "uv": shutil.which("uv") or "",
        "cores": cores,
        "memory": memory(),
        "clock": time.time(),
        "name": socket.gethostname(),
        "from": (os.environ.get("SSH_CONNECTION") or "").partition(" ")[0],
    }


def installed_version() -> str:
    """Return the version of Pymar that this Python imports; "" if it imports none."""
    try:
        from importlib.metadata import version

        return version("pymar")
    except Exception:  # any of them means that it is not there, or that this Python is too old to have it
        return ""


def memory() -> int:
    """Return the bytes of memory that are free for programs; 0 if the system does not say it."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def private_folder(variable: str, usual: str, name: str) -> str:
    """Return a folder of this user alone, made if need be: below `variable` or `usual`, or else in /var/tmp."""
    user = os.getuid()
    tried = OSError("no folder")
    for base in (os.environ.get(variable) or os.path.expanduser(usual), f"/var/tmp/pymar-{user}"):
        folder = os.path.join(base, "pymar", name)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            found = os.lstat(folder)
            if found.st_uid != user or not stat.S_ISDIR(found.st_mode):
                raise OSError(f"{folder} belongs to another user")
            os.chmod(folder, 0o700)
            with open(os.path.join(folder, f".can-write-{socket.gethostname()}-{os.getpid()}"), "w") as file:
                file.write("yes")
            os.unlink(file.name)
            return folder
        except OSError as error:
            tried = error
    raise Failed("folder", str(tried), remedy_of(tried))


# An environment.


def environment(data: bytes, key: str, python: str, wants: str, requirements: str, pins: list[str]) -> dict[str, Any]:
    """Make the environment of this key, unless it is there; return its interpreter.

    `data` is Pymar itself, as a tar archive; `wants` the minor version of Python, as "3.11"; `pins` what Pymar needs.
    Two hosts with one home may make it at once: one does, the other waits.
    """
    base = private_folder("XDG_CACHE_HOME", "~/.cache", "environments")
    folder = os.path.join(base, key)
    interpreter, mark = os.path.join(folder, "bin", "python"), os.path.join(folder, "complete")
    began = time.time()
    if not os.path.exists(mark):
        if not data:
            return {"missing": True}
        with locked(folder + ".lock"):
            if not os.path.exists(mark):
                remove_unused(base)
                check_disk(base)
                shutil.rmtree(folder, ignore_errors=True)
                make(folder, python, wants, requirements, pins, data)
                open(mark, "w").close()
    os.utime(mark)
    return {"python": interpreter, "seconds": time.time() - began}


def locked(path: str) -> IO[str]:
    """Return a file that is locked until it is closed; where the file system has no locks, it is only open."""
    file = open(path, "w")  # noqa: SIM115 - the caller closes it, and with it the lock
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX)
    except OSError:
        return file  # then two at once make it twice, in the same way
    return file


def remove_unused(base: str) -> None:
    """Remove the environments that were not used for long."""
    for entry in list(os.scandir(base)):
        mark = os.path.join(entry.path, "complete")
        if os.path.exists(mark) and time.time() - os.stat(mark).st_mtime > UNUSED:
            shutil.rmtree(entry.path, ignore_errors=True)


def check_disk(base: str) -> None:
    """Refuse to make an environment where there is no room for it."""
    free = shutil.disk_usage(base).free
    if free < ENVIRONMENT:
        text = f"{free >> 20} MiB are free in {base}, and an environment needs {ENVIRONMENT >> 20}"
        raise Failed("disk", text, remedy_of(OSError("No space")))


def make(folder: str, python: str, wants: str, requirements: str, pins: list[str], data: bytes) -> None:
    """Make a virtual environment in this folder, install what is needed, and unpack Pymar into it."""
    listed = folder + ".requirements"
    with open(listed, "w") as file:
        file.write("\n".join(pins) + "\n" + requirements)
    interpreter = os.path.join(folder, "bin", "python")
    uv = shutil.which("uv")
    if uv:
        run("environment", [uv, "venv", "--quiet", "--python", python or wants, folder])
        run("packages", [uv, "pip", "install", "--quiet", "--python", interpreter, "-r", listed])
    else:
        run("environment", [python or sys.executable, "-m", "venv", folder])
        run("packages", [interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", listed])
    os.unlink(listed)
    path = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = subprocess.check_output([interpreter, "-c", path]).decode().strip()
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        archive.extractall(target)


def run(step: str, command: list[str]) -> None:
    """Run a command of an installation.

    Raises:
        Failed: it did not work; with its last line that says why.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        output, code = done.stdout.decode(errors="replace"), done.returncode
    except OSError as error:
        output, code = str(error), 1
    if code:
        lines = [line.strip() for line in output.splitlines() if line.strip()] or [f"it ended with {code}"]
        wrong = [line for line in lines if "rror" in line or "No space" in line] or lines
        raise Failed(step, wrong[-1][:500], remedy_of_installation(step, output))


def remedy_of_installation(step: str, output: str) -> str:
    """Return what to do about an installation that failed."""
    if "No space" in output or "quota" in output:
        return remedy_of(OSError("No space"))
    if step == "environment":
        return (
            "install uv there, or the module venv (apt-get install python3-venv); or --python PATH for another "
            "interpreter; or --bare, if Pymar is installed there"
        )
    return (
        "the packages come from the index that pip on that host is set up for; where there is none, install Pymar and "
        "what your job needs there, and say --bare --python PATH"
    )


# The worker.


def start(data: bytes, folder: str, argv: list[str], files: dict[str, str], linger: bool = False) -> dict[str, Any]:
    """Start the worker of a cluster, and wait until it is connected; return its process id.

    `data` goes to its standard input: the secrets. `files` are texts to put into the folder first.
    """
    if worker_in(folder):
        raise Failed("worker", "a worker of this cluster runs there already", "name each host once")
    folder = private_folder("XDG_STATE_HOME", "~/.local/state", folder)
    for name, text in files.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    connected = os.path.join(folder, "connected")
    if os.path.exists(connected):
        os.unlink(connected)
    said = os.path.join(folder, "start.log")
    argv = [word.replace("{folder}", folder) for word in argv]
    environ = dict(os.environ, PYTHONUNBUFFERED="1")
    environ.pop("SSH_CONNECTION", None)
    with open(said, "w") as output:
        os.chmod(said, 0o600)
        worker = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=folder, env=environ, start_new_session=True
        )
    with open(os.path.join(folder, "pid"), "w") as file:
        file.write(str(worker.pid))
    assert worker.stdin is not None
    try:
        data = data.replace(b"{quoted}", urllib.parse.quote(folder).encode())
        worker.stdin.write(data.replace(b"{folder}", json.dumps(folder)[1:-1].encode()))
        worker.stdin.close()
    except OSError:
        pass  # it has ended, and its last line says why
    deadline = time.time() + CONNECTS
    while not os.path.exists(connected):
        ended = worker.poll() is not None
        if ended or time.time() > deadline:
            with open(said, errors="replace") as file:
                lines = [line.strip() for line in file if line.strip()]
            if not ended:
                end(folder, 0.0)
            shutil.rmtree(folder, ignore_errors=True)
            last = lines[-1][-500:] if lines else "it said nothing"
            raise Failed("worker", last if ended else f"not connected after {CONNECTS:g} s: {last}", "")
        time.sleep(LOOK)
    if linger:  # the host's scheduler ends what was started here when this program ends
        answer({"pid": worker.pid, "folder": folder})
        sys.exit(worker.wait())
    return {"pid": worker.pid, "folder": folder}


def reach(data: bytes, host: str, port: int) -> dict[str, str]:
    """Return "" if the broker can be reached from here, else why not."""
    try:
        socket.create_connection((host, port), 5).close()
    except OSError as error:
        return {"why": str(error)}
    return {"why": ""}


def folders(name: str) -> list[str]:
    """Return the folders in which a worker of this cluster may have been started."""
    usual = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    bases = (usual, f"/var/tmp/pymar-{os.getuid()}")
    return [path for path in (os.path.join(base, "pymar", name) for base in bases) if os.path.isdir(path)]


def worker_in(name: str) -> int:
    """Return the process id of the worker that was started in this folder and runs; 0 if there is none."""
    for folder in folders(name) if not os.path.isabs(name) else [name]:
        try:
            with open(os.path.join(folder, "pid")) as file:
                pid = int(file.read() or 0)
        except (OSError, ValueError):
            continue
        if pid and os.path.basename(folder).partition("~")[0] in command_of(pid):  # not another process by now
            return pid
    return 0


def command_of(pid: int) -> str:
    """Return the command line of a process that runs; "" if there is none, or if it has ended."""
    found = subprocess.run(
        ["ps", "-wwo", "stat=,args=", "-p", str(pid)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    text = found.stdout.decode(errors="replace").strip()
    return "" if text.startswith("Z") else text


def end(folder: str, grace: float) -> bool:
    """End the worker of this folder: SIGTERM, after `grace` seconds a second one, then SIGKILL. True if it ran."""
    pid = worker_in(folder)
    if not pid:
        return False
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGTERM, ENDS), (signal.SIGKILL, ENDS)):
        try:
            os.kill(pid, number)
        except OSError:
            break
        deadline = time.time() + seconds
        while time.time() < deadline and command_of(pid):
            time.sleep(LOOK)
        if not command_of(pid):
            break
    return True


def stop(data: bytes, folder: str, grace: float) -> dict[str, bool]:
    """End the worker of a cluster on this host, and remove its files."""
    ran = end(folder, grace)
    for path in folders(folder):
        shutil.rmtree(path, ignore_errors=True)
    return {"ran": ran}


def logs(data: bytes, folder: str, lines: int) -> dict[str, Any]:
    """Return the last lines of the worker's log, and of what its start has said."""
    found = []
    for path in folders(folder):
        for name in ("start.log", "worker.log.1", "worker.log"):
            try:
                with open(os.path.join(path, name), errors="replace") as file:
                    found += file.read().splitlines()
            except OSError:
                continue
    return {"lines": found[-lines:], "runs": bool(worker_in(folder))}


def free_port(data: bytes) -> dict[str, int]:
    """Return a port of 127.0.0.1 that nothing listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return {"port": one.getsockname()[1]}


#: What may be asked for.
OPERATIONS: dict[str, Any] = {
    "environment": environment,
    "free_port": free_port,
    "start": start,
    "reach": reach,
    "stop": stop,
    "logs": logs,
}
main()
