"""The modules of a script as one value: which files travel, which do not and what is said of them, how they arrive."""

import json
import os
import sys
import threading
import zlib
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from pymar.exceptions import UsageError
from pymar.serialization import archive, codecache, codefiles, travelled
from pymar.serialization.archive import Archive, Damaged, archive_of
from pymar.serialization.codefiles import project_of

DEFAULT = {"helper.py": "def f(): return 1\n"}


@pytest.fixture(autouse=True)
def nothing_said():
    codefiles._said.clear()
    yield
    codefiles._said.clear()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, in which the cache is; /tmp is elsewhere."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(codecache, "_temporary", [])
    monkeypatch.setattr(codecache, "_whole", set())
    monkeypatch.setattr(travelled, "_in_use", None)
    return folder


@pytest.fixture
def script(tmp_path, home, monkeypatch):
    """Make files beside a script that is this process's `__main__`; return the folder."""

    def make(files=DEFAULT, folder=None, path=None):
        folder = folder or tmp_path / "work"
        for name, text in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text) if isinstance(text, bytes) else file.write_text(text)
        monkeypatch.setattr(sys.modules["__main__"], "__file__", str(folder / "job.py"), raising=False)
        monkeypatch.setattr(sys, "path", [*map(str, path or [folder]), *library_path()])
        return folder

    return make


def library_path():
    return [entry for entry in sys.path if "python3" in entry and "work" not in entry.split(os.sep)[-1]]


def names(modules=None):
    """The files that travel, below their roots."""
    found = codefiles.files_of(modules or {})[1]
    return sorted(file.name.partition("/")[2] for file in found)


# Which files travel.


def test_of_a_module_that_runs_by_its_name_the_folder_of_its_package_counts(script, monkeypatch):
    folder = script({"pkg/__init__.py": "", "pkg/sub/work.py": "", "pkg/run.py": ""})
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", str(folder / "pkg" / "run.py"), raising=False)
    monkeypatch.setattr(main, "__spec__", ModuleSpec("pkg.run", None), raising=False)
    assert codefiles.script_folder() == str(folder)
    assert "pkg/sub/work.py" in names()


def test_modules_packages_and_extensions_beside_the_script_travel(script):
    files = {
        "job.py": "",
        "helper.py": "",
        "fast.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
        "package/__init__.py": "",
        "package/inner.py": "",
        "package/table.json": "{}",
        "package/deep-er/page.html": "",
        "namespace/part.py": "",
    }
    script(files)
    assert names() == sorted(files)


def test_what_no_import_finds_does_not_travel(script):
    script(
        {
            "helper.py": "",
            "data.csv": "",
            "notes.txt": "",
            "namespace/part.py": "",
            "namespace/part.json": "",
            "no-name/module.py": "",
            ".hidden/module.py": "",
            ".secret.py": "",
            "__pycache__/helper.cpython-311.pyc": "",
            "node_modules/thing/thing.py": "",
            "environment/pyvenv.cfg": "",
            "environment/lib/module.py": "",
            "lib/site-packages/numpy/__init__.py": "",
            "package/__init__.py": "",
            "package/module.c": "",
            "package/.env": "SECRET=1",
            "pymar/__init__.py": "",
        }
    )
    assert names() == ["helper.py", "namespace/part.py", "package/__init__.py"]


def test_folders_of_the_import_path_in_the_scripts_project_travel(script, tmp_path):
    project = tmp_path / "project"
    files = {"pyproject.toml": "", "scripts/tool.py": "", "src/mine/__init__.py": "", "other/unseen.py": ""}
    script(files, project)
    sys.modules["__main__"].__file__ = str(project / "scripts" / "job.py")
    sys.path[:0] = [str(project / "scripts"), str(project / "src")]
    sys.path.remove(str(project))
    assert names() == ["mine/__init__.py", "tool.py"]


@pytest.mark.parametrize("marker", ["pyproject.toml", "setup.py", "setup.cfg", ".git"])
def test_the_nearest_folder_with_a_marker_is_the_project(tmp_path, home, marker):
    inner = tmp_path / "project" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "project" / marker).touch()
    assert project_of(str(inner)) == str(tmp_path / "project")


