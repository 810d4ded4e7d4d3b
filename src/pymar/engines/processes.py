"""The engine of this host: parts are computed in worker processes of one pool, which all jobs of a process share."""

from __future__ import annotations

from pymar.exceptions import UsageError
from pymar.parts import BATCH_SECONDS, JobSpec, Joined
from pymar.serialization.redaction import redacted_address
from pymar.slots.environment import usable_cores
from pymar.slots.pool import SlotRun, pool
from pymar.slots.process import check_interpreter
from pymar.slots.queue import Reports, work_by_value


class ProcessesEngine:
    """`processes` uses all cores that this process may use; `processes://4`, four worker processes. Any thread."""

    name = "processes"
    batch_seconds = BATCH_SECONDS

    def __init__(self, address: str = "") -> None:
        if address and (not address.isdecimal() or int(address) < 1):
            raise UsageError(
                f"engine 'processes://{redacted_address(address)}': give the number of processes, as in processes://4"
            )
        self.slots: int = int(address) if address else usable_cores()

    def start(self, job: JobSpec, /) -> SlotRun:
        check_interpreter()
        processes = min(self.slots, job.parts or self.slots)
        slots = pool()
        slots.warm(self.slots, processes)  # they start while the job is being encoded
        return slots.start(work_by_value(job), self.slots, processes, Reports(Joined("this host", self.slots)))
