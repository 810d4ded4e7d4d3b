"""The commands of `pymar`, and `worker.py`, the earlier name of `pymar worker`.

worker, status, doctor and keygen are here, over pymar.amqp; inspect is in preview.py, check in check.py, checkpoint in
checkpoint.py, broker in broker.py; hosts.py and detached.py have those for clusters; broker_options.py has what all
commands over a broker have in common. No other package configures handlers of log records.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

import click

from pymar.amqp.address import Address, parse
from pymar.amqp.agent.agent import Serving, Settings, WorkerAgent
from pymar.amqp.keys import Keys, new_key
from pymar.amqp.protocol import by_value_code
from pymar.cli import detached, hosts
from pymar.cli.broker import broker
from pymar.cli.broker_options import broker_of, broker_options, cluster_options, errors_in_one_line
from pymar.cli.jobs import cancel, jobs
from pymar.cli.workerlog import logging_options
from pymar.exceptions import UsageError
from pymar.serialization.composed import POOL
from pymar.serialization.jobfile import classes_of
from pymar.slots.environment import usable_cores, without_secrets
from pymar.version import __version__

log: logging.Logger = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="pymar")
def main() -> None:
    """Spread a Python calculation over your machines."""


main.add_command(broker)
main.add_command(jobs)
main.add_command(cancel)


@main.command()
@click.argument("file", required=False, type=click.Path())
@click.option("-f", "--file", "file_option", type=click.Path(), help="The file with the producer and the source.")
@click.option(
    "-p",
    "--producer",
    default="",
    help="The producer's class; may be left out if the file has one. 'calls': the file's calls and datasets.",
)
@click.option("-s", "--source", default="", help="The source's class, if only jobs over it are to be served.")
@click.option("-w", "--workers", type=click.IntRange(1), help="Slots: parts at a time. All cores by default.")
@click.option("-r", "--purge-queue", is_flag=True, help="First drop the parts that wait in the queue.")
@click.option("--pool", default="", help="Serve classes that travel by value to this pool. Needs a key, and no file.")
@click.option("--grace", default=30.0, show_default=True, help="Seconds that parts may run on after SIGTERM.")
@click.option("--lease-after", default=300.0, show_default=True, help="Seconds that a part is held unacknowledged.")
@click.option(
    "--idle",
    type=click.FloatRange(0),
    default=0.0,
    help="End after so many seconds without a part and without a job; 0: never.",
)
@click.option(
    "--away", type=click.FloatRange(0), default=0.0, help="End after so many seconds without the broker; 0: never."
)
@click.option("--max-result", default=256, show_default=True, help="MiB of the largest partial that is sent.")
@click.option("--from-stdin", is_flag=True, hidden=True, help="Address and key come from standard input, as JSON.")
@broker_options
@errors_in_one_line
@logging_options
def worker(
    file: str | None,
    file_option: str | None,
    producer: str,
    source: str,
    workers: int | None,
    purge_queue: bool,
    pool: str,
    grace: float,
    lease_after: float,
    idle: float,
    away: float,
    max_result: int,
    from_stdin: bool,
    server: str,
    insecure: bool,
) -> None:
    """Compute the parts of the jobs of a FILE, on all cores of this host, until asked to stop."""
    connected = ""
    if from_stdin:
        address, keys, connected = secrets_from(sys.stdin.readline())
    else:
        address, keys = broker_of(server, insecure, may_be_up=False)
    del sys.argv[1:]  # worker processes get a copy of them, and an address among them may hold a password
    if file and file_option and file != file_option:
        raise UsageError(f"two files, {file} and {file_option}: a worker serves one")
    path = file or file_option or ""
    serving = serving_pool(pool, path, keys) if pool else serving_file(path, producer, source)
    settings = Settings(workers or usable_cores(), grace, lease_after, max_result << 20, purge_queue, idle, away)
    agent = WorkerAgent(address, keys, serving, settings, connected=lambda: mark(connected))
    stop_on_signals(agent)
    agent.start()
    agent.wait()


def secrets_from(line: str) -> tuple[Address, Keys, str]:
    """Return the address, the key, and the path of a file to make once the agent is connected, out of a line of JSON.

    `pymar up` sends it, since what comes this way is in no list of processes and in no file.

    Raises:
        UsageError: it is no such line.
    """
    try:
        told = json.loads(line)
        address, keys = parse(told["url"]), Keys((told["key"],))
    except (ValueError, TypeError, KeyError):
        raise UsageError('--from-stdin: a line {"url": ..., "key": ..., "connected": ...} is expected') from None
    address.check(has_key=True)
    return address, keys, told.get("connected", "")


def mark(path: str) -> None:
    """Make an empty file there, which says that the agent is connected; nothing, if the path is empty."""
    if path:
        Path(path).touch()


def serving_pool(pool: str, path: str, keys: Keys) -> Serving:
    """Return what to serve for a pool whose classes travel by value.

    Raises:
        UsageError: there is a file too, or no key.
    """
    if path:
        raise UsageError(f"--pool {pool} is served without a file: its classes come with each job")
    if not keys:
        raise UsageError(
            "--pool runs code that comes over the network, and needs a key here and at the producers: "
            "pymar keygen > pymar.key; export PYMAR_KEY_FILE=$PWD/pymar.key"
        )
    return Serving(pool, by_value_code(keys.name))


def serving_file(path: str, producer: str, source: str) -> Serving:
    """Return what to serve for a producer in a file; of a file without one, its calls and datasets.

    Raises:
        UsageError: there is no file, no such producer or source in it, or several producers.
    """
    if not path:
        raise UsageError("which file? pymar worker FILE -q HOST; or --pool NAME for classes that travel by value")
    found = classes_of(path, without_secrets(os.environ))
    pools: dict[str, str] = found["producers"]
    if not producer and len(pools) < 2:
        producer = next(iter(pools), POOL)
    if producer == POOL:  # for what is made of the file's functions
        pools = {**pools, POOL: POOL}
    if producer not in pools:
        there = ", ".join(pools) or "none"
        raise UsageError(
            f"{path} has {there}: choose one producer with -p NAME, or -p {POOL} for its calls and datasets"
            if not producer or not pools
            else f"{path} has no producer {producer!r} at its top level; it has {there}"
        )  # fmt: skip
    if source and source not in found["sources"]:
        there = ", ".join(found["sources"]) or "none"
        raise UsageError(f"{path} has no source {source!r} at its top level; it has {there}")
    return Serving(pools[producer], found["code"], os.path.abspath(path), producer, source)


def stop_on_signals(agent: WorkerAgent) -> None:
    """Have the first SIGTERM or SIGINT drain the agent, and the second end it at once."""
    asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        (agent.halt if asked else agent.drain)()
        asked = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


@main.command()
@cluster_options
@click.option("--wait", default=1.0, show_default=True, help="Seconds to wait for the answers of workers.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON, for programs.")
@errors_in_one_line
def status(server: str, insecure: bool, wait: float, is_json: bool) -> None:
    """Show pools, workers, slots, parts and jobs. Exits with 0 if any worker takes parts, else with 1."""
    from pymar.amqp.status import as_json, shown, status_of

    address, keys = broker_of(server, insecure)
    found = status_of(address, keys, wait)
    lines = [] if server else hosts.lines_of_cluster({here.agent.name for here in found.agents})
    if is_json:
        click.echo(json.dumps({**as_json(found), "cluster": lines}, indent=2))
    else:
        shown(found, address)
        for line in lines:
            click.echo(line)
    sys.exit(0 if any(agent.consumers or agent.running for agent in found.agents) else 1)


@main.command()
@click.argument("target", required=False, default="", metavar="[FILE or JOB]")
@click.option("-p", "--producer", default="", help="The only producer of the FILE to look at.")
@click.option("--pool", default="", help="A pool whose classes travel by value.")
@cluster_options
@errors_in_one_line
def doctor(target: str, producer: str, pool: str, server: str, insecure: bool) -> None:
    """Check the broker and the key, and show what to change; with a job file or the id of a job that runs, why no
    worker computes it.

    Exits with 1 if something has to be changed.
    """
    from pymar.amqp.doctor import Target, examined

    sys.exit(0 if examined(lambda: broker_of(server, insecure), Target(target, producer, pool)) else 1)


main.add_command(doctor, "explain")


@main.command()
@click.argument("file", type=click.Path())
@click.option("-s", "--source", default="", help="The source's class; may be left out if the file has one.")
@click.option("-n", "--parts", type=click.IntRange(1), help="How many parts; 256 by default, as for a producer.")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A class attribute of the source.")
@errors_in_one_line
def inspect(file: str, source: str, parts: int | None, pairs: tuple[str, ...]) -> None:
    """Show the parts of the source of a FILE, and its first records. The file is loaded in this process."""
    from pymar.cli.preview import settings_of, source_of, view

    for line in view(source_of(file, source), parts, settings_of(pairs)):
        click.echo(line)


@main.command()
@click.argument("file", type=click.Path())
@click.option("-p", "--producer", default="", help="The producer's class; may be left out if the file has one.")
@click.option("-s", "--source", default="", help="The source's class; may be left out if the file has one.")
@click.option(
    "-n",
    "--units",
    type=click.IntRange(1),
    default=1_000,
    show_default=True,
    help="Units (records) of the source that are read.",
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A class attribute of the source.")
@errors_in_one_line
def check(file: str, producer: str, source: str, units: int, pairs: tuple[str, ...]) -> None:
    """Check the producer of a FILE and its source without a job: a small part is computed here, whole and in two."""
    from pymar.cli.check import checked
    from pymar.cli.preview import settings_of

    for line in checked(file, producer, source, settings_of(pairs), units):
        click.echo(line)


@main.command()
@click.argument("file", type=click.Path())
@errors_in_one_line
def checkpoint(file: str) -> None:
    """Show what is finished in the checkpoint FILE, what has failed, and which version of the code computed what."""
    from pymar.cli.checkpoint import view

    for line in view(file):
        click.echo(line)


@main.command()
@click.argument("target")
@errors_in_one_line
def clean(target: str) -> None:
    """Remove what jobs that were killed have left at a TARGET: of a sink (a folder, an address, a database's URL), the
    checkpoint of a keyed job with all that belongs to it, or a folder of exchanges.

    In an object store or a database no job may be writing there; in a folder, that is checked.
    """
    from pymar.keyed import checkpoints
    from pymar.sinks import cleaning

    for name in checkpoints.cleaned(target) or cleaning.cleaned(target):
        click.echo(f"removed {name}")


@main.command()
def keygen() -> None:
    """Print a new key, for PYMAR_KEY_FILE: umask 077; pymar keygen > pymar.key."""
    click.echo(new_key())


for _command in (*hosts.COMMANDS, *detached.COMMANDS):
    main.add_command(_command)


def worker_main() -> None:
    """Run the command `worker.py`."""
    here = os.path.dirname(os.path.realpath(sys.argv[0]))
    # The folder of commands has no modules to import.
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != here]
    worker.main(prog_name="worker.py")
