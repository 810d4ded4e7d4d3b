"""Keyed jobs over AMQP: by name without a key, and by value with one; with a folder that all share, and without."""

import gc
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bits_jobs
import keyed_jobs
import pytest
from bits_jobs import AllKinds, IntKeys, Numbers, Rows, TextKeys
from conftest import need, wait_until
from keyed_jobs import Watching

from pymar import DataSourceFactory
from pymar.amqp.keys import new_key
from pymar.amqp.producer.engine import AmqpEngine
from pymar.exceptions import ExchangeError, PartFailed
from pymar.keyed import jobs
from pymar.sinks import JSONLinesSink


def bits(producer, engine):
    with producer(engine=engine).map(DataSourceFactory(Numbers)) as result:
        return [*map(repr, result.items())]


def exchanges(folder):
    return [path.name for path in Path(folder).iterdir() if path.name.startswith("pymar-")]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.fixture
def blind(temporary, tmp_path, monkeypatch):
    """Agents start in a mount namespace of their own, where other folders are in place of those of the producer."""
    shared = tmp_path / "shared"
    shared.mkdir()
    hides = f'mount -t tmpfs none {temporary} && mount -t tmpfs none {shared} && exec {sys.executable} "$@"'
    need(subprocess.run(["unshare", "-rm", "true"], check=False).returncode == 0, "a mount namespace for this user")
    wrapper = tmp_path / "python"
    wrapper.write_text(f"#!/bin/sh\nexec unshare -rm sh -c '{hides}' sh \"$@\"\n")
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    return shared


@pytest.mark.parametrize("producer", [IntKeys, TextKeys, AllKinds, Rows])
def test_by_name_without_a_key(broker, agents, temporary, producer):
    agents.start(bits_jobs.__file__, "-p", producer.__name__, "-w", "2")
    assert bits(producer, broker.engine()) == bits(producer, "serial")
    assert exchanges(temporary) == []


def test_by_value_with_a_key(broker, agents, temporary, monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    agents.start("--pool", "mixed", "-w", "2")
    for producer in (AllKinds, Rows):
        assert bits(producer, AmqpEngine(f"127.0.0.1:{broker.port}?pool=mixed")) == bits(producer, "serial")
    assert exchanges(temporary) == []


def test_workers_that_do_not_see_the_folder_send_their_pairs_by_the_producer(broker, agents, temporary, blind):
    agents.start(keyed_jobs.__file__, "-p", "Watching", "-w", "2")
    found = bits(Watching, broker.engine())
    assert found == bits(IntKeys, "serial")
    assert exchanges(temporary) == []


def test_a_checkpoint_needs_no_folder_that_all_see(broker, agents, temporary, blind):
    agents.start(keyed_jobs.__file__, "-p", "Watching", "-w", "2")
    for _ in range(2):  # the second call computes nothing
        with Watching(engine=broker.engine()).map(
            DataSourceFactory(Numbers), checkpoint=temporary / "run.ckpt"
        ) as result:
            assert [*map(repr, result.items())] == bits(IntKeys, "serial")


def test_more_pairs_than_may_go_through_the_producer_are_refused(broker, agents, temporary, blind, monkeypatch):
    monkeypatch.setattr(jobs, "THROUGH", 20_000)
    agents.start(keyed_jobs.__file__, "-p", "Watching", "-w", "2")
    with pytest.raises(ExchangeError, match=r"20,000 bytes of pairs.*PYMAR_EXCHANGE"):
        bits(Watching, broker.engine())
    assert exchanges(temporary) == []


def test_a_folder_that_is_given_is_seen_by_all(broker, agents, temporary, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("PYMAR_EXCHANGE", str(shared))
    agents.start(keyed_jobs.__file__, "-p", "Watching", "-w", "2")
    assert bits(Watching, broker.engine()) == bits(IntKeys, "serial")
    assert exchanges(shared) == exchanges(temporary) == []


def test_a_folder_that_is_given_and_not_seen_is_an_error_at_once(broker, agents, blind, monkeypatch):
    monkeypatch.setenv("PYMAR_EXCHANGE", str(blind))
    agents.start(keyed_jobs.__file__, "-p", "Watching", "-w", "2")
    with pytest.raises(PartFailed, match=r"cannot be used on .*it is not there.*PYMAR_EXCHANGE") as raised:
        bits(Watching, broker.engine())
    assert raised.value.attempt == 0
    assert len(exchanges(blind)) == 1  # the error can be replayed
    del raised
    gc.collect()
    assert exchanges(blind) == []


@pytest.mark.parametrize("stage", ["map", "reduce"])
def test_agents_that_are_killed_in_a_stage_cost_nothing(broker, agents, temporary, tmp_path, monkeypatch, stage):
    seed = random.randrange(1 << 32)
    print(f"seed={seed}")
    rng = random.Random(seed)
    begun = tmp_path / "begun"
    begun.mkdir()
    monkeypatch.setattr(Watching, "folder", str(begun))
    monkeypatch.setattr(Watching, "slow", stage)
    serving = [agents.start(keyed_jobs.__file__, "-p", "Watching", "-w", "2") for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(bits, Watching, broker.engine())
        for agent in serving:
            enough = len([*begun.glob(f"{stage}-*")]) + rng.randrange(1, 4)
            wait_until(lambda enough=enough: len([*begun.glob(f"{stage}-*")]) >= enough, f"the stage {stage}")
            agent.kill()
            agents.start(keyed_jobs.__file__, "-p", "Watching", "-w", "2")
        found = future.result(60)
    monkeypatch.setattr(Watching, "slow", "")
    assert found == bits(IntKeys, "serial")
    assert exchanges(temporary) == []


def test_a_broker_that_is_restarted_between_the_stages(broker, agents, temporary, monkeypatch):
    agents.start(keyed_jobs.__file__, "-p", "Watching", "-w", "2")
    restarted = []

    def restart(event):
        if type(event).__name__ == "Exchanged":
            broker.kill()
            broker.start()
            restarted.append(time.monotonic())

    producer = Watching(engine=broker.engine(), listeners=[restart])
    with producer.map(DataSourceFactory(Numbers)) as result:
        found = [*map(repr, result.items())]
    assert len(restarted) == 1
    assert found == bits(IntKeys, "serial")


def test_a_sink_is_written_by_agents(broker, agents, temporary, tmp_path):
    agents.start(keyed_jobs.__file__, "-p", "Watching", "-w", "2")
    target = tmp_path / "out"
    written = Watching(engine=broker.engine()).write(DataSourceFactory(Numbers), JSONLinesSink(target))
    assert written.records == len(bits(IntKeys, "serial"))
    assert exchanges(temporary) == []
    assert sorted(name for name in os.listdir(tmp_path) if "out" in name) == ["out"]
