"""Arrow and ORC files: each row once, with the options that Parquet has, and what is wrong is named."""

import datetime
import hashlib
import math
import struct
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import needed

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, SourceChanged, SourceError
from pymar.parts import Lost
from pymar.producer import Producer
from pymar.sources import (
    ArrowBatches,
    ArrowRows,
    JSONLines,
    ORCBatches,
    ORCRows,
    ParquetBatches,
    ParquetRows,
    TextLines,
    orc,
)
from pymar.testing import check_source

pa = needed("pyarrow")
ipc = needed("pyarrow.ipc")
pc = needed("pyarrow.compute")
pq = needed("pyarrow.parquet")
pa_orc = needed("pyarrow.orc")
NOON = datetime.datetime(2020, 1, 1, 12)


def write_arrow(path, table, rows=2, **options):
    with ipc.new_file(path, table.schema, options=ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, rows)


def write_orc(path, table, rows=2, **options):
    """As many stripes as fit: ORC looks at their size only after 1,024 rows or more."""
    writer = pa_orc.ORCWriter(path, stripe_size=1, batch_size=rows, **options)
    with writer:
        for start in range(0, max(table.num_rows, 1), rows):
            writer.write(table.slice(start, rows))


def write_parquet(path, table, rows=2, **options):
    pq.write_table(table, path, row_group_size=rows, **options)


FORMS = {
    "arrow": (ArrowRows, ArrowBatches, write_arrow, "record batches"),
    "orc": (ORCRows, ORCBatches, write_orc, "stripes"),
    "parquet": (ParquetRows, ParquetBatches, write_parquet, "row groups"),
}


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


def read(path, source, **settings):
    return list(DataSourceFactory(source, path=str(path), **settings).build_data_source())


def checked(path, source, **settings):
    """The rows, the same however the files are cut."""
    check_source(DataSourceFactory(source, path=str(path), **settings), seed=1)
    return read(path, source, **settings)


def numbers(start, count):
    return pa.table({"n": range(start, start + count), "word": [f"w{n % 7}" for n in range(start, start + count)]})


def texts(count):
    """Texts that do not compress well."""
    return pa.table({"x": [hashlib.sha256(str(n).encode()).hexdigest() for n in range(count)]})


class Collect(Producer):
    WORKERS_NUMBER = 5
    map_fn = staticmethod(lambda records: [list(records)])
    reduce_fn = staticmethod(lambda lists: [record for records in lists for record in records])


def test_each_row_once_in_many_parts(tmp_path, form):
    rows, batches, write, unit = FORMS[form]
    for file in range(3):
        write(tmp_path / f"{file}.x", numbers(file * 10_000, 10_000), 1_500)
    factory = DataSourceFactory(rows, path=f"{tmp_path}/*.x")
    assert factory.length() > 3
    assert factory.source.unit == unit
    found = Collect(engine="processes://2").map(factory)
    assert found == [{"n": n, "word": f"w{n % 7}"} for n in range(30_000)]
    assert check_source(factory, seed=1) == 30_000
    sizes = [batch.num_rows for batch in read(tmp_path, batches, batch_rows=400)]
    assert (max(sizes), sum(sizes)) == (400, 30_000)


def test_columns_and_filters(tmp_path, form):
    rows, batches, write, _ = FORMS[form]
    write(tmp_path / "a", numbers(0, 100), 7)
    wanted = [[("n", ">=", 90), ("word", "not in", ["w0", "w1"])], [("n", "==", 3)]]
    expected = [n for n in range(100) if (n >= 90 and n % 7 not in (0, 1)) or n == 3]
    assert checked(tmp_path, rows, columns=["n"], filter=wanted) == [{"n": n} for n in expected]
    assert checked(tmp_path, rows, columns=["word"], filter=[("n", "==", 8)]) == [{"word": "w1"}]
    assert checked(tmp_path, rows, columns=["word", "n"])[1] == {"word": "w1", "n": 1}
    assert list(read(tmp_path, rows, columns=["word", "n"])[1]) == ["word", "n"]
    table = pa.Table.from_batches(read(tmp_path, batches, filter=wanted))
    assert table.column("n").to_pylist() == expected
    with pytest.raises(SourceError, match="no column 'm'; it has n, word"):
        read(tmp_path, rows, columns=["m"])
    with pytest.raises(SourceError, match=r"filter has \('word', '>', 1\).*string"):
        read(tmp_path, rows, filter=[("word", ">", 1)])


