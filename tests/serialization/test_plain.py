"""Plain data: what anybody may send, back with its exact type and bits, or refused before it takes much."""

import contextlib
import math
import os
import random
import struct
import tracemalloc
from collections import Counter, OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day
from decimal import Decimal
from fractions import Fraction
from uuid import UUID
from zoneinfo import ZoneInfo

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.amqp.keys import Keys, new_key
from pymar.exceptions import NotPlain
from pymar.serialization import plain

KEY, OTHER = Keys((new_key(),)), Keys((new_key(),))


def test_random_plain_data_is_read_or_refused():
    rng = random.Random(int(os.environ.get("PYMAR_SEED", random.randrange(1 << 30))))
    honest = [plain.dumps(value) for value in PLAIN]
    for _ in range(int(os.environ.get("PYMAR_FUZZ", "20000"))):
        data = bytearray(rng.choice(honest))
        for _ in range(rng.randrange(1, 5)):
            place = rng.randrange(3, len(data) + 1)
            match rng.randrange(4):
                case 0:
                    data[place : place + 1] = rng.randbytes(1)
                case 1:
                    data[place:place] = rng.randbytes(rng.randrange(1, 9))
                case 2:
                    del data[place : place + rng.randrange(1, 9)]
                case 3:
                    data[place:] = rng.choice(honest)[rng.randrange(3, 60) :]
        with contextlib.suppress(ValueError):
            plain.loads(bytes(data))


PLAIN = [
    *(None, True, 0, -1, 2**63, -(2**200), 0.5, -0.0, float("inf"), "é", b"\0", [], (), {}, set(), frozenset()),
    *((1,), [1, (2, [3])], {1, 2}, frozenset({(1, 2)}), {"a": 1}, {1: "a", (2, 3): None, b"x": 1.5}),
    *(Counter("abca"), OrderedDict([(2, 1), (1, 2)]), range(10, 0, -3), 1 + 2j, complex("nan-0j")),
    *(Decimal("1.10"), Decimal("sNaN12"), UUID(int=7), Fraction(-1, 3), date(2020, 2, 29), timedelta(-1, 5, 7)),
    *(datetime(2020, 1, 2, 3, 4, 5, 6, fold=1), datetime(2020, 1, 2, tzinfo=UTC), time_of_day(1, 2)),
    *(datetime(2020, 1, 2, tzinfo=ZoneInfo("UTC")), timezone(timedelta(hours=1), "X")),
    *([*range(100)], [2**70] * 20, [0.5, float("nan")] * 20, [True, 1, 1.0] * 20),
    *(np.arange(5), np.float32(1.5), np.zeros((2, 3), order="F"), np.zeros((0, 3)), np.array(5), np.bool_(True)),
    *(np.str_(""), np.bytes_(b""), np.zeros((1_000, 0), "<f4"), np.zeros((0, 5), order="F"), range(-(1 << 1000), 5)),
    *(np.zeros(2, dtype=[("a", [("b", "U3")]), ("c", "M8[ns]")]), np.timedelta64(5, "25s"), np.longdouble("0.1")),
    *(np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]), np.datetime64("2020-01-01"), np.array(["a", "bcd"])),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: f"{type(value).__name__} {value!r:.20}")
def test_plain_data_comes_back_with_its_exact_type(value):
    back = plain.loads(plain.dumps(value))
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    if isinstance(value, np.ndarray):
        assert (back.dtype, back.flags.f_contiguous) == (value.dtype, value.flags.f_contiguous)
        back[...] = back  # it can be written to


P = (1 << 61) - 1  # ints are hashed modulo this


def tagged(name, what):
    return cbor2.CBORTag(plain.TAG, [name, what])


def keys_of_one_hash(count):
    """Of each type whose hashes anybody can choose."""
    yield [P * (n + 1) for n in range(count)]
    yield [tagged("decimal", [str(P * (n + 1))]) for n in range(count)]
    yield [tagged("fraction", [P * (n + 1), 1]) for n in range(count)]
    yield [tagged("uuid", [str(UUID(int=P * (n + 1)))]) for n in range(count)]
    yield [tagged("complex", struct.pack("<dd", -1000003.0 * n, n)) for n in range(1, count + 1)]
    yield [tagged("tuple", [P * (n + 1), "x"]) for n in range(count)]
    yield [tagged("frozenset", [P * (n + 1)]) for n in range(count)]
    yield [tagged("tuple", [tagged("frozenset", [P * (n + 1)])]) for n in range(count)]
    yield [tagged("range", [P * (n + 1), P * (n + 1) + 1, 1]) for n in range(count)]
    yield [tagged("scalar", ["<c16", struct.pack("<dd", -1000003.0 * n, n)]) for n in range(1, count + 1)]


