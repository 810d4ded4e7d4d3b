"""What the progress bar shows of a job."""

import pytest

from pymar import DataSourceFactory
from pymar.events import JobEnded, JobProgress, JobStarted
from pymar.events.progress import ProgressBar, status_of, trouble_text
from pymar.parts import Connection
from pymar.testing import Numbers, Total


def progress(done, recalled=0, total=1_000, **counts):
    return JobProgress(done=done, running=2, failed=0, lost=0, total=total, slots=2, recalled=recalled)._replace(
        **counts
    )


def test_speed_and_time_left_are_those_of_the_parts_that_this_run_has_computed():
    assert status_of(progress(100), 10.0) == ["2 running on 2 slots", "10/s", "0:01:30 left"]
    resumed = status_of(progress(910, recalled=900), 10.0)
    assert resumed == ["2 running on 2 slots", "900 from the checkpoint", "1.0/s", "0:01:30 left"]


def test_an_unknown_speed_is_not_shown():
    assert status_of(progress(900, recalled=900), 10.0) == ["2 running on 2 slots", "900 from the checkpoint"]
    assert status_of(progress(1, total=None), 1.0) == ["2 running on 2 slots", "1.0/s"]
    assert status_of(progress(0, slots=0, failed=1, lost=2), 1.0) == ["no workers yet", "1 failed", "2 lost"]


def test_parts_that_were_set_aside_are_not_waited_for():
    status = status_of(progress(100, failed=401, set_aside=400), 10.0)
    assert status == ["2 running on 2 slots", "401 failed", "400 set aside", "10/s", "0:00:50 left"]


@pytest.fixture
def bar():
    """A progress bar on no terminal, of a job that has begun; `text` is what stands behind the parts."""
    one = ProgressBar()
    one(JobStarted("Total", "amqp", "engine= is given", 1_000))
    yield one
    one(JobEnded(None, 1.0))


def text(bar):
    bar(progress(100))
    return bar._bar.tasks[-1].fields["status"]


def test_the_bar_says_what_disturbs_the_way_to_the_workers_until_it_is_over(bar):
    assert "away" not in text(bar)
    bar(Connection("the broker is away"))
    assert text(bar).startswith(", the broker is away for 0 s, parts go on at the workers, 2 running on 2 slots")
    bar(Connection(""))
    assert "away" not in text(bar)


def test_a_trouble_that_was_over_between_two_stages_is_not_shown_for_ever(bar):
    bar(Connection("the broker is away"))
    bar(JobStarted("Total (reduce)", "amqp", "engine= is given", 10))
    assert "away" not in text(bar)


def test_the_text_has_the_seconds():
    assert trouble_text("the broker is away", 12.3) == "the broker is away for 12 s, parts go on at the workers"


def test_listeners_receive_how_many_parts_came_from_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(Total, "WORKERS_NUMBER", 4)
    journal = tmp_path / "job.ckpt"
    partials = Total(engine="serial").partials(DataSourceFactory(Numbers), checkpoint=journal)
    next(partials)
    partials.close()
    events = []
    producer = Total(engine="serial", listeners=[events.append])
    assert producer.map(DataSourceFactory(Numbers), checkpoint=journal) == 499_500
    last = [event for event in events if isinstance(event, JobProgress)][-1]
    assert (last.done, last.recalled) == (4, 1)
