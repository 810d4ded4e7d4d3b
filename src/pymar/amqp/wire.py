"""Messages as bytes, signed if there is a key; and the refusal of everything that is not such a message.

    "PM", VERSION, 0 or 1 (signed), [HMAC-SHA256 of the queue that it is sent to and of all other bytes],
    CBOR of [kind, pool, fields ...]

A field is a number, a text, bytes, or a list of those; rows are sent as columns. So nothing nests, there are no maps
and no tags, and the memory and time to decode a message are bounded. Nothing is decoded before its signature is
verified, and nothing is used before each field has its type and is within its range. A message is accepted only by the
side that its kind is for, for the pool that it names, for a job whose random id the receiver knows, and, if it is
signed, from the queue that it was sent to.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from itertools import count
from typing import Any, NamedTuple, get_type_hints

import cbor2

from pymar.amqp.chunks import LARGEST
from pymar.amqp.keys import SIGNATURE_BYTES, Keys
from pymar.amqp.protocol import (
    CONTROL,
    EXPIRING,
    LONGEST_LINE,
    LONGEST_TEXT,
    MOST_LINES,
    PRODUCERS,
    TO_ALL_AGENTS,
    TO_ALL_PRODUCERS,
    VERSION,
    Agent,
    Chunk,
    CodePiece,
    FetchCode,
    Hello,
    Here,
    Jobs,
    Lost,
    Partial,
    Parts,
    Piece,
    Printed,
    Running,
    Welcome,
)
from pymar.amqp.timing import FRESH
from pymar.serialization.redaction import printable

log: logging.Logger = logging.getLogger(__name__)

_HEAD = b"PM" + bytes([VERSION])
_UNSIGNED, _SIGNED = _HEAD + b"\0", _HEAD + b"\1"
#: Bytes of a message; RabbitMQ 4 takes no more, and Pymar sends less.
_LARGEST_MESSAGE = 16 << 20
#: Items of a list, rows of a table: were they all empty lists, they would take 72 MB.
_LONGEST_LIST = 1 << 20
#: Bytes of an offset: it may have more than 64 bits, and is then sent as bytes.
_LONGEST_INT = 129
#: Indexes and the like are looked up in dicts: below 2**61 - 1 no two ints have the same hash.
_LARGEST_INT = (1 << 60) - 1
#: Bytes of a queue's name (AMQP 0-9-1's short string), of ids and digests; characters of other texts.
_LONGEST_NAME, _LONGEST_ID, _LONGEST_PATH = 255, 64, 10_000
#: Bytes of a reference to an archive of modules: it has some paths.
_LONGEST_REFERENCE = 1 << 20
#: Seconds: more than any part takes, and any time since 1970.
_LONGEST_TIME = 1e12
#: The major types of CBOR: the three highest bits of a value's first byte.
_INT, _BYTES, _TEXT, _LIST, _FLOAT = {0, 1}, {2}, {3}, {4}, {7}


class Junk(Exception):
    """A message that is refused. The text gives the reason, and nothing of the content."""


class Column(NamedTuple):
    """One value of a message: the major types that it may have, and what has to be true of it once it is decoded."""

    types: set[int]
    is_good: Callable[[Any], bool]
    keep: str | None = None
    """For a text that people read: unprintable characters that may stay in it (redaction.py). None: not for people."""


def _int(least: int = 0, most: int = _LARGEST_INT) -> Column:
    return Column(_INT, lambda value: least <= value <= most)


def _seconds(least: float = 0.0) -> Column:
    return Column(_FLOAT, lambda value: type(value) is float and least <= value <= _LONGEST_TIME)  # NaN is neither


def _text(longest: int = LONGEST_TEXT + 100, keep: str = "") -> Column:
    return Column(_TEXT, lambda value: len(value) <= longest, keep)


def _bytes(longest: int = _LARGEST_MESSAGE) -> Column:
    return Column(_BYTES, lambda value: len(value) <= longest)


def _is_name(text: Any) -> bool:
    return type(text) is str and len(text) <= _LONGEST_NAME and len(text.encode()) <= _LONGEST_NAME


def _is_queue(text: Any) -> bool:
    """True if a text may be a queue's name, which logs show."""
    return _is_name(text) and text.isprintable()


