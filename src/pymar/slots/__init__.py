"""Slots: worker processes on this host, and the computation of one part in one of them.

In the order in which a part passes through:

    queue        what engines and the pool share: a job's work on its way in, the reports on their way back
    pool         the running jobs, their waiting batches, and which slot computes which batch
    supervisor   all slots: starts, watches and ends their processes (starts.py: when to try again after failures)
    slot         one worker process as the pool sees it: its batch, its unreported parts, its limits
    process      the process of the operating system: its pipes, memory, signals and end
       |  frames.py: messages over private pipes; loop.py: one thread for all of them
    child        the main loop in the worker process; childjobs.py: the jobs that are loaded there
    task         map_fn, then reduce_fn, on one part: the same code on every engine

Used on the way: environment.py (import path, folder and variables of a worker process), seeding.py (its random
generators), failures.py (an exception as text), output.py (lines for stderr).

This file stays free of imports: every worker process imports it at its start.
"""
