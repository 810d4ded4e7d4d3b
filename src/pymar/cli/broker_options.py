"""What all commands have in common that need a broker: the options that name it, and errors in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import click

from pymar.amqp.address import Address, parse
from pymar.amqp.cluster import VARIABLE, current
from pymar.amqp.keys import Keys, keys_of
from pymar.amqp.producer.discovery import is_listening
from pymar.exceptions import PymarError, UsageError

_BROKER = "HOST, HOST:PORT, or amqp(s)://user:password@host:port/vhost; PYMAR_URL, or 127.0.0.1, by default."


def errors_in_one_line(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: an error of Pymar's is printed in one line, without a traceback, and the command exits with 1."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except PymarError as error:
            raise click.ClickException(str(error)) from None

    return run


def broker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options -q and --insecure to a command."""
    command = click.option("-q", "--mq-server", "server", default="", metavar="BROKER", help=_BROKER)(command)
    return click.option("--insecure", is_flag=True, help="Use a broker on another host even without a key and TLS.")(
        command
    )


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -q, --insecure, and --name, the cluster that is meant if no broker is named."""

    def choose(context: click.Context, option: click.Parameter, name: str | None) -> None:
        if name is not None:
            os.environ[VARIABLE] = name

    command = click.option(
        "--name",
        expose_value=False,
        callback=choose,
        help=f"The cluster of `pymar up`, if there are several; {VARIABLE}.",
    )(command)
    return broker_options(command)


def address_of(server: str, insecure: bool) -> Address:
    """Return the address of the broker that the options name; warn of a password among them."""
    if "@" in server:
        click.echo("every user of this host can see a password on the command line: put the URL in PYMAR_URL", err=True)
    address = parse(server)
    return address._replace(insecure=True) if insecure else address


def broker_of(server: str, insecure: bool, *, may_be_up: bool = True) -> tuple[Address, Keys]:
    """Return the address of the broker that the options name, and the keys of this process; if nothing names one, those
    of the cluster that is up.

    Args:
        may_be_up: False for what belongs to no cluster.

    Raises:
        UsageError: one of them is not what it has to be.
        BrokerRefused: the broker is on another host, and the key or TLS that this requires is missing.
    """
    named = server or os.environ.get("PYMAR_URL")
    if may_be_up and not named and (up := current()) is not None:
        if up.is_own:
            from pymar.hosts.up import wait_for_broker

            wait_for_broker(up, say=partial(click.echo, err=True))
        return parse(up.address), Keys((up.key,))
    keys, address = keys_of(), address_of(server, insecure)
    if may_be_up and not named and not is_listening(address.host, address.port):
        raise UsageError(
            f"no cluster is up on this host, and no broker listens at {address}: pymar up -H HOSTS starts a "
            "cluster; -q or PYMAR_URL names a broker"
        )
    address.check(bool(keys))
    return address, keys
