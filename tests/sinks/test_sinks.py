"""Sinks: what is written reads back equal through its source, and nothing of an attempt that failed is seen."""

import datetime
import gzip
import json
from decimal import Decimal

import pytest
from conftest import needed

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, SinkError, UsageError
from pymar.producer import Producer
from pymar.sinks import ArraySink, CSVSink, Files, FileSink, JSONLinesSink, ParquetSink, TextSink
from pymar.sources import CSVRows, JSONLines, ParquetRows, TextLines
from pymar.sources import Files as FilesSource
from pymar.testing import check_sink

arrow = needed("pyarrow")
parquet = needed("pyarrow.parquet")

ROWS = [{"n": n, "text": f"é {n}, “q”\t'", "half": n / 2, "none": None if n % 3 else n} for n in range(500)]
TEXTS = [{name: "" if value is None else str(value) for name, value in row.items()} for row in ROWS]


class Same(Producer):
    """Yields each record as it is; without a reduce_fn, which a job that writes does not need."""

    WORKERS_NUMBER = 7

    @staticmethod
    def map_fn(records):
        yield from records


class Nothing(Producer):
    @staticmethod
    def map_fn(records):
        return []


def read(source, path, **settings):
    return list(DataSourceFactory(source, path=str(path), **settings).build_data_source())


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def data(folder):
    return [name for name in names(folder) if name != "_pymar.json"]


@pytest.mark.parametrize("compression", [None, "gzip", "bz2", "xz", "zstd"])
def test_lines_and_values_read_back(tmp_path, compression):
    texts = [f"line {n} é" for n in range(300)] + [""]
    sink = TextSink(tmp_path / "t", compression=compression)
    assert check_sink(sink, DataSourceFactory(TextLines, path=str(tmp_path / "t")), texts).records == 301
    sink = JSONLinesSink(tmp_path / "j", compression=compression)
    check_sink(sink, DataSourceFactory(JSONLines, path=str(tmp_path / "j")), [*ROWS, [1], "x", None, 2.5])


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
@pytest.mark.parametrize("header", [True, False])
def test_csv_reads_back_as_text(tmp_path, compression, header):
    odd = {"n": "1", "text": 'a,b "c"\nd\r\n', "half": "", "none": " "}
    sink = CSVSink(tmp_path / "c", compression=compression, header=header)
    settings = {} if header else {"header": False, "columns": list(odd)}
    check_sink(sink, DataSourceFactory(CSVRows, path=str(tmp_path / "c"), **settings), [*TEXTS, odd])


def test_csv_has_none_as_empty_or_as_is_said(tmp_path):
    Same().write(DataSourceFactory(ROWS), CSVSink(tmp_path / "c"))
    assert read(CSVRows, tmp_path / "c") == TEXTS
    Same().write(DataSourceFactory([{"a": None, "b": True}]), CSVSink(tmp_path / "d", null="NA", delimiter=";"))
    assert read(TextLines, tmp_path / "d") == ["a;b", "NA;True"]


def test_csv_of_one_column_keeps_empty_fields(tmp_path):
    Same().write(DataSourceFactory([{"a": ""}, {"a": None}, {"a": "x"}]), CSVSink(tmp_path / "c"))
    assert read(CSVRows, tmp_path / "c") == [{"a": ""}, {"a": ""}, {"a": "x"}]


def test_tuples_of_csv_with_columns(tmp_path):
    Same().write(DataSourceFactory([(1, 2), (3, 4)]), CSVSink(tmp_path / "c", columns=["a", "b"]))
    assert read(CSVRows, tmp_path / "c") == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize("compression", [None, "zstd", "snappy"])
def test_parquet_reads_back_with_its_types(tmp_path, compression):
    rows = [
        {**row, "day": datetime.date(2020, 1, 1), "at": datetime.datetime(2020, 1, 1, 2, 3, 4, 567), "b": b"\0x",
         "list": [1, 2], "in": {"a": 1, "b": "x"}, "exact": Decimal("1.50"), "flag": True}
        for row in ROWS
    ]  # fmt: skip
    sink = ParquetSink(tmp_path / "p", compression=compression)
    check_sink(sink, DataSourceFactory(ParquetRows, path=str(tmp_path / "p")), rows)
    (name,) = data(tmp_path / "p")
    assert parquet.ParquetFile(tmp_path / "p" / name).metadata.num_rows == 500


