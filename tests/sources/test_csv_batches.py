"""CSVBatches gives the values of CSVRows, whoever reads a piece of the file."""

import random

import pytest
from conftest import needed

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError
from pymar.sources import CSVBatches, CSVRows
from pymar.sources.csvbatches import CSVBatches as Implementation
from pymar.testing import check_source

arrow = needed("pyarrow")

TYPES = {"i": "int", "f": "float", "b": "bool", "d": "date", "t": "datetime"}


def rows(path, **settings):
    return list(DataSourceFactory(CSVRows, path=str(path), **settings).build_data_source())


def table(path, **settings):
    found = list(DataSourceFactory(CSVBatches, path=str(path), **settings).build_data_source())
    return arrow.Table.from_batches(found).to_pylist() if found else []


@pytest.fixture
def by_arrow(monkeypatch):
    """Counts the pieces that pyarrow has read."""
    count = []
    real = Implementation._by_arrow

    def counted(self, *arguments):
        found = real(self, *arguments)
        count.append(found.num_rows)
        return found

    monkeypatch.setattr(Implementation, "_by_arrow", counted)
    return count


@pytest.fixture
def file(tmp_path):
    def write(data, name="a.csv"):
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return write


def typed(count, seed):
    rng = random.Random(seed)
    lines = [
        f"{rng.choice(['', '+', '-', ' '])}{n},{rng.random() * 10 ** rng.randrange(-300, 300)!r},"
        f"{rng.choice(['true', 'FALSE', '1', '0', ' True'])},20{n % 90 + 10}-0{n % 9 + 1}-28,"
        f"2020-01-02{rng.choice('T ')}03:04:{n % 60:02}.{n % 1_000_000:06},{rng.choice(['', 'é', ' x ', 'NA'])}"
        for n in range(count)
    ]
    lines.insert(0, "i,f,b,d,t,s")
    return "\n".join(lines) + rng.choice(["", "\n", "\n\n"])


@pytest.mark.parametrize("single_line", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_typed_values_are_those_of_rows(file, by_arrow, single_line, end):
    path = file(typed(3_000, 1).replace("\n", end))
    settings = {"types": TYPES, "single_line": single_line, "null": ["NA"]}
    assert repr(table(path, **settings)) == repr(rows(path, **settings))
    assert sum(by_arrow) == 3_000
    if single_line:
        joined = lambda batches: arrow.Table.from_batches(batches).to_pylist()  # noqa: E731
        assert check_source(DataSourceFactory(CSVBatches, path=str(path), **settings), seed=1, joined=joined) > 0


def test_pieces_with_quotes_are_read_as_rows(file, by_arrow):
    lines = [f"{n},word {n}" for n in range(60_000)]
    lines[30_000] = '30000,"quo""ted, with a comma"'
    path = file("i,s\n" + "\n".join(lines) + "\n")
    for single_line in (True, False):
        by_arrow.clear()
        settings = {"types": {"i": int}, "single_line": single_line}
        assert table(path, **settings) == rows(path, **settings)
        assert 0 < sum(by_arrow) < 60_000


ODD = [
    ("a,b\n1,2\n3\n4,5\n", {"bad_rows": "skip"}),
    ("a,b\n1,2\n3\n4,5,\n", {"bad_rows": "pad"}),
    ("#x\na,b\n1,2\n#3\n4,5\n", {"comment": "#"}),
    ("x\ny\na,b\n1,2\n", {"skip_rows": 2}),
    ("a,b\n1, 2\n", {"skip_space": True}),
    ("a,b\n1\\,1,2\n", {"escapechar": "\\"}),
    ("a;b\n1;2\n", {"delimiter": ";"}),
    ('a,b\n1,"2\n', {"quotechar": None}),
    ("a,b\r1,2\r3,4\r", {}),
    ("\ufeffa,b\n1,2\n", {}),
    ("\n\na,b\n\n1,2\n\n", {}),
    ("a,a,\n1,2,3\n", {"rename": True}),
    ("a,b\n1,2\n", {"columns": ["b"]}),
    ("a,b\n1,2\n", {"columns": [1, 0]}),
    ("a,b\n", {}),
    ("a,b", {}),
    ("", {}),
    ("1,2\n3,4\n", {"header": False, "columns": ["x", "y"]}),
    ("a\n\n1\n\n2\n", {}),
    ("a,b\n1,\0\n", {}),
    ("a,b\n,\n", {"null": [""]}),
]


@pytest.mark.parametrize("number", range(len(ODD)))
@pytest.mark.parametrize("single_line", [True, False])
def test_odd_files_are_read_as_rows(file, number, single_line):
    text, settings = ODD[number]
    if "\r" in text and single_line:
        pytest.skip("lines that end in CR alone cannot be cut")
    path = file(text)
    assert table(path, single_line=single_line, **settings) == rows(path, single_line=single_line, **settings)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("a,b\n1,2\n3\n", {}),
        ("a,b\n1,2\nx,3\n", {"types": {"a": "int"}}),
        ("a,b\n1,2\n0x10,3\n", {"types": {"a": "int"}}),
        ("a,b\n1,2\n2020-02-30,3\n", {"types": {"a": "date"}}),
        (b"a,b\n1,\xff\n", {}),
        ('a,b\n1,2\n"x"y,2\n', {}),
    ],
)
def test_errors_are_those_of_rows(file, text, settings):
    path = file(text)
    with pytest.raises(SourceError) as expected:
        rows(path, **settings)
    with pytest.raises(SourceError) as raised:
        table(path, **settings)
    assert str(raised.value) == str(expected.value)


def test_what_arrow_has_no_type_for_is_an_error(file):
    path = file("a\n1\n99999999999999999999\n")
    with pytest.raises(SourceError, match="'a'"):
        table(path, types={"a": "int"})
    path = file("a\n2020-01-01 00:00Z\n")
    with pytest.raises(SourceError, match="time zone"):
        table(path, types={"a": "datetime"})
    with pytest.raises(SourceError, match="decimal"):
        table(path, types={"a": "decimal"})
    with pytest.raises(SourceError, match="as_tuples"):
        table(path, as_tuples=True)
    with pytest.raises(SourceError, match="needs names"):
        table(path, header=False)


def test_another_encoding_and_compression(tmp_path):
    import gzip

    (tmp_path / "a.csv").write_bytes("a,b\né,1\n".encode("latin-1"))
    assert table(tmp_path / "a.csv", encoding="latin-1", types={"b": int}) == [{"a": "é", "b": 1}]
    (tmp_path / "a.csv").write_bytes(gzip.compress("a,b\né,1\n".encode()))
    assert table(tmp_path / "a.csv") == [{"a": "é", "b": "1"}]


def test_folders_and_batch_rows(tmp_path):
    (tmp_path / "year=7").mkdir()
    (tmp_path / "year=7" / "x.csv").write_text("n\n" + "\n".join(map(str, range(10))))
    found = list(
        DataSourceFactory(CSVBatches, path=str(tmp_path), batch_rows=4, types={"year": int}).build_data_source()
    )
    assert max(batch.num_rows for batch in found) == 4
    assert arrow.Table.from_batches(found).to_pylist() == [{"n": str(n), "year": 7} for n in range(10)]
