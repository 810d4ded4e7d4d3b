"""What waits for the broker is never lost, and the link always comes back: also where the temporary folder is full."""

import errno
import io
import resource
import tempfile

import pytest
from amqp_jobs import executions
from conftest import wait_until
from watching import ANSWER, answer, begun, serve, submitted

from pymar.amqp.address import parse
from pymar.amqp.link import LinkListener
from pymar.amqp.link import publishing as outbox
from pymar.amqp.link.link import PikaLink
from pymar.amqp.link.publishing import Message, Outbox
from pymar.slots.loop import Loop


class SmallDisk(io.BytesIO):
    """A file that has room for `room` bytes, and takes what fits of a write that does not."""

    room = 0
    #: Bytes of the largest that was made since the test began.
    used = 0
    is_broken = False

    def write(self, data):
        data = bytes(data)[: SmallDisk.room - self.tell()]
        if not data:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = super().write(data)
        SmallDisk.used = max(SmallDisk.used, self.tell())
        return taken

    def read(self, size=-1):
        if SmallDisk.is_broken:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(min(size, 7))


@pytest.fixture
def box(monkeypatch):
    """An outbox that holds 10 bytes in memory, on a disk of 25."""
    monkeypatch.setattr(outbox, "IN_MEMORY", 10)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: SmallDisk())
    monkeypatch.setattr(SmallDisk, "room", 25)
    monkeypatch.setattr(SmallDisk, "used", 0)
    return Outbox()


def messages(*bodies, done=None):
    return [Message("", "queue", body, done) for body in bodies]


def test_a_full_disk_costs_no_message_and_no_order(box, caplog):
    bodies = [bytes([65 + number]) * 8 for number in range(8)]
    for message in messages(*bodies[2:]):
        box.put(message)
    box.put_first(messages(*bodies[:2]))
    assert [message.body for message in box.take_all()] == bodies
    (said,) = [record.getMessage() for record in caplog.records]
    assert "[Errno 28] No space left on device" in said
    assert "TMPDIR" in said


def test_a_folder_that_takes_no_file_costs_no_message(box, monkeypatch, caplog):
    def no_file(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/nowhere']")

    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    bodies = [b"x" * 8, b"y" * 8, b"z" * 8]
    for message in messages(*bodies):
        box.put(message)
    assert [message.body for message in box.take_all()] == bodies
    assert "/nowhere" in caplog.text


def test_a_disk_that_has_room_again_is_used_again(box, monkeypatch):
    for message in messages(*[b"x" * 8] * 5):
        box.put(message)
    assert len(list(box.take_all())) == 5
    monkeypatch.setattr(SmallDisk, "room", 1_000)
    for message in messages(*[b"y" * 8] * 20):
        box.put(message)
    assert SmallDisk.used >= 20 * 8 - 10, "no more is in memory than may be"
    assert [message.body for message in box.take_all()] == [b"y" * 8] * 20


def test_a_message_that_the_disk_does_not_give_back_is_reported_as_not_taken(box, monkeypatch):
    taken = []
    for message in messages(b"memory--", b"disk----", done=taken.append):
        box.put(message)
    monkeypatch.setattr(SmallDisk, "is_broken", True)
    assert [message.body for message in box.take_all()] == [b"memory--"]
    assert taken == [False]


class Failing(LinkListener):
    def link_is_down(self, error):
        raise OSError(errno.ENOSPC, "No space left on device")


class Timers(Loop):
    """Remembers its timers."""

    def __init__(self, name):
        super().__init__(name)
        self.timers = []

    def call_later(self, seconds, action, *arguments):
        self.timers.append(super().call_later(seconds, action, *arguments))
        return self.timers[-1]


def test_a_link_that_breaks_is_tried_again_whatever_goes_wrong_meanwhile():
    loop = Timers("never started")
    link = PikaLink(loop, parse("127.0.0.1"), Failing())
    with pytest.raises(OSError, match="No space left"):
        link.broken(ConnectionResetError())
    (attempt,) = loop.timers
    assert attempt.action is not None, "it is not cancelled"


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("empty_queue", "log_of_the_producer")
def test_results_that_wait_for_the_broker_where_the_disk_is_full_are_not_lost(broker, agents, watched, settings):
    settings(WORKERS_NUMBER=4, seconds=1.0, size=40_000_000)
    agent = serve(agents)
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    future = submitted(broker)
    begun(watched, 2)
    broker.kill()
    wait_until(lambda: "[Errno 27] File too large" in agent.said(), "the agent to find no room")
    broker.start()
    assert answer(future) == ANSWER
    assert sum(executions(watched).values()) <= 6, "what was computed is not computed again"
