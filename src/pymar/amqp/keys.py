"""Keys: secrets that producers and workers share, and signatures made with them."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from pymar.exceptions import UsageError

#: Bytes of a signature (HMAC-SHA256, RFC 2104 and FIPS 180-4).
SIGNATURE_BYTES = 32
#: Characters of a key that cannot be guessed; `pymar keygen` makes 43.
_SHORTEST = 32


class Keys:
    """The keys of one process: the first signs, any of them verifies. It owns the secrets. Any thread.

    False without a key: then nothing is signed, and only plain data is sent.

    Raises:
        UsageError: a key is too short.
    """

    def __init__(self, texts: tuple[str, ...] = ()) -> None:
        for text in texts:
            if len(text) < _SHORTEST:
                raise UsageError(
                    f"a key of {len(text)} characters is too short ({_SHORTEST} at least): make one with `pymar keygen`"
                )
        self._secrets = tuple(text.encode() for text in texts)
        # Hashed with a prefix that no signature has, so that the name, which is shown, does not help to sign.
        self.name: str = hashlib.sha256(b"pymar key name" + self._secrets[0]).hexdigest()[:12] if texts else ""

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def __repr__(self) -> str:
        return f"Keys({self.name or 'none'})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keys) and self._secrets == other._secrets

    def __hash__(self) -> int:
        return hash(self._secrets)

    def sign(self, data: bytes) -> bytes:
        """Return the signature of these bytes, made with the first key."""
        return hmac.digest(self._secrets[0], data, "sha256")

    def verify(self, data: bytes | memoryview, signature: bytes | memoryview) -> bool:
        """True if one of the keys made this signature."""
        found = [hmac.compare_digest(hmac.digest(secret, data, "sha256"), signature) for secret in self._secrets]
        return any(found)


def keys_of(environ: Mapping[str, str] | None = None) -> Keys:
    """Return the keys in PYMAR_KEY (separated by commas) or in the file PYMAR_KEY_FILE (one a line).

    Raises:
        UsageError: a key is too short; the file cannot be read, or others can read it too (see `_check_readers`).
    """
    environ = os.environ if environ is None else environ
    if text := environ.get("PYMAR_KEY", ""):
        return Keys(tuple(part.strip() for part in text.split(",")))
    if path := environ.get("PYMAR_KEY_FILE", ""):
        return Keys(_read(Path(path)))
    return Keys()


def _read(path: Path) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            _check_readers(path, found.st_mode, found.st_uid, os.geteuid())
            lines = [line.strip() for line in file]
    except OSError as error:
        raise UsageError(f"PYMAR_KEY_FILE: {error.strerror}: {path}") from None
    except UnicodeDecodeError:
        raise UsageError(f"PYMAR_KEY_FILE: {path} is no text file: pymar keygen > {path}") from None
    texts = tuple(line for line in lines if line and not line.startswith("#"))
    if not texts:
        raise UsageError(f"PYMAR_KEY_FILE: there is no key in {path}: pymar keygen > {path}")
    return texts


def _check_readers(path: Path, mode: int, owner: int, me: int) -> None:
    """Refuse a key file that another user may read or change.

    It has to belong to this user or to root. If it is root's, its group may read it, since root has chosen that group:
    credentials of systemd and secrets of Kubernetes are such files, of mode 0440.

    Raises:
        UsageError: it is such a file.
    """
    if owner not in (me, 0):
        raise UsageError(
            f"PYMAR_KEY_FILE: {path} belongs to another user (uid {owner}): copy it, and chmod 600 the copy"
        )
    may_group_read = owner == 0
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~(stat.S_IRGRP if may_group_read else 0):
        raise UsageError(f"PYMAR_KEY_FILE: others may read or write {path}: chmod 600 {path}")


def new_key() -> str:
    """Return a new key, of 256 random bits."""
    return secrets.token_urlsafe(32)
