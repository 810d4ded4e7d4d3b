"""A worker process ends as a script does, with exit handlers; what it has started is ended after it, in any case."""

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import is_running, wait_until

from pymar.slots.process import LeftoverGroup

HOLDS = """
import atexit, os, re, subprocess, sys, tempfile, time
import multiprocessing
from multiprocessing import shared_memory
from pymar import DataSourceFactory, PartLost, Producer

class Holds(Producer):
    BACKUPS = 0
    ATTEMPTS = 1
    PART_TIMEOUT, MEMORY_LIMIT = LIMITS

    @staticmethod
    def map_fn(data_source):
        global held
        memory = shared_memory.SharedMemory(create=True, size=1_000)
        semaphore = multiprocessing.get_context("spawn").Semaphore()
        folder = tempfile.TemporaryDirectory()
        held = memory, semaphore, folder
        atexit.register(print, "the exit handler ran")
        names = [f"/dev/shm/{memory.name}", f"/dev/shm/sem.{semaphore._semlock.name[1:]}", folder.name]
        with open("names", "w") as file:
            print(*names, sep="\\n", file=file)
        HOW
        yield 1

    reduce_fn = staticmethod(sum)

try:
    print(Holds(engine="processes://1").map(DataSourceFactory([1])))
except PartLost:
    print("lost")
"""


def held(script, tmp_path, how="pass", limits="None, None"):
    """The script's run, and the paths of what it held, the temporary folder last."""
    done = script(HOLDS.replace("HOW", how).replace("LIMITS", limits))
    return done, [Path(name) for name in (tmp_path / "names").read_text().splitlines()]


def test_at_its_end_a_process_runs_its_exit_handlers_and_leaves_nothing(script, tmp_path):
    done, names = held(script, tmp_path)
    assert done.stdout == "1\n"
    assert "the exit handler ran" in done.stderr
    assert not any(path.exists() for path in names)


@pytest.mark.parametrize("how", ["time.sleep(60)", "re.match('(a+)+b', 'a' * 64)"], ids=["sleeping", "in C"])
def test_a_part_that_is_stopped_leaves_nothing(script, tmp_path, how):
    done, names = held(script, tmp_path, how, "0.3, None")
    assert done.stdout == "lost\n"
    assert "the exit handler ran" in done.stderr
    assert not any(path.exists() for path in names)


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_a_process_that_dies_leaves_no_shared_memory_and_no_semaphores(script, tmp_path, how):
    done, names = held(script, tmp_path, how)
    assert done.stdout == "lost\n"
    assert not any(path.exists() for path in names[:-1])


STARTS = """
import os, signal, subprocess, sys, time
from pymar import DataSourceFactory, PartLost, Producer

class Starts(Producer):
    BACKUPS = 0
    ATTEMPTS = 1
    PART_TIMEOUT = LIMIT

    @staticmethod
    def map_fn(data_source):
        process = subprocess.Popen([sys.executable, "-c", OTHER], stdout=subprocess.PIPE)
        process.stdout.readline()
        with open("pid", "w") as file:
            print(process.pid, file=file)
        HOW
        yield 1

    reduce_fn = staticmethod(sum)

OTHER = '''
import os, signal, time
def note(number, frame):
    print(signal.Signals(number).name, file=open("signals", "a"))
    if number == signal.SIGTERM: END
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
print(flush=True)
while True: time.sleep(60)
'''
try:
    print(Starts(engine="processes://1").map(DataSourceFactory([1])))
except PartLost:
    print("lost")
"""


@pytest.mark.parametrize(
    ("how", "limit", "says"),
    [("pass", "None", "1\n"), ("time.sleep(60)", "0.3", "lost\n"), ("os._exit(3)", "None", "lost\n")],
    ids=["at the end", "stopped", "died"],
)
@pytest.mark.parametrize("end", ["os._exit(0)", "pass"], ids=["obeys", "ignores"])
def test_what_a_process_has_started_receives_no_interrupt_and_is_ended_after_it(
    script, tmp_path, how, limit, says, end
):
    done = script(STARTS.replace("HOW", how).replace("LIMIT", limit).replace("END", end))
    assert done.stdout == says
    pid = (tmp_path / "pid").read_text().strip()
    wait_until(lambda: not is_running(pid), "the end of what the worker process has started")
    assert (tmp_path / "signals").read_text() == "SIGTERM\n"


def test_an_exit_handler_that_never_ends_does_not_hold_the_script(script):
    code = """
import atexit, threading, time
from pymar import DataSourceFactory, Producer

class Clings(Producer):
    @staticmethod
    def map_fn(data_source):
        atexit.register(time.sleep, 3_600)
        threading.Thread(target=time.sleep, args=(3_600,)).start()
        yield 1
    reduce_fn = staticmethod(sum)

print(Clings(engine="processes://2").map(DataSourceFactory([1, 2])))
"""
    assert script(code).stdout == "2\n"


def test_a_zombie_in_a_process_group_keeps_nobody_waiting():
    with subprocess.Popen([sys.executable, "-c", ""], process_group=0) as process:
        wait_until(lambda: not is_running(process.pid), "the end of the process, whose status nobody collects")
        assert LeftoverGroup(process.pid, math.inf).is_over(0)


def test_a_group_gets_its_time_and_is_then_killed():
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], process_group=0, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        leftover = LeftoverGroup(process.pid, 10.0)
        assert not leftover.is_over(9.0)
        assert process.poll() is None
        assert leftover.is_over(10.0)
        assert process.wait() == -signal.SIGKILL


def test_a_job_in_a_process_of_multiprocessing_leaves_nothing(script, tmp_path):
    code = HOLDS.replace("HOW", "pass").replace("LIMITS", "None, None")
    start, _, end = code.partition("\ntry:\n")
    body = ("try:\n" + end).replace("\n", "\n    ")
    run = "\nprocess = multiprocessing.get_context('fork').Process(target=work)\nprocess.start()\nprocess.join()\n"
    done = script(f"{start}\ndef work():\n    {body}{run}")
    assert done.stdout == "1\n"
    assert "the exit handler ran" in done.stderr
    assert not any(Path(name).exists() for name in (tmp_path / "names").read_text().splitlines())
