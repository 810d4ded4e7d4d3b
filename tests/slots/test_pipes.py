"""What user code does to its process and the pipes of that: its own part is lost, with the cause."""

import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
from conftest import is_running, wait_until
from hypothesis import given
from hypothesis import strategies as st

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed, PartLost
from pymar.slots.frames import Garbled, Unpacker, pack
from pymar.slots.pool import pool
from pymar.testing import Numbers, Total

FRAMES = [("done", 1, [(0, b"value" * 20, 0.1)], False), ("print", 3, "a line"), ("ready",)]
STREAM = b"".join(piece for frame in FRAMES for piece in pack(frame))


@given(place=st.integers(0, len(STREAM)), junk=st.binary(min_size=1, max_size=40), cut=st.integers(1, 50))
def test_bytes_that_stray_into_a_stream_of_frames_never_change_one(place, junk, cut):
    stream, frames, unpacker = STREAM[:place] + junk + STREAM[place:], [], Unpacker()
    try:
        for start in range(0, len(stream), cut):
            frames += unpacker.feed(stream[start : start + cut])
    except Garbled:
        pass  # otherwise the junk is no whole head, or it stands at the end of the stream
    assert frames == FRAMES[: len(frames)]


@pytest.mark.parametrize("length", [1 << 41, 1 << 60])
def test_a_length_that_no_frame_has_is_not_believed(length):
    head = pack(())[0][:4] + length.to_bytes(8, "little")
    with pytest.raises(Garbled):
        list(Unpacker().feed(head + b"x" * 100))


def pipes():
    """The ends of pipes that this process has, without its standard streams."""
    return [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2 and _is_pipe(int(name))]


def _is_pipe(descriptor):
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False


class Odd(Total):
    """Does something odd on one record; the first time only, if there is a `marker`."""

    how = ""
    marker = ""
    junk = b""

    @staticmethod
    def map_fn(data_source):
        for number in data_source:
            if number == 500 and not (Odd.marker and os.path.exists(Odd.marker)):
                if Odd.marker:
                    Path(Odd.marker).touch()
                ODD[Odd.how]()
            yield number


def stray():
    for descriptor in pipes():
        try:
            os.write(descriptor, Odd.junk)
        except OSError:
            continue  # an end that is read


def close_those_that_are(flag):
    """Close the pipes that are read (0) or written (1)."""
    for descriptor in pipes():
        flags = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split()[3]
        if int(flags, 8) & 1 == flag:
            os.close(descriptor)


ODD = {
    "nothing": lambda: None,
    "stray": stray,
    "close all": lambda: os.closerange(3, 10_000),
    "close what is read": lambda: close_those_that_are(0),
    "close what is written": lambda: close_those_that_are(1),
    "replace": lambda: [os.dup2(os.open(os.devnull, os.O_RDWR), end) for end in pipes()],
    "do not block": lambda: ([os.set_blocking(end, False) for end in pipes()], print("x" * 5_000_000)),
    "interrupt": lambda: signal.raise_signal(signal.SIGINT),
    "real-time signal": lambda: os.kill(os.getpid(), 40),
    "leave": lambda: (os.setpgid(0, os.getpgid(os.getppid())), os.closerange(3, 10_000), signal.pause()),
}


@pytest.fixture
def odd(monkeypatch, tmp_path):
    def run(how, parts=10, once=False, junk=b"", producer=Odd, **settings):
        monkeypatch.setattr(producer, "WORKERS_NUMBER", parts, raising=False)
        for name, value in settings.items():
            monkeypatch.setattr(producer, name, value, raising=False)
        monkeypatch.setattr(Odd, "how", how)
        monkeypatch.setattr(Odd, "junk", junk)
        monkeypatch.setattr(Odd, "marker", str(tmp_path / "marker") if once else "")
        return producer(engine="processes://2").map(DataSourceFactory(Numbers))

    return run


