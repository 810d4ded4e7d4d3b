"""Where the AMQP server is, and if jobs may be sent to it there."""

from __future__ import annotations

import ipaddress
import os
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pymar.exceptions import BrokerRefused, UsageError
from pymar.serialization.redaction import redacted_address

_OPTIONS = ("pool", "insecure", "cafile", "certfile", "keyfile")
_TLS_OPTIONS = ("cafile", "certfile", "keyfile")


class Address(NamedTuple):
    """A server, a user, and how to connect. Its text does not contain the password."""

    host: str
    port: int
    user: str = "guest"
    password: str = "guest"
    vhost: str = "/"
    tls: bool = False
    insecure: bool = False
    """True if it may be used without a key and TLS though it is not on this host."""
    pool: str | None = None
    """The pool that computes classes sent by value; None if workers have the job file."""
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    is_unasked: bool = False
    """True if the user has not named it: then the server has to belong to root, this user, or RabbitMQ's user."""
    is_password_given: bool = False
    """True if a password was given; else it is that of RabbitMQ's `guest`."""

    def __repr__(self) -> str:
        return f"Address({self})"

    def __str__(self) -> str:
        vhost = "" if self.vhost == "/" else f"/{self.vhost}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'amqps' if self.tls else 'amqp'}://{host}:{self.port}{vhost}"

    @property
    def is_loopback(self) -> bool:
        """True if the server is on this host."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self, has_key: bool) -> None:
        """Refuse a server on another host without a key and TLS, unless `insecure` is set.

        Raises:
            BrokerRefused: it is one.
        """
        if self.is_loopback or self.insecure or (has_key and self.tls):
            return
        lacks = [] if has_key else ["a key (pymar keygen; PYMAR_KEY_FILE)"]
        lacks += [] if self.tls else ["TLS (amqps://)"]
        raise BrokerRefused(
            f"{self} is not on this host and lacks {' and '.join(lacks)}: others on the network can read and change "
            "what is computed. If nobody else uses that network, allow it: --insecure, ?insecure=1 in the URL, or "
            "PYMAR_INSECURE=1"
        )


def parse(text: str) -> Address:
    """Return the address in `host`, `host:port` or `amqp(s)://user:password@host:port/vhost?pool=NAME&insecure=1&...`.

    An empty text stands for the environment variable PYMAR_URL or, without that, for 127.0.0.1.

    Raises:
        UsageError: it is none of those. The message does not contain a password.
    """
    text = text or os.environ.get("PYMAR_URL", "") or "127.0.0.1"
    parts = _split(text)
    if parts is None or "@" in parts.path:  # a password, behind another scheme
        raise _not_understood(text)
    port, host = parts.port, parts.hostname
    options: dict[str, Any] = {
        name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()
    }
    if unknown := options.keys() - set(_OPTIONS):
        names = [name if name.isidentifier() and options[name] else "***" for name in sorted(unknown)]
        raise UsageError(f"{names} in the address of the AMQP server: its options are {_OPTIONS}")
    tls = parts.scheme == "amqps"
    if not tls and (useless := [name for name in _TLS_OPTIONS if name in options]):
        raise UsageError(f"{', '.join(useless)} in the address of the AMQP server: TLS is for amqps:// only")
    if "keyfile" in options and "certfile" not in options:
        raise UsageError("keyfile in the address of the AMQP server: give certfile= too, whose key it is")
    insecure = options.pop("insecure", "0") or os.environ.get("PYMAR_INSECURE", "0")
    return Address(
        host=str(host),
        port=port or (5671 if tls else 5672),
        user=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        vhost=unquote(parts.path[1:]) or "/",
        tls=tls,
        insecure="1" in (insecure, os.environ.get("PYMAR_INSECURE", "0")),
        is_password_given=parts.password is not None,
        **options,
    )


def _split(text: str) -> SplitResult | None:
    """Return the parts of an address; None if it is none, or if characters of a password split it."""
    try:
        parts = urlsplit(text if "://" in text else f"amqp://{text}")
        is_good = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # its text may contain a password: no error may be raised with it as context
        return None
    behind = f"{parts.path}?{parts.query}"
    return None if not is_good or parts.fragment or "@" in behind or "//" in parts.path else parts


def _not_understood(text: str) -> UsageError:
    return UsageError(
        f"{redacted_address(text)!r} is not an address of an AMQP server: give host, host:port, "
        "amqp://user:password@host:port/vhost or amqps://...; in a password, write / as %2F, # as %23, ? as %3F, @ as "
        "%40 and % as %25"
    )
