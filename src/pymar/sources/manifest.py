"""The manifest of a folder that a sink has written: the files that are its data. What it does not name is no data.

    _pymar.json    {"format": 1, "job": "1f2e3d4c", "files": [{"path": "part-00000-1f2e3d4c.parquet", "records": 1000,
                   "bytes": 52113}, ...]}

A sink writes it as its last act, in one step, so that whoever reads the folder by it sees all of a job or nothing.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pymar.exceptions import SourceError

NAME = "_pymar.json"
_FORMAT = 1


class Entry(NamedTuple):
    """A file that is data."""

    path: str
    """Relative to the folder, with slashes."""
    bytes: int
    records: int | None = None
    """None for a file that was there before any sink wrote."""


class Manifest(NamedTuple):
    """The files of a folder, in the order of their records."""

    job: str
    """The job that wrote last."""
    files: tuple[Entry, ...]

    def text(self) -> str:
        """Return it as it is stored."""
        files = [{"path": one.path, "records": one.records, "bytes": one.bytes} for one in self.files]
        return json.dumps({"format": _FORMAT, "job": self.job, "files": files}, indent=1) + "\n"


def parsed(text: str | bytes, where: str) -> Manifest:
    """Return the manifest of a text.

    Raises:
        SourceError: it is none, or of a later version of Pymar.
    """
    try:
        found: dict[str, Any] = json.loads(text)
        is_known = found["format"] == _FORMAT
        files = tuple(Entry(str(one["path"]), int(one["bytes"]), one["records"]) for one in found["files"])
        job = str(found["job"])
    except (ValueError, TypeError, KeyError) as error:
        raise SourceError(
            f"{where} is no manifest of a sink ({error!r}): write the folder again, or give a pattern (*) for its files"
        ) from error
    if not is_known:
        raise SourceError(f"{where} was written by a later version of Pymar: use that version to read it")
    return Manifest(job, files)
