"""Runs that go on without this host: a script is sent to a host of the cluster, and a supervisor there runs it.

    pymar run --detach my_job.py    the script, its modules and files --ssh--> .runs/run-1a2b3c4d on the host
                                    its supervisor (supervisor.py) --> the script --> the cluster
    pymar wait, logs, result        read there what the supervisor and the script have written
    pymar down                      copies the result here, and removes what is there

On this host, ~/.local/state/pymar/.detached/run-1a2b3c4d has where the run is (record.json); and, once the cluster is
down, what is left of it: status.json, stdout, stderr.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pymar.amqp import cluster as state
from pymar.amqp.cluster import Cluster
from pymar.exceptions import UsageError
from pymar.hosts import bundle
from pymar.hosts.names import Host
from pymar.hosts.remote import HostFailed, Remote, Way, abandoning, way_to
from pymar.hosts.supervisor import ENDED, GRACE, write
from pymar.hosts.up import seen_by, shown
from pymar.serialization.redaction import printable

#: What an id begins with.
PREFIX = "run-"
#: Seconds between two attempts to reach a host again, at first and at most.
_AGAIN, _SELDOM = 1.0, 30.0
#: Seconds that a question for the next state takes at most: then it is asked again.
_ASK = 20.0
#: Bytes that are read at a time.
_PIECE = 4 << 20
#: How many results of clusters that are down are kept here.
KEPT = 50


class Run(NamedTuple):
    """Where a run is. Immutable."""

    id: str
    cluster: str
    pool: str
    host: dict[str, Any]
    """As a Host has it."""
    asked: str
    """The Python that was asked for there, for ssh."""
    python: str
    """The interpreter of its environment."""
    script: str
    since: float

    @property
    def folder(self) -> Path:
        """What this host has of it."""
        return _home() / self.id

    @property
    def where(self) -> str:
        """The host, for people."""
        return shown(Host(**self.host))

    @property
    def is_kept(self) -> bool:
        """True if its cluster is down, and what is left of it is here."""
        return (self.folder / "status.json").exists()


class Status(NamedTuple):
    """How far a run is. Immutable."""

    state: str
    """"running", "waiting" (for the next start), "ended", "cancelled", "stopped", "failed", "lost" (no supervisor)."""
    code: int
    """The exit code, 128 + n after a signal; 0 as long as it runs."""
    attempts: int
    why: str

    @property
    def is_over(self) -> bool:
        return self.state in ENDED or self.state == "lost"

    def line(self, run: Run) -> str:
        """Return it for people."""
        text = f"{run.id} ({run.script} on {run.where}): {self.state}"
        if self.state == "ended":
            text += f" with exit code {self.code}"
        if self.state == "running" and self.attempts > 1:
            text += f", start {self.attempts}"
        if self.state == "lost":
            text += f": its supervisor has ended. pymar run --again {run.id} goes on from what is finished"
        return f"{text}: {self.why}" if self.why else text


def _home() -> Path:
    return state.home() / ".detached"


# Starting.


def start(name: str, script: str, arguments: Sequence[str], extra: Sequence[str], *, say: Callable[[str], None]) -> Run:
    """Start a script on the first host of a cluster that can be reached; return the run.

    Args:
        name: of the cluster.
        extra: paths of files and folders that the script reads, besides its modules.
        say: prints a line.

    Raises:
        UsageError: no such cluster or file; too much to send; or no host can be reached.
    """
    made = state.read(name)
    sent = bundle.made_of(script, extra)
    run_id = f"{PREFIX}{os.urandom(4).hex()}"
    for record in made.hosts:
        host = Host(**{name: record[name] for name in Host._fields})
        if not record.get("python"):  # of a `pymar up` that was killed before its worker started
            continue
        if record["lingers"]:
            say(f"{shown(host)}  belongs to an allocation, which ends what it starts: submit the script itself there")
            continue
        try:
            with Remote(Way(tuple(record["way"])), record["asked"]) as remote:
                _start_on(remote, run_id, record, made, sent, arguments)
        except HostFailed as error:
            say(f"{shown(host)}  failed at {error}")
            continue
        short = os.path.basename(script)
        run = Run(run_id, name, made.pool, host._asdict(), record["asked"], record["python"], short, time.time())
        run.folder.mkdir(parents=True, mode=0o700)
        write(run.folder / "record.json", run._asdict())
        return run
    raise UsageError(f"no host of the cluster {name!r} could start it: pymar status, pymar logs")


def _start_on(
    remote: Remote, run_id: str, record: dict[str, Any], made: Cluster, sent: bundle.Bundle, arguments: Sequence[str]
) -> None:
    folder = remote.ask("run_folder", run=run_id)["folder"]
    url, certificate = seen_by(record, made)
    url = url.replace("{quoted}", _quoted(folder))
    there = made._replace(url=url, is_own=False, hosts=[], settings={}, submitted={})
    plan = {
        "argv": [record["python"], f"{folder}/files/{sent.script}", *arguments],
        "cwd": f"{folder}/files/{sent.current}",
        "path": [f"{folder}/files/{entry}" for entry in sent.path],
        "environ": {
            "XDG_STATE_HOME": f"{folder}/state",
            state.VARIABLE: made.name,
            "PYMAR_CHECKPOINTS": f"{folder}/checkpoints",
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": "0",  # so that sets have one order at each start, and jobs the same data
        },
        "without": ["PYMAR_URL", "PYMAR_ENGINE", "PYMAR_KEY", "PYMAR_KEY_FILE"],
    }
    files = {
        "plan.json": json.dumps(plan),
        f"state/pymar/{made.name}/{state.FILE}": json.dumps(there._asdict()),
        **({"ca.pem": certificate} if certificate else {}),
    }
    # Through ssh's standard input: no secret is in an argument.
    remote.ask("run_start", sent.archive, folder=folder, python=record["python"], files=files)


def _quoted(folder: str) -> str:
    from urllib.parse import quote

    return quote(folder)


def again(run_id: str) -> Run:
    """Start a run again whose supervisor or host had ended, or that was stopped: it goes on from what is finished.

    Raises:
        UsageError: there is no such run, it runs, or its host cannot be reached.
    """
    run = find(run_id)
    if run.is_kept:
        raise UsageError(f"{run_id}: its cluster is down: pymar up, and pymar run --detach")
    with _reached(run) as remote:
        _asked(run, remote, "run_again", python=run.python)
    return run


# Finding.


def runs() -> list[Run]:
    """Return the runs that were started from this host and are known, the latest last."""
    found = []
    for path in _home().glob(f"{PREFIX}*/record.json"):
        try:
            found.append(Run(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # removed meanwhile, or of another version
    return sorted(found, key=lambda run: run.since)


def find(run_id: str) -> Run:
    """Return a run by its id; without one, the only one that is not over, or else the latest.

    Raises:
        UsageError: there is none.
    """
    there = runs()
    if not run_id:
        if not there:
            raise UsageError("no script was started from this host with pymar run --detach")
        live = [run for run in there if not run.is_kept]
        if len(live) > 1:
            raise UsageError(f"which one? {', '.join(run.id for run in live)}")
        return (live or there)[-1]
    for run in there:
        if run.id == run_id:
            return run
    known = ", ".join(run.id for run in there[-5:])
    raise UsageError(f"{run_id}: no such run was started from this host{f'; there is {known}' if known else ''}")


# Looking.


def status(run: Run) -> Status:
    """Return how far a run is.

    Raises:
        UsageError: its host cannot be reached, or has nothing of it.
    """
    if run.is_kept:
        return _status_of(json.loads((run.folder / "status.json").read_text(encoding="utf-8")))
    with _reached(run) as remote:
        return _status_of(_asked(run, remote, "run_status")["status"])


def _status_of(found: dict[str, Any]) -> Status:
    return Status(found["state"], found.get("code", 0), found.get("attempts", 0), printable(found.get("why", "")))


def wait(run: Run, say: Callable[[str], None]) -> Status:
    """Return how a run has ended, once it has. If its host cannot be reached for a while, it is tried again.

    Args:
        say: prints a line: the state, when it changes, and that the host cannot be reached.

    Raises:
        UsageError: its host cannot be reached the first time, or has nothing of the run.
    """
    if run.is_kept:
        return status(run)
    seen, pause = "", 0.0
    while True:
        try:
            with Remote(way_to(Host(**run.host)), run.asked) as remote:
                pause = _AGAIN
                while True:
                    found = _next(run, remote, seen)
                    now = _status_of(found)
                    if (new := f"{now.state}{found.get('attempts')}") != seen:
                        seen = new
                        say(now.line(run))
                    if now.is_over:
                        return now
        except HostFailed as error:
            if not pause:
                raise UsageError(f"{run.where} {error}") from None
            say(f"{run.where} cannot be reached ({error.text}): trying again")
            time.sleep(pause)  # nothing tells when a host can be reached again
            pause = min(2 * pause, _SELDOM)


def _next(run: Run, remote: Remote, seen: str) -> dict[str, Any]:
    """Return the status of a run when it is another than was seen, or after some seconds."""
    try:
        found: dict[str, Any] = _asked(run, remote, "run_status", seen=seen, seconds=_ASK)["status"]
        return found
    except KeyboardInterrupt:
        with abandoning():  # the host would answer only later
            raise


def read(run: Run, file: str, start: int = 0, *, follow: bool = False) -> Iterator[bytes]:
    """Yield what a run has written to a file, in pieces.

    Args:
        start: the first byte; from the end, if it is negative.
        follow: go on until the run is over.

    Raises:
        UsageError: its host cannot be reached.
    """
    if run.is_kept:
        yield from _kept(run, file, start)
        return
    with _reached(run) as remote:
        while True:
            is_over = not follow or _status_of(_asked(run, remote, "run_status")["status"]).is_over
            for end, data in _pieces(run, remote, file, start):
                start = end
                yield data
            if is_over:
                return
            time.sleep(_AGAIN / 2)  # between two looks


def _pieces(run: Run, remote: Remote, file: str, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield what a file has from `start` on, in pieces, each with the place where it ends."""
    while True:
        found = _asked(run, remote, "run_read", file=file, start=start, most=_PIECE)
        data = base64.b64decode(found["data"])
        start = found["start"] + len(data)
        if data:
            yield start, data
        if len(data) < _PIECE:
            return


