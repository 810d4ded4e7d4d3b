"""CSV as it is found: bad rows, lines to skip, odd names, quotes, types; and the same however the files are cut."""

import datetime
import logging
import math
from decimal import Decimal

import pytest

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError
from pymar.sources import CSVRows
from pymar.testing import check_source


def read(path, **settings):
    return list(DataSourceFactory(CSVRows, path=str(path), **settings).build_data_source())


@pytest.fixture
def file(tmp_path):
    def write(text, name="a.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return path

    return write


ROWS = "a,b,c\n1,2,3\n4,5\n6,7,8,9\n10,11,12\n13,14,15,\n\n16\n"


@pytest.mark.parametrize("single_line", [True, False])
def test_bad_rows_are_left_out_counted_and_logged(file, single_line, caplog):
    path = file(ROWS)
    with caplog.at_level(logging.WARNING):
        found = read(path, bad_rows="skip", single_line=single_line, as_tuples=True)
    assert found == [("1", "2", "3"), ("10", "11", "12")]
    (record,) = caplog.records
    text = record.getMessage()
    assert f"{path}: 4 bad rows were left out: byte 12: 2 fields instead of 3: ['4', '5']; byte 16: 4 fields" in text
    assert "byte 33: 4 fields" in text
    assert "byte 44: 1 fields instead of 3: ['16']" in text


@pytest.mark.parametrize("single_line", [True, False])
def test_bad_rows_are_padded(file, single_line, caplog):
    path = file(ROWS.replace("6,7,8,9\n", ""))
    found = read(path, bad_rows="pad", single_line=single_line, as_tuples=True)
    assert found == [
        ("1", "2", "3"), ("4", "5", ""), ("10", "11", "12"), ("13", "14", "15"), ("16", "", "")
    ]  # fmt: skip
    assert "3 bad rows were filled or cut" in caplog.text
    with pytest.raises(SourceError, match=r"byte 16: 4 fields instead of 3.*'9'.*bad_rows='skip'"):
        read(file(ROWS), bad_rows="pad")


def test_only_the_first_ten_are_shown(file, caplog):
    read(file("a,b\n" + "1\n" * 1_000), bad_rows="skip")
    assert "1000 bad rows" in caplog.text
    assert caplog.text.count("1 fields instead of 2") == 10


def test_an_error_names_the_setting(file):
    with pytest.raises(SourceError, match=r"row at byte 12: 2 fields instead of 3.*bad_rows='skip'.*'pad'"):
        read(file(ROWS))


def test_rows_with_wrong_quotes_are_left_out(file, caplog):
    path = file('a,b\n1,2\n"x"y,3\n4,5\n')
    with pytest.raises(SourceError, match="byte 8"):
        read(path)
    assert read(path, bad_rows="skip", as_tuples=True) == [("1", "2"), ("4", "5")]
    assert "byte 8" in caplog.text
    assert read(path, lax_quotes=True, as_tuples=True) == [("1", "2"), ("xy", "3"), ("4", "5")]


def test_however_files_are_cut_bad_rows_are_the_same(file):
    lines = [f"{n},{n}" + ",9" * (n % 3) for n in range(500)]
    path = file("a,b,c\n" + "\n".join(lines) + "\n")
    for how in ("skip", "pad"):
        settings = {"bad_rows": how, "single_line": True}
        if how == "pad":
            path.write_text("a,b,c\n" + "\n".join(f"{n},{n}" + ",9" * (n % 2) for n in range(500)) + "\n")
        count = check_source(DataSourceFactory(CSVRows, path=str(path), **settings), seed=1)
        assert count == (167 if how == "skip" else 500)


@pytest.mark.parametrize("single_line", [True, False])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_before_the_header_and_comments(file, single_line, header, mark):
    text = mark + b'a "title"\nof, two lines\n# no row\na,b\n1,2\n#3,4\n5,"#6"\n#\n'
    settings = {"skip_rows": 2, "comment": "#", "single_line": single_line, "header": header, "as_tuples": True}
    expected = [("1", "2"), ("5", "#6")] if header else [("a", "b"), ("1", "2"), ("5", "#6")]
    assert read(file(text), **settings) == expected
    assert check_source(DataSourceFactory(CSVRows, path=str(file(text)), **settings), seed=1) == len(expected)


def test_a_comment_mark_within_quotes_is_text(file):
    assert read(file('a,b\n1,"x\n#y"\n#z\n2,3\n'), comment="#") == [{"a": "1", "b": "x\n#y"}, {"a": "2", "b": "3"}]


def test_more_lines_to_skip_than_there_are(file):
    for single_line in (True, False):
        assert read(file("a\nb\n"), skip_rows=5, single_line=single_line) == []


def test_the_byte_of_an_error_counts_what_was_skipped(file):
    text = "# one\n# two\na,b\n# three\n1,2\n3\n"
    for single_line in (True, False):
        with pytest.raises(SourceError, match="row at byte 28: 1 fields instead of 2"):
            read(file(text), skip_rows=1, comment="#", single_line=single_line)


def test_equal_and_empty_names_are_made_different(file):
    text = "a,,a,a_2,,a\n1,2,3,4,5,6\n"
    with pytest.raises(SourceError, match="rename=True"):
        read(file(text))
    names = ["a", "column_2", "a_3", "a_2", "column_5", "a_4"]
    assert read(file(text), rename=True) == [dict(zip(names, "123456", strict=True))]
    assert read(file(text), rename=True, columns=["a_4", "column_2"]) == [{"a_4": "6", "column_2": "2"}]


def test_columns_by_place(file):
    text = "a,b,a\n1,2,3\n4,5,6\n"
    assert read(file(text), columns=[2, 1]) == [{"a": "3", "b": "2"}, {"a": "6", "b": "5"}]
    assert read(file(text), columns=[2, 0], as_tuples=True) == [("3", "1"), ("6", "4")]
    with pytest.raises(SourceError, match="two columns of one name"):
        read(file(text), columns=[0, 2])
    with pytest.raises(SourceError, match="no column at place 3; it has 3"):
        read(file(text), columns=[3])
    assert read(file(text), columns=[1], header=False) == [("b",), ("2",), ("5",)]


def test_columns_by_place_are_of_one_name_in_all_files(file, tmp_path):
    file("a,b\n1,2\n", "1.csv")
    file("b,a\n3,4\n", "2.csv")
    with pytest.raises(SourceError, match=r"2\.csv has the names b at these places"):
        read(tmp_path, columns=[0])
    assert read(tmp_path, columns=[0], as_tuples=True) == [("1",), ("3",)]


def test_quotes_escapes_and_spaces(file):
    assert read(file('a;b\n"1""2";\'x\'\n'), delimiter=";") == [{"a": '1"2', "b": "'x'"}]
    assert read(file("a,b\n1\\,2,3\n"), escapechar="\\") == [{"a": "1,2", "b": "3"}]
    assert read(file('a,b\n1, "x, y"\n'), skip_space=True) == [{"a": "1", "b": "x, y"}]
    assert read(file('a\tb\n5" pipe\t"x\n'), delimiter="\t", quotechar=None) == [{"a": '5" pipe', "b": '"x'}]
    assert read(file("a,b\n'x,y',2\n"), quotechar="'") == [{"a": "x,y", "b": "2"}]


TYPED = {
    "i": ("int", "-7", -7),
    "f": ("float", " 2.5e3", 2500.0),
    "b": ("bool", "True", True),
    "d": ("date", "2020-02-29", datetime.date(2020, 2, 29)),
    "t": ("datetime", "2020-01-02 03:04:05.678", datetime.datetime(2020, 1, 2, 3, 4, 5, 678000)),
    "z": ("datetime", "2020-01-02T03:04Z", datetime.datetime(2020, 1, 2, 3, 4, tzinfo=datetime.UTC)),
    "e": ("decimal", "1.10", Decimal("1.10")),
    "s": ("text", " 007 ", " 007 "),
}


@pytest.mark.parametrize("single_line", [True, False])
def test_values_of_types(file, single_line):
    names = list(TYPED)
    text = f"{','.join(names)}\n{','.join(text for _, text, _ in TYPED.values())}\n,,,,,,,\n"
    types = {name: kind for name, (kind, _, _) in TYPED.items()}
    (first, second) = read(file(text), types=types, null=["", "NA"], single_line=single_line)
    assert list(map(repr, first.values())) == [repr(value) for _, _, value in TYPED.values()]
    assert set(second.values()) == {None}
    assert read(file(text), types={"i": int, "e": Decimal}, null=[""], columns=["e", "i"], as_tuples=True) == [
        (Decimal("1.10"), -7),
        (None, None),
    ]


def test_null_without_types(file):
    assert read(file("a,b\nNA,\n1,2\n"), null=["NA", ""]) == [{"a": None, "b": None}, {"a": "1", "b": "2"}]
    assert read(file("NA,x\n"), null=["NA"], header=False) == [(None, "x")]


@pytest.mark.parametrize(
    ("kind", "text"),
    [("int", text) for text in ("1.0", "1_000", "", "0x1", "\u0661", "1e3", "nan")]
    + [("float", text) for text in ("1_0", "1,5", "", "0x1p3", "\u066b5", "e5", ".")]
    + [("bool", text) for text in ("yes", "2", "")]
    + [("date", text) for text in ("20200101", "2020-W01-1", "2020-02-30", "2020-1-1", "01.02.2020")]
    + [("datetime", text) for text in ("2020-01-01", "2020-01-01 25:00", "1577836800")]
    + [("decimal", text) for text in ("1_0", "snan", "")],
)
def test_what_is_no_value_of_its_type_is_named(file, kind, text):
    path = file(f'n;x\n1;1\n2;"{text}"\n')
    types = {"x": kind}
    good = {"int": "1", "float": "1", "bool": "1", "date": "2020-01-01", "datetime": "2020-01-01 00:00", "decimal": "1"}
    path.write_text(f'n;x\n1;{good[kind]}\n2;"{text}"\n')
    with pytest.raises(SourceError, match=rf"a\.csv, the row at byte {8 + len(good[kind]) - 1}: column 'x' is {kind}"):
        read(path, types=types, delimiter=";")


def test_floats_that_are_no_numbers(file):
    found = read(file("x\nnan\n-inf\nInfinity\n"), types={"x": "float"}, as_tuples=True)
    assert math.isnan(found[0][0])
    assert found[1:] == [(-math.inf,), (math.inf,)]


def test_a_typed_column_that_is_missing_is_named(file):
    with pytest.raises(SourceError, match="no column 'y'"):
        read(file("x\n1\n"), types={"y": "int"})


def test_typed_values_however_the_file_is_cut(file):
    path = file("n,x\n" + "".join(f"{n},{n / 4}\n" for n in range(2_000)))
    factory = DataSourceFactory(CSVRows, path=str(path), types={"n": "int", "x": "float"}, single_line=True)
    assert check_source(factory, seed=1) == 2_000


def test_bytes_that_are_no_text_are_replaced(file):
    text = b"a,b\n1,\xff\n2,\xc3\xa9\n"
    with pytest.raises(SourceError, match=r"byte 6.*errors='replace'"):
        read(file(text))
    for single_line in (True, False):
        found = read(file(text), errors="replace", single_line=single_line)
        assert found == [{"a": "1", "b": "�"}, {"a": "2", "b": "é"}]


def test_lines_to_skip_that_end_in_carriage_returns(file):
    for text in (b"junk\ra,b\r1,2\r3,4\r", b"junk\ra,b\n1,2\n3,4\n", b"junk\r\na,b\r\n1,2\r\n3,4\r\n"):
        assert read(file(text), skip_rows=1) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_a_header_with_wrong_quotes_is_named(file):
    for single_line in (True, False):
        with pytest.raises(SourceError, match=r"a\.csv, the row at byte 0: the header.*delimiter="):
            read(file('"a","b"\n1,2\n'), delimiter=";", single_line=single_line)


def test_text_of_two_bytes_a_letter_without_a_mark(file):
    for encoding in ("utf-16-le", "utf-16-be"):
        with pytest.raises(SourceError, match="UTF-16"):
            read(file("a,b\n1,2\n".encode(encoding)))
