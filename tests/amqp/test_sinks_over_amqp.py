"""Sinks over AMQP, without a key: agents that die cost nothing, and no message makes a worker write on its own."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import sink_jobs
from conftest import wait_until
from sink_jobs import Numbers, Writes

from pymar.datasource import DataSourceFactory
from pymar.exceptions import JobError, UsageError
from pymar.sinks import CSVSink, JSONLinesSink
from pymar.sources import JSONLines


@pytest.fixture
def begun(tmp_path, monkeypatch):
    folder = tmp_path / "begun"
    folder.mkdir()
    monkeypatch.setattr(Writes, "folder", str(folder))
    return folder


def read(target):
    return [record["n"] for record in DataSourceFactory(JSONLines, path=str(target)).build_data_source()]


def test_agents_that_are_killed_while_they_write_cost_nothing(broker, agents, begun, tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed={seed}")
    rng = random.Random(seed)
    serving = [agents.start(sink_jobs.__file__, "-p", "Writes", "-w", "2") for _ in range(2)]
    target = tmp_path / "out"
    with ThreadPoolExecutor(1) as pool:
        producer = Writes(engine=broker.engine())
        future = pool.submit(producer.write, DataSourceFactory(Numbers), JSONLinesSink(target))
        for agent in serving:
            enough = len(list(begun.iterdir())) + rng.randrange(5, 30)
            wait_until(lambda enough=enough: len(list(begun.iterdir())) >= enough, "records to be written")
            agent.kill()
            agents.start(sink_jobs.__file__, "-p", "Writes", "-w", "2")
        assert future.result(60).records == 200
    assert read(target) == list(range(200))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))) == ["out"]


def test_a_sink_that_the_job_file_does_not_name_is_refused(broker, agents, tmp_path):
    agents.start(sink_jobs.__file__, "-p", "Writes", "-w", "1")
    with pytest.raises((UsageError, JobError), match="CSVSink"):
        Writes(engine=broker.engine()).write(DataSourceFactory(Numbers), CSVSink(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