@pytest.mark.parametrize("kind", range(len([*keys_of_one_hash(1)])))
def test_keys_that_have_one_hash_are_refused_before_they_are_compared(kind):
    def made(name, keys):
        items = keys if "set" in name else [half for key in keys for half in (key, 0)]
        return plain.PLAIN_MARK + cbor2.dumps(tagged(name, items))

    few, many = ([*keys_of_one_hash(count)][kind] for count in (100, 2_000))
    for name in ("set", "frozenset", "dict", "ordered", "counter"):
        assert len(plain.loads(made(name, few))) == 100
        with pytest.raises(ValueError, match="2,000 keys that have only"):
            plain.loads(made(name, many))


def test_sets_of_sets_of_one_hash_are_refused_before_they_are_compared_in_turn():
    few = [*keys_of_one_hash(60)][6]
    for _ in range(3):
        few = [tagged("frozenset", [*few, n]) for n in range(10)]
    with pytest.raises(ValueError, match="keys that have only"):
        plain.loads(plain.PLAIN_MARK + cbor2.dumps(few))
    assert plain.loads(plain.dumps({frozenset({(-1, n)}) for n in range(100)} | {frozenset({(-2, 0)})}))


def test_native_maps_have_texts_as_keys():
    for key in (1, 1 << 70, 0.5, b"x", None, True):
        with pytest.raises(ValueError, match="Error"):
            plain.loads(plain.PLAIN_MARK + cbor2.dumps([{key: 0}, {(1 << 70) + P: 0}]))


def test_honest_keys_whose_hashes_collide_travel():
    grid = {(x, y): x * y for x in range(-30, 30) for y in range(-30, 30)}  # -1 and -2 have one hash
    powers = {1 << n: n for n in range(3_000)}  # and so have 2**n and 2**(n + 61)
    both = dict.fromkeys(range(100), 1) | {n + 0.5: 2 for n in range(100)} | {str(n): 3 for n in range(100)}
    for value in (grid, powers, both, {*powers}, {-n for n in powers}, {Fraction(1, n) for n in range(1, 500)}):
        assert plain.loads(plain.dumps(value)) == value


def test_what_would_be_refused_is_not_sent():
    with pytest.raises(NotPlain, match=r"the partial cannot be sent.*2,000 keys that have only 1 hashes"):
        plain.dumps({P * n for n in range(2_000)}, "the partial")
    with pytest.raises(NotPlain, match="a range whose ends have more than 1,024 bits"):
        plain.dumps(range(1 << 5_000))
    for array, said in (
        (np.zeros((1 << 30, 0)), "no items and claims many"),
        (np.zeros(3, "V0"), "items have no bytes"),
    ):
        with pytest.raises(NotPlain, match=said):
            plain.dumps(array)


def head(major, length):
    return bytes([major << 5 | 26]) + struct.pack(">I", length)


CROWDS = {
    "lists": [[]] * 100_000,
    "lists of lists": [[[[n]]] for n in range(30_000)],
    "pairs": [[1, 2]] * 100_000,
    "dicts": [{}] * 100_000,
    "tuples": [(n, n + 1) for n in range(50_000)],
    "texts": ["öüäß" * 3] * 100_000,
    "dicts of texts": [{"é": "ü"}] * 100_000,
    "bytes": [b"\x80" * 10] * 100_000,
    "floats": [0.1 * n for n in range(100_000)],
    "large ints": [1 << n for n in range(64, 1_000)] * 50,
}


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS.keys())
def test_many_small_containers_travel(crowd):
    assert plain.loads(plain.dumps(crowd)) == crowd
    assert plain.loads(plain.dumps((crowd, {"x": crowd}))) == (crowd, {"x": crowd})


