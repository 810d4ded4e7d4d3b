"""A cluster whose workers are jobs of Slurm or PBS: `pymar up --slurm 4 -- -p short -t 2:00:00`.

The broker is on this host, or wherever `-q` says; the workers join it when the scheduler starts them, and hand back
their parts before their time is over. This host and theirs share a home: that is where the environment, the key and the
certificate are, for this user only.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pymar.amqp import cluster as state
from pymar.amqp.cluster import Cluster
from pymar.amqp.keys import new_key
from pymar.exceptions import UsageError
from pymar.hosts import schedulers
from pymar.hosts.packages import Packages
from pymar.hosts.remote import HostFailed
from pymar.hosts.up import Options, checked, environment_here, lasting, locked, taken_down, with_broker


class Workers(NamedTuple):
    """What is submitted."""

    kind: str
    """"slurm" or "pbs"."""
    number: int
    """How many."""
    slots: int
    """Of each; 0 for all cores that a job has."""
    words: tuple[str, ...]
    """More options of sbatch or qsub."""


def submit(
    name: str,
    workers: Workers,
    options: Options,
    packages: Packages | None,
    *,
    url: str = "",
    say: Callable[[str], None],
) -> Cluster:
    """Start a cluster: a broker here, unless there is a `url` of one, and jobs that are workers.

    Raises:
        UsageError: a cluster of this name is up; the scheduler refuses. Nothing is left then.
    """
    url = checked(url)
    with locked(name):
        state.check_free(name)
        made = Cluster(
            name, os.urandom(4).hex(), url, new_key(), time.time(), not url, [], options._asdict(), {},
            socket.gethostname(),
        )  # fmt: skip
        try:
            python = environment_here(options, packages)
            state.write(made)
            if not url:
                names = [options.address] if options.address else [socket.gethostname(), socket.getfqdn()]
                made = with_broker(made, list(dict.fromkeys(names)), say)
            command = _command(made, workers, options, python)
            script = schedulers.script_of(workers.kind, command, _secrets(made, options), workers.words)
            ids = schedulers.submitted(workers.kind, workers.number, workers.words, script, made.folder)
            made = made._replace(submitted={"kind": workers.kind, "ids": ids})
            state.write(made)
        except BaseException as error:  # also Ctrl-C: nothing is left, whatever ended this
            if name in state.names():
                taken_down(state.read(name), 0.0, say)
            if isinstance(error, HostFailed):
                raise UsageError(f"this host: {error}") from None
            raise
    say(f"{workers.number} workers are submitted as {', '.join(ids)}: they join when {workers.kind} starts them")
    return made


def _command(made: Cluster, workers: Workers, options: Options, python: str) -> list[str]:
    command = [python, "-m", "pymar", "worker", "--pool", made.pool, "--from-stdin", "--grace", str(schedulers.GRACE)]
    command += lasting(options)
    return command + (["-w", str(workers.slots)] if workers.slots else [])


def _secrets(made: Cluster, options: Options) -> Path:
    """Write the file that is a worker's standard input, with its address and key; return its path."""
    url = made.url
    if made.is_own:
        url = url.replace("@127.0.0.1:", f"@{options.address or socket.gethostname()}:", 1)
    path = made.folder / "worker.secrets"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps({"url": url, "key": made.key}) + "\n")
    return path


def waiting(made: Cluster) -> Sequence[str]:
    """Return a line about the workers that were submitted, for people; nothing if none were."""
    if not made.submitted:
        return []
    ids = made.submitted["ids"]
    found = schedulers.states(made.submitted["kind"], ids)
    return [
        f"submitted as {', '.join(ids)}: {', '.join(f'{count} {name}' for name, count in found.items()) or 'ended'}"
    ]
