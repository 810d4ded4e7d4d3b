"""Slots: worker processes of this host, and one part computed in one of them.

    pool         the jobs that run, their batches that wait, and which slot is given which
    supervisor   the slots: processes started (starts.py: or not), watched and ended
    slot         one of them: its batch, what of it is unreported, its limits
    process      the operating system's process, its pipes and its end
       |  frames over private pipes (loop.py: one thread for all of them)
    child        the main loop in that process; childjobs.py: the jobs that it knows
    task         map_fn, then reduce_fn, on one part: the same code on every engine

queue.py is what pool and engines share: a job's work, and the reports on their way back. environment.py is what a
process is told of where it is, output.py what it prints, seeding.py its random generators, failures.py an exception as
text.
"""
