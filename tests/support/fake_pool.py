"""A pool of slots that computes nothing: it reports what a test says, in the loop's thread."""

from pymar.parts import Running
from pymar.slots.loop import Loop
from pymar.slots.supervisor import Health


class FakePool:
    """`report(part)` gives the report of a part, or None while its slot computes for ever."""

    def __init__(self, report):
        self.report = report
        self.loop = Loop("a test's pool")
        self.loop.start()
        self.runs = []
        self.status = Health(living=2, is_up=True, failures=0, keeps_failing=False, why="")

    def health(self):
        return self.status

    def warm(self, slots, processes):
        pass

    def open(self, processes):
        pass

    def renew(self, preload=None):
        pass

    def hand_back_waiting(self):
        pass

    def start(self, work, slots, processes, reports):
        self.runs.append(FakeRun(self, work, reports))
        return self.runs[-1]

    def shutdown(self):
        self.loop.stop(5)


class FakeRun:
    """One job; `computed` are the parts that were submitted, in order."""

    def __init__(self, pool, work, reports):
        self.pool, self.work, self.reports = pool, work, reports
        self.computed, self.cancelled = [], []
        self.is_closed = False

    def submit(self, parts):
        for part in parts:
            self.computed.append(part)
            self.reports.put_without_waking(Running(part.index, "slot 1 (pid 7) on here"))
            report = self.pool.report(part)
            if report is not None:
                self.pool.loop.call_soon(self.put, report)

    def put(self, *reports):
        if not self.is_closed:
            self.reports.put([*reports])

    def cancel(self, index):
        self.cancelled.append(index)

    def close(self):
        self.is_closed = True
