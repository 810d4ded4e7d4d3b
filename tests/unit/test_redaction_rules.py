"""What is secret in an address or behind a name goes, wherever it stands; all else stays."""

import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pymar.serialization.redaction import (
    is_secret,
    printable,
    printable_line,
    redacted,
    redacted_address,
    redacted_values,
    without,
)

SECRET = "s3cret"
#: What passwords are made of, written as addresses ask for or not.
PASSWORDS = st.text(string.ascii_letters + string.digits + "-._~!$&*+,;=%^", min_size=6, max_size=20)
WORDS = st.text(string.ascii_lowercase + " ", max_size=20)


@pytest.mark.parametrize(
    "name",
    ["passwd", "PASSPHRASE", "pwd", "client_secret", "TOKEN", "credentials", "apiKey", "private_key", "AWSAccessKeyId"]
    + ["signing_key", "Authorization", "bearer", "Set-Cookie", "pin", "user_pin", "pin_of_card", "jwt", "password_salt"]
    + ["otp", "DSN", "connection_string", "ConnectionString", "MyPassword2"],
)
def test_names_of_secrets(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["X-Api-Key", "private-key", "ACCESS-KEY", "signing-key", "connection-string", "db-pw", "pin-of-card"]
)
def test_names_of_secrets_may_be_spelled_as_headers_are(name):
    assert is_secret(name)
    assert redacted_values(f"{name}: s3cret, n: 1") == f"{name}: ***, n: 1"


@pytest.mark.parametrize(
    "name",
    ["", "key", "spinner", "salted", "user", "monkey", "pint", "x", "adsn", "keys", "host", "s-pinner", "up-input"],
)
def test_names_of_what_is_no_secret(name):
    assert not is_secret(name)


@given(WORDS, PASSWORDS, WORDS)
def test_a_password_in_an_address_is_not_shown_and_the_rest_is(before, password, after):
    password += "@QZ1"  # which no word has
    text = f"{before} amqps://me:{password}@host.example:5671/x {after}"
    assert redacted(text) == f"{before} amqps://***@host.example:5671/x {after}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://s3cret@host", "amqp://***@host"),
        ("amqp://me:s3c@ret@host", "amqp://***@host"),
        ("amqp://me:@host", "amqp://***@host"),
        ("amqp://me:long/password/of/slashes@host", "amqp://***@host"),
        ("amqp://me:question?mark/and/slash@host", "amqp://***@host"),
        ("'amqp://me:s3cret@host', 'amqp://me:s3cret@other'", "'amqp://***@host', 'amqp://***@other'"),
        ("amqp://me:s3cret@[::1]:5672", "amqp://***@[::1]:5672"),
        ("s3://bucket/key?AWSAccessKeyId=s3cret", "s3://bucket/key?***"),
        ("https://me:s3cret@host/?sig=s3cret", "https://***@host/?***"),
        ("https://host/?sig=s3cret and https://host/?sig=s3cret", "https://host/?*** and https://host/?***"),
        ("me:s3cret@[::1]:5672", "***@[::1]:5672"),
        ("me:s3cret@localhost:5672", "***@localhost:5672"),
        ("no address at all", "no address at all"),
        ("", ""),
        ("file:///a/b?c", "file:///a/b?c"),
        ("https://host:80/path", "https://host:80/path"),
        ("12:30@noon", "12:30@noon"),
    ],
)
def test_what_an_address_shows(text, shown):
    assert redacted(text) == shown


@pytest.mark.parametrize("piece", ["://", "://a", "://a:b", "?", "x://h?a", "@", "a:", ":a@", "://a:b@c ", "x=y "])
def test_a_long_text_takes_a_time_of_its_length(piece):
    """One that took a time of its square would run into the timeout of tests."""
    redacted_values(piece * (200_000 // len(piece)))


@given(st.text())
def test_what_was_redacted_has_nothing_more_to_redact(text):
    once = redacted(text)
    assert redacted(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "password=s3cret",
        "PASSWORD = s3cret",
        "password: s3cret",
        '"password": "s3cret"',
        "'password': 's3cret'",
        "password='s3cret and s3cret'",
        "Settings(user='me', token='s3cret')",
        "Authorization: bearer s3cret",
        "Authorization: Basic   s3cret",
        "user=me;pwd=s3cret;host=h",
        "?a=1&api_key=s3cret&b=2",
        "db-password=s3cret, other=1",
        "at amqp://me:s3cret@host, n=1",
    ],
)
def test_a_value_behind_the_name_of_a_secret_is_not_shown(text):
    shown = redacted_values(text)
    assert SECRET not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    ["n=1, size=5", "Settings(user='me', host='h')", "{'key': 'value'}", "at 10:30", "x: int = 5", "a = b = c", ""],
)
def test_a_value_behind_another_name_is_shown(text):
    assert redacted_values(text) == text


