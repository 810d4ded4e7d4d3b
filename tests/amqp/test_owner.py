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

from pymar.amqp import owner
from pymar.amqp.address import parse
from pymar.amqp.keys import new_key
from pymar.amqp.link import client
from pymar.amqp.owner import Row, listeners, other_end, rows_of
from pymar.amqp.producer import discovery as local
from pymar.amqp.producer import engine as sessions
from pymar.amqp.producer.engine import unasked_engine
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
def test_the_tables_of_the_system_tell_whose_a_socket_is():
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
    assert owner._stranger({0, os.getuid()}) == ""
    assert "belongs to the user" in owner._stranger({0, 54_321})
    assert "does not tell" in owner._stranger(set())


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
    """Another user of this host listens there, who says what he hears."""
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
def nothing_said(monkeypatch, caplog):
    monkeypatch.setattr(local, "_said", set())
    caplog.set_level(logging.INFO, logger="pymar")
    return caplog


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_the_port_of_another_user_is_left_alone_and_that_is_said_once(monkeypatch, nothing_said, host):
    port = free_port()
    monkeypatch.setattr(local, "PORT", port)
    monkeypatch.setattr(pika, "BlockingConnection", lambda *given: pytest.fail("it was spoken to"))
    with stranger(port, host):
        for _ in range(3):
            assert local.engine_that_serves(Total) is None
    said = [record.getMessage() for record in nothing_said.records]
    assert len(said) == 1
    assert f"a broker answers at 127.0.0.1:{port}, but it belongs to the user" in said[0]
    assert "this host's cores compute" in said[0]
    assert "mq_server='127.0.0.1'" in said[0]


def test_where_the_system_does_not_tell_the_cores_compute(monkeypatch, nothing_said):
    monkeypatch.setattr(owner, "_TABLES", ("/nowhere/tcp",))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(local, "PORT", listener.getsockname()[1])
        assert local.engine_that_serves(Total) is None
    assert "the system does not tell whose it is" in nothing_said.text


def test_with_a_key_it_does_not_matter_whose_it_is(monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    asked = []
    monkeypatch.setattr(pika, "BlockingConnection", lambda *given: asked.append(given) or [][0])
    with stranger(port := free_port()):
        monkeypatch.setattr(local, "PORT", port)
        assert local.engine_that_serves(Total) is None
    assert asked


def test_each_connection_has_to_lead_to_a_broker_of_ours(broker, agents, tmp_path, monkeypatch, nothing_said):
    """Also one that is made anew, hours later: what listened then may have gone."""
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
    engine = wait_until(lambda: local.engine_that_serves(small), "the worker to consume")
    assert engine.address.is_unasked
    assert small(engine=engine).map(DataSourceFactory([1, 2, 3])) == 6
    one = sessions.session(engine.address, engine.keys)
    monkeypatch.setattr(owner, "trusted", lambda: {54_321})
    broker.close_all_connections()
    wait_until(lambda: "was not asked for, and it belongs to the user" in nothing_said.text, "the owner to be refused")
    assert not one._link.is_up
    with pytest.raises(BrokerRefused, match=r"was not asked for, and it belongs to .*say mq_server='127.0.0.1'"):
        client.connected(engine.address)
    client.connected(parse(f"127.0.0.1:{broker.port}")).close()  # who is asked for is not asked
    sessions.end_all()
    with pytest.raises(BrokerRefused, match="was not asked for"):
        small(engine=unasked_engine(f"127.0.0.1:{broker.port}")).map(DataSourceFactory([1]))
