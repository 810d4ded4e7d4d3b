"""Discovery of a broker on this host that has workers for a producer, for the automatic choice of an engine.

The user has not named that broker. Without a key it is used only if it belongs to root, to this user or to the user of
the service: else any user of this host could listen at its port, and read the job or answer it.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymar.amqp.keys import Keys
    from pymar.amqp.producer.engine import AmqpEngine

log: logging.Logger = logging.getLogger(__name__)

#: Seconds that the broker has to answer.
PATIENCE = 0.2
#: The port of AMQP.
PORT = 5672

#: Ports whose broker is not used, and why: each is logged once.
_logged: set[tuple[int, str]] = set()


def engine_that_serves(producer: type[Any]) -> AmqpEngine | None:
    """Return the engine of the broker at port 5672 here, if workers of the producer's file are there; else None."""
    path = getattr(sys.modules.get(producer.__module__), "__file__", None)
    if path is None or not os.path.isfile(path) or not is_listening("127.0.0.1", PORT):
        return None
    from pymar.amqp.keys import keys_of
    from pymar.amqp.producer.engine import AmqpEngine
    from pymar.amqp.protocol import work_queue
    from pymar.amqp.status import consumers_of
    from pymar.exceptions import PymarError
    from pymar.serialization.jobfile import code_of

    try:
        if not _may_have_jobs(keys_of()):
            return None
        engine = AmqpEngine(f"127.0.0.1:{PORT}", is_unasked=True)
        if consumers_of(engine.address, work_queue(producer.routing_key(), code_of(path))):
            return engine
    except PymarError as error:  # the user has not named this broker: without it, this process's host computes
        log.info("the broker on this host is not used: %s", error)
    return None


def _may_have_jobs(keys: Keys) -> bool:
    """True if jobs may be sent there: they are signed, or the owner is trusted. If not, log why, once."""
    from pymar.amqp.owner import objection_at

    why = "" if keys else objection_at(PORT)
    if why and (PORT, why) not in _logged:
        _logged.add((PORT, why))
        log.warning(
            "a broker is at 127.0.0.1:%d, but %s, so this host's cores compute. If it may have your jobs, name it: "
            "mq_server='127.0.0.1'; or give producers and workers a key (pymar keygen)",
            *(PORT, why),
        )
    return not why


def is_listening(host: str, port: int) -> bool:
    """True if a connection to this port can be made within PATIENCE seconds."""
    try:
        with socket.create_connection((host, port), PATIENCE):
            return True
    except OSError:
        return False