def test_nan_and_null_in_filters(tmp_path, form):
    rows, _, write, _ = FORMS[form]
    write(tmp_path / "a", pa.table({"i": range(4), "x": [1.0, math.nan, None, 2.0]}))
    for condition, expected in (
        (("x", "!=", 1.0), [1, 3]),
        (("x", "not in", [1.0]), [1, 3]),
        (("x", "==", None), [2]),
        (("x", "!=", None), [0, 1, 3]),
        (("x", "in", [None, 2.0]), [2, 3]),
        (("x", "==", math.nan), []),
    ):
        assert checked(tmp_path, rows, columns=["i"], filter=[condition]) == [{"i": i} for i in expected]


def test_parts_of_structs(tmp_path, form):
    rows, _, write, _ = FORMS[form]
    write(tmp_path / "a", pa.table({"a": [{"b": 1, "c": {"d": "x"}}, None, {"b": 2, "c": None}], "n": range(3)}))
    assert checked(tmp_path, rows, columns=["a.b"]) == [{"a": {"b": 1}}, {"a": None}, {"a": {"b": 2}}]
    found = checked(tmp_path, rows, columns=["a.c.d", "n"], filter=[("a.b", ">", 0)])
    assert found == [{"a": {"c": {"d": "x"}}, "n": 0}, {"a": {"c": None}, "n": 2}]
    assert checked(tmp_path, rows, columns=["n"], filter=[("a.c.d", "==", None)]) == [{"n": 1}, {"n": 2}]


def test_names_with_dots(tmp_path, form):
    rows, _, write, _ = FORMS[form]
    write(tmp_path / "a", pa.table({"a.b": [1, 2], "a": [{"b": 5, "c": 6}, None], "c.": ["x", "y"]}))
    assert checked(tmp_path, rows, columns=["a.b"]) == [{"a.b": 1}, {"a.b": 2}]
    assert checked(tmp_path, rows, columns=["a.c", "a.b"]) == [{"a": {"c": 6}, "a.b": 1}, {"a": None, "a.b": 2}]
    assert checked(tmp_path, rows, columns=["c."], filter=[("a.b", "==", 2)]) == [{"c.": "y"}]
    assert checked(tmp_path, rows, columns=["c."], filter=[("a.c", "==", 6)]) == [{"c.": "x"}]


def test_folders_and_union(tmp_path, form):
    rows, _, write, _ = FORMS[form]
    for folder in ("k=1", "k=2"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "k=1/a", pa.table({"n": pa.array([1, 2, 3], pa.int32())}))
    write(tmp_path / "k=2/a", pa.table({"m": ["x"], "n": [0.5]}))
    with pytest.raises(SourceError, match=r"k=2/a has other columns than .*k=1/a: m is string.*union=True"):
        read(tmp_path, rows)
    expected = [{"n": float(n), "k": 1, "m": None} for n in (1, 2, 3)] + [{"n": 0.5, "k": 2, "m": "x"}]
    assert repr(checked(tmp_path, rows, union=True)) == repr(expected)
    assert checked(tmp_path, rows, union=True, columns=["k"]) == [{"k": 1}] * 3 + [{"k": 2}]
    assert checked(tmp_path, rows, filter=[("k", "==", 2)]) == [{"m": "x", "n": 0.5, "k": 2}]


def test_files_without_rows_and_paths_of_records(tmp_path, form):
    rows, _, write, _ = FORMS[form]
    write(tmp_path / "a", numbers(0, 3).slice(0, 0))
    assert checked(tmp_path, rows) == []
    write(tmp_path / "b", numbers(0, 3))
    found = checked(tmp_path, rows, with_path=True)
    assert found == [(str(tmp_path / "b"), {"n": n, "word": f"w{n}"}) for n in range(3)]


def test_a_file_that_changes_is_an_error(tmp_path, form):
    rows, _, write, _ = FORMS[form]
    write(tmp_path / "a", numbers(0, 10))
    records = iter(DataSourceFactory(rows, path=str(tmp_path / "a")).build_data_source())
    write(tmp_path / "a", numbers(5, 11))
    with pytest.raises(SourceChanged, match="has changed"):
        list(records)


