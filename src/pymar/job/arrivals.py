"""Arrivals: one line for each agent that joins, leaves or is lost, and few for one that does so again and again."""

from __future__ import annotations

import logging

from pymar.parts import Joined, Left, Report
from pymar.slots.quota import Rate

#: Lines about one host: at once, and seconds between two after that.
BURST, EVERY = 6, 60.0
#: Hosts that are told apart: without a key, anybody who can send messages can invent some.
_MOST_HOSTS = 10_000


class Arrivals:
    """What a log says about the agents of one job. No I/O; the time is given. One thread only."""

    def __init__(self) -> None:
        #: By host: the rate of its lines, and how many were left out since the last.
        self._hosts: dict[str, tuple[Rate, int]] = {}
        self._slots: dict[str, int] = {}

    def lines(self, report: Report, now: float) -> list[tuple[int, str]]:
        """Return level and text of the line about a report; none if it needs none."""
        match report:
            case Joined(agent, slots):
                before = self._slots.get(agent)
                self._slots[agent] = slots
                what = f"has joined, with {slots} slots" if before is None else f"has {slots} slots now"
                return self._limited(agent, logging.INFO, what, now)
            case Left(agent, parts, why):
                self._slots.pop(agent, None)
                again = f"; {_parts(parts)} again" if parts else ""
                if why:
                    return self._limited(agent, logging.WARNING, f"is lost: {why}{again}", now)
                return self._limited(agent, logging.INFO, f"has left{again}", now)
        return []

    def _limited(self, agent: str, level: int, what: str, now: float) -> list[tuple[int, str]]:
        host = agent.partition(" ")[0]  # what follows is the process id: another each time that it is started
        if host not in self._hosts and len(self._hosts) >= _MOST_HOSTS:
            host = ""
        rate, left_out = self._hosts.get(host) or (Rate(1 / EVERY, BURST, now), 0)
        may = rate.may(now)
        self._hosts[host] = rate, 0 if may else left_out + 1
        more = f" ({left_out:,} lines about this host were left out before)" if left_out else ""
        return [(level, f"{agent} {what}{more}")] if may else []


def _parts(number: int) -> str:
    return "1 part runs" if number == 1 else f"{number:,} parts run"
