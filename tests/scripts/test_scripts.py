"""Scripts as people write them: no guard, notebooks, -c, modules, threads, asyncio, Ctrl-C, kill -9."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import PATIENCE, children_of, command_of, is_running, wait_until
from places import ROOT

JOB = """
from dataclasses import dataclass
from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer

OFFSET = 100

def square(x):
    return x * x + OFFSET

@dataclass
class Sum:
    value: int

class Squares(Producer):
    WORKERS_NUMBER = 6

    @staticmethod
    def map_fn(data_source):
        return (square(x) for x in data_source)

    @staticmethod
    def reduce_fn(data_source):
        return Sum(sum(x.value if isinstance(x, Sum) else x for x in data_source))

class Numbers(DataSource):
    n = 1000

    @classmethod
    def full_length(cls):
        return cls.n

    def __iter__(self):
        return iter(range(self.offset, self.offset + self.limit))

"""
RUN = "answer = Squares(engine='processes://2').map(DataSourceFactory(Numbers))\nassert type(answer) is Sum\n"
SAY = "print(answer.value)\n"
ANSWER = f"{sum(x * x + 100 for x in range(1_000))}\n"


def test_a_script_needs_no_guard(script):
    assert script(JOB + RUN + SAY).stdout == ANSWER


def test_a_script_may_have_a_guard(script):
    code = JOB + "if __name__ == '__main__':\n    " + (RUN + SAY).replace("\n", "\n    ")
    assert script(code).stdout == ANSWER


def test_python_dash_c():
    done = subprocess.run([sys.executable, "-c", JOB + RUN + SAY], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == ANSWER, done.stderr


def test_a_script_on_standard_input():
    done = subprocess.run([sys.executable], input=JOB + RUN + SAY, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == ANSWER, done.stderr


def test_the_interactive_interpreter():
    lines = (JOB + RUN + SAY).replace("\n    \n", "\n").splitlines()
    typed = [
        line + ("\n" if following[:1] not in (" ", "") and line.startswith(" ") else "")
        for line, following in zip(lines, [*lines[1:], "x"], strict=True)
    ]
    text = "\n".join(compact(typed)) + "\n"
    done = subprocess.run([sys.executable, "-i", "-q"], input=text, capture_output=True, text=True, timeout=PATIENCE)
    assert ANSWER in done.stdout, done.stderr


def compact(lines):
    """Source as one types it: a block is ended by an empty line, and has none inside."""
    block = [line for line in "\n".join(lines).split("\n") if line.strip()]
    for line, following in zip(block, [*block[1:], "x"], strict=True):
        yield line
        if (line.startswith(" ") and not following.startswith((" ", "@"))) or (
            line.startswith(" ") and following.startswith("@")
        ):
            yield ""


def test_classes_of_a_module_that_is_imported(script, tmp_path):
    (tmp_path / "mine.py").write_text(JOB)
    assert script("from mine import *\n" + RUN + SAY).stdout == ANSWER


def test_a_module_run_as_main(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "job.py").write_text(JOB + RUN + SAY)
    done = subprocess.run(
        [sys.executable, "-m", "package.job"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == ANSWER, done.stderr


def test_what_was_changed_at_run_time_changes_the_answer(script):
    code = JOB + RUN + "Numbers.n = 10\nOFFSET = 0\n" + RUN + SAY
    assert script(code).stdout == f"{sum(x * x for x in range(10))}\n"


def test_threads(script):
    code = (
        JOB
        + """
import threading
def work():
    answer = Squares(engine='processes://2').map(DataSourceFactory(Numbers))
    print(answer.value)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    )
    assert script(code).stdout == ANSWER * 4


def test_inside_asyncio(script):
    code = (
        JOB
        + """
import asyncio
async def main():
    producer = Squares(engine='processes://2')
    futures = [producer.submit(DataSourceFactory(Numbers)) for _ in range(3)]
    for answer in await asyncio.gather(*map(asyncio.wrap_future, futures)):
        print(answer.value)
    print(producer.map(DataSourceFactory(Numbers)).value)
asyncio.run(main())
"""
    )
    assert script(code).stdout == ANSWER * 4


def test_a_future_carries_the_error(script):
    code = (
        JOB
        + """
class Bad(Squares):
    @staticmethod
    def map_fn(data_source):
        raise ValueError("no")
error = Bad(engine='processes://2').submit(DataSourceFactory(Numbers)).exception()
print(type(error).__name__, type(error.__cause__).__name__)
"""
    )
    assert script(code).stdout == "PartFailed ValueError\n"


def test_a_fork_of_the_producer_has_a_pool_of_its_own(script):
    code = (
        JOB
        + RUN
        + """
import os, sys
pid = os.fork()
"""
        + RUN
        + """
sys.stdout.write(f"{answer.value}\\n")
if pid:
    os.waitpid(pid, 0)
"""
        + RUN
    )
    assert script(code).stdout == ANSWER * 2


