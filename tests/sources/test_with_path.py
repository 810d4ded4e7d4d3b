"""with_path: which file each record came from, on every source over files."""

import pytest

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError
from pymar.sources import CSVRows, Files, JSONLines, ParquetBatches, ParquetRows, TextLines
from pymar.testing import check_source


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text('{"n": 1}\n{"n": 2}\n')
    (tmp_path / "b.txt").write_text('{"n": 3}\n')
    (tmp_path / "empty.txt").write_text("")
    return tmp_path


def read(source, **settings):
    return list(DataSourceFactory(source, **settings).build_data_source())


def test_lines_and_values_have_the_path_of_their_file(folder):
    a, b = str(folder / "a.txt"), str(folder / "b.txt")
    lines = read(TextLines, path=f"{folder}/*.txt", with_path=True)
    assert lines == [(a, '{"n": 1}'), (a, '{"n": 2}'), (b, '{"n": 3}')]
    values = read(JSONLines, path=f"{folder}/*.txt", with_path=True)
    assert values == [(a, {"n": 1}), (a, {"n": 2}), (b, {"n": 3})]


def test_however_the_files_are_cut(folder):
    assert check_source(DataSourceFactory(TextLines, path=f"{folder}/*.txt", with_path=True), seed=1) == 3


def test_rows_of_csv(tmp_path):
    (tmp_path / "x.csv").write_text("n,m\n1,2\n")
    (tmp_path / "y.csv").write_text("n,m\n3,4\n")
    rows = read(CSVRows, path=str(tmp_path), with_path=True)
    assert rows == [(str(tmp_path / "x.csv"), {"n": "1", "m": "2"}), (str(tmp_path / "y.csv"), {"n": "3", "m": "4"})]


def test_rows_and_batches_of_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.table({"n": [1, 2]}), path)
    assert read(ParquetRows, path=str(path), with_path=True) == [(str(path), {"n": 1}), (str(path), {"n": 2})]
    ((came, batch),) = read(ParquetBatches, path=str(path), with_path=True)
    assert (came, batch.to_pylist()) == (str(path), [{"n": 1}, {"n": 2}])


def test_whole_files_have_it_unless_it_is_switched_off(folder):
    assert read(Files, path=f"{folder}/b.txt") == [(str(folder / "b.txt"), b'{"n": 3}\n')]
    assert read(Files, path=f"{folder}/*.txt", with_path=False) == [b'{"n": 1}\n{"n": 2}\n', b'{"n": 3}\n', b""]


def test_it_is_true_or_false(folder):
    with pytest.raises(SourceError, match="with_path"):
        read(TextLines, path=f"{folder}/*.txt", with_path=1)
