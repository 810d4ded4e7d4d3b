"""The producer's half and the agent's half of the protocol, over a broker in memory and slots that compute nothing."""

import threading
from time import monotonic

import pytest
from conftest import wait_until
from fake_broker import FakeBroker
from fake_pool import FakePool

from pymar.amqp import protocol, timing, wire
from pymar.amqp.address import parse
from pymar.amqp.agent.agent import Serving, Settings, WorkerAgent
from pymar.amqp.keys import Keys, new_key
from pymar.amqp.link import LinkListener, Message
from pymar.amqp.producer.run import AmqpRun
from pymar.amqp.producer.session import Session
from pymar.datasource import DataSourceFactory
from pymar.job.plan import Plan
from pymar.parts import Cause, Done, Failed, Failure, Joined, Left, Lost, Part, Refused, Returned, Running
from pymar.producer import Producer
from pymar.serialization import plain
from pymar.serialization.jobfile import code_of
from pymar.slots.loop import Loop
from pymar.testing import Numbers, Total, contract

ADDRESS = parse("127.0.0.1")
FILE = contract.__file__
#: Seconds that anything may take.
PATIENCE = 10


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    for name, seconds in {
        "TICK_EVERY": 0.02,
        "LIST_EVERY": 0.05,
        "HELLO_EVERY": 0.02,
        "WORTH_TELLING": 0.01,
        "AGAIN_AFTER": 0.02,
        "GIVE_UP_AFTER": 0.2,
        "PROBE_GRACE": 0.01,
    }.items():
        monkeypatch.setattr(timing, name, seconds)


@pytest.fixture
def broker():
    return FakeBroker()


@pytest.fixture
def keys():
    return Keys()


@pytest.fixture
def session(broker, keys):
    one = Session(ADDRESS, keys, link=broker.link)
    one.wait()
    yield one
    one.shutdown()


def value(part):
    """What a slot reports that computes at once."""
    return Done(part.index, plain.dumps(part.limit), 0.001)


@pytest.fixture
def agents(broker, keys):
    started = []

    def start(report=value, **settings):
        pool = FakePool(report)
        serving = Serving("Total", code_of(FILE), FILE)
        agent = WorkerAgent(ADDRESS, keys, serving, Settings(**{"slots": 2, **settings}), pool=pool, link=broker.link)
        agent.start()
        started.append((agent, pool))
        return agent, pool

    yield start
    for agent, _ in started:
        agent.halt()
        agent.wait()


def begun(session):
    """A job of the producer's half."""
    spec = Plan(Total(), DataSourceFactory(Numbers), Producer).spec
    return AmqpRun(session, spec, ADDRESS)


def parts(*indices):
    return [Part(index, 0, 10 * index, 10) for index in indices]


def reports_until(run, is_enough):
    found, deadline = [], monotonic() + PATIENCE
    while not is_enough(found):
        assert monotonic() < deadline, f"only {found}"
        found += run.next(0.05)
    return found


def of(kind, reports):
    return [report for report in reports if isinstance(report, kind)]


@pytest.mark.parametrize("keys", [Keys(), Keys((new_key(),))], ids=["plain", "signed"])
def test_parts_go_to_slots_and_values_come_back(session, agents):
    _, pool = agents()
    run = begun(session)
    for index in range(5):
        run.submit(parts(index))
    found = reports_until(run, lambda found: len(of(Done, found)) == 5)
    assert sorted((report.index, plain.loads(report.value)) for report in of(Done, found)) == [
        (n, 10) for n in range(5)
    ]
    assert [(report.slots) for report in of(Joined, found)] == [2]
    assert sorted(part.index for part in pool.runs[0].computed) == list(range(5))
    run.close()


