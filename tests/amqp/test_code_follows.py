"""The code follows: workers that cannot see the script's folder compute with its modules, as they are now."""

import json
import os
import random
import re
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE, wait_until
from places import ROOT
from telling import TOLD

from pymar.amqp.keys import new_key

JOB = """
import sys
from pymar import DataSourceFactory, Producer
import helper

TOLD

def run():
    print(Told(engine=sys.argv[1]).map(DataSourceFactory(range(4)), timeout=60))

RUN
""".replace("TOLD", TOLD)
GUARDED, PLAIN = "if __name__ == '__main__':\n    run()\n", "run()\n"


class Host:
    """Another host: an agent with a folder, a home and a cache of its own; and scripts that run here."""

    def __init__(self, agents, broker, folder):
        self.agents, self.folder, self.scripts = agents, folder, []
        self.script = folder / "script"
        self.cache = folder / "cache"
        self.address = f"amqp://127.0.0.1:{broker.port}?pool=lab"
        for name in ("script", "elsewhere", "home", "temporary"):
            (folder / name).mkdir()

    def environ(self, **more):
        folder = self.folder
        return {
            "HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(self.cache),
            "TMPDIR": str(folder / "temporary"),
            **more,
        }

    def worker(self, *options, slots=2, **environ):
        options = options or ("--pool", "lab")
        environ = self.environ(**environ)
        return self.agents.start(*options, "-w", slots, environ=environ, cwd=self.folder / "elsewhere")

    def write(self, files):
        for name, text in files.items():
            path = self.script / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text)

    def begin(self, *arguments, name="job.py", cwd=None, stdin=None):
        """Start a script, or a prompt that reads `stdin`."""
        command = [sys.executable, str(self.script / name) if name else "-", *map(str, arguments or [self.address])]
        environ = {**os.environ, "TMPDIR": str(self.folder / "temporary")}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(command, **pipes, text=True, cwd=cwd or self.folder, env=environ)
        self.scripts.append(process)
        if stdin is not None:
            process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        return process

    def answer(self, process):
        """Wait for the end of a script; return what it printed."""
        out, err = process.communicate(timeout=PATIENCE)
        assert not process.returncode, err
        return out

    def run(self, *arguments, **how):
        return self.answer(self.begin(*arguments, **how))

    def refusal(self, process, words):
        """Wait until a script logs a line with these words, and end it; return all that it has logged."""
        lines = []

        def comes():
            lines.append(process.stderr.readline())
            assert lines[-1], "".join(lines)
            return words in lines[-1]

        wait_until(comes, "the refusal")
        return "".join(lines)

    def stop(self):
        for process in self.scripts:
            process.kill()
            process.communicate()

    def fetches(self, agent):
        return agent.said().count("fetching the modules")


@pytest.fixture
def host(agents, broker, tmp_path, monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))  # scripts and workers have other folders than this process
    one = Host(agents, broker, tmp_path)
    yield one
    one.stop()


def job(helper, run=PLAIN, **files):
    return {"job.py": JOB.replace("RUN\n", run), "helper.py": helper, **files}


@pytest.mark.parametrize("run", [PLAIN, GUARDED], ids=["by value", "loaded"])
def test_a_helper_beside_the_script_follows_and_an_edited_one_is_the_new_one(host, run):
    agent = host.worker()
    host.write(job("def f(x): return __file__, x\n", run))
    for _ in range(2):
        found = host.run()
        assert found.count(str(host.cache / "pymar" / "code")) == 4
    assert host.fetches(agent) == 1
    host.write({"helper.py": "import other\ndef f(x): return other.g(x)\n", "other.py": "def g(x): return x * 10\n"})
    assert host.run() == "[0, 10, 20, 30]\n"
    host.write({"other.py": "def g(x): return x * 100\n"})
    assert host.run() == "[0, 100, 200, 300]\n"
    assert host.fetches(agent) == 3
    assert "refuse" not in agent.said()


