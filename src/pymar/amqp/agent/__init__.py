"""The agent: one on each host takes parts from the broker, has worker processes compute them, and sends the results.

One part passes through these modules:

    consumers   one consumer a free slot: no part waits behind a busy slot
    agent       reads the message; carries out, here and below, what the ledger decides
    ledger      decides what is computed, sent and acknowledged; without I/O
    fetches     asks the producer for data that is too large for the part's message
    (slots)     the pool of worker processes computes it
    replies     the report in messages; a large value in pieces
    sender      publishes them to the producer's queue of results
    ledger      acknowledges the delivery once the broker has confirmed them

`pausing` decides how long an agent that cannot compute what is in its queue leaves it to others; `lingering` when one
that has nothing to do, or no broker, ends.
"""