def _are_ints(values: list[Any], least: int = 0, most: int = _LARGEST_INT) -> bool:
    return not values or ({*map(type, values)} == {int} and least <= min(values) and max(values) <= most)


def _are(kind: type, longest: int) -> Column:
    return Column(_LIST, lambda values: {*map(type, values)} <= {kind} and max(map(len, values), default=0) <= longest)


def _is_agent(row: list[Any]) -> bool:
    return (
        [*map(type, row)] == [bytes, str, str, int]
        and len(row[0]) <= _LONGEST_ID
        and len(row[1]) <= _LONGEST_PATH
        and _is_queue(row[2])
        and 0 < row[3] < 100_000
    )


def _is_fresh(row: list[Any]) -> bool:
    return [*map(type, row)] == [float, bytes] and len(row[1]) <= _LONGEST_ID


def _are_seconds(values: list[Any]) -> bool:
    return {*map(type, values)} <= {float} and all(0 <= value <= _LONGEST_TIME for value in values)


def _are_long_ints(values: list[Any]) -> bool:
    return {*map(type, values)} <= {int, bytes} and all(
        len(value) <= _LONGEST_INT for value in values if type(value) is bytes
    )


def _are_distinct(values: list[Any]) -> bool:
    return len(values) > 0 and _are_ints(values) and len({*values}) == len(values)


_ID, _NAME, _INDEX, _SIZE = _bytes(_LONGEST_ID), Column(_TEXT, _is_name), _int(), _int(0, LARGEST)
_INDICES, _IDS = Column(_LIST, _are_ints), _are(bytes, _LONGEST_ID)
_LONG_INTS = Column(_LIST, _are_long_ints)
_SIZES = Column(_LIST, lambda values: _are_ints(values, 0, LARGEST))
_TEXTS, _SECONDS = _are(str, _LONGEST_PATH)._replace(keep=""), Column(_LIST, _are_seconds)
_QUEUES = Column(_LIST, lambda values: all(map(_is_queue, values)))
_DATA = Column(_LIST, lambda values: {*map(type, values)} <= {type(None), bytes})
_OF_TYPE: dict[Any, Column] = {
    int: _INDEX,
    str: _text(),
    bytes: _bytes(),
    float: _seconds(),
    list[int]: _INDICES,
    list[bytes]: _IDS,
    list[str]: _are(str, _LONGEST_NAME)._replace(keep=""),
    list[Any]: Column(_LIST, _is_fresh),
    Agent: Column(_LIST, _is_agent),
}
#: Fields whose range is smaller than that of their type.
_OF_NAME: dict[str, Column] = {
    **dict.fromkeys(("job", "execution", "digest"), _ID),
    "pool": _NAME,
    "reply": Column(_TEXT, _is_queue),
    **dict.fromkeys(("path", "python", "worker"), _text(_LONGEST_PATH)),
    "code": _text(_LONGEST_NAME),
    **dict.fromkeys(("error", "traceback", "variables"), _text(keep="\n\t")),
}
_OF_FIELD: dict[tuple[type, str], Column] = {
    (Parts, "definition"): _ID,
    (Parts, "is_copy"): _int(0, 1),
    (Piece, "start"): _SIZE,
    (CodePiece, "start"): _SIZE,
    (FetchCode, "start"): _SIZE,
    (Welcome, "modules"): _bytes(_LONGEST_REFERENCE),
    (Chunk, "start"): _SIZE,
    (Chunk, "total"): _int(1, LARGEST),
    (Lost, "kind"): _NAME,
    (Lost, "text"): _text(keep="\n"),
    (Here, "clock"): _seconds(-_LONGEST_TIME),
    (Jobs, "clock"): _seconds(-_LONGEST_TIME),
}
#: How rows are sent: the columns, how to make columns of rows, and how to make rows of columns.
_Rows = list[list[Any]]
_Table = tuple[list[Column], Callable[[_Rows], list[list[Any]]], Callable[[Sequence[list[Any]]], _Rows]]


