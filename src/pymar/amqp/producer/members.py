"""The membership of a job: which agents take part, and what they compute by their heartbeats. No I/O; time is ticks."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from pymar.amqp.protocol import Agent
from pymar.amqp.timing import SILENT_TICKS
from pymar.parts import Cause, Joined, Left, Lost, Report, Returned, Running

#: Heartbeats in a row without a part, after which it counts as lost on its agent.
MISSES = 2


@dataclass
class Member:
    """An agent that takes part in a job."""

    agent: Agent
    ticks: int = 0
    """Ticks since its last message."""
    parts: dict[int, int] = field(default_factory=dict)
    """The parts that it computes; for each, how many heartbeats in a row were without it."""


class Membership:
    """The agents that take part in one job, and what each computes. It owns the members. One thread only.

    Args:
        outstanding: the parts that were handed out and are not finished.
    """

    def __init__(self, outstanding: Container[int]) -> None:
        self._outstanding = outstanding
        self._members: dict[bytes, Member] = {}

    def all(self) -> list[Member]:
        """Return the agents that take part now."""
        return list(self._members.values())

    def heard(self, agent: Agent) -> list[Report]:
        """Note that an agent has sent a message; return the report if it is new, or its number of slots."""
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
            Reports of parts that are new in it, or have disappeared; and the parts in it that are not outstanding.
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
        """Forget who computes a part, since it is not outstanding any more."""
        for member in self._members.values():
            member.parts.pop(index, None)

    def runners(self, index: int) -> list[Agent]:
        """Return the agents that compute a part."""
        return [member.agent for member in self._members.values() if index in member.parts]

    def tick(self) -> list[Report]:
        """Count a tick; return the reports of agents that have now been silent for SILENT_TICKS, which are removed."""
        reports: list[Report] = []
        for member in list(self._members.values()):
            member.ticks += 1
            if member.ticks >= SILENT_TICKS:
                reports += self.gone(member.agent, "sends no heartbeats")
        return reports

    def gone(self, agent: Agent, cause: str = "") -> list[Report]:
        """Remove an agent; return the reports. With a cause its parts lose an attempt, also if others compute them."""
        member = self._members.pop(agent.id, None)
        if member is None:
            return []
        reports: list[Report] = []
        for index in member.parts:
            if index not in self._outstanding:
                continue
            if cause:
                reports.append(Lost(index, Cause("died", f"agent {agent.name} {cause}"), again=self._is_missed(index)))
            elif self._is_missed(index):
                reports.append(Returned(index))
        again = sum(not isinstance(report, Lost) or report.again for report in reports)
        return [Left(agent.name, again, cause), *reports]

    def reconnected(self) -> None:
        """Begin to count ticks again, since no message could be received while the broker was not connected."""
        for member in self._members.values():
            member.ticks = 0

    def _is_missed(self, index: int) -> bool:
        """True if a part is outstanding, and no agent computes it."""
        return index in self._outstanding and not self.runners(index)
