"""The source of docs/extending.md gives each record once, and says what is wrong with its file."""

import sys
from struct import pack

import pytest
from places import ROOT

from pymar import DataSourceFactory, PartFailed
from pymar.exceptions import SourceChanged, SourceError
from pymar.testing import check_source

EXAMPLES = ROOT / "examples" / "extending"
sys.path.insert(0, str(EXAMPLES))

import readings_source  # noqa: E402
from readings_source import Highest, Readings  # noqa: E402

RECORDS = [(float(second), second % 3, float(second % 97)) for second in range(1_000)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "readings.bin"
    path.write_bytes(b"".join(pack("<dHf", *record) for record in RECORDS))
    return path


def test_each_reading_is_given_once_however_the_file_is_cut(path):
    assert check_source(DataSourceFactory(Readings, path=str(path))) == len(RECORDS)


def test_blocks_are_no_limits(path, monkeypatch):
    monkeypatch.setattr(readings_source, "BLOCK", 7)
    assert check_source(DataSourceFactory(Readings, path=str(path))) == len(RECORDS)


def test_a_slice_has_the_records_as_they_were_written(path):
    assert list(DataSourceFactory(Readings, path=str(path), limit=3, offset=5).build_data_source()) == RECORDS[5:8]


def test_another_layout_is_a_setting(path):
    factory = DataSourceFactory(Readings, path=str(path), layout="<7H")
    assert factory.length() == len(RECORDS)


def test_a_job_reads_it(path):
    assert Highest().map(DataSourceFactory(Readings, path=str(path))) == (96.0, 0, 96.0)


def test_an_empty_file_has_no_records(tmp_path):
    path = tmp_path / "empty.bin"
    path.touch()
    assert check_source(DataSourceFactory(Readings, path=str(path))) == 0


def test_a_file_that_is_cut_short_is_refused_with_its_size(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"13999 bytes.*'<dHf' has 14"):
        DataSourceFactory(Readings, path=str(path)).length()


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere\.bin cannot be read: No such file"):
        DataSourceFactory(Readings, path=str(tmp_path / "nowhere.bin")).length()


def test_a_file_that_changes_while_it_is_read_is_an_error(path):
    source = DataSourceFactory(Readings, path=str(path)).build_data_source()
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(SourceChanged, match="has changed"):
        list(source)


class Growing(Highest):
    @staticmethod
    def map_fn(readings):
        with open(readings.path, "ab") as file:
            file.write(b"more")
        return readings


def test_a_job_whose_file_changes_ends_with_that_error(path):
    with pytest.raises(PartFailed, match="has changed since the job began"):
        Growing().map(DataSourceFactory(Readings, path=str(path)))


def test_the_program_prints_its_answer(script):
    assert script((EXAMPLES / "readings_source.py").read_text()).stdout == "Highest: 96, at 96 s, sensor 0\n"
