"""Arrays in classic netCDF, in Zarr stores as zip archives and folders, in several files, and behind a header."""

import logging
import os
import shutil
import sys
import zipfile
import zlib
from base64 import b64decode
from pathlib import Path

import pytest
from conftest import needed

from pymar.datasource import DataSourceFactory
from pymar.exceptions import MissingExtra, PartFailed, SourceChanged, SourceError
from pymar.producer import Producer
from pymar.serialization.settings import applied
from pymar.sources import ArrayBlocks, TextLines
from pymar.sources.storage import found
from pymar.testing import check_source

np = needed("numpy")

#: Two record variables, "größe" of bytes, (t, 3), and "zeit" of floats, (t,), of 4 records; written by netCDF-C 4.9.
OF_NETCDF_C = zlib.decompress(
    b64decode(
        "eNpzdnFjZGBgYAFiLiBmAmLGEgY4YKyA0MwIIQZuqDr29KLD2w7PT2WA8sHqkdTBzO0A0VWpmSVo8iDABsQcQNzDwMjEbP8AahkLK5v9D6gCdg5O"
        "BxYIm5OLm8GBB8IGAGo/DCI="
    )
)


class Collect(Producer):
    WORKERS_NUMBER = 5

    @staticmethod
    def map_fn(data_source):
        return [list(data_source)]

    @staticmethod
    def reduce_fn(lists):
        return [record for records in lists for record in records]


def blocks(path, **settings):
    return list(DataSourceFactory(ArrayBlocks, path=path, **settings).build_data_source())


def joined(path, **settings):
    return np.concatenate(blocks(path, **settings))


def holds(expected, path, **settings):
    """Compare shape, type and bytes of what is read with an array, and of what is read in parts with the whole."""
    settings = {"path": str(path), "block": 7, **settings}
    read = blocks(**settings)
    assert {block.dtype for block in read} == {expected.dtype}
    assert np.concatenate(read).astype(expected.dtype).tobytes() == expected.tobytes()
    assert sum(map(len, read)) == len(expected)
    assert check_source(DataSourceFactory(ArrayBlocks, **settings), seed=1, joined=np.concatenate) == len(read)
    return True


def rows(records):
    """Return (path, row) for each row of records with paths, whatever the blocks that they came in."""
    return [(path, row.tolist()) for path, block in records for row in block]


@pytest.fixture
def netcdf(tmp_path):
    """Write variables to a classic netCDF file, their first dimension without a limit if `is_open`."""
    scipy = needed("scipy.io")

    def write(is_open=True, version=1, **variables):
        path = tmp_path / "classic.nc"
        with scipy.netcdf_file(path, "w", version=version) as file:
            if is_open:
                file.createDimension("t", None)
            for name, values in variables.items():
                names = ["t" if is_open and not axis else f"{name}{axis}" for axis in range(values.ndim)]
                for dimension, length in list(zip(names, values.shape, strict=True))[is_open:]:
                    file.createDimension(dimension, length)
                variable = file.createVariable(name, values.dtype, names)
                if values.ndim:
                    variable[:] = values
                variable.scale_factor, variable.add_offset, variable._FillValue = 0.5, 3.0, values.dtype.type(1)
        return path

    return write


