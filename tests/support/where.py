"""A job whose answer is the set of processes that computed its parts."""

import os
import time

from pymar.testing import Total


class Where(Total):
    """The ids of the processes that computed parts of several milliseconds."""

    BACKUPS = 0

    @staticmethod
    def map_fn(data_source):
        time.sleep(0.005)  # the work of a part: its result is sent as soon as it is done
        return [{os.getpid()}]

    @staticmethod
    def reduce_fn(pids):
        return set().union(*pids)