def test_batches_and_tables_of_arrow_are_records(tmp_path):
    class Batches(Producer):
        @staticmethod
        def map_fn(records):
            for n in records:
                batch = arrow.record_batch({"n": [n, n + 0]})
                yield batch if n % 2 else arrow.Table.from_batches([batch])

    written = Batches().write(DataSourceFactory(range(100)), ParquetSink(tmp_path / "p"))
    assert written.records == 200
    assert [row["n"] for row in read(ParquetRows, tmp_path / "p")] == [n for n in range(100) for _ in range(2)]


def test_arrays_read_back(tmp_path):
    numpy = needed("numpy")

    class Blocks(Producer):
        WORKERS_NUMBER = 5

        @staticmethod
        def map_fn(records):
            for n in records:
                yield numpy.full((3, 2), n, "<i4").T.copy().T  # in Fortran's order

    written = Blocks().write(DataSourceFactory(range(40)), ArraySink(tmp_path / "a"))
    (name,) = data(tmp_path / "a")
    found = numpy.load(tmp_path / "a" / name)
    assert (written.records, found.shape, found.dtype) == (120, (120, 2), numpy.dtype("<i4"))
    assert (found == numpy.repeat(numpy.arange(40), 3)[:, None]).all()


def test_files_have_the_names_of_their_records(tmp_path):
    records = [("a.bin", b"\0\1"), ("deep/er/b é.txt", b""), ("c", b"x" * 100_000)]
    written = Same().write(DataSourceFactory(records), Files(tmp_path / "f"))
    assert written == (3, 3, 100_002)
    assert data(tmp_path / "f") == sorted(name for name, _ in records)
    folder = f"{tmp_path}/f/"
    assert sorted((path.removeprefix(folder), found) for path, found in read(FilesSource, folder)) == sorted(records)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../b", "", "a//b", "a/", ".hidden", "_x", "a\0b", 7])
def test_a_file_is_within_the_folder(tmp_path, name):
    with pytest.raises(PartFailed, match="record 0 of part 0"):
        Same().write(DataSourceFactory([(name, b"")]), Files(tmp_path / "f"))
    assert list(tmp_path.iterdir()) == []


def test_two_files_of_one_name_are_refused(tmp_path):
    with pytest.raises(SinkError, match="'a'"):
        Same().write(DataSourceFactory([("a", b"1"), ("a", b"2")]), Files(tmp_path / "f"))
    assert list(tmp_path.iterdir()) == []


def test_ten_thousand_parts_of_one_record_are_one_file(tmp_path):
    class Many(Same):
        WORKERS_NUMBER = 10_000

    written = Many().write(DataSourceFactory(range(10_000)), JSONLinesSink(tmp_path / "j"))
    assert (written.records, written.files) == (10_000, 1)
    assert read(JSONLines, tmp_path / "j") == list(range(10_000))


@pytest.mark.parametrize("sink", [JSONLinesSink, CSVSink, ParquetSink])
def test_files_have_at_most_so_many_records(tmp_path, sink):
    written = Same().write(DataSourceFactory(ROWS), sink(tmp_path / "x", records_a_file=60))
    assert written.records == 500
    source = {JSONLinesSink: JSONLines, CSVSink: CSVRows, ParquetSink: ParquetRows}[sink]
    counts = [len(read(source, tmp_path / "x" / name)) for name in data(tmp_path / "x")]
    assert sum(counts) == 500
    assert max(counts) == 60
    assert [row["n"] for row in read(source, tmp_path / "x")] == [str(n) if sink is CSVSink else n for n in range(500)]


def test_files_have_about_so_many_bytes(tmp_path):
    texts = ["x" * 999] * 2_000
    written = Same().write(DataSourceFactory(texts), TextSink(tmp_path / "t", bytes_a_file=100_000))
    sizes = [(tmp_path / "t" / name).stat().st_size for name in data(tmp_path / "t")]
    assert (sum(sizes), len(sizes)) == (written.bytes, written.files) == (2_000_000, written.files)
    assert 14 <= written.files <= 21
    assert max(sizes) < 300_000


