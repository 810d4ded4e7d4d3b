"""Redaction: removes secrets from texts, namely parts of addresses, and values with names such as `password`.

Also makes texts from other processes safe to print on a terminal or in a log.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Texts, not compiled patterns: `re` compiles and keeps them on first use, and most programs never need them.
_SECRET = (
    r"(?i)passw|passphrase|passwd|pwd|secret|token|credential|(?:api|private|access|signing)[_-]?key|auth|bearer"
    r"|cookie|(?:^|[_-])(?:pw|pin|dsn|jwt|salt|otp)(?:$|[_-])|connection[_-]?string"
)
#: User and password are before the last @ of an address's host, even if the password contains a / that should have been
#: written as %2F; a signature is in the query. No pattern goes beyond the next address, so that a text with many takes
#: time in proportion to its length.
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
#: Spaces, and joiners of letters, for which str.isprintable() is false.
_SPACES = "\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200c\u200d\u202f\u205f\u3000"
_COLOUR = r"(\x1b\[[0-9;:]{0,30}m)"
#: A control sequence of a terminal: a colour, a movement of its cursor.
_CONTROL = r"\x1b\[[0-9;:?]{0,30}[@-~]"
#: Characters, at least, of a piece of an address that is replaced in other texts.
_SHORTEST_PIECE = 3


@lru_cache(4096)
def is_secret(name: str) -> bool:
    """True if a value with this name has to be kept out of messages and logs."""
    return re.search(_SECRET, name) is not None


def redacted(text: str) -> str:
    """Return a text without users, passwords and signatures of the addresses in it."""
    if "://" in text:
        text = re.sub(_QUERY, r"\1?***", re.sub(_USER, "://***@", text))
    return re.sub(_BARE_USER, "***@", text) if "@" in text else text


def redacted_values(text: str) -> str:
    """Return a text without secrets in addresses, and without values that have names of secrets (NAME=VALUE)."""
    return re.sub(_PAIR, lambda found: f"{found[1]}{found[2]}***" if is_secret(found[1]) else found[0], redacted(text))


def redacted_address(text: str) -> str:
    """Return an address for a message, even a mistyped one: if it may contain a secret, only its scheme."""
    if re.fullmatch(_HARMLESS, text):
        return text
    scheme = re.match(_SCHEME, text)
    return f"{scheme[0]}***" if scheme else "***"


def without(address: str, text: str) -> str:
    """Return a text about this address, such as the error of a library, without what may be secret."""
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
    """Return a text from another process with control and invisible characters escaped, for a terminal or a log.

    `keep` are characters that are not escaped: "\\n\\t" for a text of several lines.
    """
    if text.isprintable():
        return text
    keep += _SPACES
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii") for one in text
    )


def printable_line(line: str) -> str:
    """Return a line that user code has printed, as `printable`; colours stay, text before the last \\r is removed."""
    if line.isprintable():
        return line
    pieces = re.split(_COLOUR, line.rstrip("\r").rpartition("\r")[2])
    shown = "".join(piece if place % 2 else printable(piece, "\t") for place, piece in enumerate(pieces))
    return shown if len(pieces) == 1 else f"{shown}\x1b[0m"


def uncoloured(line: str) -> str:
    """Return a line without the colours that `printable_line` has left in it."""
    return re.sub(_COLOUR, "", line) if "\x1b" in line else line


def plain_line(line: str, longest: int) -> str:
    """Return a line that user code has printed, as `printable`, for another host: without colours and movements of the
    cursor, without text before the last \\r, and cut after `longest` characters."""
    if not line.isprintable():
        # Before the cut: a user's progress bar has its text at the end. What is much longer takes time for nothing.
        line = line.rstrip("\r").rpartition("\r")[2][: 4 * longest]
        line = printable(re.sub(_CONTROL, "", line), "\t")
    return line if len(line) <= longest else f"{line[:longest]} [...]"
