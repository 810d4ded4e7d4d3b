"""Whoever can publish to the broker can disturb nobody who has a key, and execute nothing where there is none."""

import logging
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import amqp_jobs
import pytest
from amqp_jobs import Steps, Watched, executions
from conftest import children_of, wait_until
from links import Tap
from watching import PRODUCER_GONE, RECONNECTS

from pymar.amqp import protocol, wire
from pymar.amqp.address import parse
from pymar.amqp.chunks import digest_of
from pymar.amqp.keys import Keys, new_key
from pymar.amqp.producer import engine as sessions
from pymar.amqp.producer import session
from pymar.datasource import DataSourceFactory
from pymar.exceptions import BrokerRefused, PartFailed, UsageError
from pymar.job.plan import Plan
from pymar.producer import Producer
from pymar.serialization import plain
from pymar.serialization.definition import define, spec_of
from pymar.serialization.jobfile import Differs, code_of, load

FILE = Path(amqp_jobs.__file__)
ANSWER = sum(range(Steps.length))


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def junk(tmp_path, keys):
    """Messages that nobody may act on."""
    agent = protocol.Agent(b"12345678", "evil", "queue", 2)
    other = Keys((new_key(),)) if keys else Keys()
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    partial = protocol.Partial(agent, os.urandom(16), [[0, bomb, 0.1]])
    parts = protocol.Parts(os.urandom(16), os.urandom(16), "nowhere", 1, 0, [[0, 0, 0, 10, bomb]])
    honest = wire.encode(parts, "Watched", keys)
    yield from (
        b"",
        b"\0" * 1_000,
        os.urandom(1_000),
        bomb,
        honest[: len(honest) // 2],
        b"PM\x02\0" + b"\x81" * 100_000,
    )
    yield wire.encode(parts, "Watched", other)
    yield wire.encode(parts, "OtherPool", keys)
    yield wire.encode(partial, "Watched", keys)
    yield wire.encode(protocol.Tick(3), "", keys)
    yield wire.encode(protocol.Welcome(parts.job, bomb, 0.0, 0, b"", "name", [0.0, b"old"]), "Watched", keys)
    yield wire.encode(protocol.Chunk(agent, parts.job, b"e", 0, 0.0, 0, 1 << 60, b"", b"x"), "Watched", keys)


@pytest.mark.parametrize("has_key", [False, True], ids=["plain", "signed"])
def test_junk_is_dropped_counted_and_logged_once(broker, agents, tmp_path, monkeypatch, caplog, has_key):
    caplog.set_level(logging.INFO, logger="pymar")
    if has_key:
        monkeypatch.setenv("PYMAR_KEY", new_key())
    keys = Keys((os.environ["PYMAR_KEY"],)) if has_key else Keys()
    sessions.end_all()  # those of other tests would log the same
    folder = tmp_path / "executions"
    folder.mkdir()
    monkeypatch.setattr(Watched, "folder", str(folder))
    monkeypatch.setattr(Watched, "seconds", 0.1)
    agent = agents.start(FILE, "-p", "Watched", "-w", "2")
    future = Watched(mq_server=f"127.0.0.1:{broker.port}").submit(DataSourceFactory(Steps))
    wait_until(lambda: executions(folder), "a part to begin")
    with broker.channel() as channel:
        queues = [
            *broker.queues("pymar.work.Watched"),
            *broker.queues("pymar.agent."),
            *broker.queues("pymar.job."),
        ]
        assert len(queues) >= 3
        for body in [*junk(tmp_path, keys)] * 3:
            for queue in queues:
                channel.basic_publish("", queue, body)
            channel.basic_publish(protocol.CONTROL, "", body)
    assert future.result(60)[0] == ANSWER
    assert Watched(mq_server=f"127.0.0.1:{broker.port}").map(DataSourceFactory(Steps))[0] == ANSWER
    assert not (tmp_path / "exploded").exists()
    assert agent.process.poll() is None
    for text in (agent.said(), caplog.text):
        lines = [line.partition("dropped a message")[2] for line in text.splitlines() if "dropped a message" in line]
        assert lines
        assert len(lines) == len(set(lines))
        assert "exploded" not in text
    read = sessions.session(parse(f"127.0.0.1:{broker.port}"), keys).read
    assert read.junk.total() >= 20


def test_a_replayed_message_of_another_job_changes_no_answer(broker, agents, monkeypatch):
    monkeypatch.setenv("PYMAR_KEY", new_key())
    agents.start(FILE, "-p", "Watched", "-w", "2")
    tap = Tap()
    producer = Watched(engine=sessions.AmqpEngine(f"127.0.0.1:{broker.port}", link=tap))
    assert producer.map(DataSourceFactory(Steps))[0] == ANSWER
    old = [delivery.body for delivery in tap.delivered]
    assert old
    monkeypatch.setattr(Watched, "seconds", 0.05)
    future = producer.submit(DataSourceFactory(Steps, length=1_000))
    queues = [*broker.queues("pymar.job."), *broker.queues("pymar.agent.")]
    with broker.channel() as channel:
        for body in old:
            for queue in queues:
                channel.basic_publish("", queue, body)
    assert future.result(60)[0] == sum(range(1_000))


def test_what_was_sent_to_one_agent_or_producer_does_nothing_to_another(broker, agents, monkeypatch):
    """Recorded on the way, and fresh: each message is signed for the queue that it was sent to."""
    monkeypatch.setenv("PYMAR_KEY", new_key())
    url = f"127.0.0.1:{broker.port}"
    both = [agents.start(FILE, "-p", "Watched", "-w", "1") for _ in range(2)]
    tap = Tap()
    assert Watched(engine=sessions.AmqpEngine(url, link=tap)).map(DataSourceFactory(Steps))[0] == ANSWER
    sessions.end_all()
    old = [delivery.body for delivery in tap.delivered]
    kinds = {name for name in (b"Welcome", b"Over") for message in tap.published if name in message.body}
    assert kinds == {b"Welcome", b"Over"}
    monkeypatch.setattr(Watched, "seconds", 0.05)
    future = Watched(mq_server=url).submit(DataSourceFactory(Steps, length=300))
    ours = sessions.session(parse(url), Keys((os.environ["PYMAR_KEY"],)))
    with broker.channel() as channel:
        for queue in broker.queues("pymar.agent."):
            for message in tap.published:
                if message.key != queue:
                    channel.basic_publish("", queue, message.body)
        for body in old:
            channel.basic_publish("", ours.queue, body)
    assert future.result(60)[0] == sum(range(300))
    read = ours.read
    assert [*read.junk] == [reason for reason in read.junk if "signature" in reason]
    assert read.junk.total() == len(old)
    for agent in both:
        wait_until(lambda agent=agent: "signature" in agent.said(), "the agent to refuse it")
        assert PRODUCER_GONE not in agent.said()


def test_without_a_key_nothing_is_unpickled_anywhere(broker, agents, tmp_path, monkeypatch):
    """`pickle.loads` and `Unpickler` raise in the agent, in its worker processes and here."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import pickle\n"
        "def refuse(*arguments, **options): raise AssertionError('something was unpickled')\n"
        "pickle.loads = pickle.load = pickle.Unpickler = pickle._loads = pickle._Unpickler = refuse\n"
    )
    from broker import TESTING

    from pymar.testing import Collecting, Drawing, EngineContract, Summing, Total

    refused = {"PYTHONPATH": str(tmp_path / "site")}
    for name in ("Collecting", "Drawing", "Raising", "Summing", "Total", "Big"):
        agents.start(TESTING, "-p", name, "-w", "1", environ=refused)
    engine = broker.engine()

    class Plain(EngineContract):
        def engine(self):
            return engine

    serial = {
        one: one(engine="serial").map(DataSourceFactory(Plain_source())) for one in (Collecting, Summing, Drawing)
    }
    for name in ("loads", "load", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *given: pytest.fail("something was unpickled"))
    for producer, expected in serial.items():
        assert producer(engine=engine).map(DataSourceFactory(Plain_source())) == expected
    contract = Plain()
    contract.test_partials_are_reduced_in_part_order()
    contract.test_more_parts_than_records_make_one_part_a_record()
    contract.test_no_data_gives_reduce_fn_of_nothing()
    contract.test_a_raising_part_fails_the_job_and_says_where()
    contract.test_ten_thousand_parts(monkeypatch)
    contract.test_data_of_the_producer()
    contract.test_settings_reach_the_workers(monkeypatch)
    contract.test_a_large_value_arrives_whole()
    assert Total(engine=engine).map(DataSourceFactory([1.5, 2.5])) == 4.0


def Plain_source():  # noqa: N802 - it stands for a class
    from pymar.testing import Numbers

    return Numbers


def definition(**changes):
    fields = plain.loads(define(Plan(Watched(), DataSourceFactory(Steps), Producer).spec))
    return plain.dumps({**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"producer": "Path"}, "Producer 'Path' .*Lengths, Watched"),
        ({"producer": "os"}, "Producer 'os'"),
        ({"producer": "os.path"}, "Producer 'os.path'"),
        ({"producer": "__builtins__"}, "Producer '__builtins__'"),
        ({"producer": "Producer"}, "Producer 'Producer'"),
        ({"producer": "pymar.testing.Total"}, "Producer 'pymar.testing.Total'"),
        ({"source": "subprocess.Popen"}, "DataSource 'subprocess.Popen'"),
        ({"source": "Watched"}, "DataSource 'Watched'"),
        ({"settings": [["", "Watched", {"__init__": 1}]]}, "job definition"),
        ({"settings": [["", "Watched", {"_engine": 1}]]}, "job definition"),
        ({"settings": [["os", "environ", {"PATH": "x"}]]}, "class 'environ'"),
        ({"settings": [["", "Watched.__class__", {"x": 1}]]}, "class 'Watched.__class__'"),
        ({"settings": 5}, "job definition"),
        ({"settings": [[1, 2, 3]]}, "job definition"),
        ({"seed": "x"}, "job definition"),
        ({"modules": {"x": 5}}, "job definition"),
        ({"more": 1}, "job definition"),
        ({"texts": {"A": "1"}}, "variable A .*1"),
        ({"modules": {"helpers": "0123"}}, "module helpers .*0123"),
    ],
)
def test_a_definition_that_names_what_is_not_in_the_job_file_is_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        spec_of(definition(**changes), amqp_jobs)


def test_a_definition_that_is_junk_is_refused():
    for data in (b"", os.urandom(100), plain.dumps(5), plain.dumps({}), pickle.dumps(5)):
        with pytest.raises(UsageError, match="job definition"):
            spec_of(data, amqp_jobs)
    assert spec_of(definition(), amqp_jobs).producer is Watched


def test_a_worker_that_was_started_for_other_classes_refuses():
    with pytest.raises(Differs, match=r"producer Lengths \(-p\).* Watched"):
        spec_of(definition(), amqp_jobs, producer="Lengths")


@pytest.mark.parametrize(
    ("url", "has_key", "lacks"),
    [
        ("192.0.2.1", False, {"pymar keygen", "TLS"}),
        ("192.0.2.1", True, {"TLS"}),
        ("amqps://192.0.2.1", False, {"pymar keygen"}),
        ("host.example", True, {"TLS"}),
    ],
)
def test_a_broker_elsewhere_needs_a_key_and_tls(url, has_key, lacks):
    with pytest.raises(BrokerRefused, match="--insecure") as caught:
        parse(url).check(has_key)
    assert {noun for noun in ("pymar keygen", "TLS") if noun in str(caught.value)} == lacks
    (parse(url)._replace(insecure=True)).check(has_key)
    parse(f"amqp://{url.rpartition('/')[2]}?insecure=1").check(has_key)


@pytest.mark.parametrize("url", ["127.0.0.1", "localhost:1", "amqp://[::1]", "amqps://host.example"])
def test_a_broker_on_this_host_needs_neither(url):
    parse(url).check(has_key=url.startswith("amqps"))


def test_no_secret_is_in_any_log_command_line_repr_or_worker_process(broker, agents, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    key, password = new_key(), f"password{random.randrange(1 << 40)}"
    broker.eval(f'rabbit_auth_backend_internal:add_user(<<"alice">>, <<"{password}">>, <<"a test">>)')
    everything = '<<".*">>, <<".*">>, <<".*">>'
    broker.eval(f'rabbit_auth_backend_internal:set_permissions(<<"alice">>, <<"/">>, {everything}, <<"a test">>)')
    url = f"amqp://alice:{password}@127.0.0.1:{broker.port}"
    file = tmp_path / "nosy.py"
    file.write_text(
        "import os\n"
        "from pymar.producer import Producer\n"
        "class Nosy(Producer):\n"
        "    @staticmethod\n"
        "    def map_fn(data_source):\n"
        "        yield sorted(os.environ.items())\n"
        "    @staticmethod\n"
        "    def reduce_fn(lists):\n"
        "        return [pair for pairs in lists for pair in pairs]\n"
    )
    monkeypatch.setenv("PYMAR_KEY", key)
    monkeypatch.setenv("PYMAR_URL", url)
    agent = agents.start(file, "-w", "1", "-v", url="")
    module = load(file)
    seen = module.Nosy(mq_server="").map(DataSourceFactory([1]))
    assert dict(seen)["PYTHONHASHSEED"] == "0"
    where = [repr(seen), agent.said(), caplog.text, repr(parse(url)), str(parse(url)), repr(Keys((key,)))]
    processes = children_of(agent.pid)
    assert processes
    where += [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in (agent.pid, *processes)]
    where += [Path(f"/proc/{pid}/environ").read_bytes().decode() for pid in processes]
    for refused in (f"amqp://alice:{password}x@127.0.0.1:{broker.port}", f"amqp://alice:{password}@127.0.0.1:bad"):
        with pytest.raises(UsageError) as caught:
            module.Nosy(mq_server=refused).map(DataSourceFactory([1]))
        where.append(str(caught.getrepr(showlocals=False, style="short")) + repr(caught.value))
    for text in where:
        assert key not in text
        assert password not in text


def published(broker, queue, *messages, keys=None):
    with broker.channel() as channel:
        for message in messages:
            channel.basic_publish("", queue, wire.encode(message, "Watched", keys or Keys()))


def work_of(broker):
    return protocol.work_queue("Watched", code_of(FILE))


def still_serves(broker, agent):
    assert Watched(mq_server=f"127.0.0.1:{broker.port}").submit(DataSourceFactory(Steps)).result(30)[0] == ANSWER
    assert agent.process.poll() is None


@pytest.mark.parametrize("is_large", [False, True], ids=["inline", "fetched"])
def test_an_attacker_who_answers_the_join_gets_nothing_unpickled(broker, agents, tmp_path, is_large):
    """A job that looks honest in all but the data of its parts."""
    agent = agents.start(FILE, "-p", "Watched", "-w", "1")
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    data = [len(bomb), digest_of(bomb)] if is_large else bomb
    job, definition = os.urandom(16), define(Plan(Watched(), DataSourceFactory([1]), Producer).spec)
    read = wire.Reader(protocol.TO_PRODUCER, Keys())
    with broker.channel() as channel:
        reply = channel.queue_declare("", exclusive=True).method.queue
        parts = protocol.Parts(job, digest_of(definition), reply, 1, 0, [[0, 0, 0, 1, data]])
        published(broker, work_of(broker), parts)
        received = []
        for _, _, body in channel.consume(reply, auto_ack=True, inactivity_timeout=2):
            if body is None:
                break
            message, _ = read.read(body)
            received.append(type(message).__name__)
            if isinstance(message, protocol.Join):
                welcome = protocol.Welcome(job, definition, 0.0, 0, b"", "name", wire.fresh())
                published(broker, message.agent.queue, welcome)
            if isinstance(message, protocol.Fetch):
                published(broker, message.agent.queue, protocol.Piece(job, 0, 0, bomb))
            if isinstance(message, protocol.Failed):
                break
        channel.cancel()
    assert not (tmp_path / "exploded").exists()
    assert ("Failed" in received) == is_large  # inline, the whole message is dropped
    still_serves(broker, agent)


def test_unsigned_messages_that_are_well_formed_but_absurd(broker, agents):
    agent = agents.start(FILE, "-p", "Watched", "-w", "1")
    job, work = os.urandom(16), work_of(broker)
    mine = broker.queues("pymar.agent.")[:1]
    for row in ([0, 0, 0, 1, [1 << 60, b"d"]], [-1, -1, -1, -1, None], [1 << 1_000, 0, 1 << 1_000, 1 << 1_000, None]):
        published(broker, work, protocol.Parts(job, b"d", "nowhere", 1, 0, [row]))
    twice = [[0, 0, 0, 1, None], [0, 0, 0, 1, None]]
    published(broker, work, protocol.Parts(job, b"d", "nowhere", 1, 0, twice), protocol.Parts(job, b"d", "x", 1, 0, []))
    published(broker, work, protocol.Parts(job, b"d", "q" * 300, 1, 0, [[0, 0, 0, 1, None]]))
    published(broker, work, protocol.Probe(job, "q" * 300, 1), protocol.Probe(job, "nowhere", 1))
    for queue in mine:
        published(broker, queue, protocol.Hello("", "", "q" * 300), protocol.Hello("", "", "nowhere"))
        published(broker, queue, protocol.Over([job] * 1_000, wire.fresh()), protocol.Piece(job, 0, -5, b""))
    still_serves(broker, agent)
    assert RECONNECTS not in agent.said()


def answered(channel, body, seconds=20):
    """Answer all who ask who is there with what `body` makes of their question, until somebody has been answered."""
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.exchange_declare(protocol.CONTROL, "fanout", durable=True)
    channel.queue_bind(queue, protocol.CONTROL)
    yield
    for _, _, asked in channel.consume(queue, auto_ack=True, inactivity_timeout=seconds):
        assert asked is not None, "nobody has asked"
        hello, pool = wire.Reader(protocol.TO_AGENT, Keys()).read(asked)
        channel.basic_publish("", hello.reply, body(hello, pool))
        break
    channel.cancel()
    yield


NASTY = "[/red]\x1b]0;title\x07\x1b[2J\r\nforged line [bold]"


@pytest.mark.parametrize("command", ["doctor", "status"])
def test_what_a_worker_writes_of_itself_does_nothing_to_a_terminal(broker, command):
    def here(hello, pool):
        agent = protocol.Agent(b"12345678", f"host {NASTY}", "x", 1)
        answer = protocol.Here(agent, f"pool {NASTY}", f"c {NASTY}", f"/{NASTY}", NASTY, 0, 1, [], time.time() + 1_000)
        return wire.encode(answer, pool, Keys())

    with broker.channel() as channel:
        answer = answered(channel, here)
        next(answer)
        with subprocess.Popen(
            [Path(sys.executable).with_name("pymar"), command, "-q", f"127.0.0.1:{broker.port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            next(answer)
            shown, _ = process.communicate(timeout=60)
    assert "Traceback" not in shown
    assert r"host [/red]\x1b]0;title\x07\x1b[2J\r\nforged line [bold]" in shown
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert not any(line.startswith("forged") for line in shown.splitlines())


def parts_of(broker, channel):
    """The first parts that a producer has sent, as if one were a worker."""
    wait_until(lambda: broker.queues(work_of(broker)), "the queue")
    method, _, body = wait_until(lambda: (found := channel.basic_get(work_of(broker)))[0] and found, "its parts")
    return method, *wire.Reader(protocol.TO_AGENT, Keys()).read(body)


def test_what_workers_write_does_nothing_to_the_producers_log_and_errors(broker, caplog, agents, empty_queue):
    """`agents` only for the short times."""
    caplog.set_level(logging.INFO, logger="pymar")
    url = f"127.0.0.1:{broker.port}"
    future = Watched(mq_server=url).submit(DataSourceFactory(Steps))
    agent = protocol.Agent(b"12345678", f"host {NASTY}", "nowhere", 1)
    with broker.channel() as channel:
        _, parts, pool = parts_of(broker, channel)
        for message in (
            protocol.Here(agent, "Watched", f"code {NASTY}", NASTY, NASTY, 0, 1, [], 0.0),
            protocol.Refused(agent, parts.job, [], NASTY),
            protocol.Join(agent, parts.job, NASTY, wire.fresh()),
            protocol.Lost(agent, parts.job, parts.batch[0][0] + 1, "died", NASTY),
            protocol.Failed(agent, parts.job, parts.batch[0][0], NASTY, NASTY, NASTY, NASTY, b""),
        ):
            channel.basic_publish("", parts.reply, wire.encode(message, pool, Keys()))
    with pytest.raises(PartFailed) as caught:
        future.result(60)
    assert "forged line" in str(caught.value)
    for text in (str(caught.value), *(record.getMessage() for record in caplog.records)):
        assert all(one.isprintable() or one == "\n" for one in text)
    assert not [record for record in caplog.records if "\nforged" in record.getMessage()]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_number_that_is_none_ends_no_job(broker, agents, empty_queue, number):
    """Who computed parts in no time, or in an endless one, is not believed."""
    url = f"127.0.0.1:{broker.port}"
    future = Watched(mq_server=url).submit(DataSourceFactory(Steps))
    agent = protocol.Agent(b"12345678", "evil", "nowhere", 1)
    with broker.channel() as channel:
        method, parts, pool = parts_of(broker, channel)
        for index in range(3):
            partial = protocol.Partial(agent, parts.job, [[index, plain.dumps(1), number]])
            channel.basic_publish("", parts.reply, wire.encode(partial, pool, Keys()))
        channel.basic_reject(method.delivery_tag)
    agents.start(FILE, "-p", "Watched", "-w", "2")
    assert future.result(60)[0] == ANSWER


def test_an_address_that_is_not_understood_shows_no_password():
    for text in ("amqp://alice:s3cret/x@host", "amqp://alice:s3#cret@host", "[::1", "amqp://alice:s3cret@[::1"):
        with pytest.raises(UsageError) as caught:
            parse(text)
        assert "s3" not in str(caught.value)
        assert "%2F" in str(caught.value)


def test_user_code_does_not_see_the_arguments_of_its_worker(broker, agents, tmp_path):
    """Among them may be an address with a password."""
    file = tmp_path / "curious.py"
    file.write_text(
        "import sys\n"
        "from pymar.producer import Producer\n"
        "class Curious(Producer):\n"
        "    @staticmethod\n"
        "    def map_fn(data_source):\n"
        "        yield sys.argv\n"
        "    @staticmethod\n"
        "    def reduce_fn(lists):\n"
        "        return [word for words in lists for word in words]\n"
    )
    url = f"amqp://guest:guest@127.0.0.1:{broker.port}"
    agents.start(file, "-w", "1", url=url)
    module = load(file)
    seen = module.Curious(mq_server=url).map(DataSourceFactory([1]))
    assert "guest" not in str(seen)


def test_a_list_of_many_jobs_that_nobody_knows_is_answered_once(broker):
    one = session.Session(parse(f"127.0.0.1:{broker.port}"), Keys())
    try:
        one.wait()
        with broker.channel() as channel:
            mine = channel.queue_declare("", exclusive=True).method.queue
            agent = protocol.Agent(b"12345678", "evil", mine, 1)
            jobs = [os.urandom(16) for _ in range(50_000)]
            listed = [[job, 0, ""] for job in jobs]
            for message in (protocol.Running(agent, listed), protocol.Fetch(agent, b"last", 0, 0)):
                channel.basic_publish("", one.queue, wire.encode(message, "pool", Keys()))
            read = wire.Reader(protocol.TO_AGENT, Keys())
            answers = [wait_until(lambda: channel.basic_get(mine, auto_ack=True)[2], "an answer") for _ in range(2)]
            assert [read.read(body)[0].jobs for body in answers] == [jobs, [b"last"]]
    finally:
        one.shutdown()


def test_a_limit_that_is_none_is_none_on_agents_too(broker, agents, empty_queue, monkeypatch):
    """A message holds neither infinity nor an endless int."""
    monkeypatch.setattr(Watched, "PART_TIMEOUT", float("inf"))
    monkeypatch.setattr(Watched, "MEMORY_LIMIT", 10**400)
    agents.start(FILE, "-p", "Watched", "-w", "2")
    future = Watched(mq_server=f"127.0.0.1:{broker.port}").submit(DataSourceFactory(Steps))
    assert future.result(60)[0] == ANSWER


def test_a_worker_that_names_a_code_that_no_queue_can_have_does_not_end_status(broker):
    def here(hello, pool):
        agent = protocol.Agent(b"12345678", "host", "x", 1)
        return wire.encode(protocol.Here(agent, "é" * 75, "é" * 120, "", "3.11", 0, 1, [], 1.0), pool, Keys())

    with broker.channel() as channel:
        answer = answered(channel, here)
        next(answer)
        command = [Path(sys.executable).with_name("pymar"), "status", "-q", f"127.0.0.1:{broker.port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            next(answer)
            shown, _ = process.communicate(timeout=60)
    assert "1 workers" in shown
    assert "Traceback" not in shown