def test_a_job_within_a_job_runs_in_its_own_slot(script):
    code = (
        JOB
        + """
class Outer(Squares):
    @staticmethod
    def map_fn(data_source):
        return [Squares().map(DataSourceFactory(Numbers, n=10)).value for _ in data_source]
print(Outer(engine='processes://2').map(DataSourceFactory([1, 2])).value)
"""
    )
    assert script(code).stdout == f"{2 * sum(x * x + 100 for x in range(10))}\n"


def test_notebook_cells(tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # the home need not be writable
    pytest.importorskip("nbclient", reason="notebooks are tested on the main Python only")
    import nbformat
    from nbclient import NotebookClient

    again = "OFFSET = 0\n" + RUN + SAY
    cells = [nbformat.v4.new_code_cell(source) for source in (JOB, RUN + SAY, again)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3").execute()
    printed = [
        "".join(output.text for output in cell.outputs if output.get("name") == "stdout") for cell in notebook.cells
    ]
    assert printed == ["", ANSWER, f"{sum(x * x for x in range(1_000))}\n"]


SLEEP = """
import os, sys, time
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer

class Sleep(Producer):
    WORKERS_NUMBER = 4

    @staticmethod
    def map_fn(data_source):
        open(f"pid-{os.getpid()}", "x").close()
        HOW
        return data_source

    @staticmethod
    def reduce_fn(data_source):
        return sum(data_source)

CALL
"""
CALLS = {
    "map": "Sleep(engine='processes://2').map(DataSourceFactory([1, 2, 3, 4]))",
    "submit": "Sleep(engine='processes://2').submit(DataSourceFactory([1, 2, 3, 4])).result()",
    "partials": "list(Sleep(engine='processes://2').partials(DataSourceFactory([1, 2, 3, 4])))",
}


@pytest.fixture
def started(tmp_path):
    """Start a script; return its process and the ids of its two worker processes. All end with the test."""
    groups = []

    def start(how="time.sleep(60)", call=CALLS["map"]):
        (tmp_path / "job.py").write_text(SLEEP.replace("HOW", how).replace("CALL", call))
        process = subprocess.Popen(
            [sys.executable, "job.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        groups.append(process.pid)
        wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2, "two worker processes")
        workers = [int(path.name[4:]) for path in tmp_path.glob("pid-*")]
        groups.extend(workers)
        return process, workers

    yield start
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("how", ["time.sleep(3_600)", "while True: pass"])
def test_one_ctrl_c_ends_all_with_one_line(started, how, call):
    process, workers = started(how, CALLS[call])
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert not any(map(is_running, workers))
    assert process.returncode == -signal.SIGINT
    if call != "submit":
        assert re.fullmatch(r"Sleep: interrupted.*\b0 parts.*\n", err)
    assert "pymar/slots" not in err
    assert "pymar/job" not in err


def test_short_jobs_do_not_end_a_worker_process_that_is_starting(script, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "if 'pymar.slots.child' in ' '.join(sys.orig_argv):\n"
        "    is_first = not os.path.exists('starts')\n"
        "    print('started', file=open('starts', 'a'))\n"
        "    time.sleep(0 if is_first else 1)  # how long its interpreter takes\n"
    )
    code = (
        "import os, time\n"
        "from pymar.datasource import DataSourceFactory\n"
        "from pymar.producer import Producer\n"
        "class Where(Producer):\n"
        "    WORKERS_NUMBER = 4\n"
        "    @staticmethod\n"
        "    def map_fn(numbers):\n"
        "        time.sleep(0.01)  # the work of a part\n"
        "        yield {os.getpid()}\n"
        "    @staticmethod\n"
        "    def reduce_fn(pids):\n"
        "        return set().union(*pids)\n"
        f"until = time.monotonic() + {PATIENCE}\n"
        "while len(Where(engine='processes://2').map(DataSourceFactory(range(4)))) < 2:\n"
        "    assert time.monotonic() < until\n"
    )
    script(code, PYTHONPATH=str(tmp_path))
    assert (tmp_path / "starts").read_text() == "started\n" * 2


def test_a_traceback_has_the_file_and_the_line(script):
    code = (
        "from pymar.datasource import DataSourceFactory\n"
        "from pymar.producer import Producer\n"
        "class Fails(Producer):\n"
        "    @staticmethod\n"
        "    def map_fn(numbers):\n"
        "        return 1 / 0  # this one\n"
        "    reduce_fn = staticmethod(sum)\n"
        "Fails(engine='processes://1').map(DataSourceFactory([1]))\n"
    )
    err = script(code, check=False).stderr
    assert re.search(r'job\.py", line 6, in map_fn\n +return 1 / 0  # this one', err), err


HOLDING_THE_LOCK = "import re; re.match('(a+)+b', 'a' * 64)"


@pytest.mark.parametrize(
    "how", ["time.sleep(3_600)", HOLDING_THE_LOCK], ids=["sleeping", "holding the interpreter lock"]
)
def test_kill_9_of_the_producer_ends_its_worker_processes(started, how):
    process, workers = started(how)
    process.kill()
    process.communicate(timeout=PATIENCE)
    wait_until(lambda: not any(map(is_running, workers)), "the end of the worker processes")


def test_worker_processes_notice_their_parents_end_though_a_fork_of_it_holds_the_pipes(started):
    fork = "import threading\nthreading.Timer(0.3, lambda: os.fork() == 0 and time.sleep(60)).start()\n"
    process, workers = started(call=fork + CALLS["map"])
    wait_until(lambda: len(children_of(process.pid)) == 3, "the fork")
    process.kill()
    process.wait()
    process.stderr.close()
    wait_until(lambda: not any(map(is_running, workers)), "the end of the worker processes")


def on_terminal(code, tmp_path):
    """What a script writes to a terminal."""
    (tmp_path / "job.py").write_text(code)
    master, slave = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, stdout=slave, stderr=slave, env=environ) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # the last process that had it open has ended
                break
            shown += piece
        os.close(master)
    assert process.returncode == 0, shown
    return shown.decode()


def test_a_terminal_gets_a_progress_bar_and_a_pipe_gets_nothing(tmp_path, script):
    shown = on_terminal(JOB + RUN + SAY, tmp_path)
    assert re.search("Squares: 6 parts, engine processes .*engine=", shown)
    assert "6/6 parts" in shown
    assert ANSWER.strip() in shown
    quiet = script(JOB + RUN + SAY)
    assert (quiet.stdout, quiet.stderr) == (ANSWER, "")


def test_the_progress_bar_can_be_turned_off_and_on(tmp_path, script):
    call = "Squares(engine='processes://2').map(DataSourceFactory(Numbers), progress={})\n"
    assert "parts" not in on_terminal(JOB + call.format(False), tmp_path)
    assert "6/6 parts" in script(JOB + call.format(True)).stderr


def test_one_log_line_has_the_engine_and_why_it_was_chosen(script):
    code = "import logging\nlogging.basicConfig(level='INFO')\n" + JOB + RUN
    lines = [line for line in script(code).stderr.splitlines() if "pymar" in line]
    assert len(lines) == 1
    assert re.search(r"Squares: engine processes .*engine=.* 6 parts", lines[0])


def test_errors_survive_pickling(script):
    code = """
import pickle
from pymar.exceptions import *
errors = [PartFailed((1, 2, 3, 4), "slot 1", "ValueError: no", "trace", "x = 1"), PartLost((1, 2, 3, 4), ("a", "b")),
          JobTimeout(1.5, 2, 3), CheckpointMismatch("why"), UsageError("what")]
for error in errors:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error)), error
"""
    script(code)


def test_a_script_leaves_no_process(script):
    code = JOB + RUN + "import glob; print(*(open(task).read() for task in glob.glob('/proc/self/task/*/children')))"
    workers = script(code).stdout.split()
    assert len(workers) == 2
    assert not any("pymar.slots.child" in command_of(pid) for pid in workers)


def test_a_deleted_working_folder_and_an_odd_path_end_nothing(script):
    code = (
        JOB
        + """
import os, pathlib, sys, tempfile
sys.path.insert(0, pathlib.Path("/nowhere"))
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
"""
        + RUN
        + SAY
    )
    assert script(code).stdout == ANSWER


LOUD = """
class Loud(Squares):
    @staticmethod
    def map_fn(data_source):
        print("hello")
        return (square(x) for x in data_source)

import sys
sys.stderr.close()
"""


def test_a_closed_stderr_ends_nothing(script):
    assert script(JOB + LOUD + RUN.replace("Squares(", "Loud(") + SAY).stdout == ANSWER


def test_the_answer_does_not_depend_on_the_package_being_installed(tmp_path, script):
    """Worker processes find Pymar where their parent does, though it is not on their own path."""
    source = ROOT / "src"
    code = f"import sys\nsys.path.insert(0, {str(source)!r})\n" + JOB + RUN + SAY
    assert script(code, "-I").stdout == ANSWER


RECORDS = """
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer

@dataclass(frozen=True)
class Record:
    value: int

class Colour(Enum):
    RED = 1
    BLUE = 2

class Pair(NamedTuple):
    left: int
    right: int

class Sum:
    who = "top"

class Outer:
    @dataclass
    class Sum:
        value: int
        who = "inner"

def main():
    @dataclass
    class Local:
        value: int

    class Look(Producer):
        @staticmethod
        def map_fn(records):
            for record, colour, pair, local in records:
                yield (isinstance(record, Record), record == Record(1),
                       colour is Colour.RED, {Colour.RED: 1}.get(colour),
                       isinstance(pair, Pair), isinstance(local, Local))

        @staticmethod
        def reduce_fn(values):
            return list(values)

    class Make(Producer):
        @staticmethod
        def map_fn(records):
            return [Record(1), Colour.RED, Pair(1, 2), Outer.Sum(1), Sum(), Local(1), Record, Outer.Sum]

        @staticmethod
        def reduce_fn(values):
            return list(values)

    factory = DataSourceFactory([(Record(1), Colour.RED, Pair(1, 2), Local(1))])
    for engine in ("serial", "processes://2"):
        print(Look(engine=engine).map(factory)[0])
        ((record, colour, pair, inner, top, local, *classes),) = Make(engine=engine).map(factory)
        print(type(record) is Record, colour is Colour.RED, type(pair) is Pair, type(inner) is Outer.Sum,
              type(top) is Sum, type(local) is Local, classes == [Record, Outer.Sum])

main()
"""


def test_classes_of_the_script_stay_the_same_classes_on_both_sides(script):
    assert script(RECORDS).stdout == (f"[{(True, True, True, 1, True, True)}]\n" + "True " * 6 + "True\n") * 2


def test_versions_of_a_class_in_two_jobs_at_once_do_not_mix(script):
    code = (
        JOB
        + """
first = Squares(engine='processes://2').partials(DataSourceFactory(Numbers))
begun = [next(first)]
OFFSET = 0
second = Squares(engine='processes://2').partials(DataSourceFactory(Numbers))
begun_too = [next(second)]
print(sum(part.value for part in [*begun, *first]), sum(part.value for part in [*begun_too, *second]))
"""
    )
    plain = sum(x * x for x in range(1_000))
    assert script(code).stdout == f"{plain + 100_000} {plain}\n"


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.15, 0.2])
def test_an_early_ctrl_c_shows_no_traceback_of_ours(tmp_path, seconds):
    call = "open('called', 'x').close()\n" + CALLS["map"]
    (tmp_path / "job.py").write_text(SLEEP.replace("HOW", "time.sleep(60)").replace("CALL", call))
    process = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "called").exists, "the call")
    time.sleep(seconds)  # a moment of the start that is to be hit
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in err
    assert err.startswith("Sleep: interrupted")