NUMBERS = {
    "bytes": np.arange(159, dtype="i1").reshape(53, 3),
    "short": np.arange(53, dtype=">i2"),
    "whole": np.arange(53 * 24, dtype=">i4").reshape(53, 4, 6),
    "single": np.linspace(-1, 1, 53, dtype=">f4"),
    "double": np.linspace(-1, 1, 106, dtype=">f8").reshape(53, 2),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("is_open", [True, False], ids=["record dimension", "fixed"])
def test_classic_netcdf_gives_the_values_of_the_file_in_its_byte_order(netcdf, version, is_open):
    """Neither scaled nor masked: as of HDF5."""
    path = netcdf(is_open, version, **NUMBERS)
    assert path.read_bytes()[:4] == b"CDF" + bytes([version])
    for name, expected in NUMBERS.items():
        assert holds(expected, path, name=name)


def test_a_single_record_variable_has_no_padding_between_its_records(netcdf):
    assert holds(NUMBERS["bytes"], netcdf(x=NUMBERS["bytes"]))


def test_classic_netcdf_of_its_own_library_with_a_name_that_is_not_ascii(tmp_path):
    needed("scipy.io")
    (tmp_path / "a").write_bytes(OF_NETCDF_C)
    assert holds(np.arange(12, dtype="i1").reshape(4, 3), tmp_path / "a", name="größe")
    assert holds(np.arange(0.5, 4, dtype=">f8"), tmp_path / "a", name="zeit")
    with pytest.raises(SourceError, match=r"no array 'groesse'; there is größe, zeit"):
        blocks(tmp_path / "a", name="groesse")
    with pytest.raises(SourceError, match=r"2 arrays: set name="):
        blocks(tmp_path / "a")


def test_netcdf_without_records_has_no_rows(netcdf):
    assert blocks(netcdf(x=np.zeros((0, 3)), y=np.zeros(0, "i2")), name="x") == []


def test_blocks_of_netcdf_are_views_that_outlive_the_reading(netcdf):
    path = netcdf(**NUMBERS)
    (block,) = blocks(path, name="double")
    os.remove(path)
    assert block.tolist() == NUMBERS["double"].tolist()
    assert not block.flags.writeable


def test_netcdf_that_is_cut_short_is_an_error_wherever_it_ends(netcdf):
    path = netcdf(**NUMBERS)
    whole = path.read_bytes()
    for length in (*range(4, 200, 7), len(whole) // 2, len(whole) - 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"classic\.nc .*cut short"):
            blocks(path, name="double")


@pytest.mark.parametrize("records", [b"\xff\xff\xff\xff", b"\x80\x00\x00\x04"])
def test_netcdf_whose_number_of_records_is_not_known_is_refused(tmp_path, records):
    """All ones are the format's word for that. SciPy takes the number for one below zero, and reads no records."""
    needed("scipy.io")
    (tmp_path / "a.nc").write_bytes(OF_NETCDF_C[:4] + records + OF_NETCDF_C[8:])
    with pytest.raises(SourceError, match=r"a\.nc .*how many records"):
        blocks(tmp_path / "a.nc", name="zeit")


def test_a_dimension_that_scipy_counts_below_zero_is_refused(netcdf):
    """Of a length of -1 it makes however many there are."""
    path = netcdf(False, x=np.arange(5.0))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"x0\0\0\x00\x00\x00\x05", b"x0\0\0\xff\xff\xff\xff"))
    assert path.read_bytes() != data
    with pytest.raises(SourceError, match=r"classic\.nc has a dimension of 2\*\*31.*nccopy -k nc4"):
        blocks(path)


def test_a_netcdf_variable_without_dimensions_is_a_single_number(netcdf):
    path = netcdf(False, x=np.array(3.0))
    with pytest.raises(SourceError, match="single number"):
        blocks(path)


def test_netcdf_that_cannot_be_read_says_what_to_convert_it_to(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"CDF\x05" + bytes(80))
    for source in (ArrayBlocks, TextLines):
        with pytest.raises(SourceError, match=r"a\.nc begins as netCDF CDF-5.*nccopy -k nc4.*ArrayBlocks"):
            list(DataSourceFactory(source, path=str(tmp_path / "a.nc")).build_data_source())


def test_classic_netcdf_where_text_was_expected_names_the_source_that_reads_it(tmp_path):
    (tmp_path / "a.nc").write_bytes(OF_NETCDF_C)
    with pytest.raises(SourceError, match=r"begins as netCDF, .*read it with pymar\.sources\.ArrayBlocks$"):
        list(DataSourceFactory(TextLines, path=str(tmp_path / "a.nc")).build_data_source())


