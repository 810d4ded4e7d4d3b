"""Values as bytes: pickled by name where a name leads to them, by value where only one process has them.

Only bytes from processes that this one started may reach `loads`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from pymar.exceptions import NotPicklable

_PROTOCOL = 5
#: What plain data begins with (plain.py), and no pickle does: "self-described CBOR", RFC 8949, section 3.4.6.
PLAIN_MARK = b"\xd9\xd9\xf7"


def dumps(value: Any, what: str = "the value") -> bytes:
    """Encode for a worker: classes and functions of `__main__` travel by value.

    Raises:
        NotPicklable: it cannot be pickled; the message names `what` and the type.
    """
    data = _plain(value)
    # A reference to __main__ would be looked up in the worker's own __main__, which is another module.
    if data is not None and b"__main__" not in data:
        return data
    from pymar.byvalue import dumps_outward

    return _tried(dumps_outward, value, what)


def dumps_home(value: Any, what: str = "the value") -> bytes:
    """Encode for the process that the code came from: its classes and functions go by name.

    Raises:
        NotPicklable: it cannot be pickled.
    """
    data = _plain(value)
    if data is not None:
        return data
    from pymar.byvalue import dumps_homeward

    return _tried(dumps_homeward, value, what)


def loads(data: bytes) -> Any:
    """Decode what `dumps`, `dumps_home` or `plain.dumps` made. Bytes without plain data's mark must be trusted."""
    if data[:3] == PLAIN_MARK:
        from pymar import plain

        return plain.loads(data)
    return pickle.loads(data)


def _plain(value: Any) -> bytes | None:
    try:
        return pickle.dumps(value, _PROTOCOL)
    except KeyboardInterrupt:
        raise
    except BaseException:  # Plain pickle cannot; whether it can travel at all is what cloudpickle says next.
        return None


def _tried(dumper: Callable[[Any], bytes], value: Any, what: str) -> bytes:
    try:
        return dumper(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's own __reduce__ may raise anything
        raise NotPicklable(
            f"{what}, of type {type(value).__qualname__}, cannot be sent to another process: {error!r}. "
            "Send plain data, and open files, connections and locks where they are used"
        ) from error
