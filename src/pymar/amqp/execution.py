"""What an agent was handed and has not finished: deliveries, and the parts in them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pymar.amqp.link import Delivery
from pymar.amqp.protocol import Parts


@dataclass(eq=False)
class Holding:
    """A delivery: to be acknowledged when all of its parts are dealt with."""

    delivery: Delivery | None
    """None once it was acknowledged before its time, since it takes long."""
    parts: Parts
    """What was in it."""
    left: set[int] = field(default_factory=set)
    takes_long: bool = False
    """Whether it is about to be acknowledged before its time."""


@dataclass(eq=False)
class Execution:
    """A part that is being computed, or whose result is on its way."""

    index: int
    since: float
    holdings: list[Holding]
    """Whoever waits for it: more than one, if it was delivered again meanwhile."""
    told: bool = False
    """Whether it stood in a list."""
    over: bool = False
    """Whether its child has reported; what is left is to have that confirmed."""
    is_sent: bool = False
    """Whether what there is to say of it was given to the link, which keeps it until it is confirmed."""
    is_done: bool = False
    """Whether what it reported is the part's value."""
    copies: int = 1
    """Slots that compute it."""
