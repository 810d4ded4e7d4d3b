"""What is no honest message is refused: with a key before it is decoded, in any case before it does anything."""

import os
import pickle
import random
import struct
import time
import tracemalloc

import cbor2
import pytest

from pymar.amqp import keys, protocol, wire
from pymar.amqp.chunks import Assemblies, Assembly, digest_of
from pymar.amqp.keys import Keys, keys_of, new_key
from pymar.exceptions import UsageError
from pymar.serialization import plain

KEY, OTHER = Keys((new_key(),)), Keys((new_key(),))
AGENT = protocol.Agent(b"12345678", "host 1", "queue", 2)
JOB = b"j" * 16
FRESH = wire.fresh()
#: One message of each kind.
MESSAGES = [
    protocol.Parts(
        JOB, b"d" * 16, "reply", 1, 0, [[0, 0, 0, 10, None], [1, 0, 10, 10, b"x"], [2, 0, 20, 5, [9, b"d"]]]
    ),
    protocol.Probe(JOB, "reply", 2),
    protocol.Welcome(JOB, b"definition", 1.5, 0, b"modules", "name", wire.fresh()),
    protocol.Refusal(JOB, "no", wire.fresh()),
    protocol.Cancel(JOB, [1, 2], wire.fresh()),
    protocol.Over([JOB], wire.fresh()),
    protocol.Alive([JOB]),
    protocol.Piece(JOB, 1, 0, b"data"),
    protocol.CodePiece(JOB, 0, b"data"),
    protocol.Hello("pool", "code", "reply"),
    protocol.Join(AGENT, JOB, "3.11", wire.fresh()),
    protocol.Running(AGENT, [[JOB, 3, "slot 1 (pid 5) on host"]]),
    protocol.Partial(AGENT, JOB, [[0, plain.dumps(1), 0.5]], 7),
    protocol.Chunk(AGENT, JOB, b"e", 1, 0.5, 0, 4, b"digest", b"data"),
    protocol.Failed(AGENT, JOB, 1, "slot", "error", "traceback", "variables", b""),
    protocol.Lost(AGENT, JOB, 1, "died", "why"),
    protocol.Returned(AGENT, JOB, [1]),
    protocol.Refused(AGENT, JOB, [1], "why"),
    protocol.Printed(AGENT, JOB, 3, 9, [[-1, "a line"], [4, "another"]]),
    protocol.Fetch(AGENT, JOB, 1, 0),
    protocol.FetchCode(AGENT, JOB, 0),
    protocol.Echo(AGENT, JOB, 1),
    protocol.Leaving(AGENT),
    protocol.Tick(1),
    protocol.Here(
        AGENT,
        "pool",
        "code",
        "path",
        "3.11",
        1,
        2,
        [[JOB, "name", "pymar.job.h.1.x.u", 2, 1, 0.5]],
        1.0,
        "its file is another",
    ),
    protocol.Inquiry("reply"),
    protocol.EndJob(JOB, "alice at node7", "reply", wire.fresh()),
    protocol.Jobs(
        "pymar.job.h.1.x.u",
        1.5,
        [[JOB, "name", "pool", "code", 1.5, 1, 2, 0, 0, 0, -1, 4, 0.5, "no worker"]],
        [[JOB, "host 1", 4, 2]],
    ),
    protocol.Ended(JOB, "pymar.job.h.1.x.u"),
]
KINDS = protocol.TO_AGENT | protocol.TO_PRODUCER | protocol.TO_ASKER


def ids(message):
    return type(message).__name__


def reader(message, keys):
    sides = (protocol.TO_AGENT, protocol.TO_PRODUCER, protocol.TO_ASKER)
    return wire.Reader(next(side for side in sides if ids(message) in side), keys)


def test_every_kind_is_tried_here():
    assert {ids(message) for message in MESSAGES} == KINDS.keys()


@pytest.mark.parametrize("keys", [Keys(), KEY], ids=["plain", "signed"])
@pytest.mark.parametrize("message", MESSAGES, ids=ids)
def test_a_message_arrives_as_it_was_sent(message, keys):
    assert reader(message, keys).read(wire.encode(message, "pool", keys)) == (message, "pool")