def test_nothing_is_left_in_the_broker_after_a_job(session, agents, broker):
    agents()
    run = begun(session)
    run.submit(parts(0, 1, 2))
    reports_until(run, lambda found: len(of(Done, found)) == 3)
    assert not broker.queues[run.queue].waiting
    wait_until(lambda: not any(link.unacknowledged for link in broker.links), "all to be acknowledged")
    run.close()


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (lambda part: Failed(part.index, "slot 1 (pid 7) on here", Failure("ValueError: no")), Failed),
        (lambda part: Lost(part.index, Cause("died", "killed by SIGKILL")), Lost),
        (lambda part: Returned(part.index), Returned),
    ],
    ids=["failed", "lost", "returned"],
)
def test_what_slots_report_the_job_gets(session, agents, report, kind):
    agents(report)
    run = begun(session)
    run.submit(parts(0))
    (found,) = of(kind, reports_until(run, lambda found: of(kind, found)))
    assert found.index == 0
    if kind is Failed:
        assert found.worker == "slot 1 (pid 7) on here"
        assert found.failure.error == "ValueError: no"
    run.close()


def test_a_part_that_runs_is_announced_with_its_worker(session, agents):
    agents(lambda part: None)
    run = begun(session)
    run.submit(parts(7))
    found = reports_until(run, lambda found: of(Running, found))
    assert of(Running, found) == [Running(7, "slot 1 (pid 7) on here")]
    run.close()


def test_a_connection_that_is_cut_costs_no_part(session, agents, broker):
    release = threading.Event()
    _, pool = agents(lambda part: value(part) if release.is_set() else None)
    run = begun(session)
    run.submit(parts(0))
    reports_until(run, lambda found: of(Running, found))
    broker.cut()
    release.set()
    pool.loop.call_soon(lambda: pool.runs[0].put(value(pool.runs[0].computed[0])))
    found = reports_until(run, lambda found: of(Done, found))
    assert len(of(Done, found)) == 1
    assert not of(Lost, found)
    assert [part.index for part in pool.runs[0].computed] == [0], "it was computed once"
    run.close()


def test_cuts_at_any_time_lose_nothing_and_count_each_part_once(session, agents, broker):
    for _ in range(2):
        agents()
    run = begun(session)
    done = set()
    for index in range(60):
        run.submit(parts(index))
        if index % 7 == 0:
            broker.cut()
    deadline = monotonic() + PATIENCE
    while len(done) < 60:
        assert monotonic() < deadline, sorted(set(range(60)) - done)
        done |= {report.index for report in of(Done, run.next(0.05))}
    run.close()


def test_a_queue_of_work_that_is_deleted_is_made_again_and_its_parts_sent_again(session, agents, broker, monkeypatch):
    monkeypatch.setattr(timing, "PROBE_AFTER", 0.05)
    run = begun(session)
    run.submit(parts(0, 1))
    session.loop.call_soon(lambda: None)
    wait_until(lambda: run.queue in broker.queues and broker.queues[run.queue].waiting, "the parts to wait")
    session.loop.call_soon(broker.delete, run.queue)
    agents()
    found = reports_until(run, lambda found: len(of(Done, found)) == 2)
    assert {report.index for report in of(Done, found)} == {0, 1}
    run.close()


def test_a_worker_that_refuses_hands_its_parts_to_another(session, agents):
    agents(lambda part: Refused((part.index,), "the file is another one"))
    run = begun(session)
    run.submit(parts(0))
    reports_until(run, lambda found: of(Left, found))
    agents()
    found = reports_until(run, lambda found: of(Done, found))
    assert of(Done, found)[0].index == 0
    run.close()


def test_a_worker_that_is_asked_to_stop_finishes_what_runs_and_leaves(session, agents):
    release = threading.Event()
    agent, pool = agents(lambda part: None)
    run = begun(session)
    run.submit(parts(0))
    reports_until(run, lambda found: of(Running, found))
    agent.drain()
    release.set()
    pool.loop.call_soon(lambda: pool.runs[0].put(value(pool.runs[0].computed[0])))
    found = reports_until(run, lambda found: of(Done, found) and of(Left, found))
    assert not of(Lost, found)
    run.close()


def test_a_part_that_nobody_wants_is_stopped(session, agents):
    _, pool = agents(lambda part: None)
    run = begun(session)
    run.submit(parts(3))
    reports_until(run, lambda found: of(Running, found))
    run.cancel(3)
    wait_until(lambda: pool.runs[0].cancelled == [3], "the part to be stopped")
    run.close()


