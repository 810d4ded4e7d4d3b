"""What is shown to nobody, such as values whose names are those of secrets, and what is secret in addresses; and texts
of others made fit for terminals and logs.
"""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"passw|passphrase|passwd|pwd|secret|token|credential|api_?key|private_?key|access_?key|signing_?key|auth|bearer"
    r"|cookie|(?:^|_)(?:pw|pin|dsn|jwt|salt|otp)(?:$|_)|connection_?string",
    re.I,
)
#: User and password stand before the last @ of an address's host, even where a password has a / in it that should have
#: been written as %2F; a signature stands in what it asks for.
_USER = re.compile(r"://(?:[^/\s]*|[^\s'\"/@:]{0,200}:(?!\d{1,5}/)[^\s'\"]{0,500})@")
_QUERY = re.compile(r"(://[^\s?]*)\?[^\s?]*=[^\s'\"]*")
#: user:password@host, without a scheme.
_BARE_USER = re.compile(r"(?<![\w/@.%+-])[\w.%+-]{1,200}:(?!//)[^\s'\"@/]{1,200}@(?=[\w\[])")
#: NAME=VALUE and NAME: VALUE, as in connection strings, headers and JSON.
_PAIR = re.compile(
    r"(?<![\w-])([\w-]{2,60})([\"']?\s{0,3}[=:]\s{0,3})(\"[^\"]*\"|'[^']*'|(?:bearer|basic)\s+\S+|[^\s,;&'\"]+)", re.I
)
#: An address that holds no secret: a scheme, a host, a port, a path.
_HARMLESS = re.compile(r"(?:[A-Za-z][\w+.-]*:/{1,2})?(?:\[[0-9A-Fa-f:.%]*\]|[\w.-]*)(?::\d{1,5})?(?:/[\w.-]*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}")
#: Characters of a piece of an address that is looked for in other texts.
_SHORTEST_PIECE = 3


def is_secret(name: str) -> bool:
    """Whether what has this name is to be shown to nobody."""
    return _SECRET.search(name) is not None


def masked(text: str) -> str:
    """A text without the users, passwords and signatures of the addresses in it."""
    if "://" in text:
        text = _QUERY.sub(r"\1?***", _USER.sub("://***@", text))
    return _BARE_USER.sub("***@", text) if "@" in text else text


def masked_values(text: str) -> str:
    """A text without what is secret in addresses, and without the values whose names in it are those of secrets."""
    return _PAIR.sub(lambda found: f"{found[1]}{found[2]}***" if is_secret(found[1]) else found[0], masked(text))


def masked_address(text: str) -> str:
    """What was given as an address, for people: if it may hold a secret only its scheme, however it is mistyped."""
    if _HARMLESS.fullmatch(text):
        return text
    scheme = _SCHEME.match(text)
    return f"{scheme[0]}***" if scheme else "***"


def without(address: str, text: str) -> str:
    """A text about this address, such as an error of a library's, without what may be secret in it."""
    if _HARMLESS.fullmatch(address):
        return text
    user, _, rest = address.rpartition("@")
    _, _, query = rest.partition("?")
    pieces = {
        piece for piece in re.split(r"[\s:/@?#&=]+", f"{user or address} {query}") if len(piece) >= _SHORTEST_PIECE
    }
    for piece in sorted(pieces - {"tcp", "tls", "ray", "dask", "amqp", "amqps"}, key=len, reverse=True):
        text = text.replace(piece, "***")
    return masked(text)


def printable(text: str, keep: str = "") -> str:
    """A text of somebody else's for a terminal or a log: what moves a cursor, begins a line or hides is written out.

    `keep` are characters that may stay: "\\n\\t" where a text has lines of its own.
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii") for one in text
    )