def test_hive_folders(tmp_path):
    rows = [{"year": 2000 + n % 3, "who": ["a/b", None, "é =x"][n % 3], "n": n} for n in range(30)]
    for number, sink in enumerate((ParquetSink, CSVSink, JSONLinesSink)):
        folder = tmp_path / str(number)
        Same().write(DataSourceFactory(rows), sink(folder, partition_by=["year", "who"]))
        folders = sorted({name.rpartition("/")[0] for name in data(folder)})
        assert folders == [
            "year=2000/who=a%2Fb",
            "year=2001/who=__HIVE_DEFAULT_PARTITION__",
            "year=2002/who=%C3%A9 %3Dx",
        ]
        found = list(map(str, (row["n"] for row in read([ParquetRows, CSVRows, JSONLines][number], folder))))
        assert sorted(found, key=int) == list(map(str, range(30)))
    table = parquet.read_table(tmp_path / "0").to_pylist()  # by another reader: with the columns of the folders
    found = sorted(((row["n"], int(row["year"]), row["who"]) for row in table), key=lambda row: row[0])
    assert found == [(row["n"], row["year"], row["who"]) for row in rows]


def test_more_hive_folders_than_files_may_be_open(tmp_path):
    rows = [{"part": n % 250, "n": n} for n in range(1_000)]

    class One(Same):
        WORKERS_NUMBER = 1

    written = One().write(DataSourceFactory(rows), ParquetSink(tmp_path / "p", partition_by=["part"]))
    assert (written.records, written.files) == (1_000, 250)
    assert sorted(row["n"] for row in read(ParquetRows, tmp_path / "p")) == list(range(1_000))


def test_no_record_is_a_file_without_rows(tmp_path):
    schema = arrow.schema([("a", arrow.int32()), ("b", arrow.string())])
    written = Nothing().write(DataSourceFactory(range(5)), ParquetSink(tmp_path / "p", schema=schema))
    assert (written.records, written.files) == (0, 1)
    assert parquet.read_table(tmp_path / "p").schema == schema
    Nothing().write(DataSourceFactory([]), CSVSink(tmp_path / "c", columns=["a", "b"]))
    assert read(TextLines, tmp_path / "c") == ["a,b"]
    assert Nothing().write(DataSourceFactory([]), JSONLinesSink(tmp_path / "j")).records == 0
    assert read(JSONLines, tmp_path / "j") == []


def test_the_schema_is_that_of_all_parts(tmp_path):
    rows = [{"a": None, "b": 1}] * 5 + [{"a": "x", "b": 2}] * 5 + [{"a": None, "b": 2.5}] * 5
    for parts in (1, 3, 15):

        class Cut(Same):
            WORKERS_NUMBER = parts

        Cut().write(DataSourceFactory(rows), ParquetSink(tmp_path / f"p{parts}"))
        table = parquet.read_table(tmp_path / f"p{parts}")
        assert table.schema == arrow.schema([("a", arrow.string()), ("b", arrow.float64())])
        assert table.to_pylist() == [{"a": row["a"], "b": float(row["b"])} for row in rows]


def test_columns_of_none_alone(tmp_path):
    Same().write(DataSourceFactory([{"a": None, "b": 1}] * 20), ParquetSink(tmp_path / "p"))
    assert parquet.read_table(tmp_path / "p").to_pylist() == [{"a": None, "b": 1}] * 20


@pytest.mark.parametrize("sink", [ParquetSink, CSVSink])
@pytest.mark.parametrize(
    ("record", "told"),
    [({"n": 1}, "'half'"), ({"n": 1, "half": 2.0, "more": 3}, "'more'"), ("text", "'text'"), (None, "None")],
)
def test_a_record_that_does_not_fit_is_named(tmp_path, sink, record, told):
    class One(Same):
        WORKERS_NUMBER = 1

    rows = [{"n": n, "half": n / 2} for n in range(100)]
    rows[77] = record
    with pytest.raises(PartFailed, match="record 77 of part 0") as raised:
        One().write(DataSourceFactory(rows), sink(tmp_path / "x"))
    assert told in str(raised.value)
    assert isinstance(raised.value.__cause__, SinkError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["seven", [1], {"a": 1}, True, 1 << 70, datetime.date(2020, 1, 1)])
