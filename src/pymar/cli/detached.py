"""The commands for scripts that run without this host: run, wait, result. What they do is in pymar.hosts.detached."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from pymar.amqp import cluster as state
from pymar.cli.broker_options import errors_in_one_line
from pymar.exceptions import UsageError

#: What the ids of detached scripts begin with; as in pymar.hosts.detached, which is imported late.
PREFIX = "run-"


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--detach", is_flag=True, help="On the first host of the cluster, under a supervisor; return at once.")
@click.option("--again", default="", metavar="JOB", help="Start a detached script again, from what is finished.")
@click.option("-f", "--file", "files", multiple=True, metavar="PATH", help="A file or folder it reads. Repeatable.")
@click.option(
    "--name",
    default=lambda: os.environ.get(state.VARIABLE) or state.DEFAULT,
    help=f"The cluster's name: {state.VARIABLE} or {state.DEFAULT!r} by default.",
)
@click.argument("script", default="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@errors_in_one_line
def run(detach: bool, again: str, files: tuple[str, ...], name: str, script: str, arguments: tuple[str, ...]) -> None:
    """Run a SCRIPT on the cluster that is up: from here, or with --detach on one of its hosts, so that this one may be
    switched off. It takes the modules of its folder and project along. Options stand before the script."""
    from pymar.hosts import detached

    if again:
        if script or detach or files:
            raise UsageError("--again JOB takes nothing else: the script and its arguments are as before")
        found = detached.again(again)
        click.echo(f"{found.id} runs again on {found.where}")
        return
    if not script:
        raise UsageError("which script? pymar run --detach my_job.py")
    made = state.read(name)
    if not detach:
        if files:
            raise UsageError("--file is for --detach: without it, the script runs here, where its files are")
        os.environ[state.VARIABLE] = name
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, script, *arguments])
    found = detached.start(name, script, arguments, files, say=lambda line: click.echo(line, err=True))
    click.echo(
        f"{found.id} runs on {found.where}: pymar wait {found.id}, pymar logs {found.id}, pymar result {found.id}, "
        f"pymar cancel {found.id}",
        err=True,
    )
    if made.is_own:
        click.echo(
            "the broker of this cluster runs on this host, which has to stay on: pymar up on a host that stays, or "
            "with a broker there (-q)",
            err=True,
        )
    click.echo(found.id)


@click.command()
@click.argument("job", default="")
@errors_in_one_line
def wait(job: str) -> None:
    """Wait until a detached script has ended; exit with its exit code, 128 + n after signal n. Ctrl-C ends the waiting
    only."""
    from pymar.hosts import detached

    found = detached.find(job)
    try:
        status = detached.wait(found, lambda line: click.echo(line, err=True))
    except KeyboardInterrupt:
        click.echo(f"{found.id} goes on: pymar wait {found.id}", err=True)
        sys.exit(130)
    if found.is_kept:
        click.echo(status.line(found), err=True)
    sys.exit(1 if status.state == "lost" else status.code)


@click.command()
@click.argument("job", default="")
@click.option("--partial", is_flag=True, help="What it has printed so far, though it has not ended.")
@errors_in_one_line
def result(job: str, partial: bool) -> None:
    """Print what a detached script has printed (its stdout), byte by byte. Exits with 1 if it has not ended well."""
    from pymar.hosts import detached

    found = detached.find(job)
    status = detached.status(found)
    is_whole = status.state == "ended" and status.code == 0
    if not is_whole:
        click.echo(status.line(found), err=True)
    if is_whole or partial:
        stream = sys.stdout.buffer
        for data in detached.read(found, "stdout"):
            stream.write(data)
        stream.flush()
    else:
        click.echo("--partial prints what there is", err=True)
    sys.exit(0 if is_whole else 1)


def show_log(job: str, lines: int, follow: bool) -> None:
    """Print the last lines of stderr of a detached script, and go on with it if wanted."""
    from pymar.hosts import detached
    from pymar.serialization.redaction import printable_line

    found = detached.find(job)
    pending, shown = b"", 0
    for data in detached.read(found, "stderr", -(1 << 20), follow=follow):
        *whole, pending = (pending + data).split(b"\n")
        for line in whole if shown else whole[-lines:]:
            click.echo(printable_line(line.decode(errors="replace")))
            shown += 1
    if pending:
        click.echo(printable_line(pending.decode(errors="replace")))
        shown += 1
    if not shown:
        click.echo(detached.status(found).line(found), err=True)


def cancel_run(job: str) -> None:
    """End a detached script, and say how it has ended."""
    from pymar.hosts import detached

    found = detached.find(job)
    click.echo(detached.cancel(job).line(found))


COMMANDS: Sequence[click.Command] = (run, wait, result)
