"""What docs/faults.md promises of an agent, of its ledger: any order of events, against a model of the world."""

import os
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pymar.amqp import protocol, timing
from pymar.amqp.agent import ledger as instructions
from pymar.amqp.agent.ledger import Ledger
from pymar.amqp.link import Delivery
from pymar.parts import Cause, Done, Failed, Failure, Lost, Refused, Returned
from pymar.slots.queue import Work

WORK = Work(b"definition")
LEASE, GRACE = 300.0, 30.0
JOBS = [bytes([letter]) * 16 for letter in b"abc"]


def digest(job):
    return b"digest of " + job[:1]


def made(**changes):
    return Ledger(**{"lease": LEASE, "grace": GRACE, "code": "code", "now": 0.0, **changes})


def parts(job=JOBS[0], serial=1, indices=(0,), is_copy=0, data=None, reply="reply"):
    rows = [[index, 0, 10 * index, 10, data] for index in indices]
    return protocol.Parts(job, digest(job), reply, serial, is_copy, rows)


def delivery(tag=1, epoch=1, redelivered=False):
    return Delivery(epoch, tag, f"consumer {tag}", redelivered, b"")


def kinds(told):
    return [type(one).__name__ for one in told]


def only(told, kind):
    return [one for one in told if isinstance(one, kind)]


@pytest.fixture
def ledger():
    """Connected, and it knows the job."""
    one = made()
    one.connected(0.0)
    return one


def begun(ledger, **given):
    """Have it compute a delivery; the delivery."""
    came = delivery(tag=given.pop("tag", 1), redelivered=given.pop("redelivered", False))
    message = parts(**given)
    ledger.delivered(came, message, 0.0)
    ledger.welcomed(message.job, digest(message.job), WORK, 0.0)
    return came


def replied(ledger, *reports, job=JOBS[0]):
    """Have slots report; the executions of the reply."""
    return [number for one in only(ledger.reported(job, reports), instructions.Reply) for number in one.executions]


# The rules, one by one.


def test_a_delivery_is_acknowledged_once_its_result_is_confirmed(ledger):
    came = begun(ledger)
    executions = replied(ledger, Done(0, b"value", 0.1))
    assert executions
    told = ledger.confirmed(executions)
    assert only(told, instructions.Acknowledge) == [instructions.Acknowledge(came)]


def test_a_delivery_of_several_parts_is_acknowledged_after_the_last_of_them(ledger):
    came = begun(ledger, indices=(0, 1))
    first, second = replied(ledger, Done(0, b"", 0.1)), replied(ledger, Done(1, b"", 0.1))
    assert not only(ledger.confirmed(second), instructions.Acknowledge)
    assert only(ledger.confirmed(first), instructions.Acknowledge) == [instructions.Acknowledge(came)]


def test_a_job_that_is_not_known_is_asked_for_and_holds_no_slot(ledger):
    came = delivery()
    told = ledger.delivered(came, parts(), 0.0)
    assert kinds(told) == ["Park", "Ask"]
    told = ledger.welcomed(JOBS[0], digest(JOBS[0]), WORK, 1.0)
    assert kinds(told)[:3] == ["Unpark", "Begin", "Compute"]


def test_a_second_job_of_a_known_definition_begins_at_once(ledger):
    begun(ledger)
    told = ledger.delivered(delivery(2), parts(JOBS[1])._replace(definition=digest(JOBS[0])), 1.0)
    assert kinds(told)[:2] == ["Begin", "Compute"]


def test_a_part_that_comes_again_while_it_runs_is_not_computed_twice(ledger):
    first = begun(ledger)
    second = delivery(2, redelivered=True)
    told = ledger.delivered(second, parts(serial=2), 1.0)
    assert not only(told, instructions.Compute)
    told = ledger.confirmed(replied(ledger, Done(0, b"", 0.1)))
    assert {one.delivery for one in only(told, instructions.Acknowledge)} == {first, second}


