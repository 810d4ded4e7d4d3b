"""The data of parts whose records the producer holds (a list, say), encoded to be sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pymar.exceptions import UsageError
from pymar.parts import Failed, Failure, Part, make

#: Bytes of the largest value: marshal's limit, 2 GiB, is for a whole frame.
LARGEST = (1 << 31) - (1 << 20)


class Encoded(NamedTuple):
    """The encoded data of a part."""

    data: bytes


def check_size(value: bytes, what: str) -> None:
    """Check that a value fits into a frame.

    Raises:
        UsageError: it has about 2 GiB or more.
    """
    if len(value) > LARGEST:
        raise UsageError(f"{what} has {len(value):,} bytes, and the limit is {LARGEST:,}: make more and smaller parts")


def is_raw(parts: Sequence[Part]) -> bool:
    """True if these parts have data that is not encoded yet."""
    return bool(parts) and parts[0].data is not None and type(parts[0].data) is not Encoded


def encode(parts: Sequence[Part], dumps: Callable[[Any, str], bytes]) -> tuple[list[Part], list[Failed]]:
    """Return the parts with their data encoded, and a failure for each part whose data cannot be sent."""
    encoded: list[Part] = []
    failed: list[Failed] = []
    for part in parts:
        try:
            data = dumps(part.data, what := f"the data of part {part.index}")
            check_size(data, what)
            encoded.append(make(Part, (*part[:4], make(Encoded, (data,)))))
        except UsageError as error:
            failed.append(Failed(part.index, "the producer", Failure(f"{type(error).__name__}: {error}")))
    return encoded, failed


def fields(part: Part) -> tuple[Any, ...]:
    """Return a part as the tuple that is sent in a frame."""
    return tuple(part) if part.data is None else (*part[:4], part.data.data)