def _kept(run: Run, file: str, start: int) -> Iterator[bytes]:
    try:
        with open(run.folder / file, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size + start) if start < 0 else start)
            while data := stream.read(_PIECE):
                yield data
    except FileNotFoundError:
        return


# Ending.


def cancel(run_id: str) -> Status:
    """End a run: its script by SIGTERM, which it has some seconds for, then by SIGKILL. Return how it has ended.

    Raises:
        UsageError: there is no such run, or its host cannot be reached.
    """
    run = find(run_id)
    if not run.is_kept:
        with _reached(run) as remote:
            _cancel(run, remote)
    return status(run)


def _cancel(run: Run, remote: Remote) -> None:
    _asked(run, remote, "run_cancel", seconds=2 * GRACE)


def finish(name: str, *, force: bool = False, forget: bool = False, say: Callable[[str], None]) -> None:
    """End the runs of a cluster before it goes down: copy what they have printed to this host, and remove them there.

    Args:
        force: end those that run.
        forget: leave runs on hosts that cannot be reached to themselves.

    Raises:
        UsageError: one runs, or its host cannot be reached. Nothing was changed then.
    """
    try:
        pool = state.read(name).pool
    except UsageError:
        if forget and name in state.names():
            return  # a damaged file does not say which runs are its own
        raise
    by_host: dict[str, list[Run]] = {}
    for run in runs():
        if run.pool == pool and not run.is_kept:
            by_host.setdefault(run.where, []).append(run)
    with ExitStack() as stack:
        reached: list[tuple[Run, Remote]] = []
        for there in by_host.values():
            try:
                remote = stack.enter_context(_reached(there[0]))
            except UsageError as error:
                ids = ", ".join(run.id for run in there)
                if not forget:
                    raise UsageError(f"{error}. {ids} is there: --forget leaves it to itself") from None
                say(f"{ids}: {error}. It is left to itself")
            else:
                reached += [(run, remote) for run in there]
        for run, remote in reached:
            now = _status_of(_asked(run, remote, "run_status")["status"])
            if not now.is_over and not force:
                raise UsageError(f"{now.line(run)}. pymar wait {run.id} waits for its end, pymar down --force ends it")
        for run, remote in reached:
            say(f"{_copied(run, remote).line(run)}. pymar result {run.id} still shows what it has printed")
    for run in [run for run in runs() if run.is_kept][:-KEPT]:
        shutil.rmtree(run.folder, ignore_errors=True)


