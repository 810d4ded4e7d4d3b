"""Messages as bytes, signed if there is a key; and the refusal of all else.

    "PM", VERSION, 0 or 1: signed, [HMAC-SHA256 of all other bytes], CBOR of [kind, pool, fields ...]

Nothing is decoded before it is verified, and nothing is believed before each field has its type. A message is good
only for the side whose kinds it is of, for the pool that it names, and for a job whose random id somebody knows.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, get_type_hints

import cbor2

from pymar.amqp.keys import SIGNATURE_BYTES, Keys
from pymar.amqp.protocol import EXPIRING, VERSION, Agent, Hello, Partial, Parts, Probe, Running
from pymar.amqp.times import FRESH
from pymar.plain import bare

log = logging.getLogger(__name__)

_HEAD = b"PM" + bytes([VERSION])
_UNSIGNED, _SIGNED = _HEAD + b"\0", _HEAD + b"\1"
#: Offsets may have more than 64 bits, but there is an end.
_LARGEST_INT = 1 << 1024
#: Bytes of a queue's name (AMQP 0-9-1's short string).
_LONGEST_NAME = 255

Check = Callable[[Any], bool]


class Junk(Exception):
    """What came is no message for us. The text says why, and nothing of what it held."""


def _is_row(*kinds: type) -> Check:
    return lambda row: type(row) is list and len(row) == len(kinds) and all(map(_is_one, row, kinds))


def _is_one(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and -_LARGEST_INT <= value < _LARGEST_INT
    return type(value) is kind


def _are(check: Check) -> Check:
    return lambda values: type(values) is list and all(map(check, values))


_is_data_reference = _is_row(int, bytes)
_is_head = _is_row(int, int, int, int)


def _is_part(row: Any) -> bool:
    if type(row) is not list or len(row) != 5 or not _is_head(row[:4]):
        return False
    data = row[4]
    return data is None or type(data) is bytes or _is_data_reference(data)


def _is_batch(rows: Any) -> bool:
    return type(rows) is list and all(map(_is_part, rows)) and 0 < len({row[0] for row in rows}) == len(rows)


def _is_name(text: Any) -> bool:
    return type(text) is str and len(text.encode()) <= _LONGEST_NAME


def _is_agent(row: Any) -> bool:
    return _is_row(bytes, str, str, int)(row) and _is_name(row[2]) and 0 < row[3] < 100_000


_OF_TYPE: dict[Any, Check] = {
    int: lambda value: _is_one(value, int),
    str: lambda value: type(value) is str,
    bytes: lambda value: type(value) is bytes,
    float: lambda value: type(value) is float,
    list[int]: _are(lambda value: _is_one(value, int)),
    list[bytes]: _are(lambda value: type(value) is bytes),
    list[str]: _are(lambda value: type(value) is str),
    list[Any]: _is_row(float, bytes),  # time and nonce
    Agent: _is_agent,
}
_OF_FIELD: dict[tuple[str, str], Check] = {
    (Parts.__name__, "batch"): _is_batch,
    (Parts.__name__, "reply"): _is_name,
    (Probe.__name__, "reply"): _is_name,
    (Hello.__name__, "reply"): _is_name,
    (Partial.__name__, "results"): _are(_is_row(int, bytes, float)),
    (Running.__name__, "parts"): _are(_is_row(bytes, int)),
}


def _checks(kind: type) -> list[Check]:
    hints = get_type_hints(kind)
    return [_OF_FIELD.get((kind.__name__, name)) or _OF_TYPE[hint] for name, hint in hints.items()]


def encode(message: Any, pool: str, keys: Keys) -> bytes:
    """The bytes of a message to or from this pool, signed with the first key if there is one."""
    fields = [type(message).__name__, pool, *message]
    try:
        payload = cbor2.dumps(fields)
    except UnicodeEncodeError:  # half a surrogate pair, as in the name of a file that is not UTF-8
        payload = cbor2.dumps([_encodable(field) if type(field) is str else field for field in fields])
    if not keys:
        return _UNSIGNED + payload
    return _SIGNED + keys.sign(_SIGNED + payload) + payload


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def fresh() -> list[Any]:
    """The time and a nonce, for messages that expire."""
    return [time.time(), os.urandom(12)]


class Reader:
    """Reads the messages of one side. Call it with bytes: (message, pool), or None for junk, which is counted."""

    def __init__(self, kinds: Mapping[str, Any], keys: Keys) -> None:
        self._kinds = {name: (kind, _checks(kind)) for name, kind in kinds.items()}
        self._keys = keys
        self._nonces: dict[bytes, float] = {}
        self._looks = count(1)
        #: Refused messages, by reason.
        self.junk: Counter[str] = Counter()

    def __call__(self, data: bytes) -> tuple[Any, str] | None:
        try:
            return self.read(data)
        except Junk as problem:
            self.refuse(str(problem))
            return None

    def refuse(self, reason: str) -> None:
        """Count junk; the first of a kind is logged."""
        self.junk[reason] += 1
        if self.junk[reason] == 1:
            log.warning("dropped a message, and will drop others like it in silence: %s", reason)

    def read(self, data: bytes) -> tuple[Any, str]:
        """The message and its pool.

        Raises:
            Junk: it is none, or not for us.
        """
        payload = self._verified(data)
        try:
            told = bare(payload)
        except ValueError:
            raise Junk("it cannot be decoded") from None
        if type(told) is not list or len(told) < 2 or type(told[0]) is not str or type(told[1]) is not str:
            raise Junk("it has no kind")
        name, pool, *fields = told
        if name not in self._kinds:
            raise Junk("its kind is not for this side")
        kind, checks = self._kinds[name]
        if len(fields) != len(checks) or not all(check(field) for check, field in zip(checks, fields, strict=True)):
            raise Junk(f"the fields of a {name} are not what they have to be")
        if name in EXPIRING and self._keys:
            self._check_fresh(*fields[-1])
        if kind._fields[0] == "agent":
            fields[0] = Agent(*fields[0])
        return kind(*fields), pool

    def _verified(self, data: bytes) -> memoryview:
        if data[:2] != _HEAD[:2]:
            raise Junk("it is not of Pymar")
        if data[:3] != _HEAD:
            raise Junk(f"it is of another version of Pymar's protocol; ours is {VERSION}: upgrade the older side")
        if not self._keys:
            if data[:4] != _UNSIGNED:
                raise Junk("it is signed, and this side has no key: set PYMAR_KEY_FILE on all hosts or on none")
            return memoryview(data)[4:]
        if data[:4] != _SIGNED:
            raise Junk("it is not signed, and this side has a key: set PYMAR_KEY_FILE on all hosts or on none")
        end = 4 + SIGNATURE_BYTES
        if not self._keys.verify(_SIGNED + data[end:], data[4:end]):
            raise Junk("its signature is wrong: it was changed on the way, or made with another key")
        return memoryview(data)[end:]

    def _check_fresh(self, sent: float, nonce: bytes) -> None:
        now = time.time()
        if not abs(now - sent) <= FRESH:
            raise Junk(
                f"it expired: its clock and ours differ by more than {FRESH:g} s, or it was sent again by a third"
            )
        if nonce in self._nonces:
            raise Junk("it was here before")
        self._nonces[nonce] = now
        if next(self._looks) % 1_000 == 0:
            self._nonces = {nonce: seen for nonce, seen in self._nonces.items() if now - seen <= 2 * FRESH}