@pytest.mark.parametrize("data", [b"some text\n" * 20, b"", b"\x00" * 100], ids=["text", "empty", "zeros"])
def test_a_file_of_another_kind_is_named(tmp_path, form, data):
    rows, _, _, _ = FORMS[form]
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(SourceError, match=r"/a is not an? \w+ file"):
        read(tmp_path / "a", rows)


def test_a_file_that_is_cut_off_is_named(tmp_path, form):
    rows, _, write, _ = FORMS[form]
    write(tmp_path / "a", numbers(0, 100))
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"/a is not an? \w+ file"):
        read(tmp_path, rows)


def test_damage_is_an_error_with_its_place(tmp_path, form):
    rows, _, write, unit = FORMS[form]
    options = {"arrow": {"compression": "zstd"}, "orc": {"compression": "zstd"}}.get(form, {})
    write(tmp_path / "a", numbers(0, 100_000), 100_000, **options)
    data = bytearray((tmp_path / "a").read_bytes())
    middle = len(data) // 3
    data[middle : middle + 500] = bytes(255 - byte for byte in data[middle : middle + 500])
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(SourceError, match=rf"/a, {unit} 0 to \d+, .*cannot be read"):
        read(tmp_path, rows)


# Arrow files


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_compressed_arrow_files(tmp_path, compression):
    write_arrow(tmp_path / "a.arrow", numbers(0, 1_000), 130, compression=compression)
    assert [row["n"] for row in checked(tmp_path, ArrowRows)] == list(range(1_000))
    assert DataSourceFactory(ArrowRows, path=str(tmp_path)).length() == 8


def test_feather_files(tmp_path):
    feather = needed("pyarrow.feather")
    feather.write_feather(numbers(0, 1_000), str(tmp_path / "a.feather"), chunksize=130)
    assert [row["n"] for row in checked(tmp_path, ArrowRows)] == list(range(1_000))


def test_a_stream_of_arrow_is_named_with_what_to_do(tmp_path):
    with ipc.new_stream(tmp_path / "a.arrows", numbers(0, 10).schema) as writer:
        writer.write_table(numbers(0, 10), 3)
    for source in (ArrowRows, TextLines, JSONLines):
        with pytest.raises(SourceError, match=r"a\.arrows.*Arrow stream.*new_file.*ArrowRows"):
            read(tmp_path / "a.arrows", source)
    with ipc.open_stream(tmp_path / "a.arrows") as reader, ipc.new_file(tmp_path / "b", reader.schema) as writer:
        for batch in reader:
            writer.write(batch)
    assert len(read(tmp_path / "b", ArrowRows)) == 10


@pytest.mark.filterwarnings("ignore:Feather V1:DeprecationWarning")
def test_feather_of_version_1_is_named_with_what_to_do(tmp_path):
    feather = needed("pyarrow.feather")
    old, new = str(tmp_path / "old.feather"), str(tmp_path / "new.feather")
    feather.write_feather(numbers(0, 10), old, version=1)
    for source in (ArrowRows, TextLines):
        with pytest.raises(SourceError, match=r"old\.feather.*Feather version 1.*write_feather.*ArrowRows"):
            read(old, source)
    feather.write_feather(feather.read_table(old), new)
    assert len(read(new, ArrowRows)) == 10


@pytest.mark.parametrize(
    ("write", "says"),
    [(write_arrow, r"Arrow.*ArrowRows"), (write_orc, r"ORC.*ORCRows"), (write_parquet, r"Parquet.*ParquetRows")],
)
def test_where_text_is_expected_the_source_that_reads_it_is_named(tmp_path, write, says):
    write(tmp_path / "a", numbers(0, 10))
    with pytest.raises(SourceError, match=says):
        read(tmp_path / "a", TextLines)
    if write is not write_arrow:
        with pytest.raises(SourceError, match=rf"not an Arrow file, but {says}"):
            read(tmp_path / "a", ArrowRows)


def test_batches_of_arrow_are_validated(tmp_path):
    """The format has no checksums: an offset beyond the texts would be read from somewhere in memory."""
    write_arrow(tmp_path / "a", pa.table({"x": ["ab", "cd", "ef"]}), 3)
    data = (tmp_path / "a").read_bytes()
    offsets = struct.pack("<4i", 0, 2, 4, 6)
    assert data.count(offsets) == 1
    (tmp_path / "a").write_bytes(data.replace(offsets, struct.pack("<4i", 0, 2, 4_000_000, 6)))
    with pytest.raises(SourceError, match="/a, record batches 0 to 1, cannot be read"):
        read(tmp_path / "a", ArrowRows)


