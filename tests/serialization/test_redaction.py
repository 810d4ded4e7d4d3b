"""No message or log shows a secret, and no text of another process controls the terminal."""

import logging
import traceback

import pytest
from conftest import needed

from pymar.amqp.address import parse
from pymar.amqp.link.client import refusal
from pymar.datasource import DataSourceFactory
from pymar.engines import choose
from pymar.exceptions import PartFailed, PymarError, UsageError
from pymar.producer import Producer
from pymar.serialization.redaction import (
    is_secret,
    printable,
    printable_line,
    redacted,
    redacted_address,
    redacted_values,
    without,
)
from pymar.slots.environment import without_secrets
from pymar.slots.failures import describe

#: Addresses as people mistype them.
MISTYPED = [
    "ampq://me:s3cret@127.0.0.1",
    "ampqs://me:s3cret@127.0.0.1:5972",
    "amqp:/me:s3cret@127.0.0.1",
    "amqp//me:s3cret@127.0.0.1",
    "amqp:me:s3cret@127.0.0.1",
    "amqp ://me:s3cret@127.0.0.1",
    " amqp://me:s3cret@127.0.0.1",
    "amqp://me:s3cret@",
    "amqp://me:s3cret",
    "amqp://me:s3cret:127.0.0.1",
    "amqp://me:s3cret@127.0.0.1:99999999",
    "amqp://me:s3cret@127.0.0.1:port",
    "amqp://me:12/s3cret@127.0.0.1",
    "amqp://me:12#s3cret@127.0.0.1",
    "amqp://me:12?s3cret@127.0.0.1",
    "amqp://me:s3cret@[::1",
    "amqp://me:s3cret@127.0.0.1?paswd=s3cret",
    "amqp://me:s3cret@127.0.0.1?s3cret",
    "amqp://me:s3cret@127.0.0.1//x",
    "amqp://amqp://me:s3cret@127.0.0.1",
    "amqps://me:s3cret@127.0.0.1:1?certfile=/s3cret",
    "AMQP+x://me:s3cret@127.0.0.1",
    "processes://me:s3cret@127.0.0.1",
    "serial://me:s3cret@127.0.0.1",
    "me:s3cret@127.0.0.1:port",
    "me:s3cret",
    "s3cret@127.0.0.1:port",
    "http://127.0.0.1/?token=s3cret",
]


class Total(Producer):
    @staticmethod
    def map_fn(records):
        return records

    @staticmethod
    def reduce_fn(records):
        return sum(records)


def texts_of(error):
    """Yield all texts of an error and of its causes."""
    yield from traceback.TracebackException.from_exception(error).format_exception_only()
    while error is not None:
        yield from (str(error), repr(error), repr(error.args))
        error = error.__cause__ or error.__context__


def run_with(how, address, monkeypatch):
    if how == "PYMAR_ENGINE":
        monkeypatch.setenv(how, address)
        Total().map(DataSourceFactory([1]))
    elif how == "PYMAR_URL":
        monkeypatch.setenv(how, address)
        Total(mq_server="").map(DataSourceFactory([1]))
    else:
        Total(**{how: address}).map(DataSourceFactory([1]))


