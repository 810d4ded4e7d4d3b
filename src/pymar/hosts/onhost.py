"""What runs on a host while `pymar up` and its like talk to it: facts, an environment, its worker, the end of it.

This file travels as text through ssh's standard input to whatever Python is there, so it needs nothing but the standard
library of Python 3.8; an older one is only named. `remote.py` is the other end. Each request is one line of JSON, with
`size` bytes behind it; each answer is one line that begins with MARK, since the login shell may print what it likes.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import time
import urllib.parse
from contextlib import suppress
from io import BytesIO
from typing import IO, Any

MARK = "\x1epymar "
#: Seconds that a worker has to connect, and to end after each signal.
CONNECTS, ENDS = 30.0, 3.0
#: Bytes that an environment needs at least: 40 MiB with venv and pip.
ENVIRONMENT = 64 << 20
#: Seconds without use, after which an environment is removed when another one is made.
UNUSED = 30 * 24 * 3600.0
#: Where folders are made if the home cannot be written.
TEMPORARY = "/var/tmp"
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
    other = os.path.join(TEMPORARY, f"pymar-{user}")
    for base in (os.environ.get(variable) or os.path.expanduser(usual), other):
        folder = os.path.join(base, "pymar", name)
        try:
            if base == other:  # where anybody may have made it: who owns a folder above can replace what is in it
                for path in (base, os.path.join(base, "pymar")):
                    os.makedirs(path, mode=0o700, exist_ok=True)
                    check_private(path, user)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            check_private(folder, user)
            with open(os.path.join(folder, f".can-write-{socket.gethostname()}-{os.getpid()}"), "w") as file:
                file.write("yes")
            os.unlink(file.name)
            return folder
        except OSError as error:
            tried = error
    raise Failed("folder", str(tried), remedy_of(tried))


def check_private(folder: str, user: int) -> None:
    """Refuse a folder of another user, or what is none."""
    found = os.lstat(folder)
    if found.st_uid != user or not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{folder} belongs to another user")
    os.chmod(folder, 0o700)


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
    if not works(mark, interpreter):
        if not data:
            return {"missing": True}
        with locked(folder + ".lock"):
            if not works(mark, interpreter):
                remove_unused(base)
                check_disk(base)
                shutil.rmtree(folder, ignore_errors=True)
                make(folder, python, wants, requirements, pins, data)
                open(mark, "w").close()
    os.utime(mark)
    return {"python": interpreter, "seconds": time.time() - began}


def works(mark: str, interpreter: str) -> bool:
    """Return True if an environment is complete, and its Python is still there: it may have been removed since, or be
    on other hosts with this home only."""
    if not os.path.exists(mark):
        return False
    try:
        command = [interpreter, "-c", "import sys"]
        return not subprocess.call(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=without_paths())
    except OSError:
        return False


def without_paths() -> dict[str, str]:
    """Return the environment without what would give a Python modules of others."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


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
    target = subprocess.check_output([interpreter, "-c", path], env=without_paths()).decode().strip().splitlines()[-1]
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        archive.extractall(target)


def run(step: str, command: list[str]) -> None:
    """Run a command of an installation.

    Raises:
        Failed: it did not work; with its last line that says why.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            env=without_paths(),
        )  # fmt: skip
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


def start(
    data: bytes, folder: str, argv: list[str], files: dict[str, str], linger: bool = False, bare: bool = True
) -> dict[str, Any]:
    """Start the worker of a cluster, and wait until it is connected; return its process id.

    `data` goes to its standard input: the secrets. `files` are texts to put into the folder first. If it is not `bare`,
    it imports from its environment alone. If who asks has ended meanwhile, the worker is ended: nobody knows of it.
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
    environ = dict(os.environ if bare else without_paths(), PYTHONUNBUFFERED="1")
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
        if ended or time.time() > deadline or is_alone():
            with open(said, errors="replace") as file:
                lines = [line.strip() for line in file if line.strip()]
            if not ended:
                end(folder, 0.0)
            shutil.rmtree(folder, ignore_errors=True)
            last = lines[-1][-500:] if lines else "it said nothing"
            text = last if ended else f"not connected after {CONNECTS:g} s: {last}"
            raise Failed("worker", text, "this is what it said last there; with --bare, are all packages there?")
        time.sleep(LOOK)  # the worker makes a file, and tells no more
    if linger:  # the host's scheduler ends what was started here when this program ends
        answer({"pid": worker.pid, "folder": folder})
        sys.exit(worker.wait())
    return {"pid": worker.pid, "folder": folder}


