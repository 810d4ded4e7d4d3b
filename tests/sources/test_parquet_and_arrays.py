"""Parquet, arrays and lists of values: each record once, and what is wrong is named."""

import base64
import datetime
import math
import os
import sys

import pytest
from conftest import needed

import pymar.sources
from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, SourceError, UsageError
from pymar.producer import Producer
from pymar.sources import ArrayBlocks, ParquetBatches, ParquetRows, Partitions
from pymar.testing import check_source

np = needed("numpy")
pa = needed("pyarrow")
pq = needed("pyarrow.parquet")


class Collect(Producer):
    WORKERS_NUMBER = 5

    @staticmethod
    def map_fn(data_source):
        return [list(data_source)]

    @staticmethod
    def reduce_fn(lists):
        return [record for records in lists for record in records]


def records(source, engine="serial", **settings):
    return Collect(engine=engine).map(DataSourceFactory(source, **settings))


@pytest.fixture
def numbers(tmp_path):
    for file in range(3):
        table = pa.table({"n": range(file * 1_000, (file + 1) * 1_000), "word": [f"w{n % 7}" for n in range(1_000)]})
        pq.write_table(table, tmp_path / f"{file}.parquet", row_group_size=130)
    return str(tmp_path / "*.parquet")


def test_parquet_rows(numbers):
    found = records(ParquetRows, "processes://2", path=numbers)
    assert [row["n"] for row in found] == list(range(3_000))
    assert found[8] == {"n": 8, "word": "w1"}
    assert check_source(DataSourceFactory(ParquetRows, path=numbers)) == 3_000


def test_parquet_columns_and_filters(numbers):
    found = records(ParquetRows, path=numbers, columns=("n",), filter=[("n", ">=", 990), ("word", "in", ["w1", "w2"])])
    assert found == [{"n": n} for n in range(990, 3_000) if n % 1_000 % 7 in (1, 2)]


def test_parquet_batches_are_arrow(numbers):
    found = records(ParquetBatches, path=numbers, columns=("n",))
    assert sum(batch.num_rows for batch in found) == 3_000
    assert pa.Table.from_batches(found).column("n").to_pylist() == list(range(3_000))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"columns": ("m",)}, r"0\.parquet .*no column 'm'; .*n, word"),
        ({"filter": [("m", ">", 1)]}, "no column 'm'"),
        ({"filter": [("n", "~", 1)]}, "filter.*'~'.*column, operator, value"),
        ({"filter": ("n", ">", 1)}, "filter has 'n'.*list of conditions"),
    ],
)
def test_what_parquet_does_not_have_is_named(numbers, settings, says):
    with pytest.raises((SourceError, PartFailed), match=says):
        records(ParquetRows, path=numbers, **settings)


def test_parquet_files_that_differ_or_are_none_are_named(numbers, tmp_path):
    pq.write_table(pa.table({"n": ["text"], "more": [1]}), tmp_path / "9.parquet")
    with pytest.raises(SourceError, match=r"9\.parquet .*columns .*0\.parquet: more is int64"):
        records(ParquetRows, path=numbers)
    (tmp_path / "9.parquet").write_text("some text")
    with pytest.raises(SourceError, match=r"9\.parquet .*Parquet file"):
        records(ParquetRows, path=numbers)


def a_matrix(tmp_path, kind):
    """A matrix of 5,000 rows of three numbers in a file, and the settings that it needs."""
    matrix = np.arange(15_000, dtype="<f8").reshape(5_000, 3)
    path = str(tmp_path / f"matrix.{kind}")
    settings = {"path": path, "block": 99}
    if kind == "npy":
        np.save(path, matrix)
    elif kind == "npz":
        np.savez(path, matrix=matrix, other=matrix[:3])
        settings["name"] = "matrix"
    elif kind == "raw":
        matrix.tofile(path)
        settings |= {"dtype": "<f8", "shape": (3,)}
    elif kind == "h5":
        with needed("h5py").File(path, "w") as file:
            file["matrix"] = matrix
    else:
        needed("zarr").save_array(path, matrix)
    return matrix, settings


@pytest.mark.parametrize("kind", ["npy", "npz", "raw", "h5", "zarr"])
def test_blocks_of_arrays(tmp_path, kind):
    matrix, settings = a_matrix(tmp_path, kind)
    found = records(ArrayBlocks, "processes://2", **settings)
    assert max(len(block) for block in found) == 99
    assert (np.concatenate(found) == matrix).all()
    assert check_source(DataSourceFactory(ArrayBlocks, **settings), joined=np.concatenate) > 50


