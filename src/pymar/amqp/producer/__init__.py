"""The producer's half: one job hands its parts to the broker, and receives the reports of agents.

One part passes through these modules:

    engine        starts the job on this process's session with the broker
    run           one job: encodes its parts, makes reports of what agents send
    outstanding   parts that are handed out and not finished, as they were sent
    session       publishes them; receives the results of all jobs; sends the ticks
    members       which agents take part, by their heartbeats, and what they compute
    run           hands the report to the job

`waiting` logs what a job waits for while no agent computes it; `pace` keeps the job's numbers for `pymar jobs`;
`discovery` looks for workers at a broker on this host, for the automatic choice of an engine.
"""