def is_alone() -> bool:
    """Return True if who asks has ended: then there is an end of the input. No request comes before the answer."""
    return bool(select.select([0], [], [], 0)[0]) and not os.read(0, 1)


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
    bases = (usual, os.path.join(TEMPORARY, f"pymar-{os.getuid()}"))
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
    if os.path.exists("/proc/self/stat"):  # a small system may have no ps
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat_file, open(f"/proc/{pid}/cmdline", "rb") as file:
                is_dead = stat_file.read().rpartition(b")")[2].split()[:1] == [b"Z"]
                return "" if is_dead else file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
    # -ww: else COLUMNS in the environment would cut the line.
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
            time.sleep(LOOK)  # it is no child of this process, which would be told of its end
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


# Detached runs: supervisor.py has the files of their folders.

#: The folder of all of them. No cluster has such a name.
RUNS = ".runs"


def run_folder(data: bytes, run: str) -> dict[str, str]:
    """Make the folder of a run, and return it."""
    return {"folder": private_folder("XDG_STATE_HOME", "~/.local/state", os.path.join(RUNS, run))}


def run_start(data: bytes, folder: str, python: str, files: dict[str, str]) -> dict[str, Any]:
    """Start the supervisor of a run, and wait until it has started the script.

    `data` is an archive of the script and what it needs; `files` are texts for the folder, which others must not read.
    """
    os.umask(0o077)
    try:
        with tarfile.open(fileobj=BytesIO(data)) as archive:
            archive.extractall(os.path.join(folder, "files"))
        for name, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
            with open(os.path.join(folder, name), "w") as file:
                file.write(text)
        return supervised(folder, python)
    except BaseException:  # whatever it was: nothing of the run stays
        shutil.rmtree(folder, ignore_errors=True)
        raise


def run_again(data: bytes, run: str, python: str) -> dict[str, Any]:
    """Start the supervisor of a run once more: the script goes on from its checkpoints."""
    folder = folder_of_run(run)
    if supervisor_of(folder):
        raise Failed("run", "it runs", f"pymar wait {run} waits for its end")
    before = status_in(folder)
    if before.get("state") == "ended" and not before["code"]:
        raise Failed("run", "it has ended with exit code 0", f"pymar result {run} prints its result")
    end_script(folder)  # where the system has not ended it with its supervisor
    for name in ("cancelled", "supervisor.log"):
        if os.path.exists(os.path.join(folder, name)):
            os.unlink(os.path.join(folder, name))
    return supervised(folder, python)


def supervised(folder: str, python: str) -> dict[str, Any]:
    """Start a supervisor; return the status once there is one of it."""
    said = os.path.join(folder, "supervisor.log")
    environ = {name: text for name, text in os.environ.items() if not name.startswith("SSH_")}
    with open(said, "w") as output:
        process = subprocess.Popen(
            [python, "-m", "pymar.hosts.supervisor", folder],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=environ,
            start_new_session=True,
        )
    deadline = time.time() + CONNECTS
    while True:
        ended = process.poll() is not None
        status = status_in(folder)
        if status.get("supervisor") == process.pid:
            return {"status": status}
        if ended or time.time() > deadline:
            with open(said, errors="replace") as file:
                lines = [line.strip() for line in file if line.strip()] or ["it said nothing"]
            if not ended:
                process.kill()
            raise Failed("supervisor", lines[-1][-500:], "")
        time.sleep(LOOK)  # the supervisor writes a file, and tells no more


