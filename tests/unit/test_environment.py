"""Children get the environment as it is now, without secrets, with their share of the cores."""

import os
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymar.slots import environment
from pymar.slots.environment import IN_SLOT, Environment, folder, set_environ, usable_cores, without_secrets

THREADS = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
]
SECRETS = ["PYMAR_KEY", "PYMAR_KEY_FILE", "PYMAR_URL", "PYMAR_ENGINE"]


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    """An environment of the test's own, which is undone whatever was done to it."""
    before = dict(os.environ)
    for name in (*THREADS, *SECRETS, "PYTHONHASHSEED", IN_SLOT, "TZ"):
        monkeypatch.delenv(name, raising=False)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)
    time.tzset()


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(environment, "usable_cores", lambda: 8)


def looked(slots=2):
    one = Environment()
    one.look(slots)
    return one


def variables(slots=2):
    return looked(slots).where[3]


@pytest.mark.parametrize("name", SECRETS)
def test_a_worker_process_is_given_no_secret(monkeypatch, name):
    monkeypatch.setenv(name, "amqp://me:s3cret@host")
    assert not [name for name, value in variables().items() if "s3cret" in value]


def test_a_job_within_a_job_is_serial_whatever_the_user_has_set(monkeypatch):
    monkeypatch.setenv("PYMAR_ENGINE", "processes://4")
    assert variables()["PYMAR_ENGINE"] == "serial"
    assert variables()[IN_SLOT] == "1"


@given(st.dictionaries(st.sampled_from([*SECRETS, "A", "B"]), st.text()))
def test_what_is_no_secret_passes_as_it_is(given):
    before = dict(given)
    passed = without_secrets(given)
    assert given == before
    assert passed.pop("PYMAR_ENGINE") == "serial"
    assert passed == {name: value for name, value in given.items() if name not in SECRETS}


def test_strings_hash_the_same_in_every_worker_process(monkeypatch):
    assert variables()["PYTHONHASHSEED"] == "0"
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    assert variables()["PYTHONHASHSEED"] == "0"


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("slots", "share"), [(1, "8"), (2, "4"), (3, "2"), (8, "1"), (100, "1")])
def test_numerical_libraries_get_a_processs_share_of_the_cores(slots, share):
    assert {variables(slots)[name] for name in THREADS} == {share}


@pytest.mark.usefixtures("eight_cores")
def test_what_the_user_has_said_of_threads_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert variables()["OMP_NUM_THREADS"] == "7"
    assert variables()["MKL_NUM_THREADS"] == "4"


def test_a_worker_process_is_given_path_arguments_folder_and_variables(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/a", "/b"])
    monkeypatch.setattr(sys, "argv", ["job.py", "--fast"])
    monkeypatch.setenv("MINE", "é")
    path, argv, where, given = looked().where
    assert (path, argv, where, given["MINE"]) == (["/a", "/b"], ["job.py", "--fast"], str(tmp_path), "é")


def test_what_is_no_text_on_the_path_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", ["/a", tmp_path, None])
    assert looked().where[0] == ["/a"]


def test_while_nothing_changes_where_is_the_same_object():
    one = looked()
    before = one.where
    one.look(2)
    assert one.where is before


@pytest.mark.parametrize("what", ["path", "argv", "folder", "set", "changed", "removed", "slots"])
def test_whatever_changes_where_is_a_new_object(monkeypatch, tmp_path, what):
    monkeypatch.setenv("MINE", "1")
    one = looked()
    before = one.where
    match what:
        case "path":
            monkeypatch.setattr(sys, "path", [*sys.path, "/new"])
        case "argv":
            monkeypatch.setattr(sys, "argv", [*sys.argv, "new"])
        case "folder":
            monkeypatch.chdir(tmp_path)
        case "set":
            monkeypatch.setenv("NEW", "1")
        case "changed":
            monkeypatch.setenv("MINE", "2")
        case "removed":
            monkeypatch.delenv("MINE")
    one.look(3 if what == "slots" else 2)
    assert one.where is not before


def test_a_path_that_is_changed_in_place_is_noticed(monkeypatch):
    monkeypatch.setattr(sys, "path", ["/a"])
    one = looked()
    sys.path.append("/b")
    one.look(2)
    assert one.where[0] == ["/a", "/b"]


def test_a_folder_that_was_deleted_is_none(monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert folder() == str(gone)
    gone.rmdir()
    assert folder() is None
    assert looked().where[2] is None


NO_QUOTA = 1 << 30


def written(root, **files):
    for name, content in files.items():
        path = root / {"v2": "cpu.max", "quota": "cpu/cpu.cfs_quota_us", "period": "cpu/cpu.cfs_period_us"}[name]
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return environment._quota(str(root))


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        ("max 100000\n", NO_QUOTA),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("100001 100000", 2),
        ("50000 100000", 1),
        ("", NO_QUOTA),
        ("200000", NO_QUOTA),
    ],
)
def test_the_quota_of_version_2_in_cores_rounded_up(tmp_path, content, cores):
    assert written(tmp_path, v2=content) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", NO_QUOTA), ("250000\n", 3), ("10000\n", 1)])
def test_the_quota_of_version_1_in_cores_rounded_up(tmp_path, quota, cores):
    assert written(tmp_path, quota=quota, period="100000\n") == cores


def test_version_2_counts_where_both_are_there(tmp_path):
    assert written(tmp_path, v2="400000 100000", quota="100000", period="100000") == 4


def test_a_quota_without_its_period_is_none(tmp_path):
    assert written(tmp_path, quota="100000") == NO_QUOTA


def test_no_control_group_is_no_quota(tmp_path):
    assert environment._quota(str(tmp_path / "nowhere")) == NO_QUOTA


@pytest.mark.parametrize(("allowed", "quota", "cores"), [(8, 3, 3), (2, 3, 2), (4, NO_QUOTA, 4), (0, 1, 1), (4, 0, 1)])
def test_usable_cores_are_those_that_both_mask_and_quota_allow(monkeypatch, allowed, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    monkeypatch.setattr(environment, "_quota", lambda _: quota)
    assert usable_cores() == cores


def test_a_system_without_masks_has_the_cores_it_says(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(environment, "_quota", lambda _: NO_QUOTA)
    for said, cores in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda said=said: said)
        assert usable_cores() == cores


def test_the_environment_becomes_the_given_one():
    os.environ["OLD"] = "1"
    set_environ({"NEW": "é", "EMPTY": ""})
    assert dict(os.environ) == {"NEW": "é", "EMPTY": ""}
    set_environ({"OTHER": "2"})
    assert dict(os.environ) == {"OTHER": "2"}


def test_what_code_has_changed_since_is_undone_by_the_same_environment():
    given = {"MINE": "1"}
    set_environ(given)
    os.environ["MINE"] = "changed"
    os.environ["NEW"] = "1"
    set_environ(given)
    assert dict(os.environ) == {"MINE": "1"}


def test_the_time_zone_follows_the_environment():
    moment = 1_700_000_000
    for zone, hours in (("UTC0", 0), ("XYZ-5", 5), ("XYZ-5", 5), ("ABC+3", -3)):
        set_environ({"TZ": zone})
        assert time.localtime(moment).tm_gmtoff == hours * 3600
    set_environ({"TZ": "XYZ-5"})
    set_environ({})
    assert time.tzname[0] != "XYZ"
