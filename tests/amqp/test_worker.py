"""The worker's command, and which code it runs: the right one, or the log names who runs what."""

import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from broker import SERVES
from conftest import wait_until

from pymar.amqp.keys import new_key
from pymar.amqp.producer import discovery as local

BIN = Path(sys.executable).parent

#: The seed's example, as it always was.
SEED = """
from pymar.datasource import DataSource, DataSourceFactory
from pymar.producer import Producer

def func(x):
    from math import exp
    return exp(x)

class IntegrationProducer(Producer):
    WORKERS_NUMBER = 4

    @staticmethod
    def map_fn(data_source):
        func, dx = data_source.func, data_source.dx
        for key, val in data_source:
            yield key, func(val) * dx

    @staticmethod
    def reduce_fn(data_source):
        return 0, sum(val for _, val in data_source)

class IntegrationDataSource(DataSource):
    interval = (1, 10)
    dx = 0.0001

    def func(self, x):
        return func(x)

    @classmethod
    def full_length(cls):
        return int((cls.interval[1] - cls.interval[0]) / cls.dx)

    def __iter__(self):
        return self.add_default_keys(
            self.interval[0] + x * self.dx for x in range(self.offset, self.offset + self.limit))

producer = IntegrationProducer({arguments})
factory = DataSourceFactory(data_source_class=IntegrationDataSource)
value = producer.map(factory)
print("Answer:", value[1])
"""

SMALL = """
import sys
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
{more}
class Small(Producer):
    @staticmethod
    def map_fn(data_source):
        yield {value}

    @staticmethod
    def reduce_fn(values):
        return list(values)[0]

if __name__ == "__main__":
    print("Answer:", Small(mq_server=sys.argv[1]).map(DataSourceFactory([1]), timeout={timeout}, on_timeout="fail"))
"""


def write(path, code, more="", value="1", timeout=30):
    path.parent.mkdir(exist_ok=True)
    path.write_text(code.format(more=more, value=value, timeout=timeout))
    return path


def run(path, *arguments, **environ):
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )


def pymar(*words, **environ):
    return subprocess.run(
        [str(BIN / "pymar"), *words], capture_output=True, text=True, timeout=60, env={**os.environ, **environ}
    )


def address(broker):
    return f"127.0.0.1:{broker.port}"