def test_a_column_of_mixed_types_is_named(tmp_path, value):
    class One(Same):
        WORKERS_NUMBER = 1

    rows = [{"n": n} for n in range(3_000)]
    rows[2_500] = {"n": value}
    with pytest.raises(PartFailed, match=r"2500 of part 0|of part 0") as raised:
        One().write(DataSourceFactory(rows), ParquetSink(tmp_path / "x"))
    assert "'n'" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_parts_of_different_types_are_named_when_they_meet(tmp_path):
    rows = [{"n": 1}] * 5 + [{"n": "x"}] * 5
    with pytest.raises(SinkError, match="'n' is"):
        Same().write(DataSourceFactory(rows), ParquetSink(tmp_path / "x"))
    with pytest.raises(SinkError, match="other columns"):
        Same().write(DataSourceFactory([{"a": 1}] * 5 + [{"b": 1}] * 5), CSVSink(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


def test_a_schema_is_kept(tmp_path):
    schema = arrow.schema([("a", arrow.int8()), ("b", arrow.string()), ("c", arrow.float32())])
    Same().write(DataSourceFactory([{"a": 1, "b": "x"}, {"c": 0.5}]), ParquetSink(tmp_path / "p", schema=schema))
    table = parquet.read_table(tmp_path / "p")
    assert table.schema == schema
    assert table.to_pylist() == [{"a": 1, "b": "x", "c": None}, {"a": None, "b": None, "c": 0.5}]
    with pytest.raises(PartFailed, match=r"'a'.*300"):
        Same().write(DataSourceFactory([{"a": 300}]), ParquetSink(tmp_path / "q", schema=schema))


@pytest.mark.parametrize(
    ("sink", "record"),
    [
        (TextSink, "two\nlines"), (TextSink, "cr\r"), (TextSink, 7), (TextSink, "\ud800"),
        (JSONLinesSink, float("nan")), (JSONLinesSink, {1: 2}), (JSONLinesSink, {"a": {1, 2}}),
        (JSONLinesSink, datetime.date(2020, 1, 1)),
        (CSVSink, {"n": "\ud800"}), (CSVSink, {"n": [1]}), (CSVSink, {"n": b"x"}),
    ],
)  # fmt: skip
def test_what_a_format_does_not_have_is_refused(tmp_path, sink, record):
    class One(Same):
        WORKERS_NUMBER = 1

    fine = {TextSink: "fine", JSONLinesSink: {"a": 1}, CSVSink: {"n": 1}}[sink]
    with pytest.raises(PartFailed, match="record 3 of part 0"):
        One().write(DataSourceFactory([fine, fine, fine, record]), sink(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


def test_halves_of_surrogate_pairs_in_json(tmp_path):
    records = ["é", "\ud800", {"a\udfff": "\ud83d\ude00"}]
    Same().write(DataSourceFactory(records), JSONLinesSink(tmp_path / "j"))
    assert read(JSONLines, tmp_path / "j") == ["é", "\ud800", {"a\udfff": "\U0001f600"}]


def test_nan_in_json_if_asked_for(tmp_path):
    Same().write(DataSourceFactory([float("inf")]), JSONLinesSink(tmp_path / "j", allow_nan=True))
    assert read(JSONLines, tmp_path / "j") == [float("inf")]


def test_errors_of_map_fn_are_its_own(tmp_path):
    class Raising(Producer):
        @staticmethod
        def map_fn(records):
            yield from records
            raise OSError(28, "of the user's own")

    with pytest.raises(PartFailed, match="of the user's own") as raised:
        Raising().write(DataSourceFactory(["x"]), TextSink(tmp_path / "t"))
    assert not isinstance(raised.value.__cause__, SinkError)
    assert list(tmp_path.iterdir()) == []


def test_a_sink_of_ones_own_in_a_few_lines(tmp_path):
    class Fasta(FileSink):
        suffix = ".fasta"

        def encode(self, records):
            return "".join(f">{name}\n{sequence}\n" for name, sequence in records).encode()

    Same().write(DataSourceFactory([("a", "GATTACA"), ("b", "CAT")]), Fasta(tmp_path / "f", compression="gzip"))
    (name,) = data(tmp_path / "f")
    assert name.endswith(".fasta.gz")
    assert gzip.decompress((tmp_path / "f" / name).read_bytes()) == b">a\nGATTACA\n>b\nCAT\n"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: ParquetSink(path, mode="replace"),
        lambda path: ParquetSink(path, compression="rar"),
        lambda path: ParquetSink(path, schema={"a": "int"}),
        lambda path: TextSink(path, records_a_file=0),
        lambda path: TextSink(path, bytes_a_file=-1),
        lambda path: TextSink(""),
        lambda path: CSVSink(path, columns="abc"),
        lambda path: CSVSink(path, delimiter="ab"),
        lambda path: CSVSink(path, partition_by="year"),
    ],
)
def test_settings_are_checked(tmp_path, make):
    with pytest.raises(UsageError):
        make(str(tmp_path / "x"))


def test_what_is_no_sink_is_refused():
    with pytest.raises(UsageError, match="TextSink"):
        Same().write(DataSourceFactory([1]), TextSink)
    with pytest.raises(UsageError, match="ParquetSink"):
        Same().write(DataSourceFactory([1]), "results/")


def test_the_manifest_says_what_there_is(tmp_path):
    written = Same().write(DataSourceFactory(ROWS), JSONLinesSink(tmp_path / "j", records_a_file=200))
    named = json.loads((tmp_path / "j" / "_pymar.json").read_text())
    assert [one["path"] for one in named["files"]] == data(tmp_path / "j")
    assert sum(one["records"] for one in named["files"]) == written.records == 500
    assert sum(one["bytes"] for one in named["files"]) == written.bytes


UTC = datetime.UTC


@pytest.mark.parametrize(
    "values",
    [
        [datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1, 5)],
        [datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, tzinfo=UTC)],
        [datetime.datetime(2020, 1, 1, tzinfo=UTC), datetime.datetime(2020, 1, 1)],
        ["x", b"y"],
        [2.5, True],
        [1, True],
        [[1], ["x"]],
        [[datetime.date(2020, 1, 1)], [datetime.datetime(2020, 1, 1, 5)]],
        [{"a": 2.5}, {"a": True}],
        [2**53 + 1, 0.5],
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_values_that_arrow_would_make_one_type_of_are_refused(tmp_path, values, parts):
    class Cut(Same):
        WORKERS_NUMBER = parts

    with pytest.raises((PartFailed, SinkError), match="'a'"):
        Cut().write(DataSourceFactory([{"a": value} for value in values]), ParquetSink(tmp_path / "p"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (arrow.int32(), 1.5),
        (arrow.date32(), datetime.datetime(2020, 1, 1, 5)),
        (arrow.timestamp("s"), datetime.datetime(2020, 1, 1, 0, 0, 0, 5)),
        (arrow.timestamp("us", "UTC"), datetime.datetime(2020, 1, 1)),
        (arrow.timestamp("us"), datetime.datetime(2020, 1, 1, tzinfo=UTC)),
        (arrow.float32(), 1e300),
        (arrow.int64(), "1"),
        (arrow.string(), 1),
        (arrow.bool_(), 2),
        (arrow.float16(), 70_000.0),
        (arrow.decimal128(5, 1), Decimal("1.55")),
    ],
)
def test_values_that_a_schema_would_change_are_refused(tmp_path, kind, value):
    with pytest.raises(PartFailed, match="'a'"):
        Same().write(DataSourceFactory([{"a": value}]), ParquetSink(tmp_path / "p", schema=arrow.schema([("a", kind)])))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (arrow.int8(), 7), (arrow.float32(), 0.5), (arrow.float64(), 3), (arrow.date32(), datetime.date(2020, 1, 1)),
        (arrow.timestamp("ns", "UTC"), datetime.datetime(2020, 1, 1, tzinfo=UTC)), (arrow.list_(arrow.int8()), [1, 2]),
        (arrow.decimal128(9, 2), Decimal("1.5")), (arrow.decimal128(9, 2), 2), (arrow.float32(), float("inf")),
        (arrow.float64(), float("nan")), (arrow.duration("us"), datetime.timedelta(1)), (arrow.bool_(), True),
        (arrow.dictionary(arrow.int8(), arrow.string()), "x"), (arrow.struct([("x", arrow.int8())]), {"x": 1}),
        (arrow.time64("us"), datetime.time(1, 2)), (arrow.map_(arrow.string(), arrow.int8()), [("a", 1)]),
    ],
)  # fmt: skip
def test_values_that_a_schema_takes(tmp_path, kind, value):
    sink = ParquetSink(tmp_path / "p", schema=arrow.schema([("a", kind)]))
    Same().write(DataSourceFactory([{"a": value}, {"a": None}]), sink)
    found = parquet.read_table(tmp_path / "p").column("a").to_pylist()
    assert found == [value, None] or (value != value and repr(found) == "[nan, None]")


