"""`pymar broker`: a RabbitMQ of one's own on this host, as long as the command runs."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pymar.cli.broker_options import errors_in_one_line
from pymar.exceptions import BrokerRefused

if TYPE_CHECKING:
    from pymar.hosts.broker import Broker

#: Seconds between two looks at the node's alarms.
_ALARMS_EVERY = 10.0
#: In the folder: who runs there, and what shells read: on this host, and on others.
_LOCK, _HERE, _THERE = "foreground.lock", "environment", "environment.others"


@click.command()
@click.option("--listen", "names", multiple=True, metavar="NAME", help="Other hosts reach this one by it; repeatable.")
@click.option("--port", type=click.IntRange(1, 65535), help="A free one by default.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="For its files: ~/.local/state/pymar-broker by default."
)
@errors_in_one_line
def broker(names: tuple[str, ...], port: int | None, folder: Path | None) -> None:
    """Run a RabbitMQ of your own until Ctrl-C or SIGTERM: for this host, or with --listen for others too, over TLS.

    The server has to be installed. Of what is installed only its programs are used: no service, settings or data.
    """
    from pymar.hosts import broker as hosts

    folder = hosts.usable(folder or _own_folder())
    written = (folder / _HERE, folder / _THERE)
    with hosts.exclusive(folder, _LOCK, f"`pymar broker` runs in {folder} already: give another --folder"):
        try:
            _interrupt_at_signals()
            for what in hosts.stop(folder):
                click.echo(f"a `pymar broker` that was killed had left this, now ended: {what}")
            node = hosts.start(folder, names=names, port=port)
            for line in _told(node, names, written):
                click.echo(line)
            _watch(node)
        except KeyboardInterrupt:
            click.echo("the broker ends")
        finally:
            hosts.stop(folder)
            for path in written:
                path.unlink(missing_ok=True)
    with suppress(OSError):  # there are other files in it
        folder.rmdir()


def _own_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "pymar-broker"


def _interrupt_at_signals() -> None:
    """Have the first SIGTERM, SIGINT or SIGHUP raise KeyboardInterrupt; others do not disturb what ends the node."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else `nohup` has set it
        numbers.append(signal.SIGHUP)

    def interrupt(number: int, frame: object) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def _told(node: Broker, names: tuple[str, ...], written: tuple[Path, Path]) -> Iterator[str]:
    """Write the addresses into files, since they contain the password, and yield lines that say how to use them."""
    from pymar.hosts.broker import write

    here, there = written
    write(here, f"export PYMAR_URL={shlex.quote(node.url(node.host, node.cafile))}\n".encode())
    where = "on this host only" if not names else f"as {', '.join(names)}, over TLS"
    yield f"RabbitMQ listens at port {node.port} {where}; it ends with Ctrl-C (process {node.pid}, {node.folder})"
    yield f"In each shell on this host, for workers and jobs:   . {shlex.quote(str(here))}"
    if names:
        write(there, f"export PYMAR_URL={shlex.quote(node.url(names[0], node.cafile))}\n".encode())
        yield f"On other hosts:   . {shlex.quote(str(there))}"
        yield f"  A host that does not share this folder needs that file and {node.cafile} at the same places."
        yield "  They need a key too, one on all hosts: umask 077; pymar keygen > pymar.key; PYMAR_KEY_FILE names it."
    yield "Then:   pymar worker my_job.py   and   python my_job.py"


def _watch(node: Broker) -> None:
    """Print the node's alarms when they change; start it again when it dies."""
    from pymar.hosts.broker import alarms, find
    from pymar.hosts.keeper import kept

    known: list[str] = []
    for running in kept(Path(node.folder), _ALARMS_EVERY, partial(click.echo, err=True)):
        if running is None:
            continue
        try:
            found = alarms(running)
        except BrokerRefused as error:
            if not find(Path(node.folder)):
                continue  # it has just ended
            found = [str(error)]
        kinds = [re.sub(r"\d+", "", line) for line in found]  # figures in them change all the time
        if kinds != known:
            for line in found or ["the broker takes messages again"]:
                click.echo(line, err=True)
        known = kinds