def test_a_home_folder_is_no_project_even_if_it_has_a_marker(home):
    (home / ".git").mkdir()
    (home / "work").mkdir()
    assert project_of(str(home / "work")) == ""


def test_of_a_script_in_the_home_folder_only_the_modules_beside_it_travel(script, home):
    script({"helper.py": "", "photos/one.py": "", "work/two.py": ""}, home)
    assert names() == ["helper.py"]


def test_a_package_in_the_home_folder_travels_if_the_job_reaches_it(script, home):
    script({"helper.py": "", "mine/__init__.py": "", "mine/data.json": "", "other/__init__.py": ""}, home)
    assert names({"mine": str(home / "mine" / "__init__.py")}) == ["helper.py", "mine/__init__.py", "mine/data.json"]


def test_a_module_from_elsewhere_travels_if_the_job_reaches_it(script, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "shared.py").touch()
    (elsewhere / "unseen.py").touch()
    script(path=[tmp_path / "work", elsewhere])
    assert names() == ["helper.py"]
    assert names({"shared": str(elsewhere / "shared.py")}) == ["helper.py", "shared.py"]


def test_installed_packages_never_travel_wherever_they_are(script, tmp_path):
    target = tmp_path / "target"
    (target / "thing").mkdir(parents=True)
    (target / "thing" / "__init__.py").touch()
    (target / "thing-1.0.dist-info").mkdir()
    script(path=[tmp_path / "work", target])
    assert names({"thing": str(target / "thing" / "__init__.py")}) == ["helper.py"]


def test_a_package_that_an_import_hook_finds_travels(script, tmp_path):
    source = tmp_path / "editable" / "src"
    (source / "mine").mkdir(parents=True)
    (source / "mine" / "__init__.py").touch()
    (source / "mine" / "late.py").touch()
    script()
    assert names({"mine": str(source / "mine" / "__init__.py")}) == ["helper.py", "mine/__init__.py", "mine/late.py"]


def test_modules_keep_their_side_of_the_standard_library(script, tmp_path):
    (tmp_path / "behind").mkdir()
    (tmp_path / "behind" / "late.py").touch()
    script()
    sys.path.append(str(tmp_path / "behind"))
    roots, _ = codefiles.files_of({"late": str(tmp_path / "behind" / "late.py")})
    assert [root.is_first for root in roots] == [True, False]