def test_the_library_of_netcdf_that_is_not_installed_says_what_to_type(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    (tmp_path / "a.nc").write_bytes(OF_NETCDF_C)
    with pytest.raises(MissingExtra, match=r"a\.nc needs: pip install 'pymar\[netcdf\]'"):
        blocks(tmp_path / "a.nc")


MATRIX = np.arange(159, dtype="<f8").reshape(53, 3)


def store(path, values=MATRIX, form=3, name=None):
    """Write an array to a Zarr store, a folder, or a zip archive if the path ends in .zip."""
    zarr = needed("zarr")
    where = zarr.storage.ZipStore(path, mode="w") if str(path).endswith(".zip") else str(path)
    if name:
        zarr.open_group(where, mode="a", zarr_format=form)
    zarr.create_array(store=where, data=values, chunks=(10,) * values.ndim, name=name, zarr_format=form)
    if where != str(path):
        where.close()
    return str(path)


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("name", ["a.zarr.zip", "a.zip", "a.npz", "a"])
def test_a_zip_archive_of_a_zarr_store_is_told_by_what_it_has(tmp_path, form, name):
    path = tmp_path / name
    os.rename(store(tmp_path / "written.zip", form=form), path)
    assert holds(MATRIX, path)


@pytest.mark.parametrize("form", [2, 3])
def test_an_array_of_a_zipped_group_is_named(tmp_path, form):
    zarr = needed("zarr")
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as where:
        group = zarr.open_group(where, mode="w", zarr_format=form)
        for name, values in (("x", MATRIX), ("deep/y", MATRIX[:5])):
            group.create_array(name, shape=values.shape, dtype=values.dtype)[...] = values
    assert holds(MATRIX, tmp_path / "a.zip", name="x")
    assert holds(MATRIX[:5], tmp_path / "a.zip", name="deep/y")
    with pytest.raises(SourceError, match=r"a\.zip has 2 arrays: set name=; there is deep/y, x"):
        blocks(tmp_path / "a.zip")


def test_an_archive_of_the_folder_of_a_store_is_that_store(tmp_path):
    store(tmp_path / "in" / "a.zarr", form=2)
    assert holds(MATRIX, shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "in"))


def test_an_archive_of_two_stores_is_unpacked_and_then_they_are_two_files(tmp_path):
    store(tmp_path / "in" / "a", form=2)
    store(tmp_path / "in" / "b", MATRIX[:5])
    with pytest.raises(SourceError, match=r"a\.zip has 2 Zarr stores \(a, b\): unpack it"):
        blocks(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "in"))
    assert holds(np.concatenate([MATRIX, MATRIX[:5]]), tmp_path / "in", block=53)


def test_an_archive_of_no_arrays_is_named(tmp_path):
    for members in ((), ("one.csv",), ("one.csv", "two.csv")):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for member in members:
                archive.writestr(member, "1,2\n")
        with pytest.raises(SourceError, match=r"a\.zip has no array.*Unpack it"):
            blocks(tmp_path / "a.zip")
    np.savez(tmp_path / "b.zip", x=MATRIX)
    os.rename(tmp_path / "b.zip.npz", tmp_path / "b.zip")
    assert holds(MATRIX, tmp_path / "b.zip")


def test_a_zipped_store_that_changes_is_an_error(tmp_path):
    path = store(tmp_path / "a.zip")

    class Meanwhile(ArrayBlocks):
        def __iter__(self):
            for block in super().__iter__():
                os.utime(path, ns=(1, 1))
                yield block

    with pytest.raises(PartFailed, match=r"a\.zip has changed"):
        Collect(engine="serial").map(DataSourceFactory(Meanwhile, path=path))