def test_a_copy_is_computed_beside_the_first_and_the_faster_one_counts(ledger):
    begun(ledger)
    told = ledger.delivered(delivery(2), parts(serial=2, is_copy=1), 1.0)
    assert only(told, instructions.Compute)
    told = ledger.reported(JOBS[0], [Done(0, b"", 0.1)])
    assert kinds(told) == ["Stop", "Reply"]
    assert not ledger.reported(JOBS[0], [Done(0, b"", 0.1)])


def test_a_copy_that_dies_costs_nothing_while_the_other_runs(ledger):
    begun(ledger)
    ledger.delivered(delivery(2), parts(serial=2, is_copy=1), 1.0)
    assert not ledger.reported(JOBS[0], [Lost(0, Cause("died", "killed"))])
    assert replied(ledger, Done(0, b"", 0.1))


def test_a_part_that_failed_is_computed_again_though_the_failure_is_unconfirmed(ledger):
    begun(ledger)
    failed = replied(ledger, Failed(0, "slot 1", Failure("no")))
    told = ledger.delivered(delivery(2), parts(serial=2), 1.0)
    assert only(told, instructions.Compute)
    ledger.confirmed(failed)
    assert replied(ledger, Done(0, b"", 0.1)), "the confirmation was of the attempt before"


def test_what_was_delivered_on_a_connection_that_is_gone_is_not_acknowledged(ledger):
    begun(ledger)
    executions = replied(ledger, Done(0, b"", 0.1))
    ledger.disconnected()
    ledger.connected(1.0)
    assert not only(ledger.confirmed(executions), instructions.Acknowledge)
    again = delivery(1, epoch=2, redelivered=True)
    assert ledger.delivered(again, parts(), 2.0) == [instructions.Acknowledge(again)], "its result is confirmed"


def test_an_interrupted_confirmation_repeats_nothing(ledger):
    """The connection is cut between result and confirmation: the part comes again, and is not computed again."""
    begun(ledger)
    executions = replied(ledger, Done(0, b"", 0.1))
    ledger.disconnected()
    ledger.connected(1.0)
    again = delivery(1, epoch=2, redelivered=True)
    assert not only(ledger.delivered(again, parts(), 2.0), instructions.Compute)
    assert only(ledger.confirmed(executions), instructions.Acknowledge) == [instructions.Acknowledge(again)]


def test_a_redelivered_part_is_announced_before_it_begins(ledger):
    begun(ledger, job=JOBS[0])
    told = ledger.delivered(delivery(2, redelivered=True), parts(serial=2, indices=(1,)), 1.0)
    assert kinds(told)[:2] == ["Announce", "Compute"]


def test_a_part_that_takes_long_is_acknowledged_once_its_producer_knows_of_it(ledger):
    came = begun(ledger)
    ledger.heard(JOBS[:1], LEASE + 1)
    told = ledger.look(LEASE + 1, can_hear=True)
    early = [one for one in only(told, instructions.Announce) if one.batch is not None]
    assert [row[1] for row in early[0].rows] == [0]
    assert ledger.announced("reply", True, LEASE + 2, early[0].batch) == [instructions.AcknowledgeEarly(came)]
    told = ledger.confirmed(replied(ledger, Done(0, b"", 0.1)))
    assert only(told, instructions.FreeSlot) == [instructions.FreeSlot(came)]
    assert not only(told, instructions.Acknowledge)


def test_a_heartbeat_names_the_worker_of_each_part(ledger):
    begun(ledger, indices=(0, 1, 2))
    ledger.begun(JOBS[0], 0, "slot 1 (pid 7) on here")
    ledger.begun(JOBS[0], 2, "slot 2 (pid 8) on here")
    (told,) = ledger.announce_all(1.0)
    assert [row[2] for row in told.rows] == ["slot 1 (pid 7) on here"] * 2 + ["slot 2 (pid 8) on here"]


def test_what_has_run_for_a_moment_is_announced_once(ledger):
    begun(ledger)
    (told,) = ledger.announce_news(timing.WORTH_TELLING)
    assert isinstance(told, instructions.Announce)
    assert not ledger.announce_news(2 * timing.WORTH_TELLING)