@pytest.mark.parametrize("how", ["engine", "mq_server", "PYMAR_ENGINE", "PYMAR_URL"])
@pytest.mark.parametrize("address", MISTYPED)
def test_an_address_that_is_mistyped_shows_no_password(address, how, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(PymarError) as caught:
        run_with(how, address, monkeypatch)
    for text in (*texts_of(caught.value), caplog.text):
        assert "s3cret" not in text


@pytest.mark.parametrize("address", ["dask://me:s3cret@127.0.0.1:1", "ray://me:s3cret@127.0.0.1", "ray://me:s3cret"])
def test_a_mistyped_address_of_a_cluster_shows_no_password(address, caplog):
    needed("distributed" if address.startswith("dask") else "ray")
    with pytest.raises(UsageError) as caught:
        choose(address).engine.start(spec_of_one_record())
    for text in (*texts_of(caught.value), caplog.text):
        assert "s3cret" not in text


def spec_of_one_record():
    from pymar.job.plan import Plan

    return Plan(Total(), DataSourceFactory([1]), Producer).spec


def test_a_valid_address_shows_no_password():
    address = parse("amqp://me:s3cret@127.0.0.1:1/vhost?insecure=1")
    for shown in (str(address), repr(address), f"{address}", str(refusal(address, OSError(f"{address.password}"[:0])))):
        assert "s3cret" not in shown
    assert str(parse("amqps://me:a%40b@host")) == "amqps://host:5671"
    assert parse("amqps://me:a%40b@host").password == "a@b"


@pytest.mark.parametrize(
    "text", ["amqp://host", "host:5", "10.0.0.1", "processes://4", "[::1]:5", "procesess", "a.b/c"]
)
def test_what_holds_no_secret_is_shown_whole(text):
    assert redacted_address(text) == text


def test_secrets_in_texts_are_replaced():
    for text, shown in (
        ("at postgresql://me:s3cret@host/x", "at postgresql://***@host/x"),
        ("at postgresql://me:s3c/ret@host/x", "at postgresql://***@host/x"),
        ("at s3://bucket/a@b.csv", "at s3://bucket/a@b.csv"),
        ("at http://host:80/a@b", "at http://host:80/a@b"),
        ("https://host/x?signature=s3cret&y=1 failed", "https://host/x?*** failed"),
        ("invalid address 'me:s3cret@127.0.0.1:1'; maybe", "invalid address '***@127.0.0.1:1'; maybe"),
        ("x = rows[1:n]@matrix", "x = rows[1:n]@matrix"),
        ("at me:s3cret@db.example.org", "at ***@db.example.org"),
        ("mail me@example.org at 10:30", "mail me@example.org at 10:30"),
    ):
        assert redacted(text) == shown
    for text in (
        "{'password': 's3cret', 'user': 'me'}",
        "Config(api_key='s3cret', n=1)",
        'headers = {"Authorization": "Bearer s3cret"}',
        "host=h password=s3cret user=me",
        "Authorization: Basic s3cret",
        "AccountKey=x;SharedAccessKey=s3cret;y",
        "{'db_pw': 's3cret'}",
    ):
        assert "s3cret" not in redacted_values(text), text
    assert redacted_values("{'n': 1, 'name': 'x'} at 10:30") == "{'n': 1, 'name': 'x'} at 10:30"
    assert without("tcp://me:s3cret@h:1", "bad port 's3cret@h'") == "bad port '***@h'"
    for name in ("password", "DB_PASSWD", "api_key", "apikey", "aws_secret_access_key", "auth_token", "dsn", "user_pw"):
        assert is_secret(name)
    for name in ("n", "path", "opinion", "spin", "width", "pwn"):
        assert not is_secret(name)


class Leaking(Producer):
    @staticmethod
    def map_fn(records):
        settings = {"password": "s3cret", "url": "db://me:s3cret@host"}
        for _ in records:
            raise ValueError(f"\x1b[31mno connection to {settings['url']}\r\x07 \x9b2J‮\nand that is\tall")
            yield

    @staticmethod
    def reduce_fn(records):
        return list(records)


@pytest.mark.parametrize("engine", ["serial", "processes://1"])
def test_what_user_code_raises_shows_no_secret_and_does_nothing_to_a_terminal(engine):
    with pytest.raises(PartFailed) as caught:
        Leaking(engine=engine).map(DataSourceFactory([1]))
    shown = str(caught.value)
    assert "s3cret" not in shown
    assert "no connection to db://***@host" in shown
    assert "\nand that is\tall" in shown
    assert all(one.isprintable() or one in "\n\t" for one in shown)


def test_control_characters_of_texts_are_escaped():
    assert printable("host 1, ein Gerät, 日本") == "host 1, ein Gerät, 日本"
    assert printable("\x1b]0;x\x07\r\n\t\x9b‮\ud800\0") == r"\x1b]0;x\x07\r\n\t\x9b\u202e\ud800\x00"
    assert printable("a\nb\tc\r", "\n\t") == "a\nb\tc\\r"


def test_a_printed_line_keeps_its_colours_and_no_other_control_sequence():
    assert printable_line("50 %\r100 %\r") == "100 %"
    assert printable_line("\x1b[31mred\x1b[2J\tdone") == "\x1b[31mred\\x1b[2J\tdone\x1b[0m"
    assert printable_line("12 345 €, 👩‍💻") == "12 345 €, 👩‍💻"


class Odd(Exception):
    def __str__(self):
        return "\x1b[2J"


def test_the_description_of_a_failure_is_printable():
    def fail():
        hidden = "\x1b[2J\n"  # noqa: F841 - it is shown
        raise Odd

    try:
        fail()
    except Odd as error:
        failure = describe(error)
    for text in (failure.error, failure.traceback, failure.variables):
        assert "\x1b" not in text
    assert "\\x1b[2J" in failure.error


def test_processes_that_run_user_code_get_no_secret_of_pymar():
    given = {"PYMAR_KEY": "a", "PYMAR_KEY_FILE": "b", "PYMAR_URL": "c", "PYMAR_ENGINE": "amqp://me:s3cret@h", "X": "d"}
    assert without_secrets(given) == {"X": "d", "PYMAR_ENGINE": "serial"}
    assert without_secrets({}) == {"PYMAR_ENGINE": "serial"}


class Environ(Producer):
    @staticmethod
    def map_fn(records):
        import os

        return [os.environ.get("PYMAR_ENGINE"), *(name for name in os.environ if "s3cret" in os.environ[name])]

    @staticmethod
    def reduce_fn(records):
        return list(records)


def test_a_job_within_a_job_does_not_get_the_password_of_the_outer_one(monkeypatch):
    monkeypatch.setenv("PYMAR_ENGINE", "processes://1")
    monkeypatch.setenv("PYMAR_URL", "amqp://me:s3cret@h")
    assert Environ().map(DataSourceFactory([1])) == [["serial"]]
