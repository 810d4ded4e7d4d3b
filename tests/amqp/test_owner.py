"""A broker that nobody has asked for gets a job only if it is root's, ours, or the service's."""

import contextlib
import logging
import os
import socket
import subprocess
import sys

import pika
import pytest
from conftest import free_port, wait_until
from links import Tap

from pymar.amqp import owner
from pymar.amqp.address import parse
from pymar.amqp.keys import new_key
from pymar.amqp.link import client
from pymar.amqp.owner import Row, listeners, other_end, rows_of
from pymar.amqp.producer import discovery as local
from pymar.amqp.producer import engine as sessions
from pymar.amqp.producer.engine import AmqpEngine
from pymar.datasource import DataSourceFactory
from pymar.exceptions import BrokerRefused
from pymar.serialization.jobfile import load
from pymar.testing import Total

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1628 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31256 1 0000 100 0 0 10 0
   1: 0100007F:1628 00000000:0000 0A 00000000:00000000 00:00000000 00000000   105        0 10162 1 0000 100 0 0 10 0
   2: 0200007F:1628 00000000:0000 0A 00000000:00000000 00:00000000 00000000   106        0 10163 1 0000 100 0 0 10 0
   3: 0100007F:1628 0100007F:8001 01 00000000:00000000 00:00000000 00000000   107        0 10164 1 0000 100 0 0 10 0
   4: 0100007F:8001 0100007F:1628 01 00000000:00000000 00:00000000 00000000   108        0 10165 1 0000 100 0 0 10 0
   5: 0100007F:1628 0100007F:8002 01 00000000:00000000 00:00000000 00000000     0        0     0 1 0000 100 0 0 10 0
   6: broken
"""
TABLE6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm uid t inode
   0: 00000000000000000000000000000000:1628 00000000000000000000000000000000:0000 0A 0:0 0:0 0  109 0 20162 1 0 100 0
   1: 00000000000000000000000001000000:1628 00000000000000000000000000000000:0000 0A 0:0 0:0 0  110 0 20163 1 0 100 0
   2: 0000000000000000FFFF00000100007F:1628 00000000000000000000000000000000:0000 0A 0:0 0:0 0  111 0 20164 1 0 100 0
   3: 0000000000000000FFFF00000100007F:1628 0000000000000000FFFF00000100007F:8003 01 0:0 0:0 0  112 0 20165 1 0 100 0
"""


@pytest.mark.skipif(sys.byteorder == "big", reason="the tables are those of a machine whose lowest byte is the first")
def test_the_tables_of_the_system_name_the_user_of_a_socket():
    rows = [*rows_of(TABLE), *rows_of(TABLE6)]
    assert rows[0] == Row(("0.0.0.0", 5672), ("0.0.0.0", 0), "0A", 1000, 31256)
    assert rows[-1].here == ("127.0.0.1", 5672)
    assert listeners(rows, 5672) == {1000, 105, 109, 111}  # not those of 127.0.0.2 and ::1
    assert listeners(rows, 5673) == set()
    there = "127.0.0.1", 5672
    assert other_end(rows, ("127.0.0.1", 0x8001), there) == {107}
    assert other_end(rows, ("127.0.0.1", 0x8002), there) == set()  # nobody has accepted it: 0 stands for nobody
    assert other_end(rows, ("127.0.0.1", 0x8003), there) == {112}


def test_root_this_user_and_the_service_are_trusted():
    assert {0, os.getuid()} <= owner.trusted()
    assert owner.objection_to({0, os.getuid()}) == ""
    assert "54321" in owner.objection_to({0, 54_321})
    assert owner.objection_to(set())


LISTEN = """\
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server(
    (sys.argv[1], int(sys.argv[2])), family=family, dualstack_ipv6=":" in sys.argv[1]
)
print("listens", flush=True)
while True:
    listener.accept()[0].recv(8)
    print("was asked", flush=True)
"""


@contextlib.contextmanager
def stranger(port, host="127.0.0.1"):
    """Another user of this host listens there, and prints that it was asked."""
    if os.geteuid():
        pytest.skip("only root can be another user")
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, host, str(port)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "listens\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="pymar")
    return caplog


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_the_port_of_another_user_is_left_alone_and_that_is_logged_once(monkeypatch, log, host):
    port = free_port()
    monkeypatch.setattr(local, "PORT", port)
    monkeypatch.setattr(pika, "BlockingConnection", lambda *given: pytest.fail("it was asked"))
    with stranger(port, host):
        for _ in range(3):
            assert local.engine_that_serves(Total) is None
    (logged,) = [record.getMessage() for record in log.records]
    assert f"127.0.0.1:{port}" in logged
    assert "65534" in logged
    assert "mq_server='127.0.0.1'" in logged


def test_a_broker_whose_user_is_unknown_is_left_alone(monkeypatch, log):
    monkeypatch.setattr(owner, "TABLES", ("/nowhere/tcp",))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(local, "PORT", listener.getsockname()[1])
        assert local.engine_that_serves(Total) is None
    (logged,) = [record.getMessage() for record in log.records]
    assert owner.objection_to(set()) in logged


def test_with_a_key_it_does_not_matter_whose_it_is(monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    asked = []
    monkeypatch.setattr(pika, "BlockingConnection", lambda *given: asked.append(given) or [][0])
    with stranger(port := free_port()):
        monkeypatch.setattr(local, "PORT", port)
        assert local.engine_that_serves(Total) is None
    assert asked


def test_each_connection_has_to_lead_to_a_trusted_broker(broker, agents, tmp_path, monkeypatch, log):
    """Also one that is made anew, hours later: another program may listen there by then."""
    file = tmp_path / "small.py"
    file.write_text(
        "from pymar.producer import Producer\n"
        "class Small(Producer):\n"
        "    @staticmethod\n"
        "    def map_fn(records):\n"
        "        return records\n"
        "    @staticmethod\n"
        "    def reduce_fn(records):\n"
        "        return sum(records)\n"
    )
    monkeypatch.setattr(local, "PORT", broker.port)
    agents.start(file)
    small = load(file).Small
    found = wait_until(lambda: local.engine_that_serves(small), "the worker to consume")
    assert found.address.is_unasked
    tap = Tap()
    engine = sessions.AmqpEngine(f"127.0.0.1:{broker.port}", link=tap)
    engine.address = found.address
    assert small(engine=engine).map(DataSourceFactory([1, 2, 3])) == 6
    monkeypatch.setattr(owner, "trusted", lambda: {54_321})
    broker.close_all_connections()
    wait_until(lambda: "mq_server='127.0.0.1'" in log.text, "the owner to be refused")
    assert not tap.links[-1].is_up
    with pytest.raises(BrokerRefused, match=rf"127.0.0.1:{broker.port} .*mq_server='127.0.0.1'"):
        client.connected(engine.address)
    client.connected(parse(f"127.0.0.1:{broker.port}")).close()  # a broker that the user has named is not checked
    sessions.end_all()
    with pytest.raises(BrokerRefused, match=r"mq_server='127\.0\.0\.1'"):
        small(engine=AmqpEngine(f"127.0.0.1:{broker.port}", is_unasked=True)).map(DataSourceFactory([1]))
