"""`pymar checkpoint`: shows what is finished in a checkpoint, what has failed, and which code computed what."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pymar.job.checkpoint import Contents, Version, contents
from pymar.keyed.checkpoints import journals_of
from pymar.serialization.redaction import printable

#: Failed parts that are listed, and names of what differs.
_FAILED, _NAMES = 20, 8


def view(path: str) -> Iterator[str]:
    """Yield lines to print, of a checkpoint and of those that belong to it: a keyed job has one for each stage.

    Raises:
        CheckpointMismatch: it is none, or is in use, or cannot be read.
    """
    for number, journal in enumerate(journals_of(path)):
        if number:
            yield ""
            yield f"{os.path.basename(journal)}, of the same job:"
        yield from _lines(contents(journal))


def _lines(found: Contents) -> Iterator[str]:
    sink = f" ({printable(found.sink)})" if found.sink else ""
    of = "" if found.total is None else f" of {found.total:,}"
    published = ", and published" if found.is_published else ""
    yield f"{printable(found.name)}{sink}: {found.done:,}{of} parts are done{published}"
    if found.failed:
        yield f"{len(found.failed):,} failed, and are computed again by the next run:"
        for part, at, error, code in found.failed[:_FAILED]:
            yield f"  part {part} at {at} by version {code}: {printable(error)}"
        if len(found.failed) > _FAILED:
            yield f"  and {len(found.failed) - _FAILED:,} more"
    yield from map(_line, found.versions)


def _line(version: Version) -> str:
    began = f", begun at {version.began} UTC" if version.began else ""
    names = ", ".join(map(printable, version.changes[:_NAMES]))
    more = f" and {len(version.changes) - _NAMES:,} more" if len(version.changes) > _NAMES else ""
    changes = f"; it differs from the one before in: {names}{more}" if names else ""
    parts = "part" if version.computed == 1 else "parts"
    return f"version {version.number} of the job{began}: {version.computed:,} {parts}{changes}"
