"""The cluster that is up: the file in which `pymar up` keeps where its broker is, its key and its hosts.

Producers, notebooks and the commands of this user find it there. `pymar.hosts` writes it. The folder of a cluster,
~/.local/state/pymar/NAME, also has its broker's data. The file holds a password and a key: mode 600, and read only if
nobody else could have written it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pymar.exceptions import UsageError

if TYPE_CHECKING:
    from pymar.amqp.producer.engine import AmqpEngine

#: The name of a cluster whose user has given none.
DEFAULT = "default"
#: The file, in the folder of its cluster.
FILE = "cluster.json"
#: The variable that names the cluster to use; if it is empty, none is used.
VARIABLE = "PYMAR_CLUSTER"
#: What knows if the broker that `pymar up` has started listens.
_KEEPER = "pymar.hosts.keeper"


class Cluster(NamedTuple):
    """What the file says. Its text shows no secret."""

    name: str
    id: str
    """Random; it is in the name of the pool, and in the command line of each worker."""
    url: str
    """The address of the broker, as producers on this host use it, with user and password."""
    key: str
    since: float
    """Seconds since 1970."""
    is_own: bool
    """True if `pymar up` has started the broker, in the folder of the cluster."""
    hosts: list[dict[str, Any]]
    """What `pymar.hosts` has to know about each host to find its worker again."""
    settings: dict[str, Any]
    """The options with which `pymar up` was called, for `pymar add`."""
    submitted: dict[str, Any]
    """The scheduler and the ids of jobs that are workers; empty if there are none."""
    here: str = ""
    """The name of the host on which it was started; other hosts may have this home too."""

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {len(self.hosts)} hosts)"

    @property
    def pool(self) -> str:
        """The pool that its workers serve."""
        return f"{self.name}-{self.id}"

    @property
    def is_elsewhere(self) -> bool:
        """True if it was started on a host of another name."""
        return self.here not in ("", socket.gethostname())

    @property
    def folder(self) -> Path:
        """Where its files are, on this host."""
        return folder_of(self.name)

    @property
    def address(self) -> str:
        """The address for producers: the broker's, with the pool."""
        return f"{self.url}{'&' if '?' in self.url else '?'}pool={self.pool}"


#: What its fields are in the file.
_KINDS: tuple[type | tuple[type, ...], ...] = (str, str, str, str, (int, float), bool, list, dict, dict, str)


def home() -> Path:
    """Return the folder of all clusters of this user (https://specifications.freedesktop.org/basedir-spec/)."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "pymar"


def folder_of(name: str) -> Path:
    """Return the folder of a cluster.

    Raises:
        UsageError: the name is none: letters, digits, '-' and '_', 40 at most.
    """
    if not (0 < len(name) <= 40 and name.isascii() and name.replace("-", "").replace("_", "").isalnum()):
        raise UsageError(f"{name!r} is no name of a cluster: 1 to 40 letters, digits, '-' or '_'")
    return home() / name


def names() -> list[str]:
    """Return the names of the clusters that are up, or that were not taken down."""
    try:
        with os.scandir(home()) as found:
            return sorted(entry.name for entry in found if os.path.exists(os.path.join(entry.path, FILE)))
    except OSError:
        return []


def check_free(name: str) -> None:
    """Refuse the name of a cluster that is up.

    Raises:
        UsageError: it is that of one.
    """
    if name in names():
        raise UsageError(
            f"the cluster {name!r} is up already: pymar add HOST for more hosts, pymar down --name {name} to end "
            "it, or another --name"
        )


def read(name: str) -> Cluster:
    """Return a cluster by its name.

    Raises:
        UsageError: there is none of this name; its file is damaged, or others may have written it.
    """
    import json

    path = folder_of(name) / FILE
    try:
        with open(path, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise UsageError(f"others may read or write {path}: pymar down, chmod 600 {path}, or remove it")
            text = file.read()
    except FileNotFoundError:
        there = ", ".join(names())
        hint = f"; there is {there}" if there else ": pymar up -H HOSTS starts one"
        raise UsageError(f"no cluster {name!r} is up on this host{hint}") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    try:
        made = Cluster(**json.loads(text))
    except (ValueError, TypeError):
        raise damaged(name) from None
    if not all(isinstance(value, kind) for value, kind in zip(made, _KINDS, strict=True)):
        raise damaged(name)
    return made


def damaged(name: str) -> UsageError:
    """Return the error of a file that does not say what it should."""
    return UsageError(
        f"{folder_of(name) / FILE} is damaged, or of another version of Pymar: pymar down --forget --name {name} ends "
        "the broker on this host, if it has one there, and removes it; its workers end by themselves then"
    )


def write(cluster: Cluster) -> None:
    """Write the file of a cluster, whole or not at all, with mode 600.

    Raises:
        UsageError: it cannot be written.
    """
    import json

    path, aside = cluster.folder / FILE, cluster.folder / f"{FILE}.{os.getpid()}"
    try:
        cluster.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(cluster._asdict(), file, indent=1)
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> UsageError:
    """Return the error of a file of a cluster that cannot be written."""
    remedy = "free space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make that folder yours"
    return UsageError(f"{path} cannot be written: {error.strerror}: {remedy}, or set XDG_STATE_HOME to another folder")


def remove(name: str) -> None:
    """Remove the file of a cluster; it is not up any more."""
    (folder_of(name) / FILE).unlink(missing_ok=True)


def current() -> Cluster | None:
    """Return the cluster that PYMAR_CLUSTER names; without that, the one that is up; None if there is none.

    Raises:
        UsageError: several are up, and none was chosen; or the one that is named is not up, or is being started.
    """
    chosen = os.environ.get(VARIABLE)
    there = names() if chosen is None else [chosen] if chosen else []
    if len(there) > 1:
        raise UsageError(f"the clusters {', '.join(there)} are up: choose one, as in {VARIABLE}={there[0]}")
    found = read(there[0]) if there else None
    if found is not None and not found.url:
        raise UsageError(
            f"the cluster {found.name!r} has no broker yet: wait for pymar up; or, if that was ended, "
            f"pymar down --name {found.name}; PYMAR_ENGINE=processes computes here"
        )
    return found


def engine_that_is_up() -> tuple[AmqpEngine, str] | None:
    """Return the engine of the current cluster, and its name; None if there is none.

    Raises:
        UsageError: several are up; or its broker has died, and is not started again.
    """
    found = current()
    if found is None:
        return None
    from importlib import import_module

    from pymar.amqp.keys import Keys
    from pymar.amqp.producer.engine import AmqpEngine

    if found.is_own:
        try:
            import_module(_KEEPER).wait(found)
        except UsageError as error:
            raise UsageError(f"{error}; PYMAR_ENGINE=processes computes here") from None
    return AmqpEngine(found.address, keys=Keys((found.key,))), found.name
