"""A log file has a bounded size, belongs to its user alone, and loses nothing silently."""

import os
import re
import stat

import pytest

from pymar.exceptions import UsageError
from pymar.slots import logfile
from pymar.slots.logfile import OLDER, RotatedFile
from pymar.slots.output import Output


@pytest.fixture
def path(tmp_path):
    return tmp_path / "worker.log"


@pytest.fixture
def opened(path):
    """Open the file; it is closed after the test."""
    files = []

    def open_it():
        files.append(RotatedFile(str(path)))
        return files[-1]

    yield open_it
    for file in files:
        file.close()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(logfile, "MOST_BYTES", 100)


def test_no_file_is_larger_than_the_bound_and_the_older_ones_have_what_came_before(opened, path, small):
    file = opened()
    lines = [f"line {number:03}" for number in range(100)]
    for line in lines:
        file.write(f"{line}\n")
    files = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, OLDER + 1))]
    assert sorted(path.parent.iterdir()) == sorted(files)
    assert all(one.stat().st_size <= 100 for one in files)
    kept = "".join(one.read_text() for one in reversed(files)).split("\n")[:-1]
    assert kept == lines[-len(kept) :]
    assert len(kept) >= OLDER * 11


def test_one_text_that_is_larger_than_the_bound_is_written_whole(opened, path, small):
    file = opened()
    file.write("x" * 1_000)
    file.write("next\n")
    assert path.read_text() == "next\n"
    assert path.with_name("worker.log.1").read_text() == "x" * 1_000


def test_only_its_user_may_read_it_even_if_it_was_there_before(opened, path, small):
    path.write_text("an earlier worker\n")
    path.chmod(0o644)
    file = opened()
    for _ in range(20):
        file.write("a line\n")
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}


def test_a_file_is_continued(opened, path):
    path.write_text("an earlier worker\n")
    opened().write("now\n")
    assert path.read_text() == "an earlier worker\nnow\n"


@pytest.mark.parametrize("kind", ["a link", "a pipe", "a folder", "no folder"])
def test_what_is_no_file_of_the_user_is_refused(path, kind):
    if kind == "a link":
        path.symlink_to(path.parent / "other")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path = path / "worker.log"
    with pytest.raises(UsageError, match="--log-file"):
        RotatedFile(str(path))
    assert not (path.parent / "other").exists()


def test_two_workers_with_one_file_are_refused(opened, path, small):
    file = opened()
    for _ in range(30):
        file.write("a line\n")
    with pytest.raises(UsageError, match="another worker"):
        RotatedFile(str(path))


def test_lines_have_their_time_and_no_colours(opened, path):
    mine = Output()
    mine.to_file(opened())
    mine.write_line("[part 3] \x1b[31mred\x1b[0m")
    mine.wait_until_written()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[part 3\] red\n", path.read_text())


def test_lines_that_the_disk_does_not_take_are_counted(opened, path):
    file = opened()
    take, is_full = file.write, True

    def write(text):
        if is_full:
            raise OSError(28, "No space left on device")
        take(text)

    file.write = write
    mine = Output()
    mine.to_file(file)
    for number in range(5):
        mine.write_line(f"lost {number}")
        mine.wait_until_written()
    is_full = False
    mine.write_line("shown")
    mine.wait_until_written()
    note, shown = path.read_text().splitlines()
    assert "5 lines are missing" in note
    assert "No space left" in note
    assert shown.endswith("shown")
