"""Where a job is computed: the pool, and the code that its workers run."""

from __future__ import annotations

from functools import cache

from pymar.amqp.protocol import by_value_code
from pymar.definition import job_file
from pymar.exceptions import UsageError
from pymar.jobfile import code_of
from pymar.parts import JobSpec


@cache
def _code_of(path: str) -> str:
    """The hash of a file as it was when it was first asked for: what has been loaded does not change with the file."""
    return code_of(path)


def place_of(spec: JobSpec, pool: str | None, key_name: str) -> tuple[str, str, str]:
    """The pool of a job, the code that its workers run, and the file where that is (empty if it travels by value).

    Raises:
        UsageError: its classes cannot be found by workers.
    """
    if pool is None:
        path = job_file(spec)
        return spec.producer.routing_key(), _code_of(path), path
    if not key_name:
        raise UsageError(
            f"the pool {pool!r} carries classes by value, and that needs a key on all hosts: "
            "pymar keygen > pymar.key; export PYMAR_KEY_FILE=$PWD/pymar.key"
        )
    return pool, by_value_code(key_name), ""
