"""Where a job is computed: the pool, and the code that its workers run."""

from __future__ import annotations

from pymar.amqp.protocol import by_value_code
from pymar.definition import code_that_runs, job_file
from pymar.exceptions import UsageError
from pymar.parts import JobSpec


def place_of(spec: JobSpec, pool: str | None, key_name: str) -> tuple[str, str, str]:
    """The pool of a job, the code that its workers run, and the file where that is (empty if it travels by value).

    Raises:
        UsageError: its classes cannot be found by workers.
    """
    if pool is None:
        path = job_file(spec)
        return spec.producer.routing_key(), code_that_runs(spec), path
    if not key_name:
        raise UsageError(
            f"the pool {pool!r} carries classes by value, and that needs a key on all hosts: "
            "pymar keygen > pymar.key; export PYMAR_KEY_FILE=$PWD/pymar.key"
        )
    return pool, by_value_code(key_name), ""
