"""What a file is, is told by its first bytes, and a remedy that is named is one that works."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
from conftest import needed

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError
from pymar.sources import CSVRows, JSONLines, TextLines, formats

TEXT = b"id,name\n1,x\n"


def zipped(*names, data=TEXT):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, data)
    return out.getvalue()


def tarred():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("a.csv")
        info.size = len(TEXT)
        tar.addfile(info, io.BytesIO(TEXT))
    return out.getvalue()


def read(source, path, parts=3, **settings):
    factory = DataSourceFactory(source, path=str(path), **settings)
    return list(factory.build_data_source())


@pytest.fixture
def file(tmp_path):
    def write(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


COMPRESSED = {
    "gzip": gzip.compress(TEXT),
    "bz2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "zip": zipped("inside.csv"),
    "gzip in two members": gzip.compress(TEXT[:5]) + gzip.compress(TEXT[5:]),
}


@pytest.mark.parametrize("data", COMPRESSED.values(), ids=COMPRESSED)
@pytest.mark.parametrize("name", ["a", "a.tgz", "a.GZ", "a.csv", "a.csv.gz", "a.zip"])
def test_what_is_compressed_is_read_whatever_it_is_called(file, data, name):
    path = file(name, data)
    assert read(TextLines, path) == ["id,name", "1,x"]
    assert read(CSVRows, path) == [{"id": "1", "name": "x"}]


def test_text_is_text_whatever_it_is_called(file):
    assert read(TextLines, file("a.gz", TEXT)) == ["id,name", "1,x"]


def test_zstandard_with_a_long_window_is_read(file):
    zstandard = needed("zstandard")
    settings = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    path = file("a.zst", writer.compress(b'{"a": 1}\n') + writer.flush())
    assert read(JSONLines, path) == [{"a": 1}]


OTHERS = {
    "tar": tarred(),
    "UTF-16": "a,b\n".encode("utf-16"),
    "UTF-32": "a,b\n".encode("utf-32"),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "Parquet": b"PAR1\x15\x04" + bytes(100),
    "npy": b"\x93NUMPY\x01\x00" + bytes(100),
    "SQLite": b"SQLite format 3\x00" + bytes(100),
    "Arrow": b"ARROW1\x00\x00" + bytes(100),
}


@pytest.mark.parametrize("form", OTHERS)
@pytest.mark.parametrize("source", [TextLines, CSVRows, JSONLines])
def test_what_is_no_text_is_named_and_never_read_as_latin_1(file, source, form):
    for data in (OTHERS[form], gzip.compress(OTHERS[form])):
        for settings in ({}, {"encoding": "latin-1"}):
            with pytest.raises(SourceError, match=form) as refused:
                read(source, file("a.txt", data), **settings)
            assert "latin" not in str(refused.value)


@pytest.mark.parametrize(
    "text", [b"ORCID,name\n", b"PAR1,x\n", b"BZh9 is a bus\n", b"CDF,1\n", b"ARROW1 is text\n", b"PK\n"]
)
def test_text_that_begins_like_a_mark_is_text(file, text):
    assert read(TextLines, file("a.txt", text)) == [text.decode().rstrip("\n")]


def test_bytes_are_read_as_they_are_if_that_is_wanted(file):
    data = gzip.compress(TEXT)
    found = read(TextLines, file("a.gz", data), compression=None, encoding=None)
    assert b"\n".join(found).rstrip(b"\n") == data.rstrip(b"\n")


def test_a_compression_that_is_said_is_used(file):
    assert read(TextLines, file("a", gzip.compress(TEXT)), compression="gzip") == ["id,name", "1,x"]
    with pytest.raises(SourceError, match="cannot be decompressed"):
        read(TextLines, file("a", TEXT), compression="gzip")
    with pytest.raises(SourceError, match=r"compression.*'infer'.*'gzip'"):
        read(TextLines, file("a", TEXT), compression="rar")


def test_an_archive_of_several_files_is_named(file):
    with pytest.raises(SourceError, match=r"2 files.*one\.csv.*unzip"):
        read(TextLines, file("a.zip", zipped("one.csv", "two.csv")))
    assert read(TextLines, file("b.zip", zipped("one.csv", "__MACOSX/._one.csv", ".DS_Store"))) == ["id,name", "1,x"]


def test_an_archive_that_is_cut_off_is_named(file):
    with pytest.raises(SourceError, match=r"a\.zip.*unzip"):
        read(TextLines, file("a.zip", zipped("one.csv")[:-30]))


@pytest.mark.parametrize("source", [TextLines, CSVRows, JSONLines])
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_byte_order_mark_is_no_part_of_the_first_record(file, source, compress):
    data = {TextLines: b"one\ntwo\n", CSVRows: b'"a, b",c\n1,2\n', JSONLines: b'{"a": 1}\n'}[source]
    expected = {TextLines: ["one", "two"], CSVRows: [{"a, b": "1", "c": "2"}], JSONLines: [{"a": 1}]}[source]
    path = file("a.txt", compress(b"\xef\xbb\xbf" + data))
    assert read(source, path) == expected
    if source is CSVRows:
        assert read(source, path, single_line=True) == expected


def test_nothing_is_found_in_nothing():
    assert formats.format_of(b"") == ""
    assert formats.format_of(b"\x1f") == ""


@pytest.fixture
def hdf5(tmp_path):
    h5py = needed("h5py")

    def write(name, fill):
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            fill(file)
        return path

    return write


def blocks(path, **settings):
    import numpy as np

    from pymar.sources import ArrayBlocks

    return np.concatenate(list(DataSourceFactory(ArrayBlocks, path=str(path), **settings).build_data_source())).tolist()


@pytest.mark.parametrize("name", ["a.nc", "a.mat", "a.H5", "a", "a.npy"])
def test_hdf5_is_read_whatever_it_is_called(hdf5, name):
    import numpy as np

    assert blocks(hdf5(name, lambda file: file.update({"x": np.arange(4.0)}))) == [0.0, 1.0, 2.0, 3.0]


def test_an_array_within_groups_is_found_and_named(hdf5):
    def fill(file):
        file["one/deep/x"] = [1, 2]

    path = hdf5("a.h5", fill)
    assert blocks(path) == blocks(path, name="one/deep/x") == [1, 2]
    with pytest.raises(SourceError, match=r"no array 'one'.*one/deep/x"):
        blocks(path, name="one")


def test_a_link_that_leads_nowhere_hides_no_array(hdf5):
    h5py = needed("h5py")

    def fill(file):
        file["x"] = [1, 2]
        file["gone"] = h5py.SoftLink("/nowhere")
        file["loop"] = h5py.SoftLink("/")

    path = hdf5("a.h5", fill)
    assert blocks(path, name="x") == [1, 2]
    with pytest.raises(SourceError, match=r"no array 'gone'.*\bx\b"):
        blocks(path, name="gone")


def test_a_damaged_chunk_is_named_with_its_rows(hdf5):
    import numpy as np

    places = []

    def fill(file):
        chunks = file.create_dataset("x", data=np.arange(1_000), chunks=(100,), fletcher32=True)
        places.append(chunks.id.get_chunk_info(3).byte_offset)

    path = hdf5("a.h5", fill)
    with open(path, "r+b") as file:
        file.seek(places[0] + 5)
        file.write(b"\xff")
    with pytest.raises(SourceError, match=r"a\.h5, rows 0 to 1,000"):
        blocks(path)


def test_the_file_behind_an_external_link_must_not_change(hdf5):
    from pymar.exceptions import SourceChanged
    from pymar.serialization.settings import applied
    from pymar.sources import ArrayBlocks

    h5py = needed("h5py")
    hdf5("there.h5", lambda file: file.update({"x": [0.0] * 4}))
    path = hdf5("here.h5", lambda file: file.update({"x": h5py.ExternalLink("there.h5", "/x")}))
    factory = DataSourceFactory(ArrayBlocks, path=str(path)).for_a_job()
    assert factory.length() == 4
    with applied(factory.source, factory.prepared):
        assert next(iter(factory.source(offset=0, limit=2))).tolist() == [0.0, 0.0]
        hdf5("there.h5", lambda file: file.update({"x": [1.0] * 4}))
        with pytest.raises(SourceChanged):
            list(factory.source(offset=2, limit=2))
    factory.release()