def test_a_link_within_the_folder_travels_and_one_that_leaves_it_does_not(script, tmp_path, caplog):
    (tmp_path / "secret.py").write_text("KEY = 1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "module.py").touch()
    work = script()
    (work / "alias.py").symlink_to("helper.py")
    (work / "leaves.py").symlink_to(tmp_path / "secret.py")
    (work / "away").symlink_to(tmp_path / "out")
    (work / "loop").symlink_to(work)
    (work / "broken.py").symlink_to("nothing.py")
    assert names() == ["alias.py", "helper.py"]
    assert "leaves.py is a link that leaves its folder" in caplog.text


def test_a_file_that_cannot_be_read_is_said_and_costs_nothing_else(script, monkeypatch, caplog):
    work = script({"helper.py": "", "closed.py": ""})
    real = open

    def refusing(path, *how, **options):
        if str(path).endswith("closed.py"):
            raise PermissionError(13, "Permission denied")
        return real(path, *how, **options)

    monkeypatch.setattr(archive, "open", refusing, raising=False)
    made = archive_of({})
    assert made.has(str(work / "helper.py"))
    assert not made.has(str(work / "closed.py"))
    assert f"{work / 'closed.py'} cannot be read (Permission denied)" in caplog.text


def test_a_name_that_is_not_utf8_is_said_and_costs_nothing_else(script, caplog):
    work = script()
    with open(os.fsencode(work) + b"/h\xe9.py", "wb"):
        pass
    assert names() == ["helper.py"]
    assert "not UTF-8" in caplog.text


def test_a_pipe_beside_the_script_is_left_alone(script):
    os.mkfifo(script() / "pipe.py")
    assert names() == ["helper.py"]


def test_the_import_path_may_hold_anything(script):
    script()
    sys.path[1:1] = [None, 7, "/nowhere", b"/tmp", __file__]
    assert names() == ["helper.py"]


# Bounds.


def test_a_large_file_is_not_sent_and_said_once(script, caplog):
    work = script({"helper.py": "", "package/__init__.py": ""})
    with open(work / "package" / "big.csv", "wb") as file:
        file.truncate(300_000_000)
    assert names() == names() == ["helper.py", "package/__init__.py"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{work / 'package' / 'big.csv'} has 300 MB and is not sent to workers: files of more than 5 MB are not; put "
        "it into .pymarignore to hear no more"
    ]


def test_large_data_beside_the_script_are_not_spoken_of(script, caplog):
    with open(script() / "big.csv", "wb") as file:
        file.truncate(300_000_000)
    assert names() == ["helper.py"]
    assert not caplog.records


@pytest.mark.parametrize("place", ["", "package/"])
def test_what_pymarignore_names_is_neither_sent_nor_spoken_of(script, caplog, place):
    files = {
        "helper.py": "",
        "package/__init__.py": "",
        "package/secrets.json": "",
        "old/module.py": "",
        "a_test.py": "",
    }
    work = script({**files, ".pymarignore": "# mine\n*.csv\n/package/secrets.json\nold/\n*_test.py\n"})
    with open(work / "package" / "big.csv", "wb") as file:
        file.truncate(300_000_000)
    assert names() == ["helper.py", "package/__init__.py"]
    assert not caplog.records


def test_an_exception_to_what_pymarignore_names_travels(script):
    script({"a_test.py": "", "b_test.py": "", ".pymarignore": "*_test.py\n!b_test.py"})
    assert names() == ["b_test.py"]


def test_pymarignore_of_the_project_holds_in_it(script, tmp_path):
    project = tmp_path / "project"
    script({".git/HEAD": "", ".pymarignore": "work/old.py\n", "work/old.py": "", "work/new.py": ""}, project)
    sys.modules["__main__"].__file__ = str(project / "work" / "job.py")
    sys.path[0] = str(project / "work")
    assert names() == ["new.py"]


def test_a_star_in_pymarignore_sends_nothing(script):
    script({"helper.py": "", ".pymarignore": "*\n"})
    assert archive_of({}) is None


def test_too_many_files_are_said_and_only_those_which_the_job_reaches_travel(script, monkeypatch, caplog):
    monkeypatch.setattr(codefiles, "MOST_FILES", 10)
    work = script({"helper.py": "", **{f"package/m{number}.py": "" for number in range(20)}})
    assert names({"helper": str(work / "helper.py")}) == ["helper.py"]
    assert "more than 10 modules" in caplog.text
    assert ".pymarignore" in caplog.text


def test_a_tree_of_data_beside_the_script_ends_the_search(script, monkeypatch, caplog):
    monkeypatch.setattr(codefiles, "MOST_SEEN", 50)
    work = script({"helper.py": "", **{f"data{number}/x{number}.bin": "" for number in range(60)}})
    assert names({"helper": str(work / "helper.py")}) == ["helper.py"]
    assert "too many to look for modules" in caplog.text


def test_a_folder_of_many_data_files_is_not_looked_through(script, monkeypatch):
    monkeypatch.setattr(codefiles, "_OF_DATA", 5)
    script({"helper.py": "", **{f"data/{number}.bin": "" for number in range(9)}, "data/inner/module.py": ""})
    assert names() == ["helper.py"]


def test_more_bytes_than_may_travel_are_an_error_that_names_the_largest(script, monkeypatch):
    monkeypatch.setattr(codefiles, "LARGEST", 10_000)
    work = script({"package/__init__.py": "", "package/small.py": "#" * 100, "package/large.py": "#" * 11_000})
    with pytest.raises(UsageError, match=r"11\.1 kB together.*\.pymarignore.*largest: .*large\.py \(11 kB\)"):
        names({"package": str(work / "package" / "__init__.py")})


def test_what_the_job_does_not_need_does_not_make_it_fail(script, monkeypatch, caplog):
    monkeypatch.setattr(codefiles, "LARGEST", 10_000)
    work = script({"helper.py": "", "huge.py": "#" * 11_000})
    assert names({"helper": str(work / "helper.py")}) == ["helper.py"]
    assert "huge.py (11 kB)" in caplog.text


# As one value.


def test_equal_files_in_other_folders_are_the_same_archive(script, tmp_path):
    script({"helper.py": "x = 1", "package/__init__.py": ""})
    first = archive_of({})
    script({"helper.py": "x = 1", "package/__init__.py": ""}, tmp_path / "elsewhere")
    assert archive_of({}).digest == first.digest
    assert archive_of({}).roots != first.roots


def test_files_that_have_not_changed_are_not_read_again(script, monkeypatch):
    script()
    first = archive_of({})
    monkeypatch.setattr(archive, "_packed", None)
    assert archive_of({}) is first


def test_an_edited_file_is_another_archive(script):
    work = script()
    first = archive_of({})
    (work / "helper.py").write_text("def f(): return 2\n")
    os.utime(work / "helper.py", ns=(1, 1))
    assert archive_of({}).digest != first.digest


def test_an_archive_knows_its_files(script):
    work = script()
    made = archive_of({})
    assert made.has(str(work / "helper.py"))
    assert not made.has(str(work / "other.py"))


def test_a_reference_survives_the_way(script):
    script()
    sent = archive_of({}).reference(b"check")
    assert archive.reference(sent.encoded()) == sent


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b'["../..",1,"",[]]', b'["' + b"0" * 32 + b'",true,"",[]]', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_reference_is_refused(data):
    with pytest.raises(ValueError, match="no reference"):
        archive.reference(data)


# Unpacked on a host.


def unpacked(made):
    return codecache.unpacked(made.reference(), made.data)


def test_an_archive_is_unpacked_once_into_the_cache_that_is_private(script, home):
    work = script({"helper.py": "x = 1", "package/__init__.py": "", "package/table.json": "{}"})
    made = archive_of({})
    assert codecache.found(made.reference()) is None
    folder = unpacked(made)
    assert folder == str(home / "cache" / "pymar" / "code" / made.digest)
    assert codecache.found(made.reference()) == folder
    assert Path(folder, "0/package/table.json").read_text() == "{}"
    assert Path(folder, "0/helper.py").read_text() == (work / "helper.py").read_text()
    for one in (folder, home / "cache" / "pymar" / "code", home / "cache" / "pymar"):
        assert os.stat(one).st_mode & 0o077 == 0
    assert os.listdir(home / "cache" / "pymar" / "code") == [made.digest]


def test_without_a_cache_folder_of_the_users_it_is_in_the_home(home, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert codecache.folder_of_cache() == str(home / ".cache" / "pymar" / "code")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert codecache.folder_of_cache() == str(home / ".cache" / "pymar" / "code")


def test_processes_that_unpack_at_once_all_succeed(script):
    script({f"m{number}.py": f"x = {number}" for number in range(50)})
    made = archive_of({})
    together = threading.Barrier(8)
    folders = []

    def unpack():
        codecache._whole.clear()
        together.wait()
        folders.append(unpacked(made))

    threads = [threading.Thread(target=unpack) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert folders == [codecache.found(made.reference())] * 8
    assert os.listdir(os.path.dirname(folders[0])) == [made.digest]


@pytest.mark.parametrize("damage", ["cut", "removed", "other"])
def test_modules_that_are_damaged_in_the_cache_are_unpacked_again(script, damage):
    script()
    made = archive_of({})
    file = Path(unpacked(made), "0/helper.py")
    file.unlink() if damage == "removed" else file.write_text("" if damage == "cut" else "x = 2")
    codecache._whole.clear()  # another process
    assert codecache.found(made.reference()) is None
    unpacked(made)
    assert codecache.found(made.reference())
    assert file.read_text() == DEFAULT["helper.py"]


def test_what_a_killed_process_was_unpacking_is_removed_after_a_day(script, home):
    script()
    cache = home / "cache" / "pymar" / "code"
    old, new = cache / ".new-old", cache / ".new-new"
    old.mkdir(parents=True, mode=0o700)
    new.mkdir()
    (old / "part.py").touch()
    os.utime(old, (0, 0))
    os.chmod(cache, 0o700), os.chmod(cache.parent, 0o700)
    unpacked(archive_of({}))
    assert sorted(path.name for path in cache.iterdir() if path.name[0] == ".") == [".new-new"]


@pytest.mark.parametrize("what", ["a file", "others may write", "another user"])
def test_a_cache_that_is_not_private_is_not_used(script, home, monkeypatch, what, caplog, tmp_path):
    script()
    cache = home / "cache" / "pymar" / "code"
    cache.parent.mkdir(parents=True, mode=0o700)
    if what == "a file":
        cache.touch()
    else:
        cache.mkdir(mode=0o700)
        os.chmod(cache, 0o777 if what == "others may write" else 0o700)
    if what == "another user":
        real = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    made = archive_of({})
    folder = unpacked(made)
    assert folder.startswith(str(tmp_path / "temporary"))
    assert str(cache) in caplog.text
    if what != "another user":
        assert codecache.found(made.reference()) == folder


def test_a_temporary_folder_of_modules_is_removed_at_the_end(script, home, tmp_path):
    script()
    (home / "cache").touch()
    made = archive_of({})
    folder = unpacked(made)
    codecache._remove_temporary(codecache._temporary[0], os.getpid() + 1)  # a fork
    assert os.path.isdir(folder)
    codecache._remove_temporary(codecache._temporary[0], os.getpid())
    assert not os.listdir(tmp_path / "temporary")


def test_no_room_anywhere_is_an_error_that_names_the_folders(script, home, monkeypatch, tmp_path):
    script()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(codecache, "_write", full)
    with pytest.raises(UsageError, match=r"No space left.*XDG_CACHE_HOME or TMPDIR"):
        unpacked(archive_of({}))
    assert not [*(home / "cache" / "pymar" / "code").iterdir()]


def test_modules_that_no_job_has_used_for_long_are_removed(script, home, monkeypatch):
    work = script()
    folders = []
    for number in range(4):
        (work / "helper.py").write_text(f"x = {number}{'#' * number}")
        folders.append(unpacked(archive_of({})))
    now = os.stat(folders[0]).st_mtime
    os.utime(folders[0], (now - 31 * 86_400, now - 31 * 86_400))
    os.utime(folders[1], (now - 2 * 86_400, now - 2 * 86_400))
    monkeypatch.setattr(codecache, "KEEP_BYTES", 1)
    (work / "helper.py").write_text("x = 'last'")
    folders.append(unpacked(archive_of({})))
    # Two were used within the last day: a job may be computing with them.
    assert [os.path.isdir(folder) for folder in folders] == [False, False, True, True, True]


# Bad archives.


def made_of(*rows, roots=(True,), contents=None):
    """An archive that names these files."""
    rows = [row if isinstance(row, list) else [row, 1] for row in rows]
    head = json.dumps({"roots": list(roots), "files": rows}).encode()
    payload = len(head).to_bytes(4, "big") + head + (b"x" * len(rows) if contents is None else contents)
    return Archive(archive.digest_of(payload), b"PMA1" + zlib.compress(payload), (), frozenset())


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../evil.py",
            "0/../../evil.py",
            "/etc/evil.py",
            "0//evil.py",
            "0/./evil.py",
            "0/",
            "0",
            "",
            "1/a.py",
            "-1/a.py",
        ),
        *(
            "00/a.py",
            "\u0660/a.py",
            "0/a\\..\\b.py",
            "0/a\0.py",
            "0/a\n.py",
            "0/\ud800.py",
            "0/" + "a" * 5_000,
            7,
            None,
        ),
    ],
)
def test_a_path_that_leads_out_of_the_archive_is_refused(home, name):
    bad = made_of(name)
    with pytest.raises(Damaged, match="archive of the job's modules"):
        unpacked(bad)
    assert not (home / "cache").exists()