def test_what_arrays_do_not_have_is_named(tmp_path):
    _, npz = a_matrix(tmp_path, "npz")
    for change, says in (
        ({"name": "matirx"}, "no array 'matirx'.*matrix, other"),
        ({"name": ""}, "name="),
    ):
        with pytest.raises(SourceError, match=says):
            records(ArrayBlocks, **npz | change)
    _, raw = a_matrix(tmp_path, "raw")
    with pytest.raises(SourceError, match="dtype="):
        records(ArrayBlocks, **raw | {"dtype": ""})
    with pytest.raises(SourceError, match="rows of 56 bytes"):
        records(ArrayBlocks, **raw | {"shape": (7,)})
    with pytest.raises(SourceError, match=r"none\.zarr.*Zarr folder"):
        records(ArrayBlocks, path=str(tmp_path / "none.zarr"))
    (tmp_path / "bad.npy").write_text("some text")
    with pytest.raises(SourceError, match=r"bad\.npy .*read"):
        records(ArrayBlocks, path=str(tmp_path / "bad.npy"))


def test_an_array_that_changes_is_an_error(tmp_path):
    _, settings = a_matrix(tmp_path, "npy")

    class Meanwhile(ArrayBlocks):
        def __iter__(self):
            for block in super().__iter__():
                os.utime(self.path, ns=(1, 1))
                yield block

    with pytest.raises(PartFailed, match="has changed"):
        records(Meanwhile, **settings)


def test_an_array_is_in_one_file_and_may_be_empty(tmp_path):
    a_matrix(tmp_path, "npy")
    np.save(tmp_path / "matrix2.npy", np.zeros(3))
    with pytest.raises(SourceError, match="2 files"):
        records(ArrayBlocks, path=str(tmp_path / "matrix*.npy"))
    (tmp_path / "none.raw").touch()
    assert records(ArrayBlocks, path=str(tmp_path / "none.raw"), dtype="<f8") == []
    with pytest.raises(SourceError, match="dtype='nope'"):
        records(ArrayBlocks, path=str(tmp_path / "none.raw"), dtype="nope")


@pytest.mark.parametrize(("dtype", "shape"), [("O", ()), ("<f8", (0,)), ("<f8", (-1,)), ("<f8", ("a",)), ("U", ())])
def test_rows_that_no_bytes_can_be_are_refused(tmp_path, dtype, shape):
    (tmp_path / "some.raw").write_bytes(bytes(80))
    with pytest.raises(SourceError, match="dtype="):
        records(ArrayBlocks, path=str(tmp_path / "some.raw"), dtype=dtype, shape=shape)


def test_arrays_of_other_files_and_places(tmp_path):
    with pytest.raises(SourceError, match="local files"):
        records(ArrayBlocks, path="s3://bucket/a.npy")
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    os.rename(tmp_path / "a.npz", tmp_path / "a.npy")
    assert np.concatenate(records(ArrayBlocks, path=str(tmp_path / "a.npy"))).tolist() == [0.0] * 3


def test_a_virtual_dataset_changes_with_the_files_that_it_is_made_of(tmp_path):
    h5py = needed("h5py")
    with h5py.File(tmp_path / "part.h5", "w") as part:
        part["x"] = np.arange(100.0)
    with h5py.File(tmp_path / "whole.h5", "w") as whole:
        layout = h5py.VirtualLayout((100,), "f8")
        layout[:] = h5py.VirtualSource("part.h5", "x", (100,))
        whole.create_virtual_dataset("x", layout)

    class Meanwhile(ArrayBlocks):
        def __iter__(self):
            for block in super().__iter__():
                os.utime(tmp_path / "part.h5", ns=(1, 1))
                yield block

    path = str(tmp_path / "whole.h5")
    assert (np.concatenate(records(ArrayBlocks, path=path)) == np.arange(100.0)).all()
    with pytest.raises(PartFailed, match="has changed"):
        records(Meanwhile, path=path)
    os.remove(tmp_path / "part.h5")
    with pytest.raises(SourceError, match=r"part\.h5: No such file or directory.*whole\.h5"):
        records(ArrayBlocks, path=path)


def test_build_data_source_has_the_settings_of_the_factory(tmp_path):
    _, npz = a_matrix(tmp_path, "npz")
    whole = np.concatenate(list(DataSourceFactory(ArrayBlocks, **npz).build_data_source()))
    other = np.concatenate(list(DataSourceFactory(ArrayBlocks, **npz | {"name": "other"}).build_data_source()))
    assert whole.shape != other.shape


