"""What a detached script takes along: its modules and files, in the same places to each other."""

import os
import sys
import tarfile
from io import BytesIO

import pytest

from pymar.exceptions import UsageError
from pymar.hosts import bundle


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a script that imports a helper beside it, and a package from another folder."""
    for name, text in {
        "pyproject.toml": "",
        "jobs/job.py": "import helper, package.inner, os, click",
        "jobs/helper.py": "",
        "jobs/unused.py": "",
        "src/package/__init__.py": "",
        "src/package/inner.py": "",
        "src/package/table.json": "{}",
        "data/in/one.txt": "1",
        "notes.txt": "",
    }.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "project" / "src")])
    for name in ("helper", "package"):  # of other tests of this process
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def names(made):
    with tarfile.open(fileobj=BytesIO(made.archive)) as archive:
        assert all(not (entry.mode & 0o077) for entry in archive)
        return sorted(entry.name for entry in archive if entry.isfile())


def test_the_modules_of_the_project_travel_in_their_places(project):
    made = bundle.made_of("jobs/job.py", [])
    assert names(made) == [
        *("jobs/helper.py", "jobs/job.py", "jobs/unused.py", "pyproject.toml"),
        *("src/package/__init__.py", "src/package/inner.py", "src/package/table.json"),
    ]
    assert (made.script, made.current, made.path) == ("jobs/job.py", ".", ["src"])


def test_files_and_folders_that_are_named_travel_too(project):
    assert {"data/in/one.txt", "notes.txt"} <= set(names(bundle.made_of("jobs/job.py", ["data", "notes.txt"])))


def test_a_file_from_elsewhere_keeps_its_way_from_the_script(project, tmp_path):
    (tmp_path / "outside.txt").write_text("")
    made = bundle.made_of("jobs/job.py", [str(tmp_path / "outside.txt")])
    assert {"outside.txt", "project/jobs/job.py"} <= set(names(made))
    assert made.current == "project"


def test_what_is_ignored_stays(project):
    (project / ".pymarignore").write_text("unused.py\n")
    assert "jobs/unused.py" not in names(bundle.made_of("jobs/job.py", []))


def test_a_link_to_the_script_is_the_script(project, tmp_path):
    os.symlink(project / "jobs" / "job.py", tmp_path / "link.py")
    assert bundle.made_of(str(tmp_path / "link.py"), []).script == "jobs/job.py"


def test_a_script_that_is_no_python_still_travels(project):
    (project / "jobs" / "broken.py").write_text("def (:\n")
    assert "jobs/broken.py" in names(bundle.made_of("jobs/broken.py", []))


@pytest.mark.parametrize(("script", "files"), [("none.py", []), ("jobs", []), ("jobs/job.py", ["none.txt"])])
def test_a_file_that_is_not_there_is_named(project, script, files):
    with pytest.raises(UsageError, match=f"{[script, *files][-1]}: there is no such file"):
        bundle.made_of(script, files)


def test_this_process_is_as_it_was(project):
    before = sys.modules["__main__"], list(sys.path)
    bundle.made_of("jobs/job.py", [])
    assert (sys.modules["__main__"], sys.path) == before
