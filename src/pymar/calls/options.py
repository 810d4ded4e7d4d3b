"""Options of the short forms: one list for calls and datasets; each is an argument of a job, or a class attribute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from pymar.exceptions import UsageError

if TYPE_CHECKING:
    from pymar.engines.base import Engine
    from pymar.events import Listener
    from pymar.parts import JobSpec


class RunOptions(TypedDict, total=False):
    """Options of a call, and of each result of a dataset. All may be left out."""

    engine: Engine | str | None
    """Where to compute: "serial", "processes://4", "amqp://host" ...; by default as a Producer chooses it."""
    progress: bool | None
    """True for a progress bar, False for none, None for one if stderr is a terminal."""
    listeners: Iterable[Listener]
    """Functions that are called with every event (`pymar.events`)."""
    checkpoint: str | PathLike[str] | None
    """A file that keeps what is finished: the same call with it computes only the rest."""
    on_mismatch: Literal["refuse", "keep"]
    """What follows if the file is of other code or settings: an error, or "keep" what is finished."""
    timeout: float
    """Seconds; 0 for no time-out."""
    on_timeout: Literal["local_mode", "fail"]
    """What follows a time-out: "local_mode" computes the rest here, "fail" raises JobTimeout."""
    part_timeout: float | None
    """Seconds that a part may take; then it is stopped and computed once more."""
    memory_limit: int | None
    """Bytes of resident memory that the process of a part may use; then likewise."""
    attempts: int
    """How often a part is computed at most if the processes that compute it die; 4 by default."""
    retries: int
    """How often a part is computed again if the code raises on it; 0 by default."""
    max_failed: int
    """How many parts may fail before the job stops; the rest is computed. 0 by default."""
    seed: int
    """The seed of random numbers, together with the part's number; 0 by default."""
    setup: Callable[[], object] | None
    """Called once in each worker process before its first part."""


__all__ = ["RunOptions"]

log: logging.Logger = logging.getLogger(__name__)

#: Options that are class attributes of the producer, and their names there.
ATTRIBUTES = {
    "attempts": "ATTEMPTS",
    "retries": "RETRIES",
    "part_timeout": "PART_TIMEOUT",
    "memory_limit": "MEMORY_LIMIT",
    "max_failed": "MAX_FAILED",
    "seed": "SEED",
}
#: Options that each run of a job takes.
OF_RUNS = ("timeout", "on_timeout", "checkpoint", "progress", "on_mismatch")
#: Options that are neither.
_OTHERS = ("engine", "listeners", "setup")
NAMES = (*_OTHERS, *OF_RUNS, *ATTRIBUTES)


#: Options that other libraries have, and what to write here.
_ELSEWHERE = {
    "chunksize": "none is needed, as items travel in batches that are sized by measurement",
    "chunk_size": "none is needed, as items travel in batches that are sized by measurement",
    "batch_size": "none is needed, as items travel in batches that are sized by measurement",
    **dict.fromkeys(("processes", "n_jobs", "max_workers", "workers"), "write engine='processes://4' for four of them"),
    "initializer": "write setup=, a function without arguments",
}


def check_names(call: str, given: Iterable[str], known: Collection[str] = NAMES) -> None:
    """Refuse an option that a call does not have.

    Raises:
        UsageError: it has none of this name; the message has the nearest.
    """
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name.lower(), known, 1)
            hint = f": did you mean {close[0]}=?" if close else f"; it has {', '.join(known)}"
            if name in _ELSEWHERE:
                hint = f": {_ELSEWHERE[name]}"
            raise UsageError(f"{call} has no option {name}={hint}")


def warn_of_generators(name: str, spec: JobSpec) -> None:
    """Log a warning if what a job computes draws from a generator of random numbers that was made here.

    Each worker process begins with the state that it has here, so that items would get the same numbers.
    """
    if spec.code is not None and spec.code.reads_generators:
        log.warning(
            "%s reads a generator of random numbers that was made outside of it: each worker process has a copy, and "
            "numbers repeat. Make it within, of a seed of the part: numpy.random.default_rng(random.getrandbits(64))",
            name,
        )


def attributes_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class attributes that options give."""
    return {attribute: options[name] for name, attribute in ATTRIBUTES.items() if name in options}


def of_run(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a run that options give."""
    return {name: options[name] for name in OF_RUNS if name in options}


def of_producer(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a producer that options give."""
    found = {"engine": options.get("engine")}
    return {**found, "listeners": list(options["listeners"])} if "listeners" in options else found
