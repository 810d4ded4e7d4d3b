"""What is shown to nobody, such as values whose names are those of secrets, and what is secret in addresses; and texts
of others made fit for terminals and logs.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Patterns are compiled when they are first used, and kept by `re`: most programs never need them.
_SECRET = (
    r"(?i)passw|passphrase|passwd|pwd|secret|token|credential|(?:api|private|access|signing)[_-]?key|auth|bearer"
    r"|cookie|(?:^|[_-])(?:pw|pin|dsn|jwt|salt|otp)(?:$|[_-])|connection[_-]?string"
)
#: User and password stand before the last @ of an address's host, even where a password has a / in it that should have
#: been written as %2F; a signature stands in what it asks for.
#: None goes further than to the next address, so that a text of many takes a time of its length.
_PIECE = r"(?:[^\s?'\":]|:(?!//))"
_USER = rf"://(?:[^/\s]*|[^\s'\"/@:]{{0,200}}:(?!\d{{1,5}}/)(?:\?|{_PIECE}){{0,500}})@"
_QUERY = rf"(://{_PIECE}{{0,1000}})\?{_PIECE}{{0,1000}}=[^\s'\"]*"
#: user:password@host, without a scheme.
_BARE_USER = r"(?<![\w/@.%+-])[\w.%+-]{1,200}:(?!//)[^\s'\"@/]{1,200}@(?=\[|[\w-]+(?:\.[\w-]+)+|[\w.-]+(?::\d|[/'\"]))"
#: NAME=VALUE and NAME: VALUE, as in connection strings, headers and JSON.
_PAIR = r"(?i)(?<![\w-])([\w-]{2,60})([\"']?\s{0,3}[=:]\s{0,3})(\"[^\"]*\"|'[^']*'|(?:bearer|basic)\s+\S+|[^\s,;&'\"]+)"
#: An address that holds no secret: a scheme, a host, a port, a path.
_HARMLESS = r"(?:[A-Za-z][\w+.-]*:/{1,2})?(?:\[[0-9A-Fa-f:.%]*\]|[\w.-]*)(?::\d{1,5})?(?:/[\w.-]*)?"
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}"
#: Spaces, and joiners of letters, that Python does not call printable.
_SPACES = "\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200c\u200d\u202f\u205f\u3000"
_COLOUR = r"(\x1b\[[0-9;:]{0,30}m)"
#: Characters of a piece of an address that is looked for in other texts.
_SHORTEST_PIECE = 3


@lru_cache(4096)
def is_secret(name: str) -> bool:
    """Whether what has this name is to be shown to nobody."""
    return re.search(_SECRET, name) is not None


def redacted(text: str) -> str:
    """A text without the users, passwords and signatures of the addresses in it."""
    if "://" in text:
        text = re.sub(_QUERY, r"\1?***", re.sub(_USER, "://***@", text))
    return re.sub(_BARE_USER, "***@", text) if "@" in text else text


def redacted_values(text: str) -> str:
    """A text without what is secret in addresses, and without the values whose names in it are those of secrets."""
    return re.sub(_PAIR, lambda found: f"{found[1]}{found[2]}***" if is_secret(found[1]) else found[0], redacted(text))


def redacted_address(text: str) -> str:
    """What was given as an address, for people: if it may hold a secret only its scheme, however it is mistyped."""
    if re.fullmatch(_HARMLESS, text):
        return text
    scheme = re.match(_SCHEME, text)
    return f"{scheme[0]}***" if scheme else "***"


def without(address: str, text: str) -> str:
    """A text about this address, such as an error of a library's, without what may be secret in it."""
    if re.fullmatch(_HARMLESS, address):
        return text
    user, _, rest = address.rpartition("@")
    _, _, query = rest.partition("?")
    pieces = {
        piece for piece in re.split(r"[\s:/@?#&=]+", f"{user or address} {query}") if len(piece) >= _SHORTEST_PIECE
    }
    for piece in sorted(pieces - {"tcp", "tls", "ray", "dask", "amqp", "amqps"}, key=len, reverse=True):
        text = text.replace(piece, "***")
    return redacted(text)


def printable(text: str, keep: str = "") -> str:
    """A text of somebody else's for a terminal or a log: what moves a cursor, begins a line or hides is written out.

    `keep` are characters that may stay: "\\n\\t" where a text has lines of its own.
    """
    if text.isprintable():
        return text
    keep += _SPACES
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii") for one in text
    )


def printable_line(line: str) -> str:
    """A line that code has printed for somebody else: as `printable`; colours stay, what \\r takes back goes."""
    if line.isprintable():
        return line
    pieces = re.split(_COLOUR, line.rstrip("\r").rpartition("\r")[2])
    shown = "".join(piece if place % 2 else printable(piece, "\t") for place, piece in enumerate(pieces))
    return shown if len(pieces) == 1 else f"{shown}\x1b[0m"