def _copied(run: Run, remote: Remote) -> Status:
    """End a run, copy what it has left to this host, and remove it there; return how it has ended."""
    _cancel(run, remote)
    found = _asked(run, remote, "run_status")["status"]
    for file in ("stdout", "stderr"):
        with open(os.open(run.folder / file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
            for _, data in _pieces(run, remote, file, 0):
                copy.write(data)
    write(run.folder / "status.json", found)
    _asked(run, remote, "run_remove")
    return _status_of(found)


# The conversation.


@contextmanager
def _reached(run: Run) -> Iterator[Remote]:
    """Yield a conversation with the host of a run.

    Raises:
        UsageError: it cannot be reached, or the line is cut meanwhile.
    """
    try:
        with Remote(way_to(Host(**run.host)), run.asked) as remote:
            yield remote
    except HostFailed as error:
        raise UsageError(f"{run.where} failed at {error}") from None


def _asked(run: Run, remote: Remote, do: str, **request: Any) -> dict[str, Any]:
    """Ask about a run, and return the answer.

    Raises:
        HostFailed: the line is cut.
        UsageError: the host has nothing of the run, or what is asked for cannot be done.
    """
    try:
        return remote.ask(do, run=run.id, **request)
    except HostFailed as error:
        if error.is_cut:
            raise
        raise UsageError(f"{run.where}: {run.id}: {error.text}: {error.remedy}".rstrip(": ")) from None
