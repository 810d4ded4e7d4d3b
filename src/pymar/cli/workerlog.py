"""Where `pymar worker` logs: to stderr, or to a file that is rotated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from pymar.exceptions import PymarError
from pymar.slots.logfile import MOST_BYTES, OLDER, RotatedFile
from pymar.slots.output import OutputHandler, to_file

log: logging.Logger = logging.getLogger(__name__)


def logging_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --log-file and -v to a command, and log as they say before it runs.

    With a file, stderr gets nothing but the error of a failed start; that the file cannot be opened is one.
    """

    @click.option(
        "--log-file",
        type=click.Path(),
        help=f"Write the log, and what parts print, to this file in place of stderr: {MOST_BYTES >> 20} MiB at most, "
        f"and {OLDER} older ones, PATH.1 the latest.",
    )
    @click.option("-v", "--verbose", is_flag=True, help="Log more.")
    @wraps(command)
    def run(*arguments: Any, log_file: str | None, verbose: bool, **options: Any) -> Any:
        time = "%(asctime)s "
        if log_file is not None:
            to_file(RotatedFile(log_file))
            time = ""  # each line gets one, those that parts print too
        logging.basicConfig(
            level=logging.DEBUG if verbose else logging.INFO,
            format=f"{time}%(levelname)-7s %(message)s",
            handlers=[OutputHandler()],
        )
        try:
            return command(*arguments, **options)
        except Exception as error:  # also a defect: it is in the log before the worker ends
            if log_file is not None:
                log.error("this worker ends: %s", error, exc_info=not isinstance(error, PymarError))
            raise

    return run
