"""Values as pickles: classes and functions by name if the other process finds them by that, otherwise by value.

Only pickles of processes that this one has started, or that are signed with the user's key, may be loaded.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from pymar.exceptions import NotPicklable
from pymar.serialization.shipped import MAIN, dynamic_modules

PROTOCOL = 5


def dumps(value: Any, what: str = "the value") -> bytes:
    """Encode for a worker; classes and functions of the script are sent by value.

    Raises:
        NotPicklable: the value cannot be pickled; the message names `what` and the type.
    """
    data = _plain(value)
    # A name in the script, or in a module that no import finds, would refer to another module there, or to none.
    if data is not None and not any(module.encode() in data for module in (*MAIN, *dynamic_modules)):
        return data
    from pymar.serialization.byvalue import dumps_outward

    return _tried(dumps_outward, value, what)


def dumps_call(value: Any, what: str = "the call") -> bytes:
    """Encode one call for a worker, which `shipped.called` loads there: functions of the script are sent by value.

    Raises:
        NotPicklable: the value cannot be pickled; the message names `what` and the type.
    """
    data = _plain(value)
    if data is not None and not any(module.encode() in data for module in (*MAIN, *dynamic_modules)):
        return data
    from pymar.serialization.byvalue import dumps_call

    return _tried(dumps_call, value, what)


def dumps_definition(value: Any, what: str, to_script: bool, modules: dict[str, dict[str, Any]]) -> bytes:
    """Encode a job for a worker that has loaded the script (`to_script`), or that gets its classes by value.

    Args:
        modules: modules that no import finds there, and what is read of them.

    Raises:
        NotPicklable: it cannot be pickled.
    """
    data = _plain(value) if to_script and not modules else None
    if data is not None:
        return data
    from pymar.serialization import byvalue

    encode = byvalue.dumps_definition_to_script if to_script else byvalue.dumps_definition
    return _tried(lambda value: encode(value, modules), value, what)


def dumps_to_script(value: Any, what: str = "the value") -> bytes:
    """Encode for a worker that has loaded the script: classes and functions of it are sent by name.

    Raises:
        NotPicklable: it cannot be pickled.
    """
    data = _plain(value)
    if data is not None:
        return data
    from pymar.serialization.byvalue import dumps_to_script

    return _tried(dumps_to_script, value, what)


def dumps_home(value: Any, what: str = "the value") -> bytes:
    """Encode for the process that sent the code: its classes and functions are sent by name, or by their tokens.

    Raises:
        NotPicklable: it cannot be pickled.
    """
    data = _plain(value)
    # In a worker that got the script by value, a name in __main__ may mean something else than at the producer.
    if data is not None and b"__main__" not in data:
        return data
    from pymar.serialization.byvalue import dumps_homeward

    return _tried(dumps_homeward, value, what)


def from_job_file(here: str, home: str) -> Callable[[Any, str], bytes]:
    """Return the `dumps` of a worker whose job file is the module `here`, for a producer that runs it as `home`.

    It raises NotPicklable as `dumps_home` does.
    """
    name = here.encode()

    def dumps_from_job_file(value: Any, what: str = "the value") -> bytes:
        data = _plain(value)
        if data is not None and name not in data and b"__main__" not in data:
            return data
        from pymar.serialization import byvalue

        return _tried(lambda value: byvalue.dumps_from_job_file(value, here, home), value, what)

    return dumps_from_job_file


def _plain(value: Any) -> bytes | None:
    try:
        return pickle.dumps(value, PROTOCOL)
    except KeyboardInterrupt:
        raise
    except BaseException:  # plain pickle cannot; the caller tries cloudpickle next
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
