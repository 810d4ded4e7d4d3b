"""Settings of sources: what cannot be meant is refused before a job begins, with the name and what it has to be."""

import pytest
from conftest import needed

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError
from pymar.sources import ArrayBlocks, CSVRows, JSONLines, ParquetRows, SQLRows, TextLines

numpy = needed("numpy")
needed("pyarrow")
needed("sqlalchemy")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4\n")
    numpy.save("a.npy", numpy.arange(10))
    table = {"a": [1, 2, 3]}
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(table), "a.parquet")


_DATABASE = {"url": "sqlite:///a.db", "table": "a"}


@pytest.mark.parametrize(
    ("source", "settings", "says"),
    [
        (ArrayBlocks, {"path": "a.npy", "block": -1}, "block is -1: it has to be a whole number, 0 or more"),
        (ArrayBlocks, {"path": "a.npy", "block": "4"}, "block is '4': it has to be a whole number, 0 or more"),
        (ArrayBlocks, {"path": "a.npy", "block": 2.5}, "block is 2.5: it has to be a whole number, 0 or more"),
        (ArrayBlocks, {"path": "a.npy", "block": True}, "block is True: it has to be a whole number, 0 or more"),
        (ArrayBlocks, {"path": "a.npy", "dtype": 8}, "dtype is 8: it has to be a text"),
        (TextLines, {"path": "a.csv", "max_record": 0}, "max_record is 0: it has to be a whole number, 1 or more"),
        (JSONLines, {"path": "a.csv", "max_record": "x"}, "max_record is 'x': it has to be a whole number, 1 or more"),
        (CSVRows, {"path": "a.csv", "max_record": -1}, "max_record is -1: it has to be a whole number, 1 or more"),
        (CSVRows, {"path": "a.csv", "header": 0}, "header is 0: it has to be True or False"),
        (CSVRows, {"path": "a.csv", "columns": "a"}, "columns is 'a': it has to be a list of names"),
        (CSVRows, {"path": "a.csv", "columns": [-1]}, r"columns is \[-1\]: it has to be a list of names"),
        (CSVRows, {"path": "a.csv", "columns": [0, "a"]}, "columns is .*: it has to be a list of names"),
        (CSVRows, {"path": "a.csv", "columns": [True]}, "columns is .*: it has to be a list of names"),
        (CSVRows, {"path": "a.csv", "bad_rows": "drop"}, "bad_rows is 'drop': it has to be"),
        (CSVRows, {"path": "a.csv", "skip_rows": -1}, "skip_rows is -1: it has to be a whole number, 0 or more"),
        (CSVRows, {"path": "a.csv", "comment": None}, "comment is None: it has to be a text"),
        (CSVRows, {"path": "a.csv", "null": "NA"}, "null is 'NA': it has to be a list of names"),
        (CSVRows, {"path": "a.csv", "types": ["int"]}, r"types is \['int'\]: it has to be a dict"),
        (CSVRows, {"path": "a.csv", "types": {"a": "long"}}, "types has 'long' for 'a': it has to be one of"),
        (CSVRows, {"path": "a.csv", "types": {"a": int}, "columns": ["b"]}, "types has the column 'a'"),
        (CSVRows, {"path": "a.csv", "types": {"a": int}, "header": False}, "types needs the names"),
        (CSVRows, {"path": "a.csv", "escapechar": "ab"}, "escapechar is 'ab': it has to be one character"),
        (CSVRows, {"path": "a.csv", "rename": 1}, "rename is 1: it has to be True or False"),
        (TextLines, {"path": "a.csv", "errors": "maybe"}, "errors is 'maybe': it has to be one of"),
        (TextLines, {"path": "a.csv", "errors": "replace", "encoding": None}, "errors is 'replace': it has to be"),
        (TextLines, {"path": "a.csv", "until": "now"}, "until is 'now': it has to be 'listed'"),
        (JSONLines, {"path": "a.csv", "json_array": 1}, "json_array is 1: it has to be True or False"),
        (CSVRows, {"path": "a.csv", "columns": None}, "columns is None: it has to be a list of names"),
        (
            ParquetRows,
            {"path": "a.parquet", "batch_rows": 0},
            "batch_rows is 0: it has to be a whole number, 1 or more",
        ),
        (ParquetRows, {"path": "a.parquet", "columns": "a"}, "columns is 'a': it has to be a list of names"),
        (SQLRows, {**_DATABASE, "url": 5}, "url is 5: it has to be a text"),
        (SQLRows, {**_DATABASE, "table": 7}, "table is 7: it has to be a text"),
        (SQLRows, {**_DATABASE, "where": 1}, "where is 1: it has to be a text"),
        (SQLRows, {**_DATABASE, "key": 5}, "key is 5: it has to be a list of names"),
        (SQLRows, {**_DATABASE, "as_tuples": "no"}, "as_tuples is 'no': it has to be True or False"),
    ],
)
def test_what_cannot_be_meant_is_refused(here, source, settings, says):
    with pytest.raises(SourceError, match=rf"^{source.__name__}\.{says}"):
        DataSourceFactory(source, **settings).length()


@pytest.mark.parametrize("block", [0, 1, 3, 10, numpy.int64(4)])
def test_blocks_of_every_size_have_all_rows(here, block):
    blocks = list(DataSourceFactory(ArrayBlocks, path="a.npy", block=block).build_data_source())
    assert [int(row) for rows in blocks for row in rows] == list(range(10))