@pytest.mark.parametrize(
    "bad",
    [
        made_of("0/a.py", "0/a.py"),
        made_of("0/a", "0/a/b.py"),
        made_of(["0/a.py", -1]),
        made_of(["0/a.py", 2]),
        made_of(["0/a.py", "1"]),
        made_of("0/a.py", contents=b"xyz"),
        made_of("0/a.py")._replace(digest="0" * 32),
        made_of("0/a.py")._replace(data=b""),
        made_of("0/a.py")._replace(data=b"PMA1"),
        made_of("0/a.py")._replace(data=b"PMA1nothing that zlib knows"),
        made_of("0/a.py")._replace(data=made_of("0/a.py").data[:-5]),
    ],
)
def test_a_damaged_archive_is_refused(home, bad):
    with pytest.raises(Damaged, match="archive of the job's modules"):
        unpacked(bad)


def test_an_archive_that_would_fill_the_memory_is_refused(home, monkeypatch):
    monkeypatch.setattr(archive, "_LARGEST", 1_000)
    with pytest.raises(Damaged, match="damaged"):
        unpacked(made_of(["0/a.py", 100_000], contents=b"0" * 100_000))


# In a worker process.


def test_modules_that_travelled_are_found_before_installed_ones_and_on_their_side_of_the_library(script, monkeypatch):
    script()
    folder = unpacked(archive_of({}))
    library = os.path.dirname(os.__file__)
    monkeypatch.setattr(sys, "path", ["/own", library, f"{library}/lib-dynload", f"{library}/site-packages"])
    for _ in range(2):
        travelled.use((folder, [["/producer", True], ["/behind", False]], False))
    ours = [f"{folder}/0", "/own", library, f"{library}/lib-dynload", f"{folder}/1", f"{library}/site-packages"]
    assert sys.path == ours