def test_what_is_imported_late_and_data_of_packages_follow(host):
    helper = """
import importlib, os
from importlib.resources import files
from pathlib import Path
import mine
HERE = os.path.dirname(mine.__file__)

def f(x):
    late = importlib.import_module("l" + "ate")
    there = files("mine").joinpath("table.json").read_text()
    return late.VALUE, there, Path(HERE, "table.json").read_text(), mine.TABLE.read_text(), os.path.exists(HERE)
"""
    init = "from pathlib import Path\nTABLE = Path(__file__).parent / 'table.json'\n"
    host.write(job(helper, **{"late.py": "VALUE = 7\n", "mine/__init__.py": init, "mine/table.json": "[1]"}))
    host.worker()
    assert host.run() == f"{[(7, '[1]', '[1]', '[1]', True)] * 4}\n"


def test_a_notebook_brings_the_modules_of_its_folder(host):
    host.write({"helper.py": "def f(x): return x + 1\n"})
    host.worker()
    cells = JOB.replace("RUN\n", PLAIN)
    out = host.run(host.address, name=None, cwd=host.script, stdin=cells)
    assert out == "[1, 2, 3, 4]\n"


EDITS = """
import helper, importlib, os
with open(helper.__file__, "w") as file:
    file.write("def f(x): return x * 100  # edited\\n")
try:
    run()
except Exception as error:
    print(type(error).__name__, error)
importlib.reload(helper)
run()
"""


def test_a_module_that_was_edited_and_not_reloaded_is_named_at_once_and_a_reloaded_one_is_the_new_one(host):
    host.write(job("def f(x): return x\n", EDITS))
    host.worker()
    refused, answer = host.run().splitlines()
    assert refused.startswith(f"Differs {host.script / 'helper.py'} was changed after this process had loaded it")
    assert answer == "[0, 100, 200, 300]"


def test_one_worker_serves_jobs_with_different_modules_at_once(host):
    """Each has its own `helper`, and one slot alternates between them."""
    helper = "import time\ndef f(x):\n    time.sleep(0.02)  # the work of a part\n    return NAME\n"
    host.worker(slots=1)
    jobs = []
    for name in ("a", "b", "c"):
        host.write({f"{name}/{file}": text for file, text in job(f"NAME = {name!r}\n{helper}").items()})
        jobs.append((name, host.begin(name=f"{name}/job.py")))
    for name, process in jobs:
        assert host.answer(process) == f"{[name] * 4}\n"


def test_a_module_that_hides_one_of_the_standard_library_is_the_users(host):
    host.write(job("import sched\ndef f(x): return sched.NAME\n", **{"sched.py": "NAME = 'mine'\n"}))
    host.worker()
    assert host.run() == f"{['mine'] * 4}\n"


def test_a_large_archive_travels_in_pieces(host):
    data = random.Random(3).randbytes(4_500_000).hex()[:4_500_000]
    host.write(job("import mine\ndef f(x): return len(mine.read())\n"))
    read = "from importlib.resources import files\ndef read(): return files('mine').joinpath('a.txt').read_text()\n"
    host.write({"mine/__init__.py": read})
    host.write({f"mine/{name}.txt": data for name in "abc"})
    agent = host.worker()
    assert host.run() == f"{[4_500_000] * 4}\n"
    assert int(re.search(r"fetching the modules of a job: ([\d,]+) bytes", agent.said())[1].replace(",", "")) > 4 << 20


def test_a_module_that_is_too_large_is_said_at_both_ends(host):
    host.write(job("import big\ndef f(x): return x\n", **{"big.py": "#" * 6_000_000}))
    host.worker()
    said = host.refusal(host.begin(), "module big")
    assert "big.py has 6 MB and is not sent to workers" in said
    assert "the module big, which helper imports, cannot be imported in a worker" in said


