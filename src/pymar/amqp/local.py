"""Whether a broker on this host has workers for a producer: what the automatic choice of an engine wants to know."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymar.amqp.engine import AmqpEngine

log = logging.getLogger(__name__)

#: Seconds that the broker has to answer.
PATIENCE = 0.2
#: AMQP's.
PORT = 5672


def engine_that_serves(producer: type[Any]) -> AmqpEngine | None:
    """The engine of the broker on this host's port 5672, if workers consume this very file's queue there."""
    path = getattr(sys.modules.get(producer.__module__), "__file__", None)
    if path is None or not os.path.isfile(path) or not _answers():
        return None
    from pymar.amqp.address import parse
    from pymar.amqp.engine import AmqpEngine
    from pymar.amqp.protocol import work_queue
    from pymar.amqp.status import consumers_of
    from pymar.exceptions import PymarError
    from pymar.jobfile import code_of

    try:
        queue = work_queue(producer.routing_key(), code_of(path))
        if consumers_of(parse(address := f"127.0.0.1:{PORT}"), queue):
            return AmqpEngine(address)
    except PymarError as error:  # Nobody has asked for this broker: whatever is wrong with it, we compute here.
        log.info("the broker on this host is left alone: %s", error)
    return None


def _answers() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", PORT), PATIENCE):
            return True
    except OSError:
        return False
