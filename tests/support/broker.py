"""A private RabbitMQ, and agents on it: what the tests of AMQP break on purpose."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pika
from conftest import free_port, need, wait_until
from places import ROOT

from pymar.amqp import timing as times
from pymar.amqp.link.client import quiet
from pymar.amqp.producer.engine import AmqpEngine

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
TESTING = ROOT / "src" / "pymar" / "testing" / "contract.py"

#: The protocol's times, shortened for tests; seconds.
FAST = {
    "TICK_EVERY": 0.3,
    "TICK_LOST_AFTER": 3.0,
    "LIST_EVERY": 0.3,
    "PROBE_AFTER": 3.0,
    "PROBE_GRACE": 0.5,
    "HELLO_EVERY": 0.2,
    "GIVE_UP_AFTER": 2.0,
    "REFUSED_PAUSE": 0.5,
}


#: What an agent logs once it takes parts.
SERVES = "serving the pool"


class Broker:
    """A RabbitMQ node with ports and a folder of its own."""

    def __init__(self, folder):
        need(os.path.exists(SERVER), "rabbitmq-server")
        quiet()
        self.folder = folder
        self.port = free_port()
        self.url = f"amqp://127.0.0.1:{self.port}"
        (folder / "plugins").write_text("[].")
        (folder / "rabbitmq.conf").write_text(
            "log.console.level = error\ndisk_free_limit.absolute = 1MB\nmax_message_size = 16777216\n"
        )
        # Expired queues and silent channels are looked for four times a second.
        (folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 256}]}].")
        self.environ = {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"pymar{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +S 2:2",
            "ERL_CRASH_DUMP": str(folder / "erl_crash.dump"),
        }
        self.process = None
        self.start()

    def start(self):
        self.starts = 0
        self.launch()
        wait_until(self.answers, "the broker to answer", 60)

    def launch(self):
        self.starts += 1
        with open(self.folder / "out", "ab") as out:
            self.process = subprocess.Popen(
                [SERVER], env=self.environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def answers(self):
        if self.process.poll() is not None:  # the name daemon may not know yet that its last life has ended
            assert self.starts < 5, (self.folder / "out").read_text()[-2_000:]
            self.launch()
        try:
            self.connection().close()
        except Exception:  # it is starting: whatever fails now is tried again
            return False
        return True

    def connection(self):
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port, heartbeat=0))

    @contextlib.contextmanager
    def channel(self):
        connection = self.connection()
        try:
            yield connection.channel()
        finally:
            with contextlib.suppress(pika.exceptions.AMQPError):
                connection.close()

    def kill(self):
        """kill -9 the node and what it has started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.kill()
        # The name daemon has left the group; it is ours by its port.
        port = self.environ["ERL_EPMD_PORT"]
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"ERL_EPMD_PORT={port}".encode() in path.read_bytes():
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def eval(self, code):
        """Return the value of an Erlang expression in the node: in milliseconds; rabbitmqctl may take seconds."""
        done = subprocess.run(
            ["erl_call", "-address", f"localhost:{self.environ['RABBITMQ_DIST_PORT']}", "-c", self.cookie(), "-e"],
            input=f"{code}.\n",
            env=self.environ,
            capture_output=True,
            text=True,
        )
        assert done.stdout.startswith("{ok, "), done.stdout + done.stderr
        return done.stdout.removeprefix("{ok, ").removesuffix("}")

    def cookie(self):
        return (self.folder / ".erlang.cookie").read_text()

    def close_all_connections(self):
        # One by one: if one ends by itself meanwhile, `close_all_connections` raises, and leaves others open.
        close = 'rabbit_networking:close_connection(Pid, <<"for the sake of the test">>)'
        self.eval(f"[catch {close} || Pid <- rabbit_networking:connections()]")

    def queues(self, prefix=""):
        """Return the names of its queues."""
        names = self.eval('[binary_to_list(Name) || {_, _, _, Name} <- rabbit_amqqueue:list_names(<<"/">>)]')
        return [name for name in json.loads(names) if name.startswith(prefix)]

    def engine(self, **options):
        return AmqpEngine(f"127.0.0.1:{self.port}", **options)


class AgentProcess:
    """An agent in a process of its own, with the protocol's times shortened."""

    def __init__(self, url, *options, log, times=FAST, environ=None, cwd=None):
        self.log = log
        command = [sys.executable, str(Path(__file__).with_name("fast_worker.py")), json.dumps(times)]
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                [*command, *map(str, options), "-q", url],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})},
                cwd=cwd,
            )
        self.pid = self.process.pid

    def said(self):
        return self.log.read_text()

    def is_serving(self):
        assert self.process.poll() is None, self.said()
        return SERVES in self.said()

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        """Ask it to stop; return its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                return self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"an agent does not stop:\n{self.said()[-3_000:]}") from None
        return self.process.returncode

    def kill(self):
        self.process.kill()
        self.process.wait()


class Agents:
    """Agents of one test, or of all tests of a process; ended with it."""

    def __init__(self, broker, folder):
        self.broker, self.folder = broker, folder
        self.running = []

    def start(self, *options, wait=True, url=None, **settings):
        log = self.folder / f"agent-{len(self.running)}-{time.monotonic_ns()}.log"
        agent = AgentProcess(url or self.broker.url, *options, log=log, **settings)
        self.running.append(agent)
        if wait:
            wait_until(agent.is_serving, "an agent to serve")
        return agent

    def stop(self):
        for agent in self.running:
            agent.kill() if agent.process.poll() is None else None


def shorten_times(monkeypatch):
    """The producer's half of FAST."""
    for name, seconds in FAST.items():
        monkeypatch.setattr(times, name, seconds)