def test_without_a_stderr_prints_do_not_reach_the_answer(script, tmp_path):
    (tmp_path / "job.py").write_text(
        JOB + LOUD.replace("sys.stderr.close()", "") + RUN.replace("Squares(", "Loud(") + SAY
    )
    command = f"exec {sys.executable} job.py 2>&-"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == ANSWER


ODD = {
    "a SIGCHLD that is ignored": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "an argument that is no text": "import pathlib, sys; sys.argv.append(pathlib.Path('x'))",
    "a stderr that raises": """
import sys
class Broken:
    def write(self, text):
        raise RuntimeError("broken")
    def flush(self):
        pass
sys.stderr = Broken()
""",
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_environment_ends_no_pool(script, odd):
    dying = """
class Dying(Squares):
    @staticmethod
    def map_fn(data_source):
        import os
        print("hello")
        if data_source.offset and not os.path.exists("died"):
            open("died", "a").close()
            os._exit(1)
        return (square(x) for x in data_source)
"""
    code = JOB + dying + ODD[odd] + "\n" + RUN.replace("Squares(", "Dying(") + RUN + SAY
    assert script(code).stdout == ANSWER


def test_a_pool_that_is_shut_down_ends_its_jobs(script):
    code = (
        JOB
        + """
import threading, time
from pymar.slots.pool import shutdown
class Slow(Squares):
    @staticmethod
    def map_fn(data_source):
        time.sleep(30)  # until it is ended
future = Slow(engine='processes://2').submit(DataSourceFactory(Numbers))
time.sleep(0.5)  # parts run by then; the future fails all the same if they do not
shutdown()
print(type(future.exception(10)).__name__)
"""
        + RUN
        + SAY
    )
    assert script(code).stdout == "PymarError\n" + ANSWER


def test_parts_are_interrupted_though_the_script_ignores_interrupts(script):
    """A shell without job control starts background processes so, and Ray its workers."""
    code = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
import time
from pymar import DataSourceFactory, PartLost, Producer

class Sleeping(Producer):
    PART_TIMEOUT = 0.2
    reduce_fn = staticmethod(list)

    @staticmethod
    def map_fn(data_source):
        try:
            time.sleep(60)  # until it is interrupted
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise
        return []

try:
    Sleeping(engine="processes://1").map(DataSourceFactory([1]))
except PartLost as error:
    print("lost")
"""
    done = script(code)
    assert done.stdout == "lost\n"
    assert done.stderr.count("interrupted") == 2
