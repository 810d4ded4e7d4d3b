"""How the user's code and values travel between processes.

Values
    values       pickle: classes and functions by name, or by value if the other process cannot import them
    byvalue      the picklers for that, over cloudpickle; shipped: the other end, and the identity of what was sent
    plain        without pickle: CBOR. arrays: of numpy; bounds: memory and time that decoding may take
    records      the data of parts that the producer holds, encoded

Jobs
    package      a job for worker processes: its code, its values, the settings of the interpreter
    script       the script that runs as `__main__`, loaded in worker processes as far as its guard
    interpreter  decimal precision, locale, warnings, logging ... as the script has set them
    settings     class attributes of plain data, which travel with a job
    definition   a job by name, for a worker that has the job file
    jobfile      a job file: found by path, told from its other versions by a hash, loaded

What a job's code is
    usercode     the functions, classes and values that a job's code reaches, each described by a text
    closure      what a function holds besides its code

redaction        removes secrets from texts; makes texts from other processes safe to print
"""

from __future__ import annotations

import pickle
from typing import Any

#: The first byte of every pickle since protocol 2: its opcode PROTO.
_PICKLE = b"\x80"


def loads(data: bytes) -> Any:
    """Return the value of what `values.dumps`, `values.dumps_home` or `plain.dumps` returned.

    To load a pickle executes code: `data` must come from a process that is trusted.

    Raises:
        ValueError: `data` is neither a pickle nor plain data.
    """
    if data[:1] == _PICKLE:
        return pickle.loads(data)
    from pymar.serialization import plain

    return plain.loads(data)