def test_lone_carriage_returns_and_byte_order_marks(tmp_path):
    rows = [{"a": "x\ry", "b": "\r"}, {"a": "1", "b": "z\r\nz"}]
    Same().write(DataSourceFactory(rows), CSVSink(tmp_path / "c"))
    assert read(CSVRows, tmp_path / "c") == rows
    for record, sink in (("\ufeffx", TextSink), ({"\ufeffa": 1}, CSVSink)):
        with pytest.raises(PartFailed, match="byte order mark"):
            Same().write(DataSourceFactory([record]), sink(tmp_path / "x"))


def test_what_would_lose_its_meaning_is_refused(tmp_path):
    numpy = needed("numpy")
    twice = arrow.RecordBatch.from_arrays([arrow.array([1]), arrow.array([2])], names=["a", "a"])
    for record, sink, says in (
        (numpy.ma.masked_array([1, 2], [0, 1]), ArraySink(tmp_path / "x"), "mask"),
        ({"a": [{"b": {1: 2}}]}, JSONLinesSink(tmp_path / "x"), "keys"),
        (twice, ParquetSink(tmp_path / "x"), "two columns"),
        ({"a": numpy.array([1, 2])}, CSVSink(tmp_path / "x"), "ndarray"),
        ({"a": 1}, CSVSink(tmp_path / "x", partition_by=["a"]), "none is left"),
        ({"a": 1}, ParquetSink(tmp_path / "x", partition_by=["a"]), "none is left"),
        ({"a": "\ud800", "b": 1}, JSONLinesSink(tmp_path / "x", partition_by=["a"]), "folder"),
        ({"a": "x" * 300, "b": 1}, JSONLinesSink(tmp_path / "x", partition_by=["a"]), "too long"),
    ):
        with pytest.raises(PartFailed, match=says):
            Same().write(DataSourceFactory([record]), sink)
        assert list(tmp_path.iterdir()) == []
    for names in (["a", "a"], [".a"], [""]):
        with pytest.raises(UsageError, match="partition_by"):
            ParquetSink(tmp_path / "x", partition_by=names)
    with pytest.raises(SinkError, match="'a'"):
        Same().write(DataSourceFactory([("a", b""), ("a/b", b"")]), Files(tmp_path / "x"))


