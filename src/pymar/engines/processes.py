"""Compute parts on all cores of this host, in child processes: one pool a process, shared by all jobs."""

from __future__ import annotations

from pymar.exceptions import UsageError
from pymar.parts import BATCH_SECONDS, JobSpec, Joined
from pymar.serialization.redaction import redacted_address
from pymar.slots.environment import usable_cores
from pymar.slots.pool import SlotRun, pool
from pymar.slots.process import check_interpreter
from pymar.slots.queue import Reports, work_by_value


class ProcessesEngine:
    """`processes` for all the cores that this process may use, `processes://4` for four children."""

    name = "processes"
    batch_seconds = BATCH_SECONDS

    def __init__(self, address: str = "") -> None:
        if address and (not address.isdecimal() or int(address) < 1):
            raise UsageError(
                f"engine 'processes://{redacted_address(address)}': after processes:// comes how many, 1 or more"
            )
        self.slots: int = int(address) if address else usable_cores()

    def start(self, job: JobSpec, /) -> SlotRun:
        check_interpreter()
        children = min(self.slots, job.parts or self.slots)
        slots = pool()
        slots.warm(self.slots, children)  # children start while the job is being encoded
        return slots.start(work_by_value(job), self.slots, children, Reports(Joined("this host", self.slots)))
