"""Whether a broker on this host has workers for a producer: what the automatic choice of an engine wants to know.

Nobody has asked for that broker. Without a key it is used only if it belongs to root, to this user or to the user of
the service: else any user of this host could stand there, and read the job or answer it.
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

log = logging.getLogger(__name__)

#: Seconds that the broker has to answer.
PATIENCE = 0.2
#: AMQP's.
PORT = 5672

#: Why a broker was left alone: said once.
_logged: set[tuple[int, str]] = set()


def engine_that_serves(producer: type[Any]) -> AmqpEngine | None:
    """The engine of the broker on this host's port 5672, if workers consume this very file's queue there."""
    path = getattr(sys.modules.get(producer.__module__), "__file__", None)
    if path is None or not os.path.isfile(path) or not _answers():
        return None
    from pymar.amqp.keys import keys_of
    from pymar.amqp.producer.engine import unasked_engine
    from pymar.amqp.protocol import work_queue
    from pymar.amqp.status import consumers_of
    from pymar.exceptions import PymarError
    from pymar.serialization.jobfile import code_of

    try:
        if not _is_ours(keys_of()):
            return None
        engine = unasked_engine(f"127.0.0.1:{PORT}")
        if consumers_of(engine.address, work_queue(producer.routing_key(), code_of(path))):
            return engine
    except PymarError as error:  # Nobody has asked for this broker: whatever is wrong with it, we compute here.
        log.info("the broker on this host is left alone: %s", error)
    return None


def _is_ours(keys: Keys) -> bool:
    """True if what listens there may have our jobs: what is signed may go anywhere. If not, that is said once."""
    from pymar.amqp.owner import objection_at

    why = "" if keys else objection_at(PORT)
    if why and (PORT, why) not in _logged:
        _logged.add((PORT, why))
        log.warning(
            "a broker answers at 127.0.0.1:%d, but %s, so this host's cores compute. If it may have your jobs, say so: "
            "mq_server='127.0.0.1'; or give it and its workers a key (pymar keygen)",
            *(PORT, why),
        )
    return not why


def _answers() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", PORT), PATIENCE):
            return True
    except OSError:
        return False
