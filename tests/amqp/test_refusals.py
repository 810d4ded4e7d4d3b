"""A refusal for good is reported once, by each command that meets it, with a remedy; what passes is tried again."""

import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from amqp_jobs import Lengths, Steps, Watched
from conftest import wait_until
from proxy import DOWN, OPEN_OK, START, TUNE
from watching import ANSWER, FILE, answer, begun, serve, submitted

from pymar.amqp.address import parse
from pymar.amqp.producer import session
from pymar.amqp.producer.engine import end_all
from pymar.amqp.protocol import CONTROL, work_queue
from pymar.datasource import DataSourceFactory
from pymar.exceptions import BrokerRefused, UsageError
from pymar.serialization.jobfile import code_of

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("empty_queue")]

WORK = work_queue("Watched", code_of(FILE))


@pytest.fixture(autouse=True)
def a_session_of_its_own():
    end_all()


def user(broker, name, configure, write, read):
    """The address for a user with these permissions."""
    broker.eval(f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"secret">>, <<"a test">>)')
    patterns = ", ".join(f'<<"{pattern}">>' for pattern in (configure, write, read))
    broker.eval(f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"/">>, {patterns}, <<"a test">>)')
    return f"amqp://{name}:secret@127.0.0.1:{broker.port}"


def pymar(*words):
    command = [str(Path(sys.executable).parent / "pymar"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


NOTHING, ALL = "^$", ".*"


@pytest.mark.parametrize(
    ("name", "permissions"),
    [
        ("nobody", (NOTHING, NOTHING, NOTHING)),
        ("reader", (NOTHING, NOTHING, ALL)),
        ("mute", (ALL, NOTHING, ALL)),
        ("deaf", (ALL, ALL, NOTHING)),
    ],
)
def test_a_missing_permission_is_named_with_how_to_give_it(broker, name, permissions):
    url = user(broker, name, *permissions)
    with pytest.raises(BrokerRefused) as caught:
        Watched(mq_server=url).map(DataSourceFactory(Steps))
    said = [str(caught.value)]
    for words in (("worker", FILE, "-p", "Watched", "-w", "1"), ("status",), ("doctor",)):
        done = pymar(*words, "-q", url)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "set_permissions" in line]
        assert len(lines) == 1, done.stdout + done.stderr
        said += lines
    for line in said:
        assert f"user {name!r}" in line
        assert "'pymar." in line or "'amq.default'" in line
        assert f"rabbitmqctl set_permissions -p / {name} '^pymar" in line
        assert "secret" not in line


def test_the_permissions_that_are_asked_for_are_enough(broker, agents):
    url = user(broker, "enough", r"^pymar\\.", r"^(pymar\\.|amq\\.default$)", r"^pymar\\.")
    agents.start(FILE, "-p", "Watched", "-w", "1", url=url)
    assert Watched(mq_server=url).map(DataSourceFactory(Steps))[0] == ANSWER
    for command in ("status", "doctor"):
        done = pymar(command, "-q", url)
        assert done.returncode == 0, done.stdout


def declare(channel, kind, **options):
    if kind == "exchange":
        channel.exchange_delete(CONTROL)
        channel.exchange_declare(CONTROL, "direct", durable=True)
    else:
        channel.queue_declare(WORK, **options)


SHAPES = [
    ("exchange", {}),
    ("queue", {"durable": False}),
    ("queue", {"durable": True, "arguments": {"x-expires": 24 * 3_600_000, "x-max-length": 1}}),
    ("queue", {"exclusive": True}),
]


@pytest.mark.parametrize(("kind", "options"), SHAPES, ids=["exchange", "transient", "max-length", "exclusive"])
def test_a_queue_or_exchange_of_another_shape_is_named(broker, kind, options):
    url = broker.url
    with broker.channel() as channel:
        declare(channel, kind, **options)
        try:
            with pytest.raises(BrokerRefused) as caught:
                Watched(mq_server=url).map(DataSourceFactory(Steps))
            done = pymar("worker", FILE, "-p", "Watched", "-w", "1", "-q", url)
            doctor = pymar("doctor", "-q", url)
        finally:
            channel.exchange_delete(CONTROL) if kind == "exchange" else channel.queue_delete(WORK)
    name = CONTROL if kind == "exchange" else WORK
    assert f"{kind} {name!r}" in str(caught.value)
    assert "elete it" in str(caught.value)
    assert done.returncode == 1
    assert f"{kind} {name!r}" in done.stderr.splitlines()[-1]
    if kind == "exchange":
        assert doctor.returncode == 1
        assert f"{kind} {name!r}" in doctor.stdout
        assert "Traceback" not in doctor.stderr


def test_a_job_whose_queue_is_refused_costs_no_other_job_of_its_script(broker, agents, watched, settings):
    settings(seconds=0.05)
    serve(agents)
    future = submitted(broker)
    other = work_queue("Lengths", code_of(FILE))
    with broker.channel() as channel:
        channel.queue_declare(other, durable=False)
        with pytest.raises(BrokerRefused, match=other):
            Lengths(mq_server=f"127.0.0.1:{broker.port}").map(DataSourceFactory(["one", "two"]))
        channel.queue_delete(other)
    assert answer(future) == ANSWER


@pytest.mark.parametrize("method", [START, TUNE, OPEN_OK])
def test_a_line_that_is_cut_during_the_first_connection_is_tried_again(broker, agents, proxy, method, caplog):
    serve(agents)
    proxy.cut_at(DOWN, method)
    assert answer(submitted(broker, proxy.port)) == ANSWER
    assert proxy.cuts == 1
    assert f"127.0.0.1:{proxy.port}: the connection was closed" in caplog.text
    end_all()


def closing(listener):
    """A server that closes every connection."""
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


def test_a_line_that_is_always_cut_is_an_error_in_the_end(monkeypatch):
    monkeypatch.setattr(session, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=closing, args=(listener,), daemon=True).start()
        with pytest.raises(BrokerRefused, match="connection was closed"):
            Watched(mq_server=f"127.0.0.1:{listener.getsockname()[1]}").map(DataSourceFactory(Steps))
        listener.shutdown(socket.SHUT_RDWR)


def test_a_user_that_was_given_is_not_asked_for(broker):
    for name, password in (("guest", "wrong"), ("no%20body", "wrong")):
        with pytest.raises(BrokerRefused, match=f"authenticate_user {name.replace('%20', ' ')}"):
            Watched(mq_server=f"amqp://{name}:{password}@127.0.0.1:{broker.port}").map(DataSourceFactory(Steps))
    broker.eval('rabbit_auth_backend_internal:change_password(<<"guest">>, <<"other">>, <<"a test">>)')
    try:
        with pytest.raises(BrokerRefused, match=r"'guest'.* PYMAR_URL"):
            Watched(mq_server=f"127.0.0.1:{broker.port}").map(DataSourceFactory(Steps))
    finally:
        broker.eval('rabbit_auth_backend_internal:change_password(<<"guest">>, <<"guest">>, <<"a test">>)')


def test_a_virtual_host_that_is_not_there_is_named(broker):
    with pytest.raises(BrokerRefused, match=r"'guest' .*virtual host 'elsewhere' .*rabbitmqctl add_vhost elsewhere"):
        Watched(mq_server=f"amqp://127.0.0.1:{broker.port}/elsewhere").map(DataSourceFactory(Steps))


@pytest.mark.parametrize("option", ["cafile", "certfile", "keyfile"])
def test_a_file_of_tls_that_is_not_there_is_named(tmp_path, option):
    (tmp_path / "there").touch()
    files = {"certfile": tmp_path / "there"} | {option: tmp_path / "absent"}
    query = "&".join(f"{name}={path}" for name, path in files.items())
    with pytest.raises(BrokerRefused, match=f"{option}={tmp_path}/absent "):
        Watched(mq_server=f"amqps://127.0.0.1?{query}").map(DataSourceFactory(Steps))


@pytest.mark.parametrize(
    ("url", "said"),
    [("amqp://127.0.0.1?cafile=x", "cafile .* amqps://"), ("amqps://127.0.0.1?keyfile=x", "keyfile .* certfile=")],
)
def test_options_of_tls_that_would_do_nothing_are_errors(url, said):
    with pytest.raises(UsageError, match=said):
        parse(url)


def test_a_user_who_is_locked_out_while_a_job_runs_fails_the_job_after_a_while(
    broker, agents, watched, settings, monkeypatch
):
    monkeypatch.setattr(session, "PATIENCE", 1.0)
    settings(seconds=0.3)
    url = user(broker, "leaver", ALL, ALL, ALL)
    serve(agents)
    future = Watched(mq_server=url).submit(DataSourceFactory(Steps))
    begun(watched, 2)
    broker.eval('rabbit_auth_backend_internal:change_password(<<"leaver">>, <<"other">>, <<"a test">>)')
    broker.close_all_connections()
    with pytest.raises(BrokerRefused, match=r"'leaver' .*rabbitmqctl authenticate_user leaver"):
        answer(future)
    end_all()


def test_messages_that_are_too_large_for_the_broker_are_an_error(broker):
    limit = broker.eval("application:get_env(rabbit, max_message_size)")
    assert "16777216" in limit
    broker.eval("application:set_env(rabbit, max_message_size, 1000), persistent_term:put(max_message_size, 1000)")
    try:
        with pytest.raises(BrokerRefused, match=r"max_message_size = 16777216"):
            Lengths(mq_server=f"127.0.0.1:{broker.port}").map(DataSourceFactory(["x" * 10_000]), timeout=30)
    finally:
        size = 16777216
        broker.eval(
            f"application:set_env(rabbit, max_message_size, {size}), persistent_term:put(max_message_size, {size})"
        )


def test_a_queue_that_takes_no_more_is_named(broker, agents, caplog):
    policy = '[{<<"max-length">>, 1}, {<<"overflow">>, <<"reject-publish">>}]'
    where = '<<"/">>, <<"short">>'
    broker.eval(f'rabbit_policy:set({where}, <<"^pymar.work.Watched">>, {policy}, 1, <<"queues">>, <<"a test">>)')
    try:
        future = submitted(broker)
        wait_until(lambda: re.search(rf"{re.escape(WORK)}.* policy", caplog.text), "the producer to log it")
        serve(agents)
        assert answer(future) == ANSWER
    finally:
        broker.eval(f'rabbit_policy:delete({where}, <<"a test">>)')
