"""A tunnel by which one host reaches the broker here, although it cannot connect to this host: `ssh -R`, kept alive.

`pymar up --tunnel` starts one process of this module a host; it starts ssh again whenever the line was cut, and ends
with SIGTERM, or once the cluster is not up any more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

from pymar.amqp.cluster import FILE
from pymar.hosts import background
from pymar.hosts.names import Host
from pymar.hosts.remote import HostFailed, diagnosed, ssh_to

#: Seconds until the tunnel is given up as not working at the start; and between two attempts later.
_STARTS, _AGAIN = 20.0, 3.0
_MODULE = "pymar.hosts.tunnel"
#: What ssh says, with -v, when the other side listens.
_LISTENS = "remote forward success"


def start(host: Host, port: int, broker_port: int, folder: Path, pool: str) -> None:
    """Start the tunnel of a host, and wait until it works.

    Args:
        port: of 127.0.0.1 on the host.
        folder: of the cluster.
        pool: is in the process's arguments, so that it can be found again.

    Raises:
        HostFailed: ssh cannot make it.
    """
    log = folder / f"tunnel-{port}-{host.name.replace('/', '-')}.log"
    words = [str(folder / FILE), str(port), str(broker_port), *ssh_to(host)]
    with open(log, "w", encoding="utf-8") as output:
        process = background.start(_MODULE, pool, words, folder, output)
    deadline = time.monotonic() + _STARTS
    while time.monotonic() < deadline:
        text = log.read_text(encoding="utf-8", errors="replace")
        if _LISTENS in text:
            return
        if process.poll() is not None or "remote port forwarding failed" in text:
            break
        time.sleep(0.05)  # for the next look at what ssh has said
    process.terminate()
    process.wait()
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    raise HostFailed("tunnel", *diagnosed(lines, 255, ["ssh"]).args[1:])


def end(pool: str, host: Host | None = None) -> None:
    """End the tunnels of a cluster, or of one of its hosts."""
    last = f" {' '.join(ssh_to(host))}" if host else ""
    background.end(_MODULE, pool, lambda command: command.endswith(last))


def main(arguments: list[str]) -> None:
    """Keep ssh running."""
    _, file, port, broker_port, *ssh = arguments
    forward = f"127.0.0.1:{port}:127.0.0.1:{broker_port}"
    # -S none: a master of ssh would keep the forwarding after the end of this one.
    command = [*ssh[:-1], "-v", "-N", "-S", "none", "-o", "ExitOnForwardFailure=yes", "-R", forward, ssh[-1]]
    ended = Event()
    running: list[subprocess.Popen[bytes]] = []

    def end(*_: object) -> None:
        ended.set()
        for process in running:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    first = True
    while not ended.is_set() and (os.path.exists(file) or first):
        sys.stderr.flush()
        os.ftruncate(sys.stderr.fileno(), 0)
        running[:] = [subprocess.Popen(command, stdin=subprocess.DEVNULL)]
        if ended.is_set():  # while it was being started
            running[0].terminate()
        running[0].wait()
        first = False
        ended.wait(_AGAIN)


if __name__ == "__main__":
    main(sys.argv[1:])