def test_the_parts_of_a_producer_that_has_died_stop_within_15_s(ledger):
    begun(ledger)
    assert only(ledger.look(14.0, can_hear=True), instructions.End)


def test_parts_of_a_silent_producer_wait_and_begin_anew_when_it_speaks(ledger):
    came = begun(ledger)
    told = ledger.look(timing.PRODUCER_SILENT + 1, can_hear=True)
    assert {"End", "Park", "Ask"} <= set(kinds(told))
    assert not ledger.running
    told = ledger.welcomed(JOBS[0], digest(JOBS[0]), WORK, timing.PRODUCER_SILENT + 2)
    assert only(told, instructions.Unpark) == [instructions.Unpark(came)]
    assert only(told, instructions.Compute)


def test_parts_that_wait_for_their_producer_are_not_acknowledged_by_a_heartbeat_of_before(ledger):
    came = begun(ledger)
    ledger.heard(JOBS[:1], LEASE + 1)
    early = [one for one in only(ledger.look(LEASE + 1, can_hear=True), instructions.Announce) if one.batch is not None]
    out = ledger.look(LEASE + 2 + timing.PRODUCER_SILENT, can_hear=True)
    assert instructions.Park(came) in out
    assert not ledger.announced("reply", True, LEASE + 20, early[0].batch)
    out = ledger.welcomed(JOBS[0], digest(JOBS[0]), WORK, LEASE + 21)
    assert instructions.Unpark(came) in out
    out = ledger.confirmed(replied(ledger, Done(0, b"", 0.1)))
    assert only(out, instructions.Acknowledge) == [instructions.Acknowledge(came)]


def test_while_nobody_can_be_heard_no_producer_is_silent(ledger):
    begun(ledger)
    assert not only(ledger.look(timing.PRODUCER_SILENT + 1, can_hear=False), instructions.End)


def test_a_delivery_with_an_unconfirmed_result_is_not_acknowledged_by_the_rest_of_it(ledger):
    """Its producer falls silent while one of its two parts is done, and unconfirmed."""
    came = begun(ledger, indices=(0, 1))
    first = replied(ledger, Done(0, b"", 0.1))
    ledger.look(timing.PRODUCER_SILENT + 1, can_hear=True)
    ledger.welcomed(JOBS[0], digest(JOBS[0]), WORK, timing.PRODUCER_SILENT + 2)
    second = replied(ledger, Done(1, b"", 0.1))
    assert not only(ledger.confirmed(second), instructions.Acknowledge)
    assert only(ledger.confirmed(first), instructions.Acknowledge) == [instructions.Acknowledge(came)]


def test_a_job_whose_queue_takes_nothing_is_let_go_after_a_while(ledger):
    came = begun(ledger)
    replied(ledger, Done(0, b"", 0.1))
    assert not ledger.not_taken(JOBS[0], 1.0)
    assert ledger.knows(JOBS[0])
    told = ledger.not_taken(JOBS[0], 1.0 + timing.GIVE_UP_AFTER)
    assert only(told, instructions.Acknowledge) == [instructions.Acknowledge(came)]
    assert not ledger.knows(JOBS[0])


def test_a_job_that_is_over_ends_and_what_comes_of_it_later_is_dropped(ledger):
    came = begun(ledger)
    told = ledger.over([JOBS[0]])
    assert {type(one) for one in told} == {instructions.Acknowledge, instructions.DropData, instructions.End}
    assert only(told, instructions.Acknowledge) == [instructions.Acknowledge(came)]
    late = delivery(2)
    assert ledger.delivered(late, parts(serial=2), 1.0) == [instructions.Acknowledge(late)]


def test_parts_that_nobody_wants_are_stopped(ledger):
    came = begun(ledger)
    told = ledger.cancelled(JOBS[0], [0])
    assert kinds(told) == ["Stop", "DropData", "Acknowledge"]
    assert told[-1].delivery == came