@pytest.mark.parametrize("message", MESSAGES, ids=ids)
def test_every_flipped_byte_of_a_signed_message_is_noticed(message):
    data = wire.encode(message, "pool", KEY)
    read = reader(message, KEY)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << random.randrange(8)
        assert read(bytes(changed)) is None
    assert read.junk.total() == len(data)
    assert read(data) is not None


@pytest.mark.parametrize("message", MESSAGES, ids=ids)
def test_truncated_unsigned_wrongly_signed_and_misdirected_messages(message):
    data = wire.encode(message, "pool", KEY)
    read = reader(message, KEY)
    for end in range(len(data)):
        assert read(data[:end]) is None
    assert read(wire.encode(message, "pool", Keys())) is None
    assert read(wire.encode(message, "pool", OTHER)) is None
    assert reader(message, Keys())(data) is None
    back = protocol.TO_PRODUCER if type(message).__name__ in protocol.TO_AGENT else protocol.TO_AGENT
    assert wire.Reader(back, KEY)(data) is None
    assert read(data) is not None


@pytest.mark.parametrize("message", [one for one in MESSAGES if ids(one) in protocol.EXPIRING], ids=ids)
def test_what_expires_is_good_once_and_not_for_long(message):
    read = reader(message, KEY)
    data = wire.encode(message, "pool", KEY)
    assert read(data) is not None
    assert read(data) is None
    for sent in (time.time() - 301, time.time() + 301, float("nan")):
        old = message._replace(fresh=[sent, os.urandom(12)])
        assert read(wire.encode(old, "pool", KEY)) is None


@pytest.mark.parametrize("message", MESSAGES, ids=ids)
def test_what_was_signed_for_one_receiver_is_good_for_no_other(message):
    read = reader(message, KEY)
    data = wire.encode(message, "pool", KEY, "one")
    for places in (("other",), (), ("on", "e"), ("",), ("oneone",)):
        assert read(data, *places) is None
    assert read(data, "other", "one") is not None


def test_what_is_sent_to_all_agents_is_a_question_or_the_end_of_jobs_and_nothing_else():
    read = wire.Reader(KINDS, KEY)
    hello = protocol.Hello("pool", "code", "reply")
    for message in MESSAGES:
        data = wire.encode(message, "pool", KEY, protocol.CONTROL)
        assert (read(data, "mine", protocol.CONTROL) is not None) == isinstance(message, protocol.Hello | protocol.Over)
    assert read(wire.encode(hello, "pool", KEY, protocol.CONTROL), "mine") is None


NUMBERS = [
    float("nan"),
    float("inf"),
    float("-inf"),
    1e300,
    -5.0,
    -5,
    1 << 61,
    -(1 << 61),
    1 << 200,
    0.5,
    7,
    None,
    True,
]


def is_small(number):
    return type(number) in (int, float) and 0 <= number <= 1e12


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_every_number_has_its_type_and_its_range(number):
    """Whatever number stands in whatever place: it is refused, or it is a small one of the field's type."""
    changed = []
    for message in MESSAGES:
        for name, value in zip(message._fields, message, strict=True):
            if type(value) in (int, float):
                changed.append((message._replace(**{name: number}), value))
    changed += [(protocol.Partial(AGENT, JOB, [[0, b"x", number]]), 0.5), (protocol.Returned(AGENT, JOB, [number]), 1)]
    changed += [(protocol.Partial(AGENT, JOB, [[number, b"x", 0.5]]), 1), (protocol.Cancel(JOB, [number], FRESH), 1)]
    changed += [(protocol.Parts(JOB, b"d", "reply", 1, 0, [[number, 0, 0, 1, None]]), 1)]
    changed += [(protocol.Running(AGENT, [[JOB, number, ""]]), 1), (protocol.Leaving(AGENT._replace(slots=number)), 1)]
    for message, value in changed:
        read = reader(message, Keys())
        good = is_small(number) and type(number) is type(value)
        if not isinstance(message, protocol.Here | protocol.Jobs | protocol.Parts):
            assert (read(wire.encode(message, "pool", Keys())) is not None) == good, message
        elif not good:
            assert read(wire.encode(message, "pool", Keys())) is None or number == -5.0, message


