"""The membership of a job: which agents take part, and what they compute by their own lists. No I/O; time is ticks."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from pymar.amqp.protocol import Agent
from pymar.amqp.timing import SILENT_TICKS
from pymar.parts import Cause, Joined, Left, Lost, Report, Returned, Running

#: Lists in a row that a part may be missing from, before it is held to be lost on its agent.
MISSES = 2


@dataclass
class Member:
    """An agent that takes part."""

    agent: Agent
    ticks: int = 0
    """That have come since it was last heard of."""
    parts: dict[int, int] = field(default_factory=dict)
    """What it computes, and in how many of its lists in a row that was missing."""


class Membership:
    """`outstanding` are the parts that were handed out and are not finished."""

    def __init__(self, outstanding: Container[int]) -> None:
        self._outstanding = outstanding
        self._members: dict[bytes, Member] = {}

    def all(self) -> list[Member]:
        """Return those that take part now."""
        return list(self._members.values())

    def heard(self, agent: Agent) -> list[Report]:
        """An agent has said something: it lives."""
        member = self._members.get(agent.id)
        if member is not None:
            member.ticks = 0
            is_new = member.agent.slots != agent.slots
            member.agent = agent
        else:
            is_new = True
            self._members[agent.id] = Member(agent)
        return [Joined(agent.name, agent.slots)] if is_new else []

    def listed(self, agent: Agent, workers: Mapping[int, str]) -> tuple[list[Report], list[int]]:
        """Take an agent's heartbeat: the worker of each part that it computes.

        Returns:
            Reports of what is new in it, or has gone from it; and the parts in it that nobody wants.
        """
        member = self._members[agent.id]
        listed = workers.keys()
        reports: list[Report] = []
        for index, worker in workers.items():
            if index not in member.parts and index in self._outstanding:
                reports.append(Running(index, worker or f"a slot of {agent.name}"))
            if index in self._outstanding:
                member.parts[index] = 0
        for index in [index for index in member.parts if index not in listed]:
            member.parts[index] += 1
            if member.parts[index] >= MISSES:
                del member.parts[index]
                if self._is_missed(index):
                    reports.append(Returned(index))
        return reports, [index for index in listed if index not in self._outstanding]

    def finished(self, index: int) -> None:
        """A part is not outstanding any more."""
        for member in self._members.values():
            member.parts.pop(index, None)

    def runners(self, index: int) -> list[Agent]:
        """The agents that compute a part."""
        return [member.agent for member in self._members.values() if index in member.parts]

    def tick(self) -> list[Report]:
        """A tick has come back: what follows for those that have been silent since the last four."""
        reports: list[Report] = []
        for member in list(self._members.values()):
            member.ticks += 1
            if member.ticks >= SILENT_TICKS:
                reports += self.gone(member.agent, f"agent {member.agent.name} fell silent")
        return reports

    def gone(self, agent: Agent, cause: str = "") -> list[Report]:
        """An agent takes no more part. With a cause its parts are charged, also if others have them by now."""
        member = self._members.pop(agent.id, None)
        if member is None:
            return []
        reports: list[Report] = [Left(agent.name)]
        for index in member.parts:
            if index not in self._outstanding:
                continue
            if cause:
                reports.append(Lost(index, Cause("died", cause), again=self._is_missed(index)))
            elif self._is_missed(index):
                reports.append(Returned(index))
        return reports

    def is_there_again(self) -> None:
        """The broker was away, or stopped: nobody could be heard."""
        for member in self._members.values():
            member.ticks = 0

    def _is_missed(self, index: int) -> bool:
        return index in self._outstanding and not self.runners(index)
