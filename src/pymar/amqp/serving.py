"""What an agent serves, and how it works."""

from __future__ import annotations

from typing import NamedTuple


class Serving(NamedTuple):
    """What an agent serves."""

    pool: str
    code: str
    path: str = ""
    """The job file; empty, if classes come by value."""
    producer: str = ""
    source: str = ""
    """The only classes of the file that are served; all, where empty."""


class Settings(NamedTuple):
    """How an agent works; seconds and bytes."""

    slots: int
    grace: float = 30.0
    """How long parts may go on once the agent was asked to stop."""
    lease_after: float = 300.0
    """How long a part is held unacknowledged: RabbitMQ closes channels after 30 minutes."""
    max_result: int = 256 << 20
    purge: bool = False
