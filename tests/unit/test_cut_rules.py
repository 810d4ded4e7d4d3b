"""Where files are cut: each byte is in one part, each record whole, whatever the delimiter and the cuts are."""

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pymar.exceptions import SourceError
from pymar.sources import cuts
from pymar.sources.cuts import Cut

#: Those that overlap with themselves too.
DELIMITERS = [b"\n", b"\r\n", b"\n\n", b"aba", b"aa", b"aab", b"abab", b"--"]
#: A delimiter, and a content of its own bytes and others: so that delimiters overlap, and cuts are within them.
FILES = st.sampled_from(DELIMITERS).flatmap(
    lambda delimiter: st.tuples(
        st.just(delimiter),
        st.lists(st.sampled_from([delimiter[:1], delimiter[-1:], delimiter, b"x"]), max_size=40).map(b"".join),
    )
)


def starts_of(content, delimiter):
    """Where records begin by one reading from the start, and the end: the definition."""
    starts, at = {0, len(content)}, 0
    while (found := content.find(delimiter, at)) >= 0:
        at = found + len(delimiter)
        starts.add(at)
    return sorted(starts)


def boundary(content, delimiter, position, max_record=1_000, size=None):
    return Cut(delimiter, max_record).boundary(io.BytesIO(content), position, "file.txt", size)


def pieces(content, delimiter, start=0, end=None, max_record=1_000):
    file = io.BytesIO(content)
    return list(Cut(delimiter, max_record).pieces(file, start, end, "file.txt"))


@given(FILES, st.integers(1, 7))
@example((b"aa", b"aaaaa"), 1)
@example((b"\n\n", b"x\n\n\n\nx"), 2)
def test_a_boundary_is_the_first_record_at_or_behind_a_position(written, chunk):
    delimiter, content = written
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cuts, "CHUNK", chunk)
        for position in range(len(content) + 1):
            expected = next(start for start in starts_of(content, delimiter) if start >= position)
            assert boundary(content, delimiter, position) == expected
            assert boundary(content, delimiter, position, size=len(content)) == expected


def test_the_start_and_the_end_are_boundaries_without_a_look_at_the_file():
    cut = Cut(b"\n", 10)
    assert cut.boundary(None, 0, "file.txt") == 0
    assert cut.boundary(None, 7, "file.txt", 7) == 7


def test_behind_the_end_is_the_end():
    assert boundary(b"a\nb", b"\n", 3) == 3
    assert boundary(b"", b"\n", 0) == 0


@given(FILES, st.integers(1, 7), st.sets(st.integers(0, 60)))
@example((b"aa", b"aaaaaaa"), 3, set())
def test_parts_have_all_bytes_once_and_begin_and_end_with_records(written, chunk, places):
    delimiter, content = written
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cuts, "CHUNK", chunk)
        ends = sorted({boundary(content, delimiter, min(place, len(content))) for place in places} | {len(content)})
        starts = starts_of(content, delimiter)
        found = []
        for start, end in zip([0, *ends], ends, strict=False):
            at = start
            for begins, piece in pieces(content, delimiter, start, end):
                assert begins == at
                assert begins in starts
                at += len(piece)
                assert at in starts
                found.append(piece)
            assert at == end
    assert b"".join(found) == content


@given(FILES, st.integers(1, 7))
def test_a_stream_is_read_to_its_end(written, chunk):
    delimiter, content = written

    class Stream(io.BytesIO):
        def seek(self, *_):
            raise OSError("what is decompressed is read from its start")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cuts, "CHUNK", chunk)
        found = list(Cut(delimiter, 1_000).pieces(Stream(content), 0, None, "file.gz"))
    assert b"".join(piece for _, piece in found) == content
    assert {start for start, _ in found} <= set(starts_of(content, delimiter))


def test_nothing_is_no_piece():
    assert pieces(b"", b"\n") == []
    assert pieces(b"a\nb\n", b"\n", 2, 2) == []


def test_a_file_that_has_become_shorter_ends_where_it_ends():
    assert pieces(b"a\nb", b"\n", 0, 100) == [(0, b"a\n"), (2, b"b")]


def test_the_last_record_needs_no_delimiter():
    assert b"".join(piece for _, piece in pieces(b"a\nb", b"\n")) == b"a\nb"


def test_a_piece_has_some_chunks_length_and_not_the_whole_file(monkeypatch):
    monkeypatch.setattr(cuts, "CHUNK", 10)
    found = pieces(b"abc\n" * 100, b"\n")
    assert len(found) > 30
    assert max(len(piece) for _, piece in found) < 10 + 4


@pytest.mark.parametrize("delimiter", [b"\n", b"\n\n", b"\r\n"])
def test_a_record_that_is_too_long_is_named_with_its_place_and_what_to_do(monkeypatch, delimiter):
    monkeypatch.setattr(cuts, "CHUNK", 10)
    content = b"a" + delimiter + b"x" * 1_000
    with pytest.raises(SourceError) as caught:
        pieces(content, delimiter, max_record=100)
    for noun in ("file.txt", f"byte {1 + len(delimiter)} ", "max_record", "delimiter="):
        assert noun in str(caught.value)
    with pytest.raises(SourceError, match="max_record"):
        boundary(content, delimiter, 10, max_record=100)


def test_a_record_of_the_longest_length_is_read(monkeypatch):
    monkeypatch.setattr(cuts, "CHUNK", 10)
    content = b"x" * 99 + b"\n" + b"y" * 99 + b"\n"
    assert b"".join(piece for _, piece in pieces(content, b"\n", max_record=100)) == content
    assert boundary(content, b"\n", 50, max_record=100) == 100


def test_the_error_shows_no_secret_of_an_address():
    error = Cut(b"\n", 5).too_long("s3://me:s3cret@host/file", 3)
    assert "s3cret" not in str(error)
    assert "host/file" in str(error)
