"""When a worker ends by itself: after it was idle for long, or its broker away; the time is given."""

from pymar.amqp.agent.lingering import Lingering


def ends(lingering, seconds, **state):
    """The second at which it ends; None if it does not."""
    given = {"is_busy": False, "is_up": True, **state}
    return next((second for second in seconds if lingering.look(float(second), **given)), None)


def test_by_default_it_never_ends():
    assert ends(Lingering(0, 0, 0.0), range(100_000), is_up=False) is None


def test_it_ends_after_it_was_idle_for_long_and_not_while_it_has_a_job():
    one = Lingering(10, 0, 0.0)
    assert ends(one, range(1, 50), is_busy=True) is None
    assert ends(one, range(50, 100)) == 59
    assert "10 s (--idle)" in one.look(60.0, is_busy=False, is_up=True)


def test_it_ends_after_the_broker_was_away_for_long_even_if_it_has_a_job():
    one = Lingering(0, 10, 0.0)
    assert ends(one, range(1, 50), is_busy=True) is None
    assert ends(one, range(50, 100), is_busy=True, is_up=False) == 59
    assert "10 s (--away)" in one.look(60.0, is_busy=True, is_up=False)


def test_a_short_absence_of_the_broker_does_not_count():
    one = Lingering(0, 10, 0.0)
    assert ends(one, range(1, 10), is_up=False) is None
    assert not one.look(10.0, is_busy=False, is_up=True)
    assert ends(one, range(11, 20), is_up=False) is None


def test_the_time_in_which_the_process_itself_was_stopped_does_not_count():
    one = Lingering(10, 10, 0.0)
    assert ends(one, range(1, 6), is_up=False) is None
    assert not one.look(1_000.0, is_busy=False, is_up=False)
    assert ends(one, range(1_001, 1_100), is_up=False) == 1_005
