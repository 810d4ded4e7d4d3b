"""The keeper of a cluster: a process that starts the broker of `pymar up` again when it has died.

    pymar up      starts the broker, then its keeper; so do `pymar status` and its like, if the keeper has died
    the keeper    waits for the end of the node -> starts it again, with address, users, certificate and messages
    pymar down    ends the keeper, and then the broker

A keeper is started and ended under the lock of its cluster (up.py), so none appears while `pymar down` works. Two of
them do no harm: a node is started under a lock of its own. A keeper ends by itself once its cluster is not up any more.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pymar.amqp.address import parse
from pymar.amqp.cluster import FILE, Cluster
from pymar.amqp.producer.discovery import is_listening
from pymar.exceptions import PymarError, UsageError
from pymar.hosts import background
from pymar.hosts import broker as brokers
from pymar.hosts.broker import Broker

#: Seconds between two looks at whether the cluster is still up.
_LOOK_EVERY = 5.0
#: Seconds until a node that dies again and again is started once more: twice as long each time, up to the second one.
#: A node that has lived for LONGEST_PAUSE is started again at once.
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: Seconds that a job, or a command, waits for a broker that is being started again.
PATIENCE = 30.0
#: Bytes of the log, after which it is begun anew.
_LOG_LIMIT = 1 << 20
_MODULE = "pymar.hosts.keeper"
_LOG = "keeper.log"
#: The folder of the broker, in that of its cluster.
BROKER = "broker"
#: Keepers that this process has started: Python warns of a child that is forgotten while it runs.
_started: list[subprocess.Popen[bytes]] = []


def pause_after(lived: float, last: float) -> float:
    """Return the seconds until a node is started again that has lived for so long since it was started after `last`."""
    return 0.0 if lived >= LONGEST_PAUSE else min(LONGEST_PAUSE, max(SHORTEST_PAUSE, 2 * last))


def start(made: Cluster) -> bool:
    """Start the keeper of a cluster; return False if it has one, or if no broker of its own is on this host."""
    if not _is_here(made) or is_running(made):
        return False
    path = made.folder / _LOG
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as output:
        _started.append(background.start(_MODULE, made.pool, [str(made.folder)], made.folder, output))
    return True


def is_running(made: Cluster) -> bool:
    """True if the cluster has a keeper on this host."""
    return bool(background.found(_MODULE, made.pool))


def end(pool: str) -> None:
    """End the keeper of a cluster, and a start of the node that it was at."""
    background.end(_MODULE, pool)


def wait(made: Cluster) -> None:
    """Return once the broker that `pymar up` has started for this cluster listens; it may just be started again.

    Raises:
        UsageError: nothing starts it again, or that does not work; it is on another host.
    """
    folder = made.folder / BROKER
    address = parse(made.url)
    deadline = time.monotonic() + PATIENCE
    while not (brokers.find(folder) and is_listening(address.host, address.port)):
        if not made.url:
            raise UsageError(f"the cluster {made.name!r} is not up yet; if its `pymar up` was killed, {_down(made)}")
        known = brokers.recorded(folder)
        if known and not _is_here(made):
            raise UsageError(f"the cluster {made.name!r} was started on the host {known.host}: use it there")
        if not is_running(made):
            again = f": pymar status starts both, and {_down(made)}" if known else f": {_down(made)}"
            raise UsageError(
                f"the broker of the cluster {made.name!r} on this host has ended, and so has its keeper{again}"
            )
        if time.monotonic() > deadline:
            last = _last_line(made.folder / _LOG)
            raise UsageError(f"the broker of the cluster {made.name!r} does not start again: {last}; {_down(made)}")
        time.sleep(0.5)  # the keeper is another process, and tells nobody


def _down(made: Cluster) -> str:
    return f"pymar down --name {made.name} ends what is left of it"


def _is_here(made: Cluster) -> bool:
    """True if the broker was started on this very host; several may share the folder."""
    known = brokers.recorded(made.folder / BROKER)
    return made.is_own and known is not None and known.host == socket.gethostname()


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        return f"{path}: {error.strerror}"
    return next((line for line in reversed(lines) if line), f"{path} says nothing")


def kept(folder: Path, every: float, say: Callable[[str], None]) -> Iterator[Broker | None]:
    """Yield the node of this folder every so many seconds as long as it runs; start it again when it has died, and
    yield None as long as that does not work. Say each death, each start, and why one has failed."""
    began, pause, dead, said = time.monotonic() - LONGEST_PAUSE, 0.0, 0, ""
    while True:
        if node := brokers.find(folder):
            yield node
            if not brokers.ended_within(node, every):
                continue
        if (known := brokers.recorded(folder)) and known.broker.pid != dead:
            dead = known.broker.pid
            say(f"the broker (process {dead}) has ended by itself; it said last: {brokers.last_words(folder)}")
        pause = pause_after(time.monotonic() - began, pause)
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            yield None
            time.sleep(min(left, every))  # the pause between two starts; the caller looks meanwhile
        began = time.monotonic()
        try:
            node = brokers.again(folder)
            say(f"the broker was started again (process {node.pid}), {time.monotonic() - began:.1f} s")
            said = ""
        except (PymarError, OSError) as error:
            if said != str(error):
                said = str(error)
                say(f"the broker cannot be started again: {said}")
            yield None


def main(arguments: list[str]) -> None:
    """Keep the broker of a cluster running."""
    _, cluster = arguments
    file, folder = Path(cluster) / FILE, Path(cluster) / BROKER
    signal.signal(signal.SIGTERM, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    with suppress(KeyboardInterrupt):
        for _ in kept(folder, _LOOK_EVERY, _log):
            if _is_gone(file) or brokers.recorded(folder) is None:
                break


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a node that is being started is ended first
    raise KeyboardInterrupt


def _is_gone(file: Path) -> bool:
    try:
        file.lstat()
    except FileNotFoundError:
        return True
    except OSError:  # a file system that is away for a moment
        return False
    return False


def _log(text: str) -> None:
    with suppress(OSError):  # a full disk ends no keeper
        if os.fstat(sys.stderr.fileno()).st_size > _LOG_LIMIT:
            os.ftruncate(sys.stderr.fileno(), 0)
        os.write(sys.stderr.fileno(), f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1:])
