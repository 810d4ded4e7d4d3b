"""How often what is said, and how long what is waited for: seconds, but for SILENT_TICKS."""

from __future__ import annotations

#: Seconds that a work queue without workers and producers is kept.
WORK_EXPIRES = 24 * 3600.0
#: Seconds that a job's results wait for a producer that is not there.
JOB_EXPIRES = 90.0
#: Seconds between two ticks. A guess: four of them, the silence that costs an agent its parts, are 20 s.
TICK_EVERY = 5.0
#: Seconds without a word of a producer, which speaks with each tick, after which agents stop its parts; they are begun
#: anew if it is heard of again. After a reconnect it has so many more, since it may come back later than they do.
PRODUCER_SILENT, COMES_BACK = 12.0, 20.0
#: Seconds after which a tick is held to be lost with the queue that it was in, and another is sent.
TICK_LOST_AFTER = 60.0
#: Ticks without a word from an agent, after which it is held to be dead.
SILENT_TICKS = 4
#: Seconds between two of an agent's lists of what it runs, and between two attempts to join.
LIST_EVERY = 5.0
#: Seconds after which a part is worth a list of its own.
WORTH_TELLING = 0.2
#: Seconds without a report after which the producer asks whether its parts are still in the queue; if there is no
#: answer it asks again, after twice as long each time, up to LONGEST_PROBE.
PROBE_AFTER, LONGEST_PROBE = 30.0, 600.0
#: Seconds that parts have to be announced, once the question behind them came back.
PROBE_GRACE = 2.0
#: Seconds without a report, and without a part that anybody computes, after which the producer asks who has the slots.
WORTH_ASKING = 3.0
#: Seconds between two hellos while no worker has joined.
HELLO_EVERY = 2.0
#: Seconds after which what the broker could not take, or no queue took, is sent again.
AGAIN_AFTER = 1.0
#: Seconds that an agent tries to send what nobody takes, before it lets go of the job.
GIVE_UP_AFTER = 15.0
#: Seconds that an agent that cannot compute what is in its queue leaves it to others, at first and at most.
REFUSED_PAUSE, LONGEST_REFUSED_PAUSE = 5.0, 60.0
#: Seconds after which Join, Welcome and Cancel are too old to be believed.
FRESH = 300.0
#: Seconds of work that a batch is sized for. A slot has nothing to do from its last part until its results are
#: confirmed and the next batch has come, some 1 to 3 ms.
BATCH_SECONDS = 0.02
#: Seconds without a piece of a part's data after which the agent asks again.
FETCH_AGAIN = 15.0