def _columns(rows: _Rows, number: int) -> list[list[Any]]:
    return [*map(list, zip(*rows, strict=True))] or [[] for _ in range(number)]


def _rows(columns: Sequence[list[Any]]) -> _Rows:
    return [*map(list, zip(*columns, strict=True))]


def _batch_columns(rows: _Rows) -> list[list[Any]]:
    *heads, data = _columns(rows, 5)
    sizes = [size_and_digest[0] if type(size_and_digest) is list else 0 for size_and_digest in data]
    data = [one[1] if type(one) is list else one for one in data]
    return [*heads[:2], *map(_as_sent, heads[2:]), data, sizes]


def _batch_rows(columns: Sequence[list[Any]]) -> _Rows:
    index, attempt, offset, limit, data, sizes = columns
    if any(sizes):
        if any(size and one is None for size, one in zip(sizes, data, strict=True)):
            raise Junk("a size of data without its digest")
        data = [[size, one] if size else one for one, size in zip(data, sizes, strict=True)]
    return _rows([index, attempt, *map(_as_received, (offset, limit)), data])


def _as_sent(numbers: list[int]) -> list[Any]:
    if min(numbers, default=0) >= -(1 << 64) and max(numbers, default=0) < 1 << 64:
        return numbers
    return [number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True) for number in numbers]


def _as_received(numbers: list[Any]) -> list[int]:
    if bytes not in {*map(type, numbers)}:
        return numbers
    return [number if type(number) is int else int.from_bytes(number, "big", signed=True) for number in numbers]


_TABLES: dict[tuple[type, str], _Table] = {
    (Parts, "batch"): (
        [Column(_LIST, _are_distinct), _INDICES, _LONG_INTS, _LONG_INTS, _DATA, _SIZES],
        _batch_columns,
        _batch_rows,
    ),
    (Partial, "results"): (
        [_INDICES, _are(bytes, _LARGEST_MESSAGE), _SECONDS],
        lambda rows: _columns(rows, 3),
        _rows,
    ),
    (Running, "parts"): (
        [_IDS, Column(_LIST, lambda values: _are_ints(values, -1)), _TEXTS],
        lambda rows: _columns(rows, 3),
        _rows,
    ),
    (Printed, "lines"): (
        [
            Column(_LIST, lambda values: len(values) <= MOST_LINES and _are_ints(values, -1)),
            _are(str, LONGEST_LINE + 10)._replace(keep="\t"),
        ],
        lambda rows: _columns(rows, 2),
        _rows,
    ),
    (Here, "holds"): (
        [_IDS, _TEXTS, _QUEUES, _INDICES, _INDICES, _SECONDS],
        lambda rows: _columns(rows, 6),
        _rows,
    ),
    (Jobs, "rows"): (
        [
            *(_IDS, _TEXTS, _TEXTS, _TEXTS, _SECONDS),
            *(_INDICES, _INDICES, _INDICES, _INDICES, _INDICES),
            Column(_LIST, lambda values: _are_ints(values, -1)),
            *(_INDICES, _SECONDS, _TEXTS),
        ],
        lambda rows: _columns(rows, 14),
        _rows,
    ),
    (Jobs, "workers"): ([_IDS, _TEXTS, _INDICES, _INDICES], lambda rows: _columns(rows, 4), _rows),
}


class _Field(NamedTuple):
    """How a field is sent: as one value, or as the columns of a table; then how rows become columns, and back."""

    columns: list[Column]
    apart: Callable[[_Rows], list[list[Any]]] | None = None
    together: Callable[[Sequence[list[Any]]], _Rows] | None = None


def _field(kind: type, name: str, hint: Any) -> _Field:
    if table := _TABLES.get((kind, name)):
        return _Field(*table)
    return _Field([_OF_FIELD.get((kind, name)) or _OF_NAME.get(name) or _OF_TYPE[hint]])