def test_the_seeds_two_lines_with_the_old_command(broker, tmp_path, script):
    """`worker.py -f ... -s ... -p ... -q ... -w 4`, then the file as it is; only the port is another here."""
    file = tmp_path / "this_example.py"
    file.write_text(SEED.format(arguments=""))
    words = ["-f", "./this_example.py", "-s", "IntegrationDataSource", "-p", "IntegrationProducer"]
    log = tmp_path / "log"
    with open(log, "w") as out:
        worker = subprocess.Popen(
            [BIN / "worker.py", *words, "-q", address(broker), "-w", "4"], cwd=tmp_path, stderr=out
        )
    try:
        wait_until(lambda: SERVES in log.read_text(), "the worker")
        code = (
            "import logging, runpy, sys; from pymar.amqp.producer import discovery; discovery.PORT = int(sys.argv[1]);"
            "logging.basicConfig(level='INFO'); runpy.run_path('this_example.py', run_name='__main__')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(broker.port)], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.startswith("Answer: 220"), done.stderr
    finally:
        worker.terminate()
        assert worker.wait(20) == 0


def test_the_automatic_choice_needs_workers_of_this_very_file(broker, agents, tmp_path, monkeypatch):
    file = write(tmp_path / "small.py", SMALL)
    monkeypatch.setattr(local, "PORT", broker.port)
    from pymar.serialization.jobfile import load

    module = load(file)
    assert local.engine_that_serves(module.Small) is None
    agents.start(file)
    found = wait_until(lambda: local.engine_that_serves(module.Small), "the worker to consume")
    assert found.address.port == broker.port
    monkeypatch.setattr(local, "PORT", 1)
    assert local.engine_that_serves(module.Small) is None


def test_a_job_waits_for_workers_and_logs_how_to_start_one(broker, agents, tmp_path):
    file = write(tmp_path / "small.py", SMALL)
    with subprocess.Popen(
        [sys.executable, file, address(broker)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as producer:
        said = producer.stderr.readline()
        assert "pool Small" in said
        assert f"pymar worker -f {file} -q amqp://{address(broker)}" in said
        agents.start(file)
        assert producer.communicate(timeout=30)[0] == "Answer: 1\n"


def test_a_worker_whose_file_has_changed_on_disk_serves_the_new_one(broker, agents, tmp_path):
    file = write(tmp_path / "small.py", SMALL, value="'old'")
    agent = agents.start(file)
    assert run(file, address(broker)).stdout == "Answer: old\n"
    write(file, SMALL, value="'new'")
    assert run(file, address(broker)).stdout == "Answer: new\n"
    from pymar.serialization.jobfile import code_of

    assert f"code {code_of(file)} " in agent.said()


def test_a_worker_with_another_version_of_the_file_gets_no_part_and_is_named(broker, agents, tmp_path):
    file = write(tmp_path / "ours" / "small.py", SMALL, value="'right'", timeout=3)
    other = write(tmp_path / "theirs" / "small.py", SMALL, value="'wrong'")
    agents.start(other)
    done = run(file, address(broker))
    assert done.stdout == ""
    from pymar.serialization.jobfile import code_of

    for text in (str(file), str(other), code_of(file), code_of(other)):
        assert text in done.stderr
    agents.start(file)
    assert run(file, address(broker)).stdout == "Answer: right\n"


def test_a_global_variable_that_differs_is_refused_by_name(broker, agents, tmp_path):
    more = "import os\nLIMIT = int(os.environ.get('LIMIT', '5'))\n"
    file = write(tmp_path / "small.py", SMALL, more=more, value="LIMIT", timeout=3)
    agents.start(file)
    done = run(file, address(broker), LIMIT="7")
    assert done.stdout == ""
    assert re.search(r"variable LIMIT .*7 .*5 .*setting", done.stderr)
    assert run(file, address(broker)).stdout == "Answer: 5\n"


COMMON = """
import dataclasses, enum, functools, logging, re, threading
from pathlib import Path
HERE, FOLDER, NAME = Path(__file__).parent, __file__.rpartition("/")[0], __name__
log, lock, new, pattern = logging.getLogger(__name__), threading.Lock(), object(), re.compile("a+")
class Mode(enum.Enum):
    FAST = 1
@dataclasses.dataclass
class Config:
    mode: Mode = Mode.FAST
    words: frozenset = frozenset({"one", "two", "three"})
config = Config()
@functools.lru_cache
def cached(x): return x
def look(given=new):
    log.debug("%s", NAME)
    with lock:
        return 5 * (HERE.name == Path(FOLDER).name and given is new and config.mode is Mode.FAST and cached(1)
                    and bool(pattern.match("aa")) and "one" in config.words)
"""


def test_what_differs_between_hosts_by_its_nature_refuses_nobody(broker, agents, tmp_path):
    ours, theirs = (write(tmp_path / where / "small.py", SMALL, more=COMMON, value="look()") for where in "ab")
    agents.start(theirs)
    done = run(ours, address(broker))
    assert done.stdout == "Answer: 5\n", done.stderr


def test_a_local_module_that_differs_is_refused_by_name(broker, agents, tmp_path):
    for where, value in (("ours", 1), ("theirs", 2)):
        file = write(tmp_path / where / "small.py", SMALL, "from helping import help", "help()", timeout=3)
        (tmp_path / where / "helping.py").write_text(f"def help():\n    return {value}\n")
    agents.start(file)
    done = run(tmp_path / "ours" / "small.py", address(broker))
    assert "module helping" in done.stderr
    assert str(tmp_path / "theirs" / "helping.py") in done.stderr
    assert run(file, address(broker)).stdout == "Answer: 2\n"


def test_with_a_key_values_of_the_files_own_classes_travel_both_ways(broker, agents, tmp_path, monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    more = "class Point:\n    def __init__(self, x):\n        self.x = x\n"
    code = SMALL.replace("DataSourceFactory([1])", "DataSourceFactory([Point(3)])").replace("yield {value}", "{value}")
    value = (
        "for point in data_source:\n            assert type(point) is Point\n            point.x += 1\n"
        "            yield point"
    )
    file = write(tmp_path / "small.py", code, more, value)
    text = (
        file.read_text().replace('print("Answer:", ', "found = (").rstrip()
        + "\n    print(type(found) is Point, found.x)\n"
    )
    file.write_text(text)
    agents.start(file)
    done = run(file, address(broker))
    assert done.stdout == "True 4\n", done.stderr


def test_without_a_key_such_values_are_refused_with_the_remedy(broker, agents, tmp_path):
    file = write(tmp_path / "small.py", SMALL, "class Point: pass\n", "Point()")
    agents.start(file)
    done = run(file, address(broker))
    assert re.search(r"plain data.* key \(pymar keygen\)", done.stderr)


def test_a_pool_by_value_serves_a_prompt(broker, agents, monkeypatch):
    key = new_key()
    agents.start("--pool", "lab", environ={"PYMAR_KEY": key})
    code = SMALL.format(more="", value="sum(data_source)", timeout=20).replace(
        "mq_server=sys.argv[1]", f"engine='amqp://{address(broker)}?pool=lab'"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, env={**os.environ, "PYMAR_KEY": key}
    )
    assert done.stdout == "Answer: 1\n", done.stderr
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True)
    assert re.search(r"pool 'lab' .*PYMAR_KEY_FILE", done.stderr)
    refused = pymar("worker", "--pool", "lab", "-q", address(broker))
    assert refused.returncode == 1
    assert re.search(r"--pool .*pymar keygen", refused.stderr)


@pytest.mark.parametrize("has_key", [False, True], ids=["plain", "signed"])
def test_other_python_versions_are_refused_with_or_without_a_key(
    broker, agents, tmp_path, monkeypatch, caplog, has_key
):
    if has_key:
        monkeypatch.setenv("PYMAR_KEY", new_key())
    file = write(tmp_path / "small.py", SMALL)
    agent = agents.start(file)
    from pymar.amqp.producer import run as run_module
    from pymar.datasource import DataSourceFactory
    from pymar.exceptions import JobTimeout
    from pymar.serialization.jobfile import load

    monkeypatch.setattr(run_module, "python_version", lambda: "3.99")
    module = load(file)
    with pytest.raises(JobTimeout):
        module.Small(mq_server=address(broker)).map(DataSourceFactory([1]), timeout=3, on_timeout="fail")
    here = "{}.{}".format(*sys.version_info)
    worker = f"{socket.gethostname()} {agent.pid}"
    assert re.search(rf"pool Small .*{worker}: .*Python {re.escape(here)} .*Python 3\.99 ", caplog.text)
    wait_until(lambda: "Python 3.99" in agent.said(), "the agent to log that too")


@pytest.mark.parametrize(
    ("code", "options", "said"),
    [
        ("import nothing_like_it", [], "'nothing_like_it' in line 1"),
        ("raise SystemExit(3)", [], "(3)"),
        ("import os; os._exit(4)", [], "exit code 4"),
        (SMALL.format(more="", value=1, timeout=1), ["-p", "Other"], "producer 'Other'"),
        (SMALL.format(more="", value=1, timeout=1), ["-s", "Other"], "source 'Other'"),
        (None, [], "small.py"),
    ],
)
def test_a_job_file_that_is_no_use_is_named_with_the_reason(tmp_path, code, options, said):
    file = tmp_path / "small.py"
    if code is not None:
        file.write_text(code)
    done = pymar("worker", str(file), *options, "-q", "127.0.0.1:1")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_class_below_the_first_job_has_its_own_error(broker, tmp_path):
    file = tmp_path / "late.py"
    code = SMALL.format(more="", value=1, timeout=1).replace('if __name__ == "__main__":', "if True:")
    file.write_text(code.replace("sys.argv[1]", "'x'") + "\nclass Late(Small):\n    pass\n")
    from pymar.serialization.jobfile import PRODUCER, find_class, load

    module = load(file)
    with pytest.raises(Exception, match=r"Late in line \d+"):
        find_class(module, "Late", PRODUCER)


def test_a_wrong_password_ends_the_worker_with_the_reason(broker, tmp_path):
    file = write(tmp_path / "small.py", SMALL)
    done = pymar("worker", str(file), PYMAR_URL=f"amqp://guest:wrong@{address(broker)}")
    assert done.returncode == 1
    assert "rabbitmqctl authenticate_user guest" in done.stderr
    assert "wrong" not in done.stderr


def test_status_shows_who_takes_parts_and_its_exit_code_too(broker, agents, tmp_path):
    file = write(tmp_path / "small.py", SMALL)
    nobody = pymar("status", "-q", address(broker))
    assert nobody.returncode == 1
    assert "no worker" in nobody.stdout
    agent = agents.start(file, "-w", "3")
    found = pymar("status", "-q", address(broker))
    assert found.returncode == 0, found.stdout
    assert "1 workers, 3 slots, 0 messages" in found.stdout
    assert str(agent.pid) in found.stdout


def test_doctor_finds_what_is_wrong(broker, agents, tmp_path):
    file = write(tmp_path / "small.py", SMALL)
    agents.start(file)
    well = pymar("doctor", "-q", address(broker))
    assert well.returncode == 0, well.stdout
    assert "RabbitMQ" in well.stdout
    for url, said in (("127.0.0.1:1", "127.0.0.1:1 "), ("192.0.2.1", "pymar keygen")):
        sick = pymar("doctor", "-q", url)
        assert sick.returncode == 1
        assert said in sick.stdout
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = pymar("doctor", PYMAR_KEY="short", PYMAR_URL=f"amqp://127.0.0.1:{listener.getsockname()[1]}")
        assert "pymar keygen" in done.stdout  # and nobody waits for a server that never answers


def test_keygen_makes_keys_that_differ():
    first, second = (pymar("keygen").stdout.strip() for _ in range(2))
    assert len(first) == 43
    assert first != second


@pytest.fixture(autouse=True)
def _log_of_the_producer(caplog):
    caplog.set_level(logging.INFO, logger="pymar")


READING = """
import sys
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
from pymar.sources import TextLines

class Words(Producer):
    WORKERS_NUMBER = 10

    @staticmethod
    def map_fn(lines):
        return [sum(len(line.split()) for line in lines)]

    @staticmethod
    def reduce_fn(counts):
        return sum(counts)

class Here(TextLines):
    path = "text-*.txt"

if __name__ == "__main__":
    for factory in (DataSourceFactory(Here), DataSourceFactory(TextLines, path="text-*.txt")):
        print("Answer:", Words(mq_server=sys.argv[1]).map(factory))
"""


def test_sources_of_pymar_are_read_by_workers_elsewhere(broker, agents, tmp_path):
    file = tmp_path / "reading.py"
    file.write_text(READING)
    for number in range(3):
        (tmp_path / f"text-{number}.txt").write_text("one two three\n" * 1_000)
    (tmp_path / "elsewhere").mkdir()
    agents.start(file, "-w", "2")
    done = subprocess.run(
        [sys.executable, str(file), address(broker)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "Answer: 9000\n" * 2, done.stderr


def test_missing_data_on_a_worker_are_named(broker, agents, tmp_path):
    file = tmp_path / "reading.py"
    path = str(tmp_path / "text-0.txt")
    gone = f"\n        import os; os.path.exists({path!r}) and os.remove({path!r})\n        return [sum("
    file.write_text(READING.replace("\n        return [sum(", gone))
    (tmp_path / "text-0.txt").write_text("one\n" * 100)
    agents.start(file, "-w", "1")
    done = subprocess.run(
        [sys.executable, str(file), address(broker)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert re.search(r"SourceError: .*text-0\.txt: .*400 bytes", done.stderr)