def test_what_this_worker_cannot_compute_goes_to_others(ledger):
    begun(ledger, indices=(0, 1))
    told = ledger.reported(JOBS[0], [Refused((0, 1), "other code")])
    assert kinds(told) == ["Reply", "Pause"]
    ledger.confirmed(told[0].executions)
    assert not ledger.knows(JOBS[0])
    told = ledger.delivered(delivery(2), parts(serial=2), 1.0)
    assert kinds(told) == ["Pause", "Refuse"]
    ledger.resumed()
    assert kinds(ledger.delivered(delivery(3), parts(serial=3), 2.0)) == ["Park", "Ask"]


def test_a_producer_that_refuses_the_worker_gets_its_parts_back(ledger):
    came = delivery()
    ledger.delivered(came, parts(), 0.0)
    told = ledger.rejected(JOBS[0], "another Python")
    assert instructions.HandBack(came) in told
    assert kinds(ledger.delivered(delivery(2), parts(serial=2), 1.0)) == ["Pause", "Refuse"]


def test_a_job_whose_modules_cannot_be_had_here_gets_its_parts_back_with_the_reason(ledger):
    came, message = delivery(), parts()
    ledger.delivered(came, message, 0.0)
    told = ledger.cannot_begin(JOBS[0], "no room")
    assert instructions.Refuse(came, message, "no room") in told
    assert only(told, instructions.Pause)[0].why == "no room"
    assert ledger.refusal_sent(came) == [instructions.Acknowledge(came)]
    assert kinds(ledger.delivered(delivery(2), parts(serial=2), 1.0)) == ["Pause", "Refuse"]
    ledger.resumed()
    assert kinds(ledger.delivered(delivery(3), parts(serial=3), 2.0)) == ["Park", "Ask"]


def test_while_modules_are_fetched_others_compute_the_parts_and_few_wait_here(ledger):
    first, second = delivery(1), delivery(2)
    ledger.delivered(first, parts(), 0.0)
    assert ledger.fetches_modules(JOBS[0]) == [instructions.HandBack(first)]
    assert ledger.fetches_modules(JOBS[0]) == []
    assert ledger.delivered(second, parts(serial=2, indices=(1,)), 1.0) == []
    told = ledger.welcomed(JOBS[0], digest(JOBS[0]), WORK, 2.0)
    assert [part.index for one in only(told, instructions.Compute) for part in one.parts] == [1]


def test_a_job_that_computes_cannot_be_kept_from_beginning(ledger):
    begun(ledger)
    assert ledger.cannot_begin(JOBS[0], "no room") == []
    assert ledger.cannot_begin(JOBS[1], "no room") == []


def test_what_modules_a_job_has_is_asked_each_time_since_they_may_have_been_removed(ledger):
    ledger.delivered(delivery(), parts(), 0.0)
    ledger.welcomed(JOBS[0], digest(JOBS[0]), WORK._replace(code=("/folder", (), False)), 0.0)
    told = ledger.delivered(delivery(2), parts(JOBS[1])._replace(definition=digest(JOBS[0])), 1.0)
    assert kinds(told) == ["Park", "Ask"]


def test_a_report_that_could_not_be_sent_costs_its_part_an_attempt(ledger):
    begun(ledger)
    executions = replied(ledger, Done(0, b"", 0.1))
    (told,) = ledger.unsent(executions, MemoryError())
    assert isinstance(told.reports[0], Lost)
    assert told.executions == tuple(executions)


def test_a_delivery_that_was_dropped_is_not_acknowledged_again(ledger):
    came = begun(ledger)
    assert ledger.dropped(came) == [instructions.Acknowledge(came)]
    assert not only(ledger.confirmed(replied(ledger, Done(0, b"", 0.1))), instructions.Acknowledge)