@cache
def _fields_of(kind: Any) -> list[_Field]:
    return [_field(kind, name, hint) for name, hint in get_type_hints(kind).items()]


def encode(message: Any, pool: str, keys: Keys, to: str = "", version: int = VERSION) -> bytes:
    """Return the bytes of a message to or from this pool, signed with the first key if there is one.

    Args:
        to: the queue or the exchange that it is sent to; if it is signed, receivers elsewhere refuse it.
        version: of the protocol.
    """
    kind: Any = type(message)
    fields: list[Any] = [kind.__name__, pool]
    for value, field in zip(message, _fields_of(kind), strict=True):
        fields += [value] if field.apart is None else field.apart(value)
    try:
        payload = cbor2.dumps(fields)
    except UnicodeEncodeError:  # half a surrogate pair, as in the name of a file that is not UTF-8
        payload = cbor2.dumps([_encodable(field) if type(field) is str else field for field in fields])
    head = b"PM" + bytes([version, bool(keys)])
    return head + (keys.sign(_signed(to, payload, head)) if keys else b"") + payload


def probes(hello: Hello, keys: Keys) -> Iterator[bytes]:
    """Yield a question as agents read it that have no key, or another version of Pymar.

    Their answers are refused, and the reason says what differs.
    """
    if keys:
        yield encode(hello, hello.pool, Keys(), CONTROL)
    for version in (VERSION - 1, VERSION + 1):
        yield encode(hello, hello.pool, keys, CONTROL, version)


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _signed(to: str, payload: bytes, head: bytes = _SIGNED) -> bytes:
    receiver = to.encode()
    return head + bytes([len(receiver)]) + receiver + payload


def fresh() -> list[Any]:
    """Return the time and a nonce, for messages that expire."""
    return [time.time(), os.urandom(12)]


def _refuse_map(value: Any, immutable: bool) -> Any:
    raise ValueError("a message has no maps")


class _Decoder:
    """The values of one message, in order. Nothing is decoded unless it has the expected type. It owns the payload."""

    def __init__(self, payload: bytes) -> None:
        head = payload[0] if payload else 0
        if not 0x82 <= head < 0x98:
            raise Junk("it is not a list of a few fields")
        self.left = head & 31
        self._payload = payload
        self._stream = BytesIO(payload)
        self._stream.seek(1)
        self._decode = cbor2.CBORDecoder(
            self._stream, max_depth=1, allow_indefinite=False, object_hook=_refuse_map, strict_hashable_types=True
        ).decode

    def value(self, column: Column) -> Any:
        """Return the next value.

        Raises:
            Junk: it is not what this column may hold.
        """
        start = self._stream.tell()
        head = self._payload[start : start + 5]
        self.left -= 1
        if not head or head[0] >> 5 not in column.types:
            raise Junk("a field has another type")
        if head[0] >= 0x9A and column.types == _LIST and (head[0] > 0x9A or int.from_bytes(head[1:]) > _LONGEST_LIST):
            raise Junk("a list is too long")
        try:
            value = self._decode()
        except KeyboardInterrupt:
            raise
        except BaseException:  # a panic of the decoder is not an Exception
            raise Junk("it cannot be decoded") from None
        if not column.is_good(value):
            raise Junk("a field is not within its range")
        if column.keep is None:
            return value
        return [printable(one, column.keep) for one in value] if type(value) is list else printable(value, column.keep)

    def end(self) -> None:
        """Check that the message ends here.

        Raises:
            Junk: more bytes follow.
        """
        if self._stream.tell() != len(self._payload):
            raise Junk("bytes follow the message")


