"""A stderr that nobody reads blocks no thread that writes lines."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from broker import FAST
from conftest import PATIENCE, wait_until
from places import SUPPORT

from pymar.datasource import DataSourceFactory
from pymar.serialization.jobfile import load
from pymar.slots import output
from pymar.slots.output import Output

CHATTY = """
import sys
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer

class Chatty(Producer):
    WORKERS_NUMBER = 200

    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            print("x" * 1_000)
            yield number

    @staticmethod
    def reduce_fn(numbers):
        return sum(numbers)

if __name__ == "__main__":
    print(Chatty(engine="processes://2").map(DataSourceFactory(range(200))))
"""


@pytest.fixture
def reader(monkeypatch):
    """A stderr that takes something only while it is read. Each test sets it: pytest sets its own after fixtures."""

    class Reader:
        def __init__(self):
            self.reading = threading.Event()
            self.text = ""

        def write(self, text):
            self.reading.wait()
            self.text += text

        def flush(self):
            pass

    one = Reader()
    monkeypatch.setattr(output, "PATIENCE", 0.01)
    yield one
    one.reading.set()


def test_lines_that_nobody_reads_are_dropped_and_counted_and_nobody_waits_twice(reader, monkeypatch):
    monkeypatch.setattr(sys, "stderr", reader)
    monkeypatch.setattr(output, "MOST", 100)
    monkeypatch.setattr(output, "REST", 1_000.0)
    mine = Output()
    mine.write_line("line 00000")
    mine.wait_until_written()  # in vain
    monkeypatch.setattr(output, "PATIENCE", 1_000.0)

    def write_on():
        for number in range(1, 30):
            mine.write_line(f"line {number:05}")
            mine.wait_until_written()

    writing = threading.Thread(target=write_on, daemon=True)
    writing.start()
    writing.join(PATIENCE)
    assert not writing.is_alive(), "it waited once more"
    reader.reading.set()
    wait_until(lambda: "dropped" in reader.text, "the number of lines that were dropped")
    *lines, last = reader.text.splitlines()
    assert lines == [f"line {number:05}" for number in range(10)]
    assert "20 lines were dropped" in last


def test_all_lines_are_written_once_it_has_waited_for_them(reader, monkeypatch):
    monkeypatch.setattr(sys, "stderr", reader)
    monkeypatch.setattr(output, "PATIENCE", 30)
    reader.reading.set()
    mine = Output()
    for number in range(1_000):
        mine.write_line(str(number))
    mine.wait_until_written()
    assert reader.text.split() == [str(number) for number in range(1_000)]


def test_a_script_whose_stderr_nobody_reads_has_its_answer(tmp_path):
    file = tmp_path / "chatty.py"
    file.write_text(CHATTY)
    script = subprocess.Popen([sys.executable, file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert script.stdout.read() == f"{sum(range(200))}\n"
        assert script.wait(30) == 0
    finally:
        script.kill()
        script.communicate()


@pytest.mark.timeout(180)
def test_a_worker_whose_stderr_nobody_reads_serves_and_leaves_when_it_is_asked_to(broker, tmp_path):
    file = tmp_path / "chatty.py"
    file.write_text(CHATTY)
    words = [sys.executable, SUPPORT / "fast_worker.py", json.dumps(FAST), file, "-w", "2"]
    worker = subprocess.Popen([*words, "-q", broker.url], stderr=subprocess.PIPE, env=dict(os.environ))
    try:
        for _ in range(3):
            future = load(file).Chatty(mq_server=broker.url).submit(DataSourceFactory(range(200)))
            assert future.result(60) == sum(range(200))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    finally:
        worker.kill()
        worker.communicate()
