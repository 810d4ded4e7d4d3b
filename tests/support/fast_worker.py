"""`pymar worker` with its times shortened: python fast_worker.py '{"TICK_EVERY": 0.3}' options..."""

import json
import sys

from pymar import cli
from pymar.amqp import timing as times
from pymar.amqp.link import link

for name, seconds in json.loads(sys.argv.pop(1)).items():
    assert hasattr(times, name), name
    setattr(times, name, seconds)
link.LONGEST_PAUSE = 1.0
cli.worker.main(prog_name="pymar worker")
