"""Which files a path, a folder or a pattern means: one rule, for local paths and for stores."""

import os

import pytest
from conftest import needed

from pymar.datasource import DataSourceFactory
from pymar.exceptions import SourceError
from pymar.sources import Files, TextLines, patterns


def names(path, **settings):
    """The names, below the folder `data`, of the files that a path means."""
    factory = DataSourceFactory(Files, path=path, **settings).for_a_job()
    try:
        return [row[0].partition("/data/")[2] for row in factory.prepared["files"]]
    finally:
        factory.release()


TREE = (
    *("a.txt", "b.txt", "b.csv", ".hidden.txt", "_SUCCESS", "_metadata"),
    *("one/a.txt", "one/deep/a.txt", "one/_temporary/a.txt", "two/.git/a.txt", "two/b.txt", "[x].txt", "x.txt"),
)


@pytest.fixture(params=["path", "file://", "memory://"])
def root(request, tmp_path):
    """The same tree in a folder, by its address, and in a store."""
    if request.param == "memory://":
        system = needed("fsspec").filesystem("memory")
        top = f"{tmp_path}/data"
        for name in TREE:
            system.pipe_file(f"{top}/{name}", b"x\n")
        yield f"memory://{top}"
        system.rm(top, recursive=True)
        return
    for name in TREE:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x\n")
    yield f"{'file://' if request.param == 'file://' else ''}{tmp_path}/data"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["[x].txt", "a.txt", "b.txt", "x.txt"]),
        ("*", ["[x].txt", "a.txt", "b.csv", "b.txt", "x.txt"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("[x].txt", ["[x].txt"]),
        ("?.csv", ["b.csv"]),
        ("*/a.txt", ["one/a.txt"]),
        ("**/a.txt", ["a.txt", "one/a.txt", "one/deep/a.txt"]),
        ("one/**", ["one/a.txt", "one/deep/a.txt"]),
        ("**/deep/*", ["one/deep/a.txt"]),
        ("_*", ["_SUCCESS", "_metadata"]),
        (".h*", [".hidden.txt"]),
        ("_metadata", ["_metadata"]),
        ("one/_temporary/*", ["one/_temporary/a.txt"]),
        ("one", ["one/a.txt", "one/deep/a.txt"]),
        ("t*", ["two/b.txt"]),
    ],
)
def test_a_pattern_means_the_same_files_everywhere(root, pattern, expected):
    assert names(f"{root}/{pattern}") == expected


@pytest.mark.parametrize("pattern", ["*.no", "two/.git*/*.no", "none/*"])
def test_a_pattern_that_matches_nothing_is_named(root, pattern):
    with pytest.raises(SourceError, match=r"no (file|object) matches"):
        names(f"{root}/{pattern}")


def test_a_link_to_a_file_is_a_file_of_its_own(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real.txt").write_text("x\n")
    (tmp_path / "data" / "link.txt").symlink_to("real.txt")
    assert names(f"{tmp_path}/data/*") == names(f"file://{tmp_path}/data/*") == ["link.txt", "real.txt"]


def test_links_to_folders_are_not_followed_by_two_stars_and_loops_end(tmp_path):
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "a.txt").write_text("x\n")
    (tmp_path / "data" / "sub" / "up").symlink_to("..")
    (tmp_path / "data" / "two").symlink_to("sub")
    assert names(f"{tmp_path}/data/**/*.txt") == ["sub/a.txt"]
    assert names(f"{tmp_path}/data") == ["sub/a.txt"]
    assert names(f"{tmp_path}/data/two/*.txt") == ["two/a.txt"], "a link that is named is followed"


def test_folders_beside_files_are_said(tmp_path, caplog):
    (tmp_path / "data" / "sub.txt").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("x\n")
    assert names(f"{tmp_path}/data/*.txt") == ["a.txt"]
    assert "sub.txt" in caplog.text


def test_a_pattern_of_folders_alone_means_their_files(tmp_path):
    (tmp_path / "data" / "out.csv").mkdir(parents=True)
    (tmp_path / "data" / "out.csv" / "part-0").write_text("x\n")
    (tmp_path / "data" / "out.csv" / "_SUCCESS").touch()
    assert names(f"{tmp_path}/data/*.csv") == ["out.csv/part-0"]


def test_a_folder_without_data_is_an_error_that_says_what_is_no_data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "_SUCCESS").touch()
    with pytest.raises(SourceError, match=r"no files.*begin with \. or _"):
        names(f"{tmp_path}/data")


def test_each_file_counts_once_where_patterns_overlap(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("x\n")
    paths = [f"{tmp_path}/data/*", f"{tmp_path}/data/a.txt", f"{tmp_path}/data"]
    factory = DataSourceFactory(TextLines, path=paths)
    assert list(factory.build_data_source()) == ["x"]


@pytest.mark.parametrize(
    ("pattern", "path", "is_match"),
    [
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("**", "a/.b/c", False),
        ("**/c", "c", True),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/b/b/c", True),
        ("a/**/c", "b/c", False),
        ("*", "a/b", False),
        ("*/b", "a/b", True),
        ("**/**", "a", True),
    ],
)
def test_names_are_matched_one_by_one(pattern, path, is_match):
    assert patterns.matches(pattern.split("/"), path.split("/")) is is_match


def test_a_link_that_leads_to_itself_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    os.symlink("loop", tmp_path / "data" / "loop")
    with pytest.raises(SourceError, match="loop"):
        names(f"{tmp_path}/data/*")
