"""What parts print arrives in whole lines, each with its part; of a flood, the lines beyond a limit are counted."""

import os
import threading

import pytest

from pymar.datasource import DataSourceFactory
from pymar.exceptions import PartFailed
from pymar.producer import Producer
from pymar.slots.child import Prints
from pymar.slots.quota import OF_A_JOB, OF_A_PART, Quota


class Pool:
    """Receives the frames of a worker process."""

    def __init__(self):
        self.pid = os.getpid()
        self.frames = []

    def send(self, *frame):
        self.frames.append(frame)

    def lines(self):
        return [line for _, _, line in self.frames]


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def prints(pool):
    one = Prints(pool.send)
    yield one
    one.buffer.close()


def test_lines_are_whole_and_have_their_part(pool, prints):
    print("outside", file=prints)
    prints.part(3)
    print("a", "b", sep="", file=prints)
    print("x\ny\n\nz", end="", file=prints)
    prints.part(4)
    prints.write("")
    print("flushed", end="", flush=True, file=prints)
    prints.part(-1)
    prints.end_part()
    shown = [(-1, "outside"), (3, "ab"), (3, "x"), (3, "y"), (3, ""), (3, "z"), (4, "flushed")]
    assert pool.frames == [("print", *one) for one in shown]


def test_a_line_of_many_pieces_is_sent_once(pool, prints):
    for _ in range(10_000):
        print(".", end="", file=prints)
    assert pool.frames == []
    prints.end_part()
    assert pool.lines() == ["." * 10_000]


def test_a_line_without_end_is_sent_in_pieces_and_takes_no_more_memory(pool, prints):
    longest, (_, most) = 1 << 16, OF_A_PART
    prints.part(0)
    for number in range(1, 300_001):
        prints.write("abcd")
        if number * 4 <= most:
            assert len(pool.frames) == number * 4 // longest, "what is not sent yet is less than a piece"
    prints.write("x" * 3_000_000)
    prints.part(1)
    text, dropped = "".join(pool.lines()[:-1]), pool.frames[-1]
    assert text == ("abcd" * 300_000)[:most]
    assert dropped == ("dropped", 0, 48), "what was not shown was not kept in one piece"


def test_a_flood_of_a_part_has_an_end_and_the_next_part_is_shown_again(pool, prints):
    lines, _ = OF_A_PART
    prints.part(7)
    for number in range(lines + 12_345):
        print(number, file=prints)
    assert len(pool.frames) == lines
    prints.part(8)
    assert pool.frames[-1] == ("dropped", 7, 12_345)
    print("shown", file=prints)
    assert pool.frames[-1] == ("print", 8, "shown")


def test_threads_lose_no_line_of_each_other(pool, prints):
    def write(name):
        for number in range(500):
            prints.write(f"{name} {number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(pool.lines()) == sorted(f"{name} {number}" for name in "abcd" for number in range(500))


def test_a_quota_counts_all_that_it_did_not_let_through():
    quota = Quota((2, 10))
    assert quota.summary() == ""
    assert [quota.has_room(line) for line in ("a", "b" * 10, "c", "d")] == [True, False, False, False]
    assert "3 more lines" in quota.summary()


class Loud(Producer):
    lines = 0

    @staticmethod
    def map_fn(records):
        import threading

        for record in records:
            for number in range(Loud.lines):
                print("line", number)
            one = threading.Thread(target=lambda record=record: print("of a thread, of", record))
            one.start()
            one.join()
            print("no end", record, end="")
            if record < 0:
                raise ValueError("as the test wants it")
            yield record

    @staticmethod
    def reduce_fn(records):
        return sum(records)


def test_what_has_no_end_is_shown_when_its_part_ends_or_fails(capfd):
    assert Loud(engine="processes://1").map(DataSourceFactory([1, 2])) == 3
    with pytest.raises(PartFailed):
        Loud(engine="processes://1").map(DataSourceFactory([-1]))
    shown = capfd.readouterr().err
    for text in ("[part 0] of a thread, of 1", "[part 1] no end 2", "[part 0] no end -1"):
        assert f"{text}\n" in shown


def test_a_flood_of_a_job_has_an_end(capfd, monkeypatch):
    monkeypatch.setattr("pymar.slots.queue.OF_A_JOB", (30, OF_A_JOB[1]))
    monkeypatch.setattr(Loud, "lines", 20)
    assert Loud(engine="processes://2").map(DataSourceFactory([1, 2, 3])) == 6
    # The pool has removed the first job by the end of this one.
    assert Loud(engine="processes://2").map(DataSourceFactory([4])) == 4
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("[all parts]") and "36 more lines" in line for line in lines)
    assert len(lines) == 30 + 1 + 22
