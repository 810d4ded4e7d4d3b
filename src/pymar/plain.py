"""Plain data as bytes that anybody may read: CBOR (RFC 8949), each value back with its exact type and bits.

    None, bool, int, str, bytes, finite floats, lists and dicts with text keys      as CBOR has them
    everything else                                          TAG([kind, what it is made of]), one line of KINDS each

To read them executes nothing and imports nothing but numpy, where that is installed. An object that is referred to
twice comes back as two; one that refers to itself is refused.
"""

from __future__ import annotations

import sys
from array import array
from io import BytesIO
from typing import Any

import cbor2

from pymar.exceptions import NotPlain
from pymar.plainarrays import array_packed, scalar_packed
from pymar.plainbounds import SMALL, compared, lacking_bytes
from pymar.plainkinds import CODES, FLOAT, KINDS, NAMES, OF_BYTES, PARTS, little
from pymar.values import PLAIN_MARK

#: The tag of what is not CBOR's own; "PYM". Not registered, and of no meaning to others.
TAG = 0x50594D
#: Containers within containers, at most; a tuple counts three times.
DEEPEST = 300
#: Tags of CBOR's own that are read: large ints. All others are refused: some of them build what is dear or alive.
_LARGE_INTS = (2, 3)
_REFUSED_TAGS = (0, 1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000)
#: From this length on, lists of numbers are packed.
_LONG = 16
_SAFE = frozenset({type(None), bool, int, str, bytes})


def dumps(value: Any, what: str = "the value") -> bytes:
    """Encode plain data.

    Raises:
        NotPlain: it is something else; the message names `what`, the type and the remedy.
    """
    compared.pairs = 0
    try:
        packed = _packed(value)
        data = cbor2.dumps(packed)
        if len(data) > SMALL and (lacking := lacking_bytes(data)):
            data = cbor2.dumps(_tagged("padded", [bytes(lacking), packed]))
        return PLAIN_MARK + data
    except NotPlain as error:
        raise NotPlain(f"{what} cannot be sent: it holds {error}") from None
    except ValueError as error:
        raise NotPlain(f"{what} cannot be sent as plain data: {error}") from error
    except RecursionError:
        raise NotPlain(f"{what} is nested too deeply, or holds itself: send flat data") from None


def loads(data: bytes) -> Any:
    """Decode what `dumps` made.

    Raises:
        ValueError: it did not.
    """
    if data[:3] != PLAIN_MARK:
        raise ValueError("this is no plain data")
    body = data[3:]
    compared.pairs = 0
    if len(body) > SMALL and lacking_bytes(body):
        raise ValueError("it holds more lists than its bytes are good for")
    return _unpacked_from(body)


def _unpacked_from(data: bytes) -> Any:
    stream = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            semantic_decoders=_DECODERS,
            tag_hook=_refused,
            max_depth=DEEPEST + 3,  # and what pads it
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of the constructors of whatever stands in it, too; or a panic of the decoder
        cause: BaseException = error
        while type(cause).__name__ == "CBORDecodeError" and cause.__cause__ is not None:
            cause = cause.__cause__  # it says what, the other only where
        raise ValueError(f"{type(cause).__name__}: {cause}") from error
    if stream.tell() != len(data):
        raise ValueError("there is more than one value")
    return value


def _packed(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if kind in _SAFE:
        return value
    if depth > DEEPEST // 3:
        raise RecursionError
    if kind is float:
        return value if value == value else _tagged("float", FLOAT.pack(value))
    if kind is list:
        return _packed_list(value, depth)
    if kind is dict and all(type(key) is str for key in value):
        return {key: _packed(item, depth + 1) for key, item in value.items()}
    if kind in PARTS:
        name, parts = PARTS[kind]
        return _tagged(name, _packed_list(parts(value), depth))
    name = NAMES.get((kind.__module__, kind.__qualname__), "")
    if name:
        return _tagged(name, _packed(KINDS[name][0](value), depth + 1))
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic | numpy.ndarray) and not value.dtype.hasobject:
        if isinstance(value, numpy.generic):
            return _tagged("scalar", scalar_packed(value))
        if kind is numpy.ndarray:
            return _tagged("array", array_packed(value))
    raise NotPlain(
        f"a {kind.__module__}.{kind.__qualname__}, which is not plain data. Give workers and producers a key "
        "(pymar keygen), and anything that can be pickled may travel"
    )


def _tagged(name: str, what: Any) -> cbor2.CBORTag:
    return cbor2.CBORTag(TAG, [name, what])


def _packed_list(values: list[Any], depth: int) -> Any:
    kinds = set(map(type, values))
    if len(values) >= _LONG and len(kinds) == 1:
        if kinds == {float}:
            return _tagged("floats", little(array("d", values)))
        if kinds == {int}:
            for name in ("ints", "longs"):
                try:
                    return _tagged(name, little(array(CODES[name], values)))
                except OverflowError:  # of 32 bits; of 64: as CBOR has them
                    continue
    return values if kinds <= _SAFE else [_packed(value, depth + 1) for value in values]


def _unpacked(tagged: Any, immutable: bool) -> Any:
    name, what = tagged
    if type(what) is not (bytes if name in OF_BYTES else list):  # nothing is built of what would build more of itself
        raise ValueError("what a value is made of has another type")
    return KINDS[name][1](what)


def _refused(tagged: Any, immutable: bool) -> Any:
    raise ValueError("a CBOR tag that plain data has no use for")


_DECODERS = {**dict.fromkeys(_REFUSED_TAGS, _refused), TAG: _unpacked}
