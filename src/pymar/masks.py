"""What is shown to nobody: values whose names are those of secrets, and what is secret in addresses."""

from __future__ import annotations

import re

_SECRET = re.compile(
    r"passw|passphrase|passwd|pwd|secret|token|credential|api_?key|private_?key|access_?key|auth", re.I
)
#: User and password stand before the last @ of an address's host; a signature in what it asks for.
_USER, _QUERY = re.compile(r"://[^/\s]*@"), re.compile(r"(://[^\s?]*)\?[^\s?]*=[^\s'\"]*")


def is_secret(name: str) -> bool:
    """Whether what has this name is to be shown to nobody."""
    return _SECRET.search(name) is not None


def masked(text: str) -> str:
    """A text without the users, passwords and signatures of the addresses in it."""
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1?***", _USER.sub("://***@", text))