def test_dates_of_numpy_and_missing_values_of_pandas(tmp_path):
    numpy, pandas = needed("numpy"), needed("pandas")
    days = numpy.array(["2020-01-01", "NaT"], "datetime64[D]")
    Same().write(DataSourceFactory([days]), ArraySink(tmp_path / "a"))
    (name,) = data(tmp_path / "a")
    assert numpy.load(tmp_path / "a" / name).tobytes() == days.tobytes()
    Same().write(DataSourceFactory([{"a": pandas.NaT, "b": pandas.NA, "c": 1}]), CSVSink(tmp_path / "c"))
    assert read(CSVRows, tmp_path / "c") == [{"a": "", "b": "", "c": "1"}]


@pytest.mark.parametrize("sink", [ParquetSink, CSVSink, JSONLinesSink, TextSink])
def test_no_records_add_nothing(tmp_path, sink):
    Same().write(DataSourceFactory(["x"] if sink is TextSink else [{"a": 1}]), sink(tmp_path / "x"))
    before = names(tmp_path / "x")
    assert Nothing().write(DataSourceFactory([1]), sink(tmp_path / "x", mode="append")) == (0, 0, 0)
    assert names(tmp_path / "x") == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_is_appended_has_the_columns_of_what_is_there(tmp_path):
    for sink, first, other in (
        (ParquetSink, {"a": 1}, {"a": "x"}),
        (ParquetSink, {"a": 1}, {"a": 1, "b": 2}),
        (CSVSink, {"a": 1}, {"b": 1}),
    ):
        folder = tmp_path / f"{sink.__name__}{len(other)}"
        Same().write(DataSourceFactory([first]), sink(folder))
        with pytest.raises(SinkError):
            Same().write(DataSourceFactory([other]), sink(folder, mode="append"))
        assert len(data(folder)) == 1
        Same().write(DataSourceFactory([first]), sink(folder, mode="append"))
        assert len(data(folder)) == 2
    rows = [{"a": 1, "b": 2}]
    Same().write(DataSourceFactory(rows), JSONLinesSink(tmp_path / "h", partition_by=["a"]))
    for names in ([], ["b"]):
        with pytest.raises(SinkError, match="partition"):
            Same().write(DataSourceFactory(rows), JSONLinesSink(tmp_path / "h", partition_by=names, mode="append"))
    Same().write(DataSourceFactory(rows), JSONLinesSink(tmp_path / "h", partition_by=["a"], mode="append"))
    assert read(JSONLines, tmp_path / "h") == [{"b": 2, "a": 1}] * 2