@pytest.mark.parametrize("message", MESSAGES, ids=ids)
def test_texts_of_others_are_printable_or_refused(message):
    """Whatever text stands in whatever place, but the name of the pool, which is compared with ours."""
    for name, value in zip(message._fields, message, strict=True):
        if name == "agent":
            changed = [value._replace(name="a\x1b[2J\nb"), value._replace(queue="a\x1b[2J\nb")]
        elif type(value) is str and name != "pool":
            changed = ["a\x1b[2J\rb"]
        elif type(value) is list and value and type(value[0]) is str:
            changed = [["a\x1b[2J\nb"]]
        else:
            continue
        for one in changed:
            read = reader(message, Keys())(wire.encode(message._replace(**{name: one}), "pool", Keys()))
            assert read is None or "\x1b" not in repr(read).replace("\\\\x1b", ""), name
            assert read is None or "\\\\x1b[2J" in repr(read) or name == "kind", name


@pytest.mark.parametrize(
    "message",
    [protocol.Printed(AGENT, JOB, 0, 1, [[0, "a\x1b[2J\n\rb\t"]]), protocol.Running(AGENT, [[JOB, 0, "a\x1b[2J\nb"]])],
    ids=ids,
)
def test_texts_of_others_in_rows_are_printable(message):
    read, _ = reader(message, Keys()).read(wire.encode(message, "pool", Keys()))
    [[*_, text]] = read[-1]
    assert text.replace("\t", "").isprintable()
    assert "a\\x1b[2J" in text


@pytest.mark.parametrize(
    "lines",
    [[[0, "x" * (protocol.LONGEST_LINE + 11)]], [[0, "x"]] * (protocol.MOST_LINES + 1), [[-2, "x"]], [["0", "x"]]],
    ids=["long", "many", "index", "type"],
)
def test_lines_that_no_agent_sends_are_refused(lines):
    message = protocol.Printed(AGENT, JOB, 0, 1, lines)
    assert reader(message, Keys())(wire.encode(message, "pool", Keys())) is None


def test_offsets_may_have_more_than_64_bits_and_less_than_a_thousand():
    for offset in (0, -1, 1 << 63, 1 << 64, -(1 << 64), -(1 << 64) - 1, 1 << 127, 1 << 128, (1 << 1024) - 1):
        message = protocol.Parts(JOB, b"d", "reply", 1, 0, [[0, 0, offset, offset, None], [1, 0, 5, 5, b"x"]])
        assert reader(message, Keys())(wire.encode(message, "pool", Keys())) == (message, "pool")
    message = protocol.Parts(JOB, b"d", "reply", 1, 0, [[0, 0, 1 << 1033, 1, None]])
    assert reader(message, Keys())(wire.encode(message, "pool", Keys())) is None


def head(major, length):
    return bytes([major << 5 | 26]) + struct.pack(">I", length)