def test_a_path_that_is_here_stays_and_one_that_travelled_is_found_here(script, tmp_path):
    work = script({"package/__init__.py": "", "package/table.json": "{}"})
    made = archive_of({})
    folder = unpacked(made)
    travelled.use((folder, made.reference().roots, False))
    inside = str(work / "package" / "table.json")
    assert travelled.here(inside) == inside
    work.rename(tmp_path / "gone")
    assert travelled.here(inside) == f"{folder}/0/package/table.json"
    assert travelled.here(str(work)) == f"{folder}/0"
    assert travelled.here(str(work / "other.csv")) == str(work / "other.csv")
    assert travelled.here(work / "package") == Path(folder, "0/package")
    assert travelled.here(work / "absent") == work / "absent"
    assert travelled.here(7) == 7
    assert travelled.here("package") == "package"


@pytest.mark.parametrize("change", ["", "helper.py", "gone", "many", "another user"])
def test_the_producers_own_folder_is_used_if_it_is_here_with_the_same_files(script, monkeypatch, tmp_path, change):
    """So that a job on a cluster that shares the folder finds the data beside its modules."""
    work = script({"helper.py": "x = 1", "package/__init__.py": ""})
    made = archive_of({})
    folder = unpacked(made)
    if change == "helper.py":
        (work / "helper.py").write_text("x = 2")
    elif change == "gone":
        work.rename(tmp_path / "gone")
    elif change == "many":
        monkeypatch.setattr(travelled, "_COMPARED", 2)
    elif change == "another user":
        real = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: real + 1)
    monkeypatch.setattr(sys, "path", library_path())
    travelled.use((folder, made.reference().roots, True))
    assert sys.path[0] == (f"{folder}/0" if change else str(work))


def test_an_extension_for_another_system_is_named(script):
    script({"fast.cpython-27-vax-ultrix.so": b"\x7fELF"})
    made = archive_of({})
    travelled.use((unpacked(made), made.reference().roots, False))
    assert "fast.cpython-27-vax-ultrix.so" in travelled.why_absent("fast")
    assert travelled.why_absent("slow") == ""