@pytest.mark.parametrize("name", ["a.npz", "a.zip"])
def test_a_damaged_archive_is_named(tmp_path, name):
    path = tmp_path / name
    if name == "a.npz":
        np.savez_compressed(path, x=MATRIX)
    else:
        store(path)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 30):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=rf"{name} cannot be read"):
            blocks(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy" if name == "a.npz" else "zarr.json", b"nothing of the kind")
    with pytest.raises(SourceError, match=rf"{name} cannot be read"):
        blocks(path)


@pytest.mark.parametrize("form", [2, 3])
def test_a_chunk_that_is_damaged_is_named_with_its_rows(tmp_path, form):
    path = store(tmp_path / "a", form=form)
    for file in Path(path).rglob("*"):
        if file.is_file() and file.name not in (".zarray", ".zattrs", "zarr.json"):
            file.write_bytes(b"\xff" * 20)
    with pytest.raises(SourceError, match=r"/a, rows 0 to 53, cannot be read"):
        blocks(path)


@pytest.mark.parametrize("form", [2, 3])
def test_a_zarr_folder_is_told_by_what_it_has(tmp_path, form):
    assert holds(MATRIX, store(tmp_path / "folder", form=form))
    assert holds(MATRIX, store(tmp_path / "group", form=form, name="x"))
    assert holds(MATRIX, tmp_path / "group" / "x")
    assert holds(MATRIX, tmp_path / "fol*")
    assert holds(MATRIX, f"file://{tmp_path}/folder/")


@pytest.mark.parametrize("form", [2, 3])
def test_a_zarr_folder_without_chunks_has_the_rows_that_it_says(tmp_path, form):
    zarr = needed("zarr")
    os.mkdir(tmp_path / "in")
    zarr.create_array(store=str(tmp_path / "in" / "a"), shape=(8,), dtype="i4", fill_value=7, zarr_format=form)
    assert holds(np.full(8, 7, "i4"), tmp_path / "in")


def test_a_folder_that_is_called_zarr_and_has_nothing_of_it_is_an_error(tmp_path):
    needed("zarr")
    os.makedirs(tmp_path / "in" / "a.zarr")
    np.save(tmp_path / "in" / "b.npy", MATRIX)
    for path in (tmp_path / "in" / "a.zarr", tmp_path / "in", f"{tmp_path}/in/*"):
        with pytest.raises(SourceError, match=r"a\.zarr cannot be read"):
            blocks(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_not_passed_over(tmp_path):
    np.save(tmp_path / "b.npy", MATRIX)
    os.mkdir(tmp_path / "closed", 0)
    with pytest.raises(SourceError, match=r"closed: Permission denied"):
        blocks(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """Four files of 1, 0, 4 and 9 rows, of which each number is another, and names that are no data."""
    counted = np.arange(28, dtype="<i8").reshape(14, 2)
    np.save(tmp_path / "b.npy", counted[:1])
    np.save(tmp_path / "c.npy", counted[:0])
    np.save(tmp_path / "d.npy", np.asfortranarray(counted[1:5]))
    os.mkdir(tmp_path / "e")
    np.savez(tmp_path / "e" / "a.npz", x=counted[5:])
    np.save(tmp_path / ".hidden.npy", np.zeros(3))
    (tmp_path / "_SUCCESS").touch()
    return tmp_path


def test_rows_are_numbered_over_all_files_and_no_block_spans_two(folder):
    counted = np.arange(28, dtype="<i8").reshape(14, 2)
    for path in (folder, f"{folder}/**", [f"{folder}/*.npy", folder / "e", folder / "b.npy"]):
        factory = DataSourceFactory(ArrayBlocks, path=path, block=3)
        assert factory.length() == 14
        assert [len(block) for block in factory.build_data_source()] == [1, 3, 1, 3, 3, 3]
        assert np.concatenate(list(factory.build_data_source())).tolist() == counted.tolist()
        assert check_source(factory, seed=1, joined=np.concatenate) == 6


def test_the_order_is_that_of_all_sources_over_files(folder):
    for path in (folder, f"{folder}/*", [f"{folder}/d*", f"{folder}/b*"]):
        prepared = DataSourceFactory(ArrayBlocks, path=path).for_a_job().prepared
        assert [row[:3] for row in prepared["files"]] == found(path, {})


def test_with_path_names_the_file_of_each_block(folder):
    records = blocks(folder, with_path=True)
    assert [(os.path.relpath(path, folder), len(block)) for path, block in records] == [
        ("b.npy", 1),
        ("d.npy", 4),
        ("e/a.npz", 9),
    ]
    assert check_source(DataSourceFactory(ArrayBlocks, path=folder, with_path=True), seed=1, joined=rows) == 3
    (record,) = blocks(folder / "b.npy", with_path=True)
    assert (record[0], record[1].tolist()) == (str(folder / "b.npy"), [[0, 1]])
    with pytest.raises(SourceError, match=r"with_path is 1: it has to be True or False"):
        blocks(folder, with_path=1)


def test_workers_read_several_files_of_several_formats(folder):
    h5py = needed("h5py")
    with h5py.File(folder / "f.h5", "w") as file:
        file["x"] = np.arange(28, 34).reshape(3, 2)
    store(folder / "g", np.arange(34, 40).reshape(3, 2))
    os.rename(store(folder / "h.zip", np.arange(40, 46).reshape(3, 2)), folder / "h")
    factory = DataSourceFactory(ArrayBlocks, path=str(folder), with_path=True)
    read = Collect(engine="processes://2").map(factory)
    assert [value for _, row in rows(read) for value in row] == list(range(46))
    assert [os.path.basename(path) for path, _ in rows(read)][-7:] == [*["f.h5"], *["g"] * 3, *["h"] * 3]
    assert check_source(factory, seed=1, joined=rows) == 6


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (np.zeros((2, 3), "<i8"), r"z\.npy has rows of shape \(3,\), int64, and .*b\.npy of shape \(2,\), int64"),
        (np.zeros((2, 2), "<f4"), r"z\.npy has rows of shape \(2,\), float32, and .*b\.npy of shape \(2,\), int64"),
        (np.zeros((2, 2), ">i8"), r"z\.npy has rows of shape \(2,\), >i8, and .*b\.npy of shape \(2,\), int64"),
        (np.zeros(2, "<i8"), r"z\.npy has rows of shape \(\), int64, and .*b\.npy of shape \(2,\), int64"),
        (np.zeros((0, 3), "<i8"), r"z\.npy has rows of shape \(3,\), int64"),
    ],
)
def test_files_that_differ_are_named_with_what_they_are(folder, other, says):
    np.save(folder / "z.npy", other)
    with pytest.raises(SourceError, match=says):
        blocks(folder)


def test_what_objects_of_hdf5_stand_for_has_to_be_alike_too(tmp_path):
    h5py = needed("h5py")
    for name, kind in (("a.h5", h5py.string_dtype()), ("b.h5", h5py.vlen_dtype("i4"))):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("x", (3,), kind)
    assert len(joined(tmp_path / "a.h5")) == 3
    with pytest.raises(SourceError, match=r"b\.h5 .*int32.* and .*a\.h5 .*str"):
        blocks(tmp_path)


def test_zarr_folders_are_files_among_others_wherever_they_are(folder):
    store(folder / "e" / "zarr", np.arange(28, 34).reshape(3, 2), form=2)
    store(folder / "c1.zarr", np.arange(6).reshape(3, 2), form=3)
    names = ["b.npy", "c.npy", "c1.zarr", "d.npy", "e/a.npz", "e/zarr"]
    for path in (folder, f"{folder}/**", f"{folder}/**/*"):
        prepared = DataSourceFactory(ArrayBlocks, path=path).for_a_job().prepared
        assert [os.path.relpath(row[0], folder) for row in prepared["files"]] == names
        assert [row[3] for row in prepared["files"]] == [1, 0, 3, 4, 9, 3]
    assert holds(np.arange(6).reshape(3, 2), f"{folder}/*.zarr", block=3)
    assert holds(np.arange(28, 34).reshape(3, 2), f"{folder}/e/z*", block=3)


def test_folders_that_a_pattern_leaves_out_are_logged(folder, caplog):
    store(folder / "c1.zarr", np.arange(6).reshape(3, 2))
    with caplog.at_level(logging.WARNING, "pymar"):
        prepared = DataSourceFactory(ArrayBlocks, path=f"{folder}/*").for_a_job().prepared
    assert [os.path.basename(row[0]) for row in prepared["files"]] == ["b.npy", "c.npy", "c1.zarr", "d.npy"]
    assert f"{folder}/* also matches folders, which are left out: e." in caplog.text


def test_links_to_files_and_to_zarr_folders_are_files_and_other_folders_are_not_followed(folder, tmp_path_factory):
    there = tmp_path_factory.mktemp("there")
    np.save(there / "x.npy", np.arange(2).reshape(1, 2))
    os.symlink(there, folder / "link")
    os.symlink(there / "x.npy", folder / "x.npy")
    os.symlink(store(there / "zarr", np.arange(6).reshape(3, 2)), folder / "y")
    os.symlink(folder / "loop", folder / "loop")
    with pytest.raises(SourceError, match=r"loop is a link"):
        blocks(folder)
    os.remove(folder / "loop")
    names = {os.path.relpath(path, folder) for path, _ in blocks(folder, with_path=True)}
    assert names == {"b.npy", "d.npy", "e/a.npz", "x.npy", "y"}


def test_a_folder_of_other_things_names_the_file_that_is_no_array(folder):
    (folder / "README.txt").write_text("some words about it\n")
    with pytest.raises(SourceError, match=r"README\.txt.*dtype="):
        blocks(folder)
    os.mkdir(folder / "none")
    with pytest.raises(SourceError, match=r"none has no files"):
        blocks(folder / "none")
    with pytest.raises(SourceError, match="path is empty"):
        blocks([])
    with pytest.raises(SourceError, match="path=3: give a path"):
        blocks(3)
    with pytest.raises(SourceError, match=r"no file matches .*\.npz"):
        blocks(folder / "*.npz")
    with pytest.raises(SourceError, match="local files"):
        blocks([folder / "b.npy", "s3://bucket/b.npy"])


@pytest.mark.parametrize(
    ("become", "error", "says"),
    [
        (lambda path: np.save(path, np.arange(8).reshape(4, 2)), SourceChanged, r"d\.npy has changed"),
        (lambda path: path.write_text("no array"), SourceChanged, r"d\.npy has changed"),
        (os.remove, SourceError, r"d\.npy: No such file"),
    ],
    ids=["other values", "no array", "gone"],
)
def test_a_file_among_several_that_changes_is_named(folder, become, error, says):
    factory = DataSourceFactory(ArrayBlocks, path=str(folder)).for_a_job()
    assert factory.length() == 14
    become(folder / "d.npy")
    if (folder / "d.npy").exists():
        os.utime(folder / "d.npy", ns=(1, 1))
    with applied(factory.source, factory.prepared):
        assert next(iter(factory.source(offset=0, limit=1))).tolist() == [[0, 1]]
        with pytest.raises(error, match=says):
            list(factory.source(offset=3, limit=4))
    factory.release()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts the open files that /proc shows")
@pytest.mark.parametrize("kind", ["npy", "npz", "raw", "h5", "zip", "nc"])
def test_a_thousand_files_are_not_open_at_once_though_all_blocks_are_kept(tmp_path, kind):
    count, settings = 1_000 if kind in ("npy", "raw", "nc") else 110, {}
    for number in range(count):
        path, values = tmp_path / f"{number:04}", np.full((2, 3), number, "<i4")
        if kind == "npy":
            np.save(path, values)
        elif kind == "npz":
            np.savez(path, x=values)
        elif kind == "raw":
            values.tofile(path)
            settings = {"dtype": "<i4", "shape": (3,)}
        elif kind == "h5":
            with needed("h5py").File(path, "w") as file:
                file["x"] = values
        elif kind == "zip":
            store(f"{path}.zip", values)
        else:
            with needed("scipy.io").netcdf_file(path, "w") as file:
                file.createDimension("t", None)
                file.createDimension("x", 3)
                file.createVariable("x", "i4", ("t", "x"))[:] = values
    blocks(f"{tmp_path}/0000*", **settings)  # what its library opens once
    before = len(os.listdir("/proc/self/fd"))
    kept = blocks(tmp_path, **settings)
    assert len(os.listdir("/proc/self/fd")) < before + 10
    assert [int(block[1, 2]) for block in kept] == list(range(count))
    assert kept[0].flags.writeable is (kind in ("h5", "zip"))


@pytest.mark.parametrize("skip", [0, 1, 24, 100, 5_000])
def test_the_header_of_raw_files_is_skipped(tmp_path, skip):
    for number in range(2):
        (tmp_path / f"{number}.raw").write_bytes(b"#" * skip + MATRIX[number:].tobytes())
    settings = {"dtype": "<f8", "shape": (3,), "skip_bytes": skip}
    assert holds(MATRIX, tmp_path / "0.raw", **settings)
    factory = DataSourceFactory(ArrayBlocks, path=str(tmp_path), block=60, **settings)
    both = np.concatenate(list(factory.build_data_source()))
    assert both.tobytes() == MATRIX.tobytes() + MATRIX[1:].tobytes()
    assert check_source(factory, seed=1, joined=np.concatenate) == 2


def test_what_is_behind_the_header_has_to_be_whole_rows(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(100))
    assert joined(path, dtype="<f8", skip_bytes=4).tolist() == [0.0] * 12
    assert blocks(path, dtype="<f8", skip_bytes=100) == []
    with pytest.raises(SourceError, match=r"a\.raw has 100 bytes, 97 of them behind skip_bytes=3, .*rows of 8 bytes"):
        blocks(path, dtype="<f8", skip_bytes=3)
    with pytest.raises(SourceError, match=r"a\.raw has 100 bytes, fewer than skip_bytes=101"):
        blocks(path, dtype="<f8", skip_bytes=101)
    for wrong in (-1, 1.5, "4", True):
        with pytest.raises(SourceError, match=r"skip_bytes is .*: it has to be a whole number, 0 or more"):
            blocks(path, dtype="<f8", skip_bytes=wrong)


def test_a_file_that_is_not_raw_has_no_header_to_skip(tmp_path):
    np.save(tmp_path / "a.npy", MATRIX)
    with pytest.raises(SourceError, match=r"a\.npy begins as npy, .*skip_bytes = 0"):
        blocks(tmp_path / "a.npy", dtype="<f8", skip_bytes=128)
    with pytest.raises(SourceError, match=r"zarr is a Zarr folder, .*skip_bytes = 0"):
        blocks(store(tmp_path / "a.zarr"), dtype="<f8", skip_bytes=128)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_python_objects_are_refused_for_what_they_are(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    objects = np.array([1, "a", None], object)
    np.save(path, objects) if kind == "npy" else np.savez(path, x=objects)
    for name in ("", "x"):
        with pytest.raises(SourceError, match=rf"a\.{kind} cannot be read: .*Python objects.*dtype"):
            blocks(path, name=name)


def test_types_and_orders_are_those_of_the_file(tmp_path):
    record = np.zeros(9, [("a", "<i4"), ("b", ">f8", (2,)), ("c", "S3")])
    record["a"], record["b"], record["c"] = range(9), 0.5, b"xyz"
    for number, values in enumerate(
        (record, np.asfortranarray(MATRIX), MATRIX.astype(">f8"), MATRIX > 3, np.zeros((4, 0)), np.array(["a", "bc"]))
    ):
        np.save(tmp_path / f"{number}.npy", values)
        assert holds(values, tmp_path / f"{number}.npy")
