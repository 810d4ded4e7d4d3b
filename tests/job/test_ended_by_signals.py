"""SIGTERM and SIGHUP end a script whose job runs as Ctrl-C does: nothing runs on or is left, and one line says how."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE, is_running, wait_until

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
import os, signal, sys, time
import pymar
from pymar.keyed import Collect, KeyedProducer

def slow(number):
    if number > 2:
        open(f"slow-{os.getpid()}", "w").close()
        time.sleep(3_600)  # ended with the script
    return number

class Slow(pymar.Producer):
    WORKERS_NUMBER = 20
    BACKUPS = 0

    @staticmethod
    def map_fn(numbers):
        return [slow(number) for number in numbers]

    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)

class Keyed(KeyedProducer):
    WORKERS_NUMBER = 20
    reduce_fn = Collect()

    @staticmethod
    def map_fn(numbers):
        return [(slow(number), number) for number in numbers]

numbers = pymar.DataSourceFactory(range(20))
BEFORE
if __name__ == "__main__":
    CALL
"""
ENGINE = "processes://2"
CALLS = {
    "map": f"Slow(engine='{ENGINE}').map(numbers)",
    "checkpoint": f"Slow(engine='{ENGINE}').map(numbers, checkpoint='run.ckpt')",
    "serial": "Slow(engine='serial').map(numbers)",
    "submit": f"Slow(engine='{ENGINE}').submit(numbers).result()",
    "partials": f"list(Slow(engine='{ENGINE}').partials(numbers))",
    "keyed": f"Keyed(engine='{ENGINE}').map(numbers)",
    "call": f"pymar.map(slow, range(20), engine='{ENGINE}')",
    "imap": f"list(pymar.imap(slow, range(20), engine='{ENGINE}'))",
    "dataset": f"pymar.dataset(range(20), parts=20).map(slow).sum(engine='{ENGINE}')",
    "executor": f"list(pymar.Executor('{ENGINE}').map(slow, range(20)))",
}


@pytest.fixture
def started(tmp_path):
    """Start the script, once two slow parts run; return its process and theirs. Its temporary folder is `temporary`."""
    processes = []
    (tmp_path / "temporary").mkdir()

    def start(call, before="", slots=2, prefix=()):
        (tmp_path / "job.py").write_text(SCRIPT.replace("BEFORE", before).replace("CALL", call))
        processes.append(
            subprocess.Popen(
                [*prefix, sys.executable, "job.py"],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
            )
        )
        wait_until(lambda: len(list(tmp_path.glob("slow-*"))) >= slots, "the slow parts")
        return processes[-1], [int(path.name.partition("-")[2]) for path in tmp_path.glob("slow-*")]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("call", "number"), [*((call, signal.SIGTERM) for call in CALLS), ("map", signal.SIGHUP), ("keyed", signal.SIGHUP)]
)
def test_a_signal_ends_a_job_its_processes_and_what_is_temporary_and_says_so_in_one_line(
    started, tmp_path, call, number
):
    process, workers = started(CALLS[call], slots=1 if call == "serial" else 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, err
    assert not [pid for pid in workers if is_running(pid)]
    assert not os.listdir(tmp_path / "temporary")
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"{number.name} ends the script")
    assert " parts of 20 were done" in line or call in ("imap", "executor")
    assert ("run.ckpt: the same call goes on" if call == "checkpoint" else "checkpoint=") in line


def test_the_same_call_goes_on_after_the_signal_from_its_checkpoint(started, tmp_path, script):
    process, _ = started(CALLS["checkpoint"])
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE)
    assert "3 parts of 20 were done" in err
    again = f"print(Slow(engine='{ENGINE}').map(numbers, checkpoint='run.ckpt', on_mismatch='keep'))"
    done = script(SCRIPT.replace("> 2", "> 20").replace("BEFORE", "").replace("CALL", again))
    assert done.stdout == "190\n"


def test_the_users_own_handler_is_left_alone(started):
    own = "signal.signal(signal.SIGTERM, lambda number, frame: (print('own', flush=True), os._exit(7)))"
    process, _ = started(CALLS["map"], own)
    process.terminate()
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (7, "own\n", "")


def test_under_nohup_sighup_ends_nothing(started):
    process, _ = started(CALLS["map"], prefix=["nohup"])
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert "Slow: interrupted" in err


def test_a_second_signal_disturbs_no_clean_up(started, tmp_path):
    """A terminal that goes away and the shell in it both send SIGHUP."""
    process, _ = started(CALLS["keyed"])
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in (128 + signal.SIGHUP, 128 + signal.SIGTERM), "the one that it saw first"
    assert len(err.splitlines()) == 1
    assert not os.listdir(tmp_path / "temporary")


def test_what_a_script_does_in_finally_runs(started):
    process, _ = started(
        "\n    ".join(["try:", f"    {CALLS['map']}", "finally:", "    print('cleaned up')"]), "import atexit"
    )
    process.terminate()
    out, _ = process.communicate(timeout=PATIENCE)
    assert out == "cleaned up\n"


def test_a_script_that_goes_on_after_it_begins_no_other_job(started):
    lines = ["try:", f"    {CALLS['map']}", "except KeyboardInterrupt:", "    print('on')", CALLS["serial"]]
    process, _ = started("\n    ".join(lines))
    process.terminate()
    out, err = process.communicate(timeout=PATIENCE)
    assert out == "on\n"
    assert process.returncode == 128 + signal.SIGTERM, err


def test_after_its_jobs_a_script_has_the_default_of_the_system_again(script):
    done = script(
        "import signal, pymar\n"
        "def square(n): return n * n\n"
        "pymar.map(square, range(3), engine='serial')\n"
        "executor = pymar.Executor('serial')\n"
        "executor.submit(square, 3).result()\n"
        "executor.shutdown()\n"
        "pymar.map(square, range(3), engine='serial')\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)\n"
        "signal.raise_signal(signal.SIGTERM)\n",
        check=False,
    )
    assert (done.stdout, done.returncode) == ("True True\n", -signal.SIGTERM)


def test_a_fork_of_a_script_whose_job_runs_is_ended_by_a_signal_however_early_it_comes(script):
    """As the processes of multiprocessing, which `terminate` ends so."""
    done = script(
        "import os, signal, time, pymar\n"
        "found = pymar.imap(abs, range(100), engine='serial')\n"
        "next(found)\n"
        "codes = set()\n"
        "for _ in range(20):\n"
        "    if not (pid := os.fork()):\n"
        "        time.sleep(60)  # until it is ended\n"
        "        os._exit(1)\n"
        "    os.kill(pid, signal.SIGTERM)\n"
        "    codes.add(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "print(codes, next(found), signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
        "found.close()\n"
    )
    assert (done.stdout, done.stderr) == (f"{{{-signal.SIGTERM}}} 1 set()\n", "")


def test_jobs_of_other_threads_change_no_signal(script):
    done = script(
        "import signal, threading, pymar\n"
        "def run():\n"
        "    for _ in pymar.imap(abs, [1], engine='serial'):\n"
        "        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
        "thread = threading.Thread(target=run)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    assert done.stdout == "True\n"
