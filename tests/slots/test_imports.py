"""What a worker process imports before its first job: each module of it is paid for at every start."""

import subprocess
import sys

HEAVY = (
    "array",
    "asyncio",
    "cbor2",
    "cloudpickle",
    "inspect",
    "json",
    "logging",
    "pickletools",
    "pika",
    "random",
    "uuid",
)


def test_a_worker_process_starts_without_what_it_may_not_need():
    code = "import pymar.slots.child, pymar.slots.task, pymar.producer, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pymar.slots.task" in loaded
    assert not {*HEAVY} & {*loaded}


def test_what_only_the_pool_needs_is_not_loaded_in_a_worker_process():
    code = "import pymar.slots.child, sys; print(*(name for name in sys.modules if name.startswith('pymar')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pymar.slots.pool", "pymar.slots.supervisor", "pymar.slots.output", "pymar.job.plan"} & {*loaded}