def test_draining_hands_back_what_has_not_begun_and_leaves_after_the_rest(ledger):
    begun(ledger)
    waiting = delivery(2)
    ledger.delivered(waiting, parts(JOBS[1], serial=2), 0.0)
    told = ledger.drain(1.0)
    assert kinds(told) == ["StopConsuming", "HandBack"]
    late = delivery(3)
    assert ledger.delivered(late, parts(serial=3), 2.0) == [instructions.HandBack(late)]
    told = ledger.confirmed(replied(ledger, Done(0, b"", 0.1)))
    assert kinds(told)[-1] == "Goodbye"


def test_draining_hands_back_what_still_runs_when_its_grace_is_over(ledger):
    begun(ledger)
    ledger.drain(1.0)
    ledger.heard(JOBS[:1], GRACE)
    assert not only(ledger.look(GRACE, can_hear=True), instructions.Reply)
    ledger.heard(JOBS[:1], GRACE + 2)
    told = only(ledger.look(GRACE + 2, can_hear=True), instructions.Reply)
    assert [type(report) for report in told[0].reports] == [Returned]
    assert kinds(ledger.confirmed(told[0].executions))[-1] == "Goodbye"


def test_an_idle_worker_that_is_asked_to_stop_leaves_at_once(ledger):
    assert kinds(ledger.drain(1.0)) == ["StopConsuming", "Goodbye"]


def test_data_that_came_in_pieces_is_computed_when_it_is_whole(ledger):
    came = delivery()
    ledger.delivered(came, parts(data=[10, b"digest"]), 0.0)
    told = ledger.welcomed(JOBS[0], digest(JOBS[0]), WORK, 1.0)
    (fetch,) = only(told, instructions.Fetch)
    assert not only(told, instructions.Compute)
    assert kinds(ledger.fetched(JOBS[0], fetch.part)) == ["Compute"]
    assert not ledger.fetched(JOBS[0], fetch.part), "it is computed once"


def test_another_code_is_served_without_what_waits_for_the_old(ledger):
    came = delivery()
    ledger.delivered(came, parts(), 0.0)
    assert ledger.serves("other") == [instructions.HandBack(came)]
    ledger.delivered(delivery(2), parts(JOBS[1]), 1.0)
    assert ledger.asks_for(JOBS[1]) == "other"


# Any order of events.


@dataclass
class Message:
    """Parts in the work queue, or unacknowledged."""

    parts: protocol.Parts
    redelivered: bool = False
    answered: set = field(default_factory=set)
    """Parts whose reply was confirmed since this message was first delivered."""
    was_delivered: bool = False


