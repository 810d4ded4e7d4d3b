"""One job: from a producer and its data to partials, over an engine.

In the order in which a part passes through:

    checks       the user's classes are checked (spelling.py: misspelt names; attributereads.py: whether code reads one)
    plan         the job before it runs: its settings and length, its parts made lazily, its description
    runner       drives the job: sends batches to an engine, receives reports, yields partials
    state        the rules of a job: what runs next, what is repeated, when it is over; no I/O
    pacing       the size of batches, and backup tasks for slow parts
    checkpoint   a file that keeps the finished partials for a later run
    reorder      partials that wait until all before them have finished
    reduction    a check that reduce_fn returns a single partial unchanged

interrupt.py is how a script ends while a job runs: at Ctrl-C, by a signal, or at its last line.

This file stays free of imports: every worker process imports it at its start.
"""
