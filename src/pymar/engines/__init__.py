"""Engines carry parts to where they are computed and report back; here is which one a job runs on.

base         the two protocols, Engine and Run, that every engine implements
serial       in this process, one part after another
processes    on the cores of this host: pymar.slots
dask, ray    on a Dask or Ray cluster, through engines/cluster/
pymar.amqp   over a RabbitMQ broker (named by string only: neither package imports the other)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, cast

from pymar.deprecation import warn_deprecated
from pymar.engines.base import Engine
from pymar.exceptions import MissingExtra, UsageError
from pymar.parts import BATCH_SECONDS
from pymar.serialization.redaction import redacted, redacted_address
from pymar.slots.environment import IN_SLOT

__all__ = ["Choice", "choose", "named"]

#: Names of engines (the part of the string before "://"), and the module and class of each, imported when chosen.
ENGINES = {
    "serial": "pymar.engines.serial:SerialEngine",
    "processes": "pymar.engines.processes:ProcessesEngine",
    "amqp": "pymar.amqp.producer.engine:AmqpEngine",
    "amqps": "pymar.amqp.producer.engine:tls_engine",
    "dask": "pymar.engines.dask:DaskEngine",
    "ray": "pymar.engines.ray:RayEngine",
}
#: Returns the engine of the cluster that `pymar up` has started, and its name; None if none is up.
_UP = "pymar.amqp.cluster", "engine_that_is_up"
#: Engines that need an optional library, with its modules: `pip install 'pymar[NAME]'`.
EXTRAS = {"dask": ("dask", "distributed"), "ray": ("ray", "grpc")}


class Choice(NamedTuple):
    """An engine, and the reason for which it was chosen. Immutable."""

    engine: Engine
    why: str

    @property
    def is_trusted(self) -> bool:
        """True if what comes from its workers may be unpickled: without a key, that of AMQP may not."""
        return bool(getattr(self.engine, "is_trusted", True))

    @property
    def batch_seconds(self) -> float:
        """Return the seconds of work that its batches are sized for."""
        if not hasattr(self.engine, "batch_seconds"):
            name = type(self.engine).__name__
            instead = f"write `batch_seconds = {BATCH_SECONDS}` into the class {name}"
            warn_deprecated(f"an engine without batch_seconds ({name})", since="0.5", removed_in="0.7", instead=instead)
            return BATCH_SECONDS
        return self.engine.batch_seconds


def choose(
    engine: Engine | str | None = None,
    mq_server: str | None = None,
    local_mode: bool = False,
    is_served: Callable[[], Engine | None] = lambda: None,
) -> Choice:
    """Return the engine of the first that applies: within a part, the process that computes it; `engine`; `mq_server`;
    `local_mode`; the variable PYMAR_ENGINE; the cluster that `pymar up` has started; workers that serve this very job
    file over a broker on this host, if `is_served` returns an engine for them; all cores of this host.

    Raises:
        UsageError: the string or object is no engine, or its address is invalid.
        MissingExtra: the engine needs a library that is not installed.
    """
    if os.environ.get(IN_SLOT):
        return Choice(named("serial"), "it runs within a part, in the process of that part")
    if engine is not None:
        return Choice(named(engine) if isinstance(engine, str) else _checked(engine), "engine= is given")
    if mq_server is not None:
        scheme, has_scheme, _ = mq_server.partition("://")
        if has_scheme and scheme not in ("amqp", "amqps"):
            raise UsageError(
                f"mq_server={redacted_address(mq_server)!r}: give host, host:port or "
                "amqp(s)://user:password@host:port; for engines other than AMQP use engine="
            )
        return Choice(named(mq_server if has_scheme else f"amqp://{mq_server}"), "mq_server= is given")
    if local_mode:
        return Choice(named("processes"), "local_mode=True")
    if variable := os.environ.get("PYMAR_ENGINE"):
        return Choice(named(variable), "the environment variable PYMAR_ENGINE is set")
    module, function = _UP
    if (up := getattr(import_module(module), function)()) is not None:
        return Choice(up[0], f"the cluster {up[1]!r} is up")
    if (served := is_served()) is not None:
        return Choice(served, "workers serve this file at a broker on this host")
    return Choice(named("processes"), "the default")


def named(text: str) -> Engine:
    """Return the engine that a string such as "serial" or "processes://4" names.

    Raises:
        UsageError: there is no engine of this name, or the address is invalid.
        MissingExtra: the engine needs a library that is not installed.
    """
    name, _, address = text.partition("://")
    if name not in ENGINES:
        from difflib import get_close_matches

        known = ", ".join(repr(known) for known in ENGINES)
        hint = f"; did you mean {meant[0]!r}?" if (meant := get_close_matches(name.lower(), ENGINES, 1)) else ""
        raise UsageError(
            f"engine {redacted_address(text)!r}: there is no engine {redacted_address(name)!r}; this version has "
            f"{known}{hint}"
        )
    made: Engine = _class(name)(address)
    return made


def _class(name: str) -> Any:
    module, _, attribute = ENGINES[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS.get(name, ()):
            raise
        raise MissingExtra(f"engine {name!r} needs: pip install 'pymar[{name}]'") from error


def _checked(engine: Any) -> Engine:
    if any((base.__module__, base.__name__) == ("distributed.client", "Client") for base in type(engine).__mro__):
        return cast(Engine, _class("dask")(client=engine))  # its own `start` does something else
    if isinstance(engine, type) or not callable(getattr(engine, "start", None)):
        raise UsageError(
            f"engine={redacted(repr(engine))}: give a string such as 'processes://4', or an object with start(job)"
        )
    made: Engine = engine
    return made