def test_parquet_nulls_can_be_asked_for(tmp_path):
    pq.write_table(pa.table({"x": [1, None, 3]}), tmp_path / "one.parquet")
    path = str(tmp_path / "one.parquet")
    assert records(ParquetRows, path=path, filter=[("x", "==", None)]) == [{"x": None}]
    assert records(ParquetRows, path=path, filter=[("x", "!=", None)]) == [{"x": 1}, {"x": 3}]
    for condition in (("x", ">", None), ("x", "in", "13")):
        with pytest.raises(SourceError, match=r"filter.*column, operator, value"):
            records(ParquetRows, path=path, filter=[condition])
    data = bytearray((tmp_path / "one.parquet").read_bytes())
    data[10:40] = b"\xff" * 30
    (tmp_path / "one.parquet").write_bytes(data)
    with pytest.raises((SourceError, PartFailed), match=r"one\.parquet"):
        records(ParquetRows, path=path)


@pytest.mark.parametrize(
    ("sign", "value", "expected"),
    [
        ("!=", 1.0, [1, 4, 5, 6, 7, 8]),
        ("==", 1.0, [0, 2, 3]),
        (">", 1.0, [6]),
        ("<=", 1.0, [0, 2, 3]),
        ("in", [1.0], [0, 2, 3]),
        ("!=", math.nan, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("==", math.nan, []),
        ("==", None, [9]),
        ("!=", None, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_parquet_nan_is_compared_as_python_does_however_rows_are_grouped(tmp_path, sign, value, expected, size):
    """But for NULL, which only None asks for. A group of 1.0 and NaN has 1.0 as its least and greatest value."""
    nan = math.nan
    x = [1.0, nan, 1.0, 1.0, nan, nan, 2.0, nan, nan, None]
    pq.write_table(pa.table({"i": range(10), "x": x}), tmp_path / "x.parquet", row_group_size=size)
    settings = {"path": str(tmp_path / "x.parquet"), "filter": [("x", sign, value), ("i", ">=", 0)]}
    assert [row["i"] for row in records(ParquetRows, **settings)] == expected
    assert records(ParquetRows, columns=["i"], **settings) == [{"i": i} for i in expected]


def encrypted(path, is_footer_plain):
    """Write columns x, encrypted, and y."""
    encryption = needed("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):
        def __init__(self, config):
            super().__init__()

        def wrap_key(self, key, master):
            return base64.b64encode(key)

    config = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["x"]}, plaintext_footer=is_footer_plain
    )
    factory = encryption.CryptoFactory(Keys)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    table = pa.table({"x": [1, 2], "y": [3, 4]})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return str(path)


def test_parquet_that_is_encrypted_is_named(tmp_path):
    whole, columns = encrypted(tmp_path / "whole.parquet", False), encrypted(tmp_path / "columns.parquet", True)
    with pytest.raises(SourceError, match=r"whole\.parquet is encrypted.*decrypt it first"):
        records(ParquetRows, path=whole)
    with pytest.raises(PartFailed, match=r"columns\.parquet.*leave encrypted columns out with columns="):
        records(ParquetRows, path=columns)
    assert records(ParquetRows, path=columns, columns=["y"]) == [{"y": 3}, {"y": 4}]


def test_partitions_are_any_values():
    assert records(Partitions, values=["January", "February"]) == ["January", "February"]
    assert check_source(DataSourceFactory(Partitions, values=list(range(100)))) == 100
    with pytest.raises(SourceError, match=r"values is a dict.*list"):
        records(Partitions, values={"a": 1})


def test_the_check_accepts_nan_and_names_the_remedy_for_blocks_and_for_order(tmp_path):
    pq.write_table(pa.table({"x": [float("nan"), 1.0] * 50}), tmp_path / "nan.parquet", row_group_size=10)
    assert check_source(DataSourceFactory(ParquetRows, path=str(tmp_path / "nan.parquet"))) == 100
    np.save(tmp_path / "a.npy", np.zeros((10, 2)))
    blocks = DataSourceFactory(ArrayBlocks, path=str(tmp_path / "a.npy"))
    with pytest.raises(AssertionError, match=r"joined=numpy\.concatenate"):
        check_source(blocks)
    assert check_source(blocks, joined=np.concatenate) == 1

    class Turned(Partitions):
        def __iter__(self):
            return iter([*super().__iter__()][::-1])

    turned = DataSourceFactory(Turned, values=[1, 2, 3])
    with pytest.raises(AssertionError, match=r"other records.*record 0 .*joined=sorted"):
        check_source(turned)
    assert check_source(turned, joined=sorted) == 3


def test_the_check_compares_types_and_signs_besides_equality(tmp_path):
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.arange(60.0).reshape(20, 3)))
    fortran = DataSourceFactory(ArrayBlocks, path=str(tmp_path / "fortran.npy"), block=3)
    assert check_source(fortran, joined=np.concatenate) == 7
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    assert check_source(DataSourceFactory(ArrayBlocks, path=str(tmp_path / "none.npy")), joined=np.concatenate) == 0

    class Unlike(Partitions):
        other = None

        def __iter__(self):
            return (self.values[0] if self.limit == 5 else self.other for _ in range(self.limit))

    for one, other in ((1, 1.0), (1, True), (0.0, -0.0), ({"a": (1,)}, {"a": (1.0,)})):
        with pytest.raises(AssertionError, match="other records"):
            check_source(DataSourceFactory(Unlike, values=[one] * 5, other=other))


def test_a_source_that_does_not_exist_is_named():
    with pytest.raises(AttributeError, match=r"no attribute 'TextLine'.*ArrayBlocks, "):
        getattr(pymar.sources, "TextLine")  # noqa: B009 - as an import would


@pytest.mark.parametrize(
    ("module", "extra", "source", "settings"),
    [
        ("pyarrow", "parquet", "ParquetRows", {"path": __file__}),
        ("sqlalchemy", "sql", "SQLRows", {"url": "sqlite://", "table": "x"}),
        ("h5py", "hdf5", "ArrayBlocks", {"path": "{folder}/x.h5"}),
        ("fsspec", "s3", "TextLines", {"path": "s3://bucket/key"}),
        ("zstandard", "zstd", "TextLines", {"path": "{folder}/x.zst"}),
    ],
)
def test_a_driver_that_is_not_installed_says_what_to_type(tmp_path, monkeypatch, module, extra, source, settings):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "x.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    settings = {name: value.format(folder=tmp_path) for name, value in settings.items()}
    with pytest.raises((UsageError, PartFailed), match=rf"pip install 'pymar\[{extra}\]'"):
        records(getattr(pymar.sources, source), **settings)


def test_time_stamps_of_spark_beyond_2262_are_what_they_are(tmp_path):
    """INT96, of which Arrow makes nanoseconds unless it is told otherwise: 9999-12-31 was 1816-03-29."""
    times = [datetime.datetime(9999, 12, 31), datetime.datetime(1, 1, 2), datetime.datetime(2020, 1, 1, 1, 2, 3, 4)]
    table = pa.table({"t": pa.array(times, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    path = str(tmp_path / "a.parquet")
    assert records(ParquetRows, path=path) == [{"t": time} for time in times]
    assert records(ParquetRows, path=path, filter=[("t", ">", datetime.datetime(9000, 1, 1))]) == [{"t": times[0]}]


@pytest.mark.parametrize("has_pandas", [True, False])
def test_records_do_not_depend_on_whether_pandas_is_installed(tmp_path, monkeypatch, has_pandas):
    nested = pa.list_(pa.struct([("at", pa.timestamp("ns"))]))
    second = 1_600_000_000_000_000_000
    table = pa.table(
        {
            "t": pa.array([second], pa.timestamp("ns", "UTC")),
            "d": pa.array([1_000], pa.duration("ns")),
            "n": pa.array([[{"at": second}]], nested),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    if not has_pandas:
        monkeypatch.setitem(sys.modules, "pandas", None)
    (row,) = records(ParquetRows, path=str(tmp_path / "a.parquet"))
    assert row["t"] == datetime.datetime(2020, 9, 13, 12, 26, 40, tzinfo=datetime.UTC)
    assert (type(row["t"]), type(row["d"])) == (datetime.datetime, datetime.timedelta)
    assert row["n"] == [{"at": datetime.datetime(2020, 9, 13, 12, 26, 40)}]
    assert type(row["n"][0]["at"]) is datetime.datetime


def test_nanoseconds_that_a_datetime_does_not_hold_are_an_error_and_batches_have_them(tmp_path):
    table = pa.table({"x": [1], "t": pa.array([1_600_000_000_000_000_001], pa.timestamp("ns"))})
    pq.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    with pytest.raises(PartFailed, match=r"a\.parquet.*'t'.*ParquetBatches.*columns="):
        records(ParquetRows, path=path)
    assert records(ParquetRows, path=path, columns=["x"]) == [{"x": 1}]
    (batch,) = records(ParquetBatches, path=path)
    assert batch.column("t").cast(pa.int64()).to_pylist() == [1_600_000_000_000_000_001]


def test_two_columns_of_one_name_are_an_error_with_the_file(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"a\.parquet has two columns.*'a'"):
        records(ParquetRows, path=str(tmp_path / "a.parquet"))


def test_a_filter_whose_value_is_of_another_type_is_the_filters_fault(tmp_path):
    pq.write_table(pa.table({"d": pa.array([18_000], pa.date32())}), tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"filter has \('d', '>', '2019-01-01'\).*date32"):
        records(ParquetRows, path=path, filter=[("d", ">", "2019-01-01")])
    assert len(records(ParquetRows, path=path, filter=[("d", ">", datetime.date(2019, 1, 1))])) == 1
