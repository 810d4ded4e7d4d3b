"""The supervisor of a detached run, without a host: what it starts again, what it notes, and what it ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from conftest import is_running, wait_until

#: The supervisor with other bounds and pauses.
MAIN = """
import sys
from pathlib import Path
from pymar.hosts import supervisor
supervisor.GRACE = 0.2
supervisor._LOOK = 0.02
supervisor._LAST = 0.2
with supervisor.locked(Path(sys.argv[1])):
    supervisor.Supervisor(Path(sys.argv[1]), most=10_000, pauses=(0.01, 0.02, 0.03)).run()
"""


class Run:
    """A folder of a run, and its supervisor."""

    def __init__(self, folder, code):
        self.folder, self.process = folder, None
        (folder / "script.py").write_text(textwrap.dedent(code))
        plan = {
            "argv": [sys.executable, "-u", str(folder / "script.py")],
            "cwd": str(folder),
            "path": [],
            "environ": {},
            "without": ["PYMAR_URL"],
        }
        (folder / "plan.json").write_text(json.dumps(plan))

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, str(self.folder)], env={**os.environ, "PYMAR_URL": "amqp://secret@host"}
        )

    def status(self):
        try:
            return json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {"state": "", "attempts": 0, "pid": 0}

    def ended(self):
        """Wait for its end; return state, exit code and number of starts."""
        assert self.process.wait(30) == 0
        found = self.status()
        assert found["ended"] >= found["began"]
        return found["state"], found["code"], found["attempts"]


@pytest.fixture
def run(tmp_path):
    """Start the supervisor of a script; what still runs is ended."""
    made = []

    def start(code):
        made.append(Run(tmp_path, code))
        made[0].start()
        return made[0]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


def test_a_script_that_ends_by_itself_is_not_started_again(run):
    assert run("raise SystemExit(3)").ended() == ("ended", 3, 1)


def test_a_script_that_is_killed_is_started_four_times(run):
    one = run("import os\nprint('once')\nos.kill(os.getpid(), 9)")
    assert one.ended() == ("ended", 137, 4)
    assert "killed by SIGKILL (out of memory?), as after 3 starts before" in one.status()["why"]
    assert (one.folder / "stdout").read_text() == "once\n"


def test_what_it_prints_at_its_last_start_is_the_result(run):
    code = """
        import os
        print("start")
        if not os.path.exists("second"):
            open("second", "w").close()
            os.abort()
    """
    one = run(code)
    assert one.ended() == ("ended", 0, 2)
    assert (one.folder / "stdout").read_text() == "start\n"


def test_a_script_that_is_asked_to_end_is_not_started_again(run):
    assert run("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)").ended() == ("ended", 143, 1)


@pytest.mark.parametrize("mark", ["cancelled", ""])
def test_the_script_ends_with_sigterm_to_the_supervisor(run, mark):
    one = run("import time\nprint('up')\ntime.sleep(1000)")
    wait_until(lambda: one.status()["pid"], "the script")
    if mark:
        (one.folder / mark).touch()
    one.process.terminate()
    assert one.ended() == (mark or "stopped", 143, 1)


def test_a_script_that_does_not_want_to_end_is_killed(run):
    one = run("import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up')\ntime.sleep(1000)")
    wait_until(lambda: (one.folder / "stdout").exists() and (one.folder / "stdout").read_text(), "the script")
    one.process.terminate()
    assert one.ended() == ("stopped", 137, 1)


def test_the_script_ends_if_the_supervisor_is_killed(run):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a process that its parent has died")
    one = run("import time\ntime.sleep(1000)")
    pid = wait_until(lambda: one.status()["pid"], "the script")
    one.process.kill()
    wait_until(lambda: not is_running(pid), "the script to end")


def test_what_the_script_leaves_in_its_group_ends_with_it(run):
    one = run("import subprocess\nprint(subprocess.Popen(['sleep', '1000']).pid)")
    assert one.ended() == ("ended", 0, 1)
    assert not is_running(int((one.folder / "stdout").read_text()))


@pytest.mark.parametrize(("code", "are_there"), [(0, False), (1, True)])
def test_checkpoints_are_removed_once_the_script_has_ended_well(run, tmp_path, code, are_there):
    exchanges = tmp_path / "exchanges"
    exchanges.mkdir()
    one = run(f"""
        import os
        os.environ |= {{"PYMAR_CHECKPOINTS": "checkpoints", "PYMAR_EXCHANGE": {str(exchanges)!r}, "PYMAR_CLUSTER": ""}}
        from pymar import DataSourceFactory
        from pymar.keyed import KeyedProducer, Sum

        class Thirds(KeyedProducer):
            @staticmethod
            def map_fn(numbers):
                return ((number % 3, number) for number in numbers)
            reduce_fn = Sum()

        Thirds(engine="serial").map(DataSourceFactory(list(range(9))))
        raise SystemExit({code})
    """)
    assert one.ended() == ("ended", code, 1)
    assert (one.folder / "checkpoints").exists() == are_there
    assert bool(list(exchanges.iterdir())) == are_there


def test_more_output_than_the_bound_ends_the_script(run):
    one = run("import time\nprint('x' * 20_000)\ntime.sleep(1000)")
    assert one.ended() == ("failed", 143, 1)
    assert "printed more than 10,000 bytes" in one.status()["why"]


def test_of_too_long_a_log_the_last_lines_are_kept(run):
    code = """
        import os, sys, time
        for number in range(3_000):
            print("line", number, file=sys.stderr)
        while os.path.getsize("stderr") > 10_000:
            time.sleep(0.01)
        print("last", file=sys.stderr)
    """
    one = run(code)
    assert one.ended() == ("ended", 0, 1)
    lines = (one.folder / "stderr").read_text().splitlines()
    assert lines[0] == "pymar: older lines were dropped"
    assert lines[-2:] == ["line 2999", "last"]


def test_an_interpreter_that_is_not_there_is_named(run, tmp_path):
    one = Run(tmp_path, "")
    plan = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "argv": ["/no/python"]}))
    one.start()
    assert one.ended() == ("failed", 1, 1)
    assert one.status()["why"] == "/no/python: No such file or directory"


def test_the_script_reads_nothing_and_has_no_address_of_another_broker(run):
    one = run("import os, sys\nprint(repr(sys.stdin.read()), os.environ.get('PYMAR_URL'))")
    assert one.ended() == ("ended", 0, 1)
    assert (one.folder / "stdout").read_text() == "'' None\n"


def test_signals_have_their_usual_meaning_in_the_script(run):
    one = run("import signal\nprint([signal.getsignal(one).name for one in (signal.SIGHUP, signal.SIGTERM)])")
    assert one.ended() == ("ended", 0, 1)
    assert (one.folder / "stdout").read_text() == "['SIG_DFL', 'SIG_DFL']\n"


def test_one_run_has_one_supervisor(run):
    one = run("import time\ntime.sleep(1000)")
    wait_until(lambda: one.status()["pid"], "the script")
    other = subprocess.run(
        [sys.executable, "-m", "pymar.hosts.supervisor", str(one.folder)], capture_output=True, text=True
    )
    assert (other.returncode, other.stderr) == (1, "another supervisor runs this\n")


def test_signal_numbers_are_those_of_crashes():
    from pymar.hosts.supervisor import CRASHES

    assert not CRASHES & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
