"""What children are told of where they are: import path, arguments, folder, environment, as the user has them now."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from pymar.cores import usable_cores

#: What OpenMP and the BLAS libraries read when they are loaded.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

#: What no child is given: secrets, where they lie, and what may hold a password.
_SECRETS = ("PYMAR_KEY", "PYMAR_KEY_FILE", "PYMAR_URL", "PYMAR_ENGINE")

#: Set in worker processes and in what they start: a job there does not start others, whatever its engine is to be.
IN_SLOT = "PYMAR_SLOT"

Where = tuple[list[str], list[str], str | None, dict[str, str]]


class Surroundings:
    """`where` is a new object whenever something has changed."""

    def __init__(self) -> None:
        self.where: Where = ([], [], None, {})
        self._seen: tuple[Any, ...] = ()
        self._cores = usable_cores()

    def look(self, slots: int) -> None:
        """Notice what the user has changed; for a pool of so many children."""
        # The environment as the system encodes it is copied in a tenth of the time.
        environ = dict(getattr(os.environ, "_data", os.environ))
        seen = (list(sys.path), list(sys.argv), _folder(), environ, slots)
        if seen != self._seen:
            self._seen = seen
            path, argv = ([entry for entry in entries if isinstance(entry, str)] for entries in seen[:2])
            self.where = (path, argv, seen[2], _child_environ(max(1, self._cores // slots)))


def _child_environ(share: int) -> dict[str, str]:
    """This process's environment for a child that may use `share` cores.

    Strings hash the same in every child, so sets iterate alike; numerical libraries get a child's share of the cores
    unless the user has said otherwise.
    """
    given = without_secrets(os.environ)
    return {**dict.fromkeys(_THREADS, str(share)), **given, "PYTHONHASHSEED": "0", IN_SLOT: "1"}


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for processes that run the user's code: keys and passwords are none of its business.

    A job within a job runs in its own process, whatever engine the outer one has.
    """
    given = {name: value for name, value in environ.items() if name not in _SECRETS}
    return {**given, "PYMAR_ENGINE": "serial"}


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # It has been deleted; children stay where they are.
