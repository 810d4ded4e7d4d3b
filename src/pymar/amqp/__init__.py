"""Jobs on worker agents that are found through an AMQP broker, such as RabbitMQ.

One part passes through these modules, from the producer to an agent and back:

    producer/   engine, run          the job; its parts in messages
                session              this process's link to the broker, shared by its jobs
    wire        encode               messages as bytes, signed if there is a key
    link/                            two connections to the broker, made again when they break
    agent/      agent, ledger        decides what to compute, and when to acknowledge
                (slots/pool)         the worker processes of the agent's host compute it
                replies, sender      the result in messages
    producer/   session, run         what agents send, as reports of the job

All of them share: protocol (the messages, and the order of acknowledgements: begin there), timing (the seconds of the
protocol), chunks (large values in pieces), keys (signatures), address (where the broker is, and if it may be used) and
owner (whose the broker of this host is). For the command line: status (which agents serve what), jobs (which jobs run,
and how to end one), doctor (checks of the broker and the key), why (why no worker computes a job, as logged).
"""
