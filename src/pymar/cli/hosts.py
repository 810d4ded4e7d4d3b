"""The commands for hosts: up, add, remove, down, logs. What they do is in pymar.hosts."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pymar.amqp import cluster as state
from pymar.cli.broker_options import errors_in_one_line
from pymar.cli.detached import PREFIX, show_log
from pymar.exceptions import UsageError

if TYPE_CHECKING:
    from pymar.hosts.up import Options


def _name_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the name of a cluster that is started."""
    return click.option(
        "--name",
        default=lambda: os.environ.get(state.VARIABLE) or state.DEFAULT,
        help=f"The cluster's name, if there are several: {state.VARIABLE} or {state.DEFAULT!r} by default.",
    )(command)


def _which_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the name of a cluster that is up; it may be left out if there is one."""

    def chosen(context: click.Context, option: click.Parameter, name: str | None) -> str:
        if name is not None or (name := os.environ.get(state.VARIABLE)):
            return name
        there = state.names()
        if len(there) > 1:
            raise click.UsageError(f"the clusters {', '.join(there)} are up: choose one, as in --name {there[0]}")
        return there[0] if there else state.DEFAULT

    return click.option(
        "--name",
        callback=chosen,
        help=f"The cluster, if several are up: {state.VARIABLE} or the only one by default.",
    )(command)


@click.command()
@click.option(
    "-H",
    "--hosts",
    multiple=True,
    metavar="HOSTS",
    help="A file with a host a line, or hosts as ssh knows them: 'node[01-16]', user@host:port/SLOTS. Repeatable.",
)
@click.option("--need", type=click.IntRange(1), default=1, show_default=True, help="How many hosts have to start.")
@click.option("-q", "--mq-server", "server", default="", metavar="BROKER", help="A broker that all hosts reach.")
@click.option("--python", default="", metavar="PATH", help="The Python of the hosts: a path or a name there.")
@click.option("--bare", is_flag=True, help="Install nothing: use the Pymar and the packages of that Python.")
@click.option("--requirements", default="", type=click.Path(), help="A file for pip: the packages that jobs need.")
@click.option("--freeze", is_flag=True, help="Install the packages of this environment, in the same versions.")
@click.option("--idle", default=0.0, metavar="SECONDS", help="Workers end after so long without a job. 0: never.")
@click.option("--away", default=600.0, show_default=True, metavar="SECONDS", help="... or without the broker.")
@click.option("--address", default="", metavar="NAME", help="How the hosts reach this one, if not as ssh comes.")
@click.option("--tunnel", is_flag=True, help="The hosts reach the broker through ssh: they cannot connect to this one.")
@click.option("--slurm", "slurm", type=click.IntRange(1), help="Submit so many workers to Slurm; its options after --.")
@click.option("--pbs", "pbs", type=click.IntRange(1), help="The same for PBS.")
@click.option("-w", "--workers", "slots", type=click.IntRange(1), default=None, help="Slots of each submitted worker.")
@click.option("--foreground", is_flag=True, help="Stay, and end everything with Ctrl-C.")
@click.argument("words", nargs=-1, metavar="[-- OPTIONS FOR THE SCHEDULER]")
@_name_option
@errors_in_one_line
def up(
    hosts: tuple[str, ...],
    need: int,
    server: str,
    python: str,
    bare: bool,
    requirements: str,
    freeze: bool,
    idle: float,
    away: float,
    address: str,
    tunnel: bool,
    slurm: int | None,
    pbs: int | None,
    slots: int | None,
    foreground: bool,
    words: tuple[str, ...],
    name: str,
) -> None:
    """Start a broker here and a worker on each of your hosts, by ssh. Jobs on this host use them then; `pymar down`
    ends all. Without -H within an allocation of Slurm, PBS, LSF or Grid Engine, the hosts are those of the allocation.
    """
    from pymar.hosts.batch import Workers, submit
    from pymar.hosts.detached import finish
    from pymar.hosts.names import Host, hosts_of
    from pymar.hosts.packages import packages
    from pymar.hosts.schedulers import allocation
    from pymar.hosts.up import Options, down, up, way_within

    is_submitted = bool(slurm or pbs)
    if is_submitted + bool(slurm and pbs) + bool(hosts) > 1:
        raise UsageError("-H, --slurm and --pbs: choose one")
    if words and not is_submitted:
        raise UsageError(f"{words[0]}: hosts are named by -H; what stands behind -- is for --slurm or --pbs")
    if slots and not is_submitted:
        raise UsageError(f"-w is for --slurm and --pbs: name a host with its slots, as in -H node1/{slots}")
    url = _broker_for(server, tunnel)
    requirements = os.path.abspath(requirements) if requirements else ""  # pymar add may run in another folder
    given = None if hosts or is_submitted else allocation(os.environ)
    if given is not None and not address:
        address = socket.gethostname()
    options = Options(python, bare, requirements, freeze, idle, away, address, tunnel)
    _check(options)
    found = None if bare else packages(requirements, freeze)
    start: Callable[[], state.Cluster]
    if is_submitted:
        workers = Workers("slurm" if slurm else "pbs", slurm or pbs or 0, slots or 0, words)
        start = partial(submit, name, workers, options, found, url=url, say=_say)
    elif given is not None:
        named = [Host(node.host, slots=node.slots) for node in given.nodes]
        start = partial(up, name, named, options, found, way=partial(way_within, given), url=url, need=need, say=_say)
    elif hosts:
        start = partial(up, name, hosts_of(hosts), options, found, url=url, need=need, say=_say)
    else:
        raise UsageError("which hosts? -H hosts.txt, -H 'node[01-16]', or -H localhost for this one alone")
    made = _interruptible(start, name)
    _say(_summary(made))
    if foreground:
        _say("Ctrl-C ends it")
        signal.sigwait(_ENDING)
        finish(name, force=True, forget=True, say=_say)
        down(name, 0.0, say=_say)


def _check(options: Options) -> None:
    """Refuse options that contradict each other."""
    if options.bare and (options.requirements or options.freeze):
        raise UsageError("--bare installs nothing: leave out --requirements and --freeze, or --bare")
    if not (options.idle >= 0 and options.away >= 0):
        raise UsageError("--idle and --away are seconds: 0 or more")


def _broker_for(server: str, tunnel: bool) -> str:
    """Return the address of the broker that is named; "" for one of its own. Warn of a password among the options."""
    if "@" in server:
        click.echo("every user of this host can see a password on the command line: put the URL in PYMAR_URL", err=True)
    url = server or os.environ.get("PYMAR_URL", "")
    if tunnel and url:
        raise UsageError(
            "--tunnel leads to a broker that pymar up starts here: leave out --tunnel, or -q and PYMAR_URL"
        )
    return url


def _summary(made: state.Cluster) -> str:
    """Return the line that says what is up, and what to do next."""
    counts = [record["slots_used"] for record in made.hosts if "slots_used" in record]
    what = f"{len(counts)} hosts, {sum(counts)} slots" if made.hosts else "it has no workers yet"
    is_usual = made.name == state.DEFAULT
    other, chosen = ("", "") if is_usual else (f" --name {made.name}", f"{state.VARIABLE}={made.name} ")
    return (
        f"the cluster {made.name!r} is up: {what}. Jobs on this host use it now: {chosen}python my_job.py; {chosen}"
        f"pymar status; pymar down{other} ends it"
    )


_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def _say(text: str) -> None:
    """Print a line. A terminal that was closed, or `| head -1`, must not change what is done."""
    with suppress(OSError):
        click.echo(text)


def _interruptible(step: Callable[[], Any], name: str) -> Any:
    """Run a step for which SIGTERM and SIGHUP are as Ctrl-C; after that, leave these signals to `sigwait`.

    After the first signal, only another Ctrl-C ends the cleaning up: a terminal that is closed sends several.
    """
    is_asked = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal is_asked
        if not is_asked or number == signal.SIGINT:
            is_asked = True
            raise KeyboardInterrupt

    for number in _ENDING:
        signal.signal(number, interrupt)
    try:
        found = step()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    except KeyboardInterrupt:
        is_left = name in state.names()
        raise click.ClickException(
            f"interrupted: pymar down --name {name} ends what was started"
            if is_left
            else "interrupted: what was started is ended"
        ) from None
    return found


@click.command()
@click.argument("hosts", nargs=-1, required=True)
@_which_option
@errors_in_one_line
def add(hosts: tuple[str, ...], name: str) -> None:
    """Start workers on more HOSTS, for the cluster that is up."""
    from pymar.hosts.names import hosts_of
    from pymar.hosts.packages import packages
    from pymar.hosts.up import add, read

    settings = read(name).settings
    found = None if settings["bare"] else packages(settings["requirements"], settings["freeze"])
    add(name, hosts_of(hosts), found, say=_say)


@click.command()
@click.argument("hosts", nargs=-1, required=True)
@click.option("--grace", default=30.0, show_default=True, help="Seconds that parts may run on there.")
@click.option("--forget", is_flag=True, help="Hosts that cannot be reached are left to themselves.")
@_which_option
@errors_in_one_line
def remove(hosts: tuple[str, ...], grace: float, forget: bool, name: str) -> None:
    """End the workers on some HOSTS of the cluster; other hosts compute their parts."""
    from pymar.hosts.names import hosts_of
    from pymar.hosts.up import remove

    remove(name, hosts_of(hosts), grace, forget=forget, say=_say)


@click.command()
@click.option("--grace", default=0.0, show_default=True, help="Seconds that parts may run on.")
@click.option("--forget", is_flag=True, help="Hosts that cannot be reached are left to themselves.")
@click.option("--force", is_flag=True, help="End detached scripts that run.")
@_which_option
@errors_in_one_line
def down(grace: float, forget: bool, force: bool, name: str) -> None:
    """End the cluster: all workers, the broker, and what they have left. What detached scripts have printed is kept on
    this host."""
    from pymar.hosts.detached import finish
    from pymar.hosts.up import down

    finish(name, force=force, forget=forget, say=_say)
    down(name, grace, forget=forget, say=_say)


@click.command()
@click.argument("host", default="")
@click.option("-n", "--lines", type=click.IntRange(1), default=100, show_default=True, help="The last so many lines.")
@click.option("-f", "--follow", is_flag=True, help="Of a detached script: go on until it has ended.")
@_which_option
@errors_in_one_line
def logs(host: str, lines: int, follow: bool, name: str) -> None:
    """Show the log of the worker on a HOST, or of all workers; or what a detached script (run-...) wrote to stderr."""
    from pymar.hosts.up import log_of

    if host.startswith(PREFIX):
        show_log(host, lines, follow)
        return
    if follow:
        raise UsageError("--follow is for detached scripts: pymar logs -f run-...")
    from pymar.serialization.redaction import printable_line

    shown = 0
    for at, found in log_of(name, host, lines):
        for line in found:
            click.echo(f"{at}: {printable_line(line)}" if not host else printable_line(line))
            shown += 1
    if not shown:
        click.echo("the logs are empty", err=True)
        sys.exit(1)


def lines_of_cluster(workers: set[str]) -> list[str]:
    """Return what there is to say about the cluster that is up, given the names of the workers that answer."""
    from pymar.hosts.batch import waiting
    from pymar.hosts.up import silent, trouble

    made = None if os.environ.get("PYMAR_URL") else state.current()
    return [] if made is None else [*silent(made, workers), *trouble(made), *waiting(made)]


COMMANDS: Sequence[click.Command] = (up, add, remove, down, logs)