def test_a_job_that_does_not_need_a_file_does_not_fail_for_it(host):
    host.write(job("def f(x): return x\n", **{"big.py": "#" * 6_000_000, "wrong.py": "this is no Python"}))
    host.worker()
    assert host.run() == "[0, 1, 2, 3]\n"


def test_an_extension_for_another_system_is_named(host):
    host.write(job("def f(x):\n    return x\ntry:\n    import fast\nexcept ImportError:\n    fast = None\n"))
    host.write({"job.py": (host.script / "job.py").read_text().replace("import helper", LOADED)})
    host.write({"fast.cpython-27-vax-ultrix.so": b"\x7fELF"})
    host.worker()
    assert "fast.cpython-27-vax-ultrix.so" in host.refusal(host.begin(), "fast, which")


#: What another system would load, made by hand.
LOADED = """
import sys, types, helper
from importlib.machinery import ModuleSpec
fast = types.ModuleType("fast")
fast.__file__ = __file__.replace("job.py", "fast.cpython-27-vax-ultrix.so")

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "fast":
            return ModuleSpec(name, None, origin=fast.__file__)

sys.meta_path.append(Finder)
sys.modules["fast"] = fast
exec("def f(x): return x", vars(fast))
helper.f = fast.f
fast.f.__module__ = "fast"
"""


def test_without_a_cache_folder_a_temporary_one_is_used_and_removed(host):
    host.cache.touch()
    host.write(job("def f(x): return __file__.split('/')[-4][:11]\n"))
    agent = host.worker()
    assert host.run() == f"{['pymar-code-'] * 4}\n"
    assert agent.stop() == 0
    assert not list((host.folder / "temporary").glob("pymar-code-*"))


def test_a_worker_that_is_killed_while_it_unpacks_costs_nothing(host):
    """The next one finds what it has left beside the modules, and unpacks them anew."""
    host.write(job("def f(x): return x\n", **{f"m{number}.py": "" for number in range(500)}))
    process = host.begin()
    agents = [host.worker(PYMAR_TEST_HANG=str(host.folder / "hang"))]
    wait_until((host.folder / "hang").exists, "the unpacking")
    agents[0].signal(signal.SIGKILL)
    agents[0].process.wait()
    assert len(list((host.cache / "pymar" / "code").glob(".new-*"))) == 1
    host.worker()
    assert host.answer(process) == "[0, 1, 2, 3]\n"


def test_an_agent_that_starts_again_has_the_modules(host):
    host.write(job("def f(x): return x\n"))
    first = host.worker()
    host.run()
    first.stop()
    second = host.worker()
    assert host.run() == "[0, 1, 2, 3]\n"
    assert host.fetches(second) == 0


def test_modules_that_somebody_has_removed_from_the_cache_are_fetched_again(host):
    import shutil

    host.write(job("def f(x): return x\n"))
    agent = host.worker()
    host.run()
    shutil.rmtree(host.cache / "pymar")
    assert host.run() == "[0, 1, 2, 3]\n"
    assert host.fetches(agent) == 2


def test_by_name_a_helper_that_was_edited_and_edited_back_is_loaded_anew(host, broker):
    """The file is the same on both sides each time; only what a worker process has loaded is older."""
    host.write(job("def f(x): return 1\n", "run() if sys.argv[1:] else None\n"))
    agent = host.worker(host.script / "job.py")
    answers = []
    for number in (1, 2, 1, 2, 1):
        host.write({"helper.py": f"def f(x): return {number}\n"})
        answers.append(json.loads(host.run(broker.url)))
    assert answers == [[number] * 4 for number in (1, 2, 1, 2, 1)]
    assert "cannot be computed here" not in agent.said()


def test_the_engine_of_this_host_copies_nothing(host, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(host.cache))
    searched = "run()\nprint('pymar.serialization.codefiles' in sys.modules)\n"
    host.write(job("def f(x): return __file__\n", searched))
    assert host.run("processes://1") == f"{[str(host.script / 'helper.py')] * 4}\nFalse\n"
    assert not host.cache.exists()