def test_types_that_only_arrow_files_have(tmp_path):
    table = pa.table(
        {
            "runs": pc.run_end_encode(pa.array([NOON, NOON, None, NOON], pa.timestamp("us"))),
            "numbers": pc.run_end_encode(pa.array([1, 1, None, 2])),
            "words": pa.array(["a", None, "a", "b"], pa.dictionary(pa.int8(), pa.string())),
            "view": pa.array(["x" * 20, None, "", "y"], pa.string_view()),
            "lists": pa.array([[NOON], None, [], [None, NOON]], pa.list_view(pa.timestamp("ns"))),
            "large": pa.array([[1], None, [], [None, 2]], pa.large_list_view(pa.float16())),
            "date64": pa.array([NOON.date()] * 4, pa.date64()),
        }
    )
    write_arrow(tmp_path / "a", table, 4)
    assert checked(tmp_path, ArrowRows, batch_rows=3) == [
        {
            "runs": [NOON, NOON, None, NOON][i],
            "numbers": [1, 1, None, 2][i],
            "words": ["a", None, "a", "b"][i],
            "view": ["x" * 20, None, "", "y"][i],
            "lists": [[NOON], None, [], [None, NOON]][i],
            "large": [[1.0], None, [], [None, 2.0]][i],
            "date64": NOON.date(),
        }
        for i in range(4)
    ]
    assert checked(tmp_path, ArrowRows, columns=["view"], filter=[("words", "==", "a"), ("numbers", "==", 1)]) == [
        {"view": "x" * 20}
    ]
    assert checked(tmp_path, ArrowRows, columns=["view"], filter=[("view", "!=", "")]) == [
        {"view": "x" * 20},
        {"view": "y"},
    ]


def test_dictionaries_that_grow_from_batch_to_batch(tmp_path):
    kind = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([("x", kind)])
    options = ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with ipc.new_file(tmp_path / "a", schema, options=options) as writer:
        for words in (["a"], ["a", "b"], ["a", "b", "c"]):
            array = pa.DictionaryArray.from_arrays(pa.array(range(len(words)), pa.int8()), words)
            writer.write_batch(pa.record_batch([array], schema=schema))
    assert [row["x"] for row in checked(tmp_path, ArrowRows)] == list("aababc")


def test_uuids_of_arrow_files(tmp_path):
    """Also where pyarrow does not know the type: then the field says so."""
    one = uuid.UUID(int=5)
    mark = {"ARROW:extension:name": "arrow.uuid", "ARROW:extension:metadata": ""}
    schema = pa.schema([pa.field("x", pa.binary(16), metadata=mark)])
    with ipc.new_file(tmp_path / "a", schema) as writer:
        writer.write_batch(pa.record_batch([pa.array([one.bytes, None], pa.binary(16))], schema=schema))
    assert checked(tmp_path, ArrowRows) == [{"x": one}, {"x": None}]
    assert checked(tmp_path, ArrowRows, filter=[("x", "==", one)]) == [{"x": one}]
    (batch,) = read(tmp_path, ArrowBatches)
    assert batch.schema.types == [pa.binary(16)]


# ORC files


@pytest.mark.parametrize("compression", ["uncompressed", "zlib", "snappy", "lz4", "zstd"])
def test_compressed_orc_files(tmp_path, compression):
    write_orc(tmp_path / "a", texts(10_000), 1_000, compression=compression)
    assert checked(tmp_path, ORCRows) == texts(10_000).to_pylist()
    assert DataSourceFactory(ORCRows, path=str(tmp_path)).length() > 1


def test_values_of_orc(tmp_path):
    table = pa.table(
        {
            "t": pa.array([NOON, None], pa.timestamp("us")),
            "z": pa.array([NOON, None], pa.timestamp("us", "UTC")),
            "d": pa.array([NOON.date(), None]),
            "b": pa.array([b"\0", None]),
            "l": pa.array([[1, None], None]),
            "m": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
            "f": pa.array([0.5, None], pa.float32()),
            "s": pa.array([{"x": True}, None]),
        }
    )
    write_orc(tmp_path / "a", table)
    if not orc._refuses_far_times():
        with pytest.raises(SourceError, match=r"/a, column 't', has times.*upgrade pyarrow"):
            read(tmp_path, ORCRows)
        return
    utc = NOON.replace(tzinfo=datetime.UTC)
    first = {"t": NOON, "z": utc, "d": NOON.date(), "b": b"\0", "l": [1, None], "m": [("k", 1)], "f": 0.5}
    assert checked(tmp_path, ORCRows) == [{**first, "s": {"x": True}}, dict.fromkeys([*first, "s"])]


