"""Records that live at the producer travel encoded; what cannot travel fails its part and no other."""

import pytest

from pymar.exceptions import NotPicklable, UsageError
from pymar.parts import Part
from pymar.serialization import records
from pymar.serialization.records import LARGEST, Encoded, check_size, encode, fields, is_raw


def part(index, data=None):
    return Part(index, 1, 10 * index, 10, data)


class Sized(bytes):
    """Says that it is long."""

    def __new__(cls, size):
        one = super().__new__(cls)
        one.size = size
        return one

    def __len__(self):
        return self.size


@pytest.mark.parametrize("size", [0, 1, LARGEST])
def test_what_a_frame_holds_is_taken(size):
    check_size(Sized(size), "the value")


def test_what_no_frame_holds_is_refused_with_its_name_and_what_to_do():
    with pytest.raises(UsageError) as caught:
        check_size(Sized(1 << 31), "the data of part 3")
    for noun in ("the data of part 3", "2,147,483,648", "smaller parts"):
        assert noun in str(caught.value)


def test_a_frame_of_the_largest_value_is_below_the_limit_of_marshal():
    assert LARGEST < (1 << 31) - 1


@pytest.mark.parametrize(
    ("parts", "raw"),
    [([], False), ([part(0)], False), ([part(0, [1])], True), ([part(0, [])], True), ([part(0, Encoded(b""))], False)],
)
def test_whether_data_has_to_be_encoded(parts, raw):
    assert is_raw(parts) == raw


def test_data_is_encoded_and_the_parts_stay_as_they_are():
    names = []

    def dumps(data, what):
        names.append(what)
        return repr(data).encode()

    given = [part(3, [1]), part(4, [2])]
    encoded, failed = encode(given, dumps)
    assert encoded == [part(3, Encoded(b"[1]")), part(4, Encoded(b"[2]"))]
    assert failed == []
    assert given == [part(3, [1]), part(4, [2])]
    assert ["part 3" in names[0], "part 4" in names[1]] == [True, True]
    assert not is_raw(encoded)


def test_data_that_cannot_travel_fails_its_part_and_no_other(monkeypatch):
    monkeypatch.setattr(records, "LARGEST", 100)

    def dumps(data, what):
        if data == "bad":
            raise NotPicklable(f"{what} cannot be pickled")
        return bytes(data)

    encoded, failed = encode([part(0, 1), part(1, "bad"), part(2, 101), part(3, 100)], dumps)
    assert [one.index for one in encoded] == [0, 3]
    assert [(one.index, one.failure.error.partition(":")[0]) for one in failed] == [
        (1, "NotPicklable"),
        (2, "UsageError"),
    ]
    assert "part 1" in failed[0].failure.error


def test_an_error_that_is_none_of_ours_is_not_swallowed():
    def dumps(data, what):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        encode([part(0, 1)], dumps)


def test_no_parts_are_none():
    assert encode([], None) == ([], [])


def test_a_frame_has_a_parts_fields_and_the_bytes_of_its_data():
    assert fields(part(3)) == (3, 1, 30, 10, None)
    sent = fields(part(3, Encoded(b"x")))
    assert sent == (3, 1, 30, 10, b"x")
    assert type(sent) is tuple, "marshal takes nothing else"