JUNK = {
    "an old length and text": (8).to_bytes(8, "little") + b"stray !!",
    "one byte": b"x",
    "a huge length": (1 << 60).to_bytes(8, "little"),
    "a frame of no kind": b"".join(pack(("what", 1))),
    "a frame of other fields": b"".join(pack(("done", 1, 5, True))),
    "a frame that is no tuple": b"".join(pack(5)),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_stray_bytes_cost_their_own_part_and_say_so(odd, junk):
    assert odd("stray", once=True, junk=junk) == 499_500
    with pytest.raises(PartLost) as lost:
        odd("stray", junk=junk, parts=100)
    assert lost.value.index == 50
    assert len(lost.value.causes) == 4
    assert all("something wrote into its results pipe" in cause for cause in lost.value.causes)


def test_stray_bytes_in_a_tasks_pipe_cost_the_process_and_nothing_else(odd):
    assert odd("nothing", parts=2) == 499_500
    idle = wait_until(lambda: [slot for slot in pool().supervisor if slot.ready and slot.job is None], "idle processes")
    for slot in idle:
        os.write(slot.process.tasks, b"no frame at all")
    assert odd("nothing", parts=100) == 499_500


@pytest.mark.parametrize("how", ["close all", "close what is written", "replace"])
def test_a_process_that_closes_its_results_pipe_is_the_cause_of_the_loss(odd, how):
    with pytest.raises(PartLost, match="closed its results pipe") as lost:
        odd(how)
    assert "SIGKILL" not in str(lost.value)
    assert lost.value.index == 5


def test_a_process_that_left_its_group_and_closed_its_pipes_is_ended(odd):
    with pytest.raises(PartLost, match="closed its results pipe"):
        odd("leave", ATTEMPTS=1)


def test_a_process_that_closes_what_it_reads_costs_no_answer(odd):
    assert odd("close what is read", once=True) == 499_500


def test_pipes_that_do_not_block_any_more_cost_nothing(odd, capsys):
    for _ in range(3):
        assert odd("do not block", parts=10) == 499_500
    capsys.readouterr()


@pytest.mark.parametrize("parts", [2, 100])
def test_an_interrupt_in_a_part_is_reported_with_its_place(odd, parts):
    assert odd("interrupt", parts, once=True) == 499_500
    with pytest.raises(PartLost, match=r"KeyboardInterrupt was raised in map_fn, line \d+") as lost:
        odd("interrupt", parts)
    assert lost.value.index == parts // 2
    assert "raise_signal" in str(lost.value)
    assert "exit code" not in str(lost.value)


def test_a_process_that_a_real_time_signal_ends_costs_its_part_only(odd):
    with pytest.raises(PartLost, match="killed by signal 40"):
        odd("real-time signal")
    assert odd("nothing") == 499_500


class Differs(Exception):
    """Has the name of the error that a worker process with other code raises."""


class Misleading(Total):
    @staticmethod
    def setup_fn():
        raise Differs("the user's own")


def test_an_exception_of_the_users_is_taken_for_no_other_of_its_name(odd):
    with pytest.raises(PartFailed, match="Differs: the user's own"):
        odd("nothing", producer=Misleading)


CLOSING = """
import os
from pymar.datasource import DataSourceFactory
from pymar.exceptions import PymarError
from pymar.slots.pool import pool
from pymar.testing import Numbers, Total

def answer():
    return Total(engine="processes://2").map(DataSourceFactory(Numbers), timeout=30, on_timeout="fail")

answer()
for slot in list(pool().supervisor):
    {closes}
try:
    print(answer())
except PymarError as error:
    print(error)
print(answer())
"""


@pytest.mark.parametrize("end", ["tasks", "results"])
def test_a_pipe_that_the_script_closes_by_mistake_costs_no_answer(script, end):
    assert script(CLOSING.format(closes=f"os.close(slot.process.{end})")).stdout == "499500\n499500\n"


def test_a_script_that_closes_all_descriptors_sees_the_cause_and_its_next_job_works(script):
    printed, answer = script(CLOSING.format(closes="os.closerange(3, 1_000)")).stdout.splitlines()
    assert "descriptors that are not its own" in printed
    assert answer == "499500"


def test_stray_bytes_in_a_lifeline_cost_the_process_and_nothing_else(script):
    assert script(CLOSING.format(closes='os.write(slot.process.lifeline, b"x")')).stdout == "499500\n499500\n"


class LeavesMuch(Total):
    """Prints more than is read at once, and is killed."""

    folder = ""

    @staticmethod
    def map_fn(data_source):
        folder = Path(LeavesMuch.folder)
        (folder / "begun").write_text(str(os.getpid()))
        while not (folder / "go").exists():
            time.sleep(0.01)  # the test stops the pool's thread meanwhile
        for number in range(6_000):
            print("x" * 100, number)
        os.kill(os.getpid(), signal.SIGKILL)
        yield from data_source


def test_all_that_a_process_has_sent_before_its_end_is_read(tmp_path, monkeypatch):
    """A whole pipe of it, if the pool had no time to read before."""
    monkeypatch.setattr(LeavesMuch, "folder", str(tmp_path))
    monkeypatch.setattr(LeavesMuch, "ATTEMPTS", 1)
    monkeypatch.setattr(LeavesMuch, "WORKERS_NUMBER", 1)
    future = LeavesMuch(engine="processes://1").submit(DataSourceFactory(Numbers))
    begun = tmp_path / "begun"
    wait_until(lambda: begun.exists() and begun.read_text(), "the part to begin")
    released, blocked = threading.Event(), threading.Event()
    pool().loop.call_soon(lambda: (blocked.set(), released.wait(30)))
    try:
        assert blocked.wait(30)
        (tmp_path / "go").touch()
        wait_until(lambda: not is_running(int(begun.read_text())), "the process to end")
    finally:
        released.set()
    with pytest.raises(PartLost) as caught:
        future.result(30)
    assert caught.value.causes[0].endswith("x 5999")
