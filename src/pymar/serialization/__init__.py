"""How code and values of the user travel between processes.

values         pickled by name, or by value (byvalue.py) where only one process has what they are made of
plain          without pickle: CBOR with kinds of its own (arrays.py: numpy's), within bounds (bounds.py)
usercode       what a job's code leads to, as text that is the same in every process (closure.py: of a function)
package        a job by value: definition, modules, settings of the interpreter (interpreter.py, settings.py)
definition     a job by name: the classes of a file (jobfile.py) that the worker has too
shipped        which classes and functions came with a job, and their tokens; script.py: the code of `__main__`
records        data that lives at the producer; redaction.py: what is never shown
"""

from __future__ import annotations

import pickle
from typing import Any

#: The first byte of every pickle since protocol 2: its opcode PROTO.
_PICKLE = b"\x80"


def loads(data: bytes) -> Any:
    """Decode what `values.dumps`, `values.dumps_home` or `plain.dumps` made. A pickle must come from a trusted process.

    Raises:
        ValueError: it is neither a pickle nor plain data.
    """
    if data[:1] == _PICKLE:
        return pickle.loads(data)
    from pymar.serialization import plain

    return plain.loads(data)