class Reader:
    """Reads the messages of one side. It owns the counts of refused messages, and the nonces of those that expire.

    Call it with bytes and the names that they may have been sent to (a queue; or the exchange CONTROL), one of which
    has to be in the signature. It returns (message, pool), or None for junk, which it counts. One thread at a time.
    """

    def __init__(self, kinds: Mapping[str, Any], keys: Keys) -> None:
        self._kinds = kinds
        self._keys = keys
        self._nonces: dict[bytes, float] = {}
        self._checks = count(1)
        #: Refused messages, by reason.
        self.junk: Counter[str] = Counter()

    def __call__(self, data: bytes, *receivers: str) -> tuple[Any, str] | None:
        try:
            return self.read(data, *receivers)
        except Junk as problem:
            self.refuse(str(problem))
            return None

    def refuse(self, reason: str) -> None:
        """Count a refused message; log the first for each reason."""
        self.junk[reason] += 1
        if self.junk[reason] == 1:
            log.warning("dropped a message; others for the same reason will be dropped without a log entry: %s", reason)

    def read(self, data: bytes, *receivers: str) -> tuple[Any, str]:
        """Return the message and its pool.

        Raises:
            Junk: it is not a message, or not for this receiver.
        """
        payload, receiver = self._verified(data, receivers or ("",))
        decoder = _Decoder(payload)
        name, pool = decoder.value(_NAME), decoder.value(_NAME)
        if name not in self._kinds:
            raise Junk("its kind is not for this side")
        if receiver == CONTROL and name not in TO_ALL_AGENTS:
            raise Junk("a message of its kind must not be sent to all agents")
        if receiver == PRODUCERS and name not in TO_ALL_PRODUCERS:
            raise Junk("a message of its kind must not be sent to all producers")
        kind = self._kinds[name]
        try:
            fields = self._fields(decoder, _fields_of(kind))
        except Junk as problem:
            raise Junk(f"a field of a {name} is refused: {problem}") from None
        if name in EXPIRING and self._keys:
            self._check_fresh(*fields[-1])
        if kind._fields[0] == "agent":
            fields[0] = Agent(fields[0][0], printable(fields[0][1]), *fields[0][2:])
        return kind(*fields), pool

    def _fields(self, decoder: _Decoder, wanted: Sequence[_Field]) -> list[Any]:
        if decoder.left != sum(len(field.columns) for field in wanted):
            raise Junk("another number of fields")
        fields: list[Any] = []
        for field in wanted:
            values = [decoder.value(column) for column in field.columns]
            if field.together is None:
                fields += values
            elif {*map(len, values)} != {len(values[0])}:
                raise Junk("columns of one table differ in length")
            else:
                fields.append(field.together(values))
        decoder.end()
        return fields

    def _verified(self, data: bytes, receivers: Sequence[str]) -> tuple[bytes, str]:
        """Return the payload, and the one of these names that it was signed for."""
        if data[:2] != _HEAD[:2]:
            raise Junk("it is not from Pymar")
        if len(data) > _LARGEST_MESSAGE:
            raise Junk("it is larger than any message of Pymar")
        if data[:3] != _HEAD:
            raise Junk(f"its version of Pymar's protocol is not {VERSION}, which this side has: upgrade the older side")
        if not self._keys:
            if data[:4] != _UNSIGNED:
                raise Junk("it is signed, and this side has no key: set PYMAR_KEY_FILE on all hosts or on none")
            return data[4:], receivers[0]
        if data[:4] != _SIGNED:
            raise Junk("it is not signed, and this side has a key: set PYMAR_KEY_FILE on all hosts or on none")
        end = 4 + SIGNATURE_BYTES
        signature, payload = data[4:end], data[end:]
        for receiver in receivers:
            if self._keys.verify(_signed(receiver, payload), signature):
                return payload, receiver
        raise Junk("its signature is wrong: it was changed on the way, sent to another queue, or made with another key")

    def _check_fresh(self, sent: float, nonce: bytes) -> None:
        now = time.time()
        if not abs(now - sent) <= FRESH:
            raise Junk(
                f"it expired: the clocks of both hosts differ by more than {FRESH:g} s, or somebody sent it again"
            )
        if nonce in self._nonces:
            raise Junk("it was received before")
        self._nonces[nonce] = now
        if next(self._checks) % 1_000 == 0:
            self._nonces = {nonce: seen for nonce, seen in self._nonces.items() if now - seen <= 2 * FRESH}