def test_a_job_that_is_closed_ends_at_its_agents(session, agents):
    _, pool = agents(lambda part: None)
    run = begun(session)
    run.submit(parts(0))
    reports_until(run, lambda found: of(Running, found))
    run.close()
    wait_until(lambda: pool.runs[0].is_closed, "the job to end at its agent")


def test_a_large_value_comes_in_pieces(session, agents, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 1_000)
    data = bytes(range(256)) * 50
    agents(lambda part: Done(part.index, plain.dumps(data), 0.001))
    run = begun(session)
    run.submit(parts(0))
    found = reports_until(run, lambda found: of(Done, found))
    assert plain.loads(of(Done, found)[0].value) == data
    run.close()


def test_large_data_of_a_part_is_fetched_in_pieces(session, agents, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK", 1_000)
    monkeypatch.setattr(protocol, "INLINE", 2_000)
    data = list(range(5_000))
    _, pool = agents()
    run = begun(session)
    run.submit([Part(0, 0, 0, 10, data)])
    reports_until(run, lambda found: of(Done, found))
    assert plain.loads(pool.runs[0].computed[0].data.data) == data
    run.close()


def test_junk_in_any_queue_changes_nothing(session, agents, broker):
    agents()
    run = begun(session)
    run.submit(parts(0))
    reports_until(run, lambda found: of(Done, found))
    for queue in list(broker.queues):
        for body in (b"", b"junk", b"\x00" * 100):
            session.loop.call_soon(broker.route, "", queue, body)
    run.submit(parts(1))
    found = reports_until(run, lambda found: of(Done, found))
    assert of(Done, found)[0].index == 1
    run.close()


def test_a_worker_of_another_python_is_refused_and_named(session, agents, broker, caplog):
    """It says so itself: a worker of this test's own makes its messages."""
    run = begun(session)
    run.submit(parts(0))
    loop = Loop("a strange worker")
    loop.start()
    up = threading.Event()

    class Strange(LinkListener):
        def link_is_up(self):
            up.set()

    link = broker.link(loop, None, Strange())
    link.start()
    assert up.wait(PATIENCE)
    me = protocol.Agent(b"12345678", "elsewhere 1", "nowhere", 1)
    join = protocol.Join(me, run.id, "2.7", wire.fresh())
    loop.call_soon(link.publish, Message("", session.queue, wire.encode(join, run.pool, Keys(), session.queue)))
    found = reports_until(run, lambda found: of(Left, found))
    assert of(Left, found)[0].agent == "elsewhere 1"
    assert "2.7" in caplog.text
    loop.stop(5)
    run.close()


@pytest.mark.parametrize("where", ["delivered", "reported"])
def test_a_fault_of_the_agent_costs_no_delivery_and_not_the_agent(session, agents, broker, monkeypatch, where):
    """Whatever goes wrong with one message: the next is dealt with, and nothing is held for ever."""
    from pymar.amqp.agent.ledger import Ledger

    fails = iter([True])
    right = getattr(Ledger, where)

    def wrong(self, *given):
        if next(fails, False):
            raise MemoryError
        return right(self, *given)

    monkeypatch.setattr(Ledger, where, wrong)
    monkeypatch.setattr(timing, "PROBE_AFTER", 0.05)
    agents()
    run = begun(session)
    run.submit(parts(0))
    run.submit(parts(1))
    found = reports_until(run, lambda found: len({report.index for report in of((Done, Lost), found)}) == 2)
    assert len(of(Lost, found)) == (where == "reported")
    run.close()


@pytest.mark.parametrize("keys", [Keys(), Keys((new_key(),))], ids=["plain", "signed"])
def test_agents_stop_at_once_when_the_producer_says_goodbye_to_all_of_them(session, agents, monkeypatch):
    monkeypatch.setattr(timing, "GIVE_UP_AFTER", 60.0)  # that its queue has gone is noticed later
    _, pool = agents(lambda part: None)
    run = begun(session)
    run.submit(parts(0))
    reports_until(run, lambda found: of(Running, found))
    session.shutdown()
    deadline = monotonic() + timing.PRODUCER_SILENT / 2
    while not pool.runs[0].is_closed:
        assert monotonic() < deadline
