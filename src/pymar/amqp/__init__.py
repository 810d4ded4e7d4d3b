"""All that knows AMQP. protocol.py has the drawing: who says what to whom, and in which order it is acknowledged."""