@given(WORDS.filter(lambda word: not is_secret(word)), PASSWORDS)
def test_only_the_value_goes(name, password):
    password = f"QZ1{password.strip(',;&')}".replace(";", "").replace(",", "").replace("&", "")
    assert redacted_values(f"{name}, password={password}, size=3") == f"{name}, password=***, size=3"


@pytest.mark.parametrize(
    "text",
    ["amqp://host:5672/path", "processes://8", "dask-scheduler:8786", "[fe80::1%25]", "10.0.0.1:1", "", "/b.csv"],
)
def test_an_address_without_a_secret_is_shown_whole(text):
    assert redacted_address(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://me:s3cret@host", "amqp://***"),
        ("amqp:/me:s3cret@host", "amqp:/***"),
        ("me:s3cret@host", "***"),
        ("s3cret host", "***"),
        ("https://host/?s3cret", "https://***"),
        ("host:123456", "***"),
        ("host\n", "***"),
    ],
)
def test_of_what_may_hold_one_only_the_scheme_is_shown(text, shown):
    assert redacted_address(text) == shown


@given(PASSWORDS)
@example("a/b@c?d#e")
def test_no_piece_of_an_address_with_a_user_is_in_what_is_shown(password):
    assert redacted_address(f"amqp://me:{password}@host") == "amqp://***"


def test_an_error_about_an_address_shows_no_piece_of_what_may_be_secret():
    address = "amqps://me:s3cret/with@more@host:5671/vhost?certfile=/home/keyfile"
    for piece in ("s3cret", "with@more", "s3cret/with", "certfile", "keyfile", address):
        shown = without(address, f"cannot reach {piece} at host:5671")
        for secret in ("s3cret", "with", "more", "keyfile"):
            assert secret not in shown
        assert "cannot reach" in shown
    assert without(address, "cannot reach host:5671") == "cannot reach host:5671"


def test_an_error_about_a_harmless_address_is_left_as_it_is():
    assert without("amqp://host:5671", "amqp://host:5671 of me:s3cret@host.example") == (
        "amqp://host:5671 of me:s3cret@host.example"
    )


def test_pieces_of_two_letters_are_not_looked_for():
    assert without("amqp://me:pw@host", "me and the time") == "me and the time"


CONTROLS = "".join(map(chr, [*range(32), 127, *range(128, 160), 0x202E, 0x2028, 0x200B, 0xFEFF, 0xD800, 0xE000]))


@given(st.text(st.characters() | st.sampled_from(CONTROLS)), st.sampled_from(["", "\n", "\n\t"]))
def test_nothing_that_moves_a_cursor_is_left(text, keep):
    shown = printable(text, keep)
    assert not set(CONTROLS) & (set(shown) - set(keep))
    assert printable(shown, keep) == shown


@given(st.text(string.printable.strip() + " äß日\xa0\u200d"))
def test_what_can_be_read_stays(text):
    assert printable(text) == text


@given(st.text(st.characters() | st.sampled_from(CONTROLS)))
def test_nothing_but_colours_is_left_of_a_line(line):
    shown = printable_line(line)
    plain = re.sub(r"\x1b\[[0-9;:]*m", "", shown)
    assert not set(CONTROLS) & (set(plain) - {"\t"})


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("\r", ""),
        ("1 %\r2 %", "2 %"),
        ("1 %\r\r", "1 %"),
        ("\x1b[1;31mred", "\x1b[1;31mred\x1b[0m"),
        ("\x1b[38:5:1mred\x1b[0m", "\x1b[38:5:1mred\x1b[0m\x1b[0m"),
        ("\x1b[2K", "\\x1b[2K"),
        ("\x1b[" + "1" * 31 + "m", "\\x1b[" + "1" * 31 + "m"),
        ("a\tb\x07", "a\tb\\x07"),
    ],
)
def test_what_is_shown_of_a_line(line, shown):
    assert printable_line(line) == shown