@pytest.mark.parametrize(
    "piece", [b"\x80", b"\xa0", b"\x81\x80", b"\x81\xa0", b"\x81\x00", b"\xa1\x60\x80", b"\x82\x00\x80"], ids=repr
)
def test_more_containers_than_bytes_are_good_for_are_refused_before_they_are_made(piece):
    flood = head(4, 200_000) + piece * 200_000
    hidden = b"\x83" + head(2, 30_000) + b"\0" * 30_000 + head(3, 30_000) + b"\xc3\xa9" * 15_000 + flood
    for data in (flood, hidden):
        with pytest.raises(ValueError, match="more lists than its bytes are good for"):
            plain.loads(plain.PLAIN_MARK + data)
    tracemalloc.start()
    with pytest.raises(ValueError, match="more lists than its bytes are good for"):
        plain.loads(plain.PLAIN_MARK + b"\x80" * 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


DEAR = {
    "an array of shape (2**40, 0)": tagged("array", ["<f8", [1 << 40, 0], "C", b""]),
    "an array of many dimensions": tagged("array", ["<f8", [1 << 20] * 3 + [0], "C", b""]),
    "an array of items of no bytes": tagged("array", ["|V0", [1 << 40], "C", b""]),
    "an array of a negative size": tagged("array", ["<f8", [-1], "C", b"12345678"]),
    "an array of a shape of its own": tagged("array", ["<f8", [1.0], "C", b"12345678"]),
    "an array of another order": tagged("array", ["<f8", [1], "A", b"12345678"]),
    "an array of subarrays": tagged("array", ["(1000000,1000000)f8", [1], "C", b"12345678"]),
    "an array of a list of types": tagged("array", ["f8," * 1_000 + "f8", [0], "C", b""]),
    "a type of spaces": tagged("array", [" " * 100_000 + "(", [0], "C", b""]),
    "fields of shapes": tagged("array", [[["a", "<f8", [1 << 20]]], [0], "C", b""]),
    "fields without names": tagged("array", [[[5, "<f8", []]], [0], "C", b""]),
    "a deep type": tagged("scalar", [[["a", [["a", [["a", "|O", []]], []]], []]], b""]),
    "a decimal of an int": tagged("decimal", [10**100_000]),
    "a decimal of digits": tagged("decimal", [[0, [1] * 10, 5]]),
    "a decimal that is none": tagged("decimal", ["1e9999999999999999999999"]),
    "a range of large ints": tagged("range", [0, 1 << 100_000, 1 << 50_000]),
    "a range of floats": tagged("range", [0.0, 1.0, 1.0]),
    "a fraction without a denominator": tagged("fraction", [1 << 100_000, 0]),
    "a negative fraction": tagged("fraction", [1, -(1 << 100_000)]),
    "a fraction of texts": tagged("fraction", ["1" * 100_000, "1"]),
    "a uuid of an int": tagged("uuid", [None, None, None, None, 5]),
    "a date of bytes": tagged("date", [b"\x07\xe4\x01\x01"]),
    "a date out of range": tagged("date", [10_000, 1, 1]),
    "a time of floats": tagged("timedelta", [0.5, float("inf"), 0]),
    "a time out of range": tagged("timedelta", [1 << 1_000, 0, 0]),
    "a datetime out of range": tagged("datetime", [2020, 13, 1, 0, 0, 0, 0, 0, None]),
    "a zone elsewhere": tagged("zone", ["../../etc/passwd"]),
    "a zone that is no text": tagged("zone", [5]),
    "a padding of nothing": tagged("padded", [b""]),
}


@pytest.mark.parametrize("value", DEAR.values(), ids=DEAR.keys())
def test_what_would_be_dear_to_make_is_refused(value):
    with pytest.raises(ValueError, match=r"(Error|Operation): .+"):
        plain.loads(plain.PLAIN_MARK + cbor2.dumps(value))


def test_large_numbers_are_read_in_a_time_of_their_length(monkeypatch):
    """What would take the square of it is not called."""
    large = Fraction(1, 3)
    large._numerator, large._denominator = 7**100_000, 3**100_000
    monkeypatch.setattr(math, "gcd", lambda *numbers: pytest.fail("a common divisor was looked for"))
    for value in (Decimal("7" * 100_000), Decimal("1e999999999"), 7**100_000):
        assert plain.loads(plain.dumps(value)) == value
    back = plain.loads(plain.dumps(large))
    assert (back.numerator, back.denominator, type(back)) == (7**100_000, 3**100_000, Fraction)


@given(st.binary(min_size=8, max_size=8))
def test_a_float_comes_back_with_its_exact_bits(data):
    (number,) = struct.unpack("<d", data)
    for value in (number, [number] * 20):
        back = plain.loads(plain.dumps(value))
        assert struct.pack("<d", back if value is number else back[7]) == struct.pack("<d", number)


class Int(int):
    pass


@pytest.mark.parametrize(
    "value",
    [Int(3), object(), print, np.array([None]), np.recarray(2, [("a", int)]), [[object()]], "\ud800"],
    ids=lambda value: type(value).__name__,
)
def test_all_else_is_refused_and_the_remedy_said(value):
    with pytest.raises(NotPlain, match=r"the partial cannot be sent.*(pymar keygen|surrogates)"):
        plain.dumps(value, "the partial")


def test_what_holds_itself_or_is_too_deep_is_refused():
    loop = []
    loop.append(loop)
    deep = 1
    for _ in range(1_000):
        deep = (deep,)
    for value in (loop, deep):
        with pytest.raises(NotPlain, match="nested too deeply, or holds itself"):
            plain.dumps(value)
