"""Jobs on a Dask or Ray cluster: what both engines share.

In the order in which a part passes through:

    package      a job as it travels: its classes by value, the names and hashes of its modules
    producer     ClusterRun: batches sent as tasks of the cluster, their outcomes turned into reports
    placement    which worker gets which task, where the cluster itself would let tasks wait behind a slow one (Dask)
    worker       in a worker of the cluster: computes a batch in slots of its own, pymar.slots
"""
