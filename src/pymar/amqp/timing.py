"""How often messages are sent, and how long is waited for them: in seconds, except SILENT_TICKS."""

from __future__ import annotations

#: Seconds that the broker keeps a work queue without use.
WORK_EXPIRES = 24 * 3600.0
#: Seconds that the broker keeps the results of a producer that is not connected.
JOB_EXPIRES = 90.0
#: Seconds between two ticks. A guess: four of them, the silence that costs an agent its parts, are 20 s.
TICK_EVERY = 5.0
#: Seconds without a message of a producer, which sends one with each tick, after which agents stop its parts. After an
#: agent has reconnected it waits COMES_BACK seconds longer, since the producer may reconnect later.
PRODUCER_SILENT, COMES_BACK = 12.0, 20.0
#: Seconds after which a tick counts as lost with the queue that it was in, and another is sent.
TICK_LOST_AFTER = 60.0
#: Ticks without a message of an agent, after which it counts as dead.
SILENT_TICKS = 4
#: Seconds between two heartbeats of an agent, and between two attempts to join.
LIST_EVERY = 5.0
#: Seconds after which a part that runs is worth a heartbeat before the next regular one.
WORTH_TELLING = 0.2
#: Seconds without a report after which the producer sends a probe, which finds out if its parts are still in the queue;
#: without an answer it sends another, after twice as long each time, up to LONGEST_PROBE.
PROBE_AFTER, LONGEST_PROBE = 30.0, 600.0
#: Seconds from the answer to a probe until parts before it that no heartbeat has named count as lost.
PROBE_GRACE = 2.0
#: Seconds without a report, and without a part that runs, after which the producer asks what occupies the slots.
WORTH_ASKING = 3.0
#: Seconds between two Hello messages while no worker has joined.
HELLO_EVERY = 2.0
#: Seconds after which a message that the broker or a queue did not take is sent again.
AGAIN_AFTER = 1.0
#: Seconds that an agent repeats messages that no queue takes, before it drops the job.
GIVE_UP_AFTER = 15.0
#: Seconds that an agent pauses if it cannot compute what is in its queue: the first time, and at most.
REFUSED_PAUSE, LONGEST_REFUSED_PAUSE = 5.0, 60.0
#: Seconds after which messages that expire (protocol.EXPIRING) are refused.
FRESH = 300.0
#: Seconds of work that a batch is sized for. A slot is idle from its last part until its results are confirmed and the
#: next batch is delivered: 1 to 3 ms.
BATCH_SECONDS = 0.02
#: Seconds without a piece of a part's data after which the agent asks for it again.
FETCH_AGAIN = 15.0
