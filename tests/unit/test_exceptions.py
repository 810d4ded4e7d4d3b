"""The errors of several parts: a group that says what failed, survives pickling, and can be taken apart."""

import pickle

import pytest

import pymar
from pymar.exceptions import JobError, PartFailed, PartLost, PartsFailed


def group(count=8, **options):
    failed = [
        PartFailed((number, 0, number * 10, 10), "slot 1", f"ValueError: no {number}\nand more")
        for number in range(count)
    ]
    lost = PartLost((90, 0, 900, 10), ("killed by SIGKILL", "killed by SIGSEGV"))
    return PartsFailed([*failed, lost], 91, 100, **options)


def test_its_message_says_how_many_of_how_many_the_first_of_them_and_what_to_do():
    text = str(group())
    for noun in (
        "9 of 100 parts failed",
        "91 are done",
        "part 4 (offset 40, limit 10): ValueError: no 4\n",
        "4 more",
        "Producer().replay(",
        "checkpoint=",
        'on_mismatch="keep"',
    ):
        assert noun in text
    assert "part 5" not in text
    assert "and more\n" not in text
    assert "MAX_FAILED" not in text
    assert "lost 2 times, at last: killed by SIGSEGV" in str(group(0))


def test_its_message_says_that_the_job_was_stopped():
    assert "more than MAX_FAILED" in str(group(is_stopped=True))
    assert str(PartsFailed(group(1).exceptions, 3, None)).startswith("2 parts failed, and 3 are done\n")


def test_it_survives_pickling():
    error = group(is_stopped=True)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is PartsFailed
    assert (again.done, again.total, again.is_stopped) == (91, 100, True)
    assert str(again) == str(error)
    assert list(map(str, again.exceptions)) == list(map(str, error.exceptions))


def test_it_is_split_into_groups_of_its_kind():
    lost, failed = group().split(PartLost)
    assert (type(lost), type(failed)) == (PartsFailed, PartsFailed)
    assert [one.index for one in lost.exceptions] == [90]
    assert len(failed.exceptions) == 8
    assert failed.total == 100


def test_except_star_takes_it_apart():
    found = []
    try:
        raise group()
    except* PartLost as lost:
        found += lost.exceptions
    except* PartFailed as failed:
        found += failed.exceptions
    assert len(found) == 9


def test_it_is_an_error_of_the_job_and_no_error_of_one_part():
    assert pymar.PartsFailed is PartsFailed
    with pytest.raises(JobError):
        raise group()
    assert not isinstance(group(), PartFailed | PartLost)