def test_times_of_orc_that_nanoseconds_do_not_hold_are_never_other_years(tmp_path):
    write_orc(tmp_path / "a", pa.table({"t": pa.array([datetime.datetime(9999, 1, 1)], pa.timestamp("us")), "n": [1]}))
    with pytest.raises(SourceError, match=r"/a.*(range for nanosecond|upgrade pyarrow)"):
        read(tmp_path, ORCRows)
    assert checked(tmp_path, ORCRows, columns=["n"]) == [{"n": 1}]


def test_errors_of_parts_reach_the_user_with_their_place(tmp_path):
    write_arrow(tmp_path / "a", pa.table({"t": pa.array([1], pa.timestamp("ns"))}))
    with pytest.raises(PartFailed, match=r"/a, record batches 0 to 1, column 't'.*ArrowBatches"):
        Collect(engine="serial").map(DataSourceFactory(ArrowRows, path=str(tmp_path)))


@pytest.mark.parametrize(("failure", "is_lost"), [(503, True), (403, False)])
def test_a_server_that_fails_once_while_a_part_is_read_costs_an_attempt(tmp_path, failure, is_lost):
    needed("fsspec")
    needed("aiohttp")
    write_parquet(tmp_path / "a", texts(100_000), 100_000, compression="none")
    data = (tmp_path / "a").read_bytes()
    failures = [failure]

    class Ranges(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(200, b"", len(data))

        def do_GET(self):
            start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            piece = data[int(start) : int(end or len(data) - 1) + 1]
            if failures and int(start) < 1_000:  # the footer is read before
                self.answer(failures.pop(), b"", 0)
            else:
                self.answer(206, piece, len(piece))

        def answer(self, code, body, size):
            self.send_response(code)
            for name, value in (("Content-Length", str(size)), ("Accept-Ranges", "bytes"), ("ETag", "one")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given):
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        threading.Thread(target=server.serve_forever).start()
        lost = []
        producer = Collect(engine="serial", listeners=[lambda event: isinstance(event, Lost) and lost.append(event)])
        factory = DataSourceFactory(ParquetRows, path=f"http://127.0.0.1:{server.server_port}/a")
        try:
            if is_lost:
                assert len(producer.map(factory)) == 100_000
                assert [event.cause.kind for event in lost] == ["source"]
            else:
                with pytest.raises(PartFailed, match=r"/a, row groups 0 to 1, cannot be read: .*403"):
                    producer.map(factory)
            assert not failures
        finally:
            server.shutdown()


def test_uuids_of_files_that_arrow_has_not_written(tmp_path):
    duckdb = needed("duckdb")
    path = str(tmp_path / "u.parquet")
    known = uuid.UUID(int=5)
    duckdb.sql(f"COPY (SELECT uuid '{known}' t, {{'u': uuid '{known}'}} s) TO '{path}' (FORMAT parquet)")
    for columns in ([], ["s"], ["t"], ["s", "t"]):
        (row,) = DataSourceFactory(ParquetRows, path=path, columns=columns).build_data_source()
        expected = {"t": known, "s": {"u": known}}
        assert row == {name: expected[name] for name in columns or expected}
    for value, count in ((known, 1), (uuid.UUID(int=6), 0)):
        found = DataSourceFactory(ParquetRows, path=path, filter=[("t", "==", value)]).build_data_source()
        assert len(list(found)) == count


def test_intervals_of_months_and_columns_of_one_name_are_named(tmp_path):
    write_arrow(tmp_path / "a", pa.table({"t": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}))
    with pytest.raises(SourceError, match=r"/a, record batches 0 to 1, column 't'.*months.*ArrowBatches"):
        read(tmp_path, ArrowRows)
    write_arrow(tmp_path / "a", pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]))
    with pytest.raises(SourceError, match=r"two columns called 'x'.*rename"):
        read(tmp_path, ArrowRows)
