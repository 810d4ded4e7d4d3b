"""`pymar worker` with its times shortened: python fast_worker.py '{"TICK_EVERY": 0.3}' options..."""

import json
import os
import sys
import time

from pymar import cli
from pymar.amqp import timing as times
from pymar.amqp.link import link

for name, seconds in json.loads(sys.argv.pop(1)).items():
    assert hasattr(times, name), name
    setattr(times, name, seconds)
link.LONGEST_PAUSE = 1.0

if mark := os.environ.get("PYMAR_TEST_HANG"):  # in the middle of unpacking modules
    from pymar.serialization import codecache

    def hang(path, content, write=codecache._write):
        write(path, content)
        open(mark, "w").close()
        time.sleep(600)  # until the test kills this process

    codecache._write = hang

cli.worker.main(prog_name="pymar worker")