class World(RuleBasedStateMachine):
    """A broker, producers and slots that do whatever they can do; each instruction is held against what is promised."""

    @initialize()
    def begin(self):
        self.now = 0.0
        self.ledger = made()
        self.epoch, self.tag = 0, 0
        self.is_up = False
        self.queue = []
        self.unacknowledged = {}
        self.messages = []
        self.serials = 0
        #: What was sent and is unconfirmed: instructions, and how to tell the ledger.
        self.sent = []
        #: Parts that the pool computes: how many slots, by job.
        self.pool = {}
        self.fetching = {}
        self.arriving = None
        self.over, self.unwanted, self.forsaken = set(), set(), set()
        self.announced = {}
        self.early = set()
        self.asked = set()
        self.confirmed_executions = set()
        self.has_left = self.is_paused = self.stopped_consuming = False
        self.connect()

    # What the broker does.

    def connect(self):
        self.epoch += 1
        self.is_up = True
        self.perform(self.ledger.connected(self.now))

    @precondition(lambda self: not self.is_up)
    @rule()
    def connected_again(self):
        self.connect()

    @precondition(lambda self: self.is_up)
    @rule()
    def connection_is_cut(self):
        self.is_up = False
        for message in self.unacknowledged.values():
            message.redelivered = True
            self.queue.append(message)
        self.unacknowledged.clear()
        # What is lasting is sent again; the rest is lost.
        self.sent = [
            one
            for one in self.sent
            if isinstance(one, instructions.Reply | instructions.Refuse)
            or (isinstance(one, instructions.Announce) and one.batch is not None)
        ]
        self.ledger.disconnected()

    @precondition(lambda self: self.is_up and self.queue and not self.is_paused and not self.stopped_consuming)
    @rule(data=st.data())
    def delivers(self, data):
        message = self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))
        self.tag += 1
        came = Delivery(self.epoch, self.tag, f"consumer {self.tag}", message.redelivered, b"")
        self.unacknowledged[self.epoch, self.tag] = message
        message.was_delivered = True
        self.perform(self.ledger.delivered(came, message.parts, self.now))

    @precondition(lambda self: self.is_up and self.sent)
    @rule(data=st.data(), was_taken=st.sampled_from([True, True, True, False]))
    def confirms(self, data, was_taken):
        one = self.sent.pop(data.draw(st.integers(0, len(self.sent) - 1)))
        self.deal_with(one, was_taken)

    def deal_with(self, one, was_taken):
        match one:
            case instructions.Reply(job, _, _, executions):
                if was_taken:
                    self.note_answers(one)
                    self.ledger.taken(job)
                    self.confirmed_executions |= set(executions)
                    self.perform(self.ledger.confirmed(executions))
                else:
                    before = self.ledger.knows(job)
                    told = self.ledger.not_taken(job, self.now)
                    if before and not self.ledger.knows(job):
                        self.forsaken.add(job)
                    self.perform(told)
                    if self.ledger.knows(job):
                        self.sent.append(one)
            case instructions.Refuse(came, message, _):
                for candidate in self.messages:
                    if candidate.parts.serial == message.serial:
                        candidate.answered |= {row[0] for row in message.batch}
                self.perform(self.ledger.refusal_sent(came))
            case instructions.Announce(queue, rows, batch):
                if was_taken and batch is not None:
                    self.announced[batch] = {(job, index) for job, index, _ in rows}
                before = [job for job in JOBS if self.ledger.knows(job)]
                told = self.ledger.announced(queue, was_taken, self.now, batch)
                self.forsaken |= {job for job in before if not self.ledger.knows(job)}
                self.perform(told)
            case instructions.Ask(job, _):
                if was_taken:
                    self.asked.add(job)
                else:
                    self.forsaken.add(job)
                    self.perform(self.ledger.ask_not_taken(job))

    def note_answers(self, reply):
        for report in reply.reports:
            indices = report.indices if isinstance(report, Refused) else [report.index]
            for message in self.messages:
                if message.parts.job == reply.job and message.was_delivered:
                    message.answered |= set(indices)

    # What producers do.

    @precondition(lambda self: len(self.messages) < 12)
    @rule(
        job=st.sampled_from(JOBS),
        indices=st.sets(st.integers(0, 3), min_size=1, max_size=3),
        is_copy=st.booleans(),
        is_large=st.booleans(),
    )
    def publishes(self, job, indices, is_copy, is_large):
        self.serials += 1
        data = [10, b"digest"] if is_large else None
        message = Message(parts(job, self.serials, sorted(indices), int(is_copy), data, reply=f"reply {job[:1]!r}"))
        self.messages.append(message)
        self.queue.append(message)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), is_wanted=st.sampled_from([True, True, True, False]))
    def answers(self, data, is_wanted):
        job = data.draw(st.sampled_from(sorted(self.asked)))
        self.asked.discard(job)
        self.ledger.heard([job], self.now)
        if is_wanted:
            self.perform(self.ledger.welcomed(job, digest(job), WORK, self.now))
        else:
            self.unwanted.add(job)
            self.perform(self.ledger.rejected(job, "not wanted"))

    @rule(job=st.sampled_from(JOBS))
    def speaks(self, job):
        self.ledger.heard([job], self.now)

    @rule(job=st.sampled_from(JOBS))
    def says_that_it_is_over(self, job):
        self.over.add(job)
        self.perform(self.ledger.over([job]))

    @precondition(lambda self: self.computing())
    @rule(data=st.data())
    def cancels(self, data):
        job, index = data.draw(st.sampled_from(self.computing()))
        for message in self.messages:  # nobody wants it any more
            if message.parts.job == job:
                message.answered.add(index)
        self.perform(self.ledger.cancelled(job, [index]))

    # What slots do.

    def computing(self):
        return sorted((job, index) for job, slots in self.pool.items() for index in slots if slots[index] > 0)

    @precondition(lambda self: self.computing())
    @rule(data=st.data(), how=st.sampled_from(["done", "done", "failed", "lost", "returned"]))
    def reports(self, data, how):
        job, index = data.draw(st.sampled_from(self.computing()))
        self.pool[job][index] -= 1
        report = {
            "done": Done(index, b"value", 0.1),
            "failed": Failed(index, "slot 1", Failure("no")),
            "lost": Lost(index, Cause("died", "killed")),
            "returned": Returned(index),
        }[how]
        self.perform(self.ledger.reported(job, [report]))

    @precondition(lambda self: self.computing())
    @rule(data=st.data(), is_passing=st.booleans())
    def refuses(self, data, is_passing):
        job, index = data.draw(st.sampled_from(self.computing()))
        self.pool[job][index] -= 1
        self.perform(self.ledger.reported(job, [Refused((index,), "cannot", is_passing)]))

    @precondition(lambda self: self.fetching)
    @rule(data=st.data())
    def data_arrives(self, data):
        job, index = data.draw(st.sampled_from(sorted(self.fetching)))
        self.arrives(job, index)

    def arrives(self, job, index):
        """All of the data of a part that was given before: it is computed now, even while the agent drains."""
        self.arriving = job, index
        self.perform(self.ledger.fetched(job, self.fetching.pop((job, index))))
        self.arriving = None

    # What time and people do.

    @rule(
        seconds=st.sampled_from([0.1, 1.0, timing.LIST_EVERY, timing.PRODUCER_SILENT + 1, LEASE + 1]),
        can_hear=st.booleans(),
    )
    def time_passes(self, seconds, can_hear):
        self.now += seconds
        before = [job for job in JOBS if self.ledger.knows(job)]
        told = self.ledger.look(self.now, can_hear and self.is_up)
        self.forsaken |= {job for job in before if not self.ledger.knows(job)}
        self.perform(told)
        self.perform(self.ledger.announce_news(self.now))

    @rule()
    def takes_parts_again(self):
        self.is_paused = False
        self.ledger.resumed()

    @precondition(lambda self: not self.stopped_consuming)
    @rule(chance=st.integers(0, 9))
    def is_asked_to_stop(self, chance):
        if chance == 0:
            self.perform(self.ledger.drain(self.now))

    # What is promised.

    def perform(self, told):
        for one in told:
            note(repr(one))
            self.check(one)

    def check(self, one):
        match one:
            case instructions.Begin(job, _):
                assert job not in self.pool, "a job is begun twice"
                self.pool[job] = Counter()
            case instructions.End(job):
                self.pool.pop(job, None)
                self.fetching = {key: part for key, part in self.fetching.items() if key[0] != job}
            case instructions.Compute(job, computed):
                was_given_before = all((job, part.index) == self.arriving for part in computed)
                assert not self.stopped_consuming or was_given_before, "something begins after the end was asked for"
                for part in computed:
                    self.pool[job][part.index] += 1
                    copies = sum(
                        message.parts.is_copy and message.was_delivered and part.index in rows(message)
                        for message in self.messages
                        if message.parts.job == job
                    )
                    assert self.pool[job][part.index] <= 1 + copies, "a part is computed twice"
            case instructions.Stop(job, index):
                self.pool[job][index] = max(0, self.pool[job][index] - 1)
            case instructions.Fetch(job, part):
                self.fetching[job, part.index] = part
            case instructions.DropData(job, index):
                self.fetching.pop((job, index), None)
            case instructions.Acknowledge(came):
                self.acknowledged(came)
            case instructions.AcknowledgeEarly(came):
                message = self.take_back(came)
                runs = {(message.parts.job, index) for index in rows(message) if index not in message.answered}
                known = set().union(*self.announced.values())
                assert runs <= known or runs == set(), "the producer does not know that it runs here"
                self.early.add(came)
            case instructions.FreeSlot(came):
                assert came in self.early
                self.early.discard(came)
            case instructions.HandBack(came):
                message = self.take_back(came)
                message.redelivered = True
                self.queue.append(message)
            case instructions.Park(came) | instructions.Unpark(came):
                assert (came.epoch, came.tag) in self.unacknowledged
            case instructions.Reply(_, _, _, executions):
                assert not self.confirmed_executions & set(executions), "what is confirmed is sent again"
                self.sent.append(one)
            case instructions.Refuse() | instructions.Announce() | instructions.Ask():
                if self.is_up or isinstance(one, instructions.Refuse) or getattr(one, "batch", None) is not None:
                    self.sent.append(one)
            case instructions.Pause():
                self.is_paused = True
                self.ledger.paused()
            case instructions.StopConsuming():
                self.stopped_consuming = True
            case instructions.Goodbye():
                assert not self.has_left
                assert not self.ledger.running
                self.has_left = True

    def take_back(self, came):
        """A delivery leaves the broker's list of what is unacknowledged; it must be there, and of this connection."""
        assert (came.epoch, came.tag) in self.unacknowledged, "acknowledged twice, or on another connection"
        return self.unacknowledged.pop((came.epoch, came.tag))

    def acknowledged(self, came):
        message = self.take_back(came)
        job = message.parts.job
        missing = set(rows(message)) - message.answered
        is_let_go = job in self.over or job in self.forsaken or job in self.unwanted
        assert not missing or is_let_go, f"parts {missing} would be lost: {message.parts}"

    @invariant()
    def what_runs_is_known(self):
        if hasattr(self, "ledger"):
            assert self.ledger.running >= 0

    def teardown(self):
        """Everybody comes to their senses: then nothing is left, and each part was answered."""
        if not hasattr(self, "ledger"):
            return
        if not self.is_up:
            self.connect()
        for _ in range(200):
            self.now += 0.5
            self.is_paused = False
            self.ledger.resumed()
            self.ledger.heard(JOBS, self.now)
            self.perform(self.ledger.look(self.now, can_hear=True))
            while self.sent:
                self.deal_with(self.sent.pop(0), was_taken=True)
            for job in sorted(self.asked):
                self.perform(self.ledger.welcomed(job, digest(job), WORK, self.now))
            self.asked.clear()
            for key in sorted(self.fetching):
                if key in self.fetching:
                    self.arrives(*key)
            for job, index in self.computing():
                if job in self.pool and self.pool[job][index]:
                    self.pool[job][index] -= 1
                    self.perform(self.ledger.reported(job, [Done(index, b"value", 0.1)]))
            while self.queue and not self.stopped_consuming:
                message = self.queue.pop(0)
                self.tag += 1
                came = Delivery(self.epoch, self.tag, f"consumer {self.tag}", message.redelivered, b"")
                self.unacknowledged[self.epoch, self.tag] = message
                message.was_delivered = True
                self.perform(self.ledger.delivered(came, message.parts, self.now))
            if not (self.sent or self.queue or self.unacknowledged or self.early or self.ledger.running):
                break
        assert not self.unacknowledged, "a delivery is held for ever"
        assert not self.ledger.running
        assert not self.early, "a slot is never free again"
        if self.stopped_consuming:
            assert self.has_left
            return
        assert not self.queue
        for message in self.messages:
            job = message.parts.job
            if job not in self.over | self.forsaken | self.unwanted:
                assert set(rows(message)) <= message.answered


def rows(message):
    return [row[0] for row in message.parts.batch]


TestWorld = World.TestCase
TestWorld.settings = settings(
    max_examples=int(os.environ.get("PYMAR_WORLDS", "200")), stateful_step_count=40, deadline=None
)