def folder_of_run(run: str) -> str:
    """Return the folder of a run."""
    for folder in folders(os.path.join(RUNS, run)):
        return folder
    raise Failed("run", "there is nothing of it on this host", "it was removed there")


def status_in(folder: str) -> dict[str, Any]:
    """Return what the supervisor has noted last."""
    try:
        with open(os.path.join(folder, "status.json")) as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        return {}


def supervisor_of(folder: str) -> int:
    """Return the process of the supervisor, which may be on another host with this home; 0 if it has ended."""
    import fcntl

    pid = int(status_in(folder).get("supervisor") or -1)
    try:
        with open(os.path.join(folder, "lock"), "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid
    except OSError:  # no lock was made, or the file system has none
        return pid if os.path.basename(folder) in command_of(pid) else 0
    return 0


def run_status(data: bytes, run: str, seen: str = "", seconds: float = 0.0) -> dict[str, Any]:
    """Return the status of a run, at once, or when its state is another than `seen`, or after some seconds."""
    folder = folder_of_run(run)
    deadline = time.time() + seconds
    while True:
        is_alive = bool(supervisor_of(folder))  # first: a supervisor writes its last status before it ends
        status = status_in(folder)
        if not is_alive and not status.get("ended"):
            status["state"] = "lost"
        if status["state"] + str(status.get("attempts")) != seen or time.time() >= deadline:
            return {"status": status, "lines": last_lines(os.path.join(folder, "supervisor.log"))}
        time.sleep(4 * LOOK)  # for the next look at that file


def last_lines(path: str) -> list[str]:
    """Return the last lines of a small file."""
    try:
        with open(path, errors="replace") as file:
            return file.read().splitlines()[-3:]
    except OSError:
        return []


def run_read(data: bytes, run: str, file: str, start: int, most: int) -> dict[str, Any]:
    """Return bytes of a file of a run, from `start` on (from its end, if that is negative), and the file's size."""
    import base64

    try:
        with open(os.path.join(folder_of_run(run), file), "rb") as stream:
            total = stream.seek(0, os.SEEK_END)
            start = stream.seek(max(0, total + start) if start < 0 else start)
            found = stream.read(most)
    except FileNotFoundError:
        start, total, found = 0, 0, b""
    return {"start": start, "size": total, "data": base64.b64encode(found).decode()}


def run_cancel(data: bytes, run: str, seconds: float) -> dict[str, bool]:
    """End a run: SIGTERM to its supervisor, which ends the script; after some seconds SIGKILL to both."""
    folder = folder_of_run(run)
    pid = supervisor_of(folder)
    if pid <= 0:
        return {"ran": end_script(folder)}
    open(os.path.join(folder, "cancelled"), "w").close()
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, ENDS)):
        if number == signal.SIGKILL:
            end_script(folder)
        try:
            os.kill(pid, number)
        except OSError:
            break
        deadline = time.time() + patience
        while supervisor_of(folder) and time.time() < deadline:
            time.sleep(LOOK)  # it is no child of this process, which would be told of its end
        if not supervisor_of(folder):
            break
    return {"ran": True}


def end_script(folder: str) -> bool:
    """Kill the process group of the script of a run whose supervisor has ended or hangs; return True if it ran."""
    pid = int(status_in(folder).get("pid") or 0)
    if not pid or os.path.basename(folder) not in command_of(pid):
        return False
    os.killpg(pid, signal.SIGKILL)
    return True


def run_remove(data: bytes, run: str) -> dict[str, bool]:
    """Remove the files of a run that has ended."""
    for folder in folders(os.path.join(RUNS, run)):
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # there are others
            os.rmdir(os.path.dirname(folder))
    return {"removed": True}


#: What may be asked for.
OPERATIONS: dict[str, Any] = {
    "environment": environment,
    "free_port": free_port,
    "start": start,
    "reach": reach,
    "stop": stop,
    "logs": logs,
    "run_folder": run_folder,
    "run_start": run_start,
    "run_again": run_again,
    "run_status": run_status,
    "run_read": run_read,
    "run_cancel": run_cancel,
    "run_remove": run_remove,
}
main()
