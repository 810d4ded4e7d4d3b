"""`pymar jobs` and `pymar cancel`: which jobs run over a broker, and how to end one."""

from __future__ import annotations

import json
import socket
import sys
from datetime import datetime
from typing import Any

import click

from pymar.cli.broker_options import broker_of, cluster_options, errors_in_one_line
from pymar.cli.detached import PREFIX, cancel_run


@click.command()
@cluster_options
@click.option(
    "--wait", default=1.0, show_default=True, help="Seconds to wait for the answers of producers and workers."
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON, for programs.")
@errors_in_one_line
def jobs(server: str, insecure: bool, wait: float, is_json: bool) -> None:
    """Show the jobs that run: whose, how far, since when, on which workers; and why one waits."""
    from pymar.amqp.jobs import as_json, jobs_of

    address, keys = broker_of(server, insecure)
    found = jobs_of(address, keys, wait)
    if is_json:
        click.echo(json.dumps({"jobs": [as_json(job) for job in found.jobs], "refused": found.refused}, indent=2))
    else:
        _show(found, address)


def _local(seconds: float | None) -> str:
    try:
        return "?" if seconds is None else f"{datetime.fromtimestamp(seconds):%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):  # what a message says may be any number
        return "?"


def _show(found: Any, address: object) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A terminal's width, or all of it: a program that reads this wants no line to be cut.
    console = Console(highlight=False, soft_wrap=True) if sys.stdout.isatty() else Console(width=400, highlight=False)
    if not found.jobs:
        console.print(Text(f"no job runs at {address}"))
    else:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in ("job", "name", "whose", "parts done", "running", "left", "a second", "since", "workers"):
            table.add_column(name, justify="right" if name in ("running", "left", "a second") else "left")
        for job in found.jobs:
            of = "" if job.total is None else f" of {job.total:,}"
            table.add_row(
                *(Text(text) for text in (job.short, job.name, str(job.whose))),
                Text("?" if job.done is None else f"{job.done:,}{of}"),
                Text(f"{job.running:,}"),
                Text("?" if job.left is None else f"{job.left:,}"),
                Text(f"{job.rate:.3g}"),
                Text(_local(job.since)),
                Text("; ".join(f"{one.name} ({one.running} of {one.slots} slots)" for one in job.workers)),
            )
        console.print(table)
    for job in found.jobs:
        if job.state == "silent":
            console.print(
                Text(
                    f"{job}: its producer does not answer; workers have heard nothing of it for {job.unheard:.0f} s. "
                    f"If it has died, this drops its parts: pymar cancel {job.short}"
                )
            )
        elif job.state == "waits":
            console.print(Text(f"{job} waits: {job.waits}"))
    for reason in found.refused:
        console.print(Text(f"an answer was refused: {reason}"))


@click.command()
@click.argument("job")
@cluster_options
@click.option(
    "--wait", default=1.0, show_default=True, help="Seconds to wait for the answers of producers and workers."
)
@errors_in_one_line
def cancel(job: str, server: str, insecure: bool, wait: float) -> None:
    """End the JOB whose id begins so, as Ctrl-C would; `pymar jobs` shows the ids. Exits with 1 if nobody confirms it.

    Its checkpoint stays. The parts of a producer that has died are dropped. With the id of a detached script (run-...),
    that is ended.
    """
    if job.startswith(PREFIX):
        cancel_run(job)
        return
    from pymar.amqp.jobs import cancel as end
    from pymar.amqp.producer.session import user_of_process

    address, keys = broker_of(server, insecure)
    outcome = end(address, keys, job, f"{user_of_process() or 'somebody'} at {socket.gethostname()}", wait)
    click.echo(outcome.text, err=not outcome.is_confirmed)
    sys.exit(0 if outcome.is_confirmed else 1)