#: Bytes that would make much of little: in place of any field of a message.
FLOODS = {
    "lists": head(4, 100_000) + b"\x80" * 100_000,
    "lists in a list": b"\x81" + head(4, 100_000) + b"\x80" * 100_000,
    "maps": head(4, 100_000) + b"\xa0" * 100_000,
    "a map": head(5, 100_000) + b"".join(b"\x62" + struct.pack(">H", n) + b"\0" for n in range(1_000)) * 100,
    "keys of one hash": head(5, 20_000)
    + b"".join(cbor2.dumps((n + 4) * ((1 << 61) - 1) * 8) + b"\0" for n in range(20_000)),
    "short texts": head(4, 1_500_000) + b"\x62ab" * 1_500_000,
    "tags": head(4, 100_000) + b"\xc2\x40" * 100_000,
    "indices of one hash": cbor2.dumps([(n + 4) * ((1 << 61) - 1) for n in range(20_000)]),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
@pytest.mark.parametrize(
    "message", [one for one in MESSAGES if ids(one) in ("Parts", "Over", "Partial", "Here")], ids=ids
)
def test_what_a_message_takes_is_bounded(flood, message):
    honest = cbor2.loads(wire.encode(message, "pool", Keys())[4:])
    read = reader(message, Keys())
    for place in range(len(honest)):
        fields = [cbor2.dumps(field) for field in honest]
        fields[place] = flood
        data = b"PM" + bytes([protocol.VERSION, 0, 0x80 + len(fields)]) + b"".join(fields)
        tracemalloc.start()
        assert read(data) is None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < (80 if flood[5:6] == b"\x80" else 12) * len(data) + 10_000


def test_a_message_that_is_larger_than_any_of_ours_is_not_decoded():
    read = wire.Reader(KINDS, Keys())
    assert read(wire.encode(protocol.Piece(JOB, 1, 0, b"\0" * (17 << 20)), "pool", Keys())) is None
    assert read(wire.encode(protocol.Piece(JOB, 1, 0, b"\0" * (8 << 20)), "pool", Keys())) is not None


def test_several_keys_verify_and_the_first_signs():
    first, second = new_key(), new_key()
    old, both, new = Keys((first,)), Keys((second, first)), Keys((second,))
    message = protocol.Tick(1)
    assert reader(message, both)(wire.encode(message, "", old)) is not None
    assert reader(message, new)(wire.encode(message, "", both)) is not None
    assert reader(message, old)(wire.encode(message, "", both)) is None


BOMBS = {
    "deep": b"\x81" * 1_000_000,
    "a list of a huge length": b"\x9b" + b"\x7f" * 8,
    "bytes of a huge length": b"\x5b" + b"\x7f" * 8,
    "a text of a huge length": b"\x7b\0\0\0\xff\xff\xff\xff\xff",
    "a dict of a huge length": b"\xbb" + b"\x7f" * 8,
    "a large int of a huge length": b"\xc2\x5b" + b"\x7f" * 8,
    "a decimal of a huge exponent": b"\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01",
    "a bigfloat": b"\xc5\x82\x1a\x7f\xff\xff\xff\x01",
    "a regular expression": cbor2.dumps(cbor2.CBORTag(35, "(a+)+$")),
    "a message of e-mail": cbor2.dumps(cbor2.CBORTag(36, "From: x")),
    "a shared value": cbor2.dumps(cbor2.CBORTag(28, [cbor2.CBORTag(29, 0)])),
    "a kind that is none": cbor2.dumps(cbor2.CBORTag(plain.TAG, ["eval", "1 + 1"])),
    "an array of objects": cbor2.dumps(cbor2.CBORTag(plain.TAG, ["array", ["|O", [1], "C", b"12345678"]])),
    "an array larger than its bytes": cbor2.dumps(cbor2.CBORTag(plain.TAG, ["array", ["<f8", [1 << 40], "C", b""]])),
    "a pickle": pickle.dumps(print),
    "nothing": b"",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bombs(bomb):
    for head in (b"PM\x02\0", b"PM\x02\0\x83\x64Tick\x60", b"PM\x02\0\x84\x67Partial\x64pool", b""):
        assert wire.Reader(KINDS, Keys())(head + bomb) is None
    for head in (b"", plain.PLAIN_MARK):
        with pytest.raises(ValueError, match=r"no plain data|Error|EOF|more than one|more lists"):
            plain.loads(head + bomb)


@pytest.mark.parametrize("total", [0, -1, (1 << 31) + 1, 1 << 62])
def test_a_value_of_an_impossible_size_takes_no_memory(total):
    with pytest.raises(ValueError, match="a size that no value has"):
        Assembly(total, b"")


def test_pieces_may_come_in_any_order_and_twice_but_not_from_elsewhere():
    value = os.urandom(1_000)
    assembly = Assembly(len(value), digest_of(value))
    starts = [*range(0, 1_000, 100)] * 2
    random.shuffle(starts)
    for start in starts:
        assembly.add(start, value[start : start + 100])
    assert assembly.whole() == value
    for start, piece in ((-1, b"x"), (1_000, b"x"), (999, b"xx"), (0, b"")):
        with pytest.raises(ValueError, match="outside of its value"):
            assembly.add(start, piece)
    other = Assembly(2, digest_of(b"ab"))
    other.add(0, b"a")
    other.add(1, b"x")
    with pytest.raises(ValueError, match="not the sum"):
        other.whole()


def test_pieces_that_overlap_take_no_more_memory_than_their_value():
    assembly = Assembly(100, b"")
    assembly.add(0, b"x" * 60)
    with pytest.raises(ValueError, match="pieces that overlap"):
        assembly.add(1, b"x" * 60)
    assert assembly.size == 60


def test_many_who_begin_to_send_a_value_do_not_fill_the_memory():
    values, digest = Assemblies(), digest_of(b"abcd")
    values.add(0, (b"honest", b"1"), 4, digest, (0, b"ab"))
    for sender in range(7):
        values.add(0, (b"evil", bytes([sender])), 4, b"", (0, b"ab"))
    assert values.add(0, (b"honest", b"1"), 4, digest, (2, b"cd")) == b"abcd"
    for sender in range(1_000):
        values.add(0, (b"evil", sender.to_bytes(2)), 4, b"", (0, b"ab"))
    assert len(values._values[0]) == 8


def test_random_bytes_do_nothing(monkeypatch):
    """`make fuzz` is a million of these."""
    monkeypatch.setattr(pickle, "loads", lambda data: pytest.fail("unpickled"))
    count, seed = (
        int(os.environ.get("PYMAR_FUZZ", "20000")),
        int(os.environ.get("PYMAR_SEED", random.randrange(1 << 30))),
    )
    print("seed", seed)
    rng = random.Random(seed)
    honest = [wire.encode(message, "pool", Keys()) for message in MESSAGES]
    read = wire.Reader(KINDS, Keys())
    accepted = 0
    for _ in range(count):
        data = bytearray(rng.choice(honest))
        for _ in range(rng.randrange(1, 8)):
            place = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[place] = rng.randrange(256)
                case 1:
                    data[place:place] = rng.randbytes(rng.randrange(1, 9))
                case 2:
                    del data[place : place + rng.randrange(1, 9)]
                case 3:
                    data[place:] = rng.choice(honest)[place:]
            data = data or bytearray(b"P")
        found = read(bytes(data))
        if found is not None:
            accepted += 1
            assert type(found[0]) in KINDS.values()
    assert read.junk.total() == count - accepted


def test_a_key_that_is_short_or_that_others_can_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"a key of 6 characters is too short"):
        keys_of({"PYMAR_KEY": "secret"})
    path = tmp_path / "key"
    path.write_text(f"# a comment\n{new_key()}\n")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        keys_of({"PYMAR_KEY_FILE": str(path)})
    path.chmod(0o600)
    assert keys_of({"PYMAR_KEY_FILE": str(path)})
    path.write_text("")
    with pytest.raises(UsageError, match="no key in"):
        keys_of({"PYMAR_KEY_FILE": str(path)})
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(UsageError, match="is no text"):
        keys_of({"PYMAR_KEY_FILE": str(path)})
    with pytest.raises(UsageError, match="No such file"):
        keys_of({"PYMAR_KEY_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("mode", "owner", "me", "is_good"),
    [
        *((0o600, 5, 5, True), (0o400, 5, 5, True), (0o640, 5, 5, False), (0o440, 5, 5, False), (0o604, 5, 5, False)),
        *((0o600, 0, 5, True), (0o440, 0, 5, True), (0o640, 0, 5, True), (0o660, 0, 5, False), (0o444, 0, 5, False)),
        *((0o440, 0, 0, True), (0o600, 6, 5, False), (0o600, 6, 0, False), (0o450, 0, 5, False), (0o620, 5, 5, False)),
    ],
)
def test_a_key_file_is_read_by_its_user_and_by_the_group_that_root_has_chosen(mode, owner, me, is_good):
    """As docs/security.md says, and deploy/ relies on."""
    if is_good:
        keys._check_readers("key", mode, owner, me)
    else:
        with pytest.raises(UsageError, match="chmod 600"):
            keys._check_readers("key", mode, owner, me)
