"""What a checkpoint of a keyed job consists of: files beside it, and the folder of its exchange.

CHECKPOINT              the journal of the first stage: what each part has written
CHECKPOINT.exchange     the path of the exchange, which has those files, and those of the result
CHECKPOINT.reduce-HEX   the journal of the second stage; HEX stands for what the first one has written
CHECKPOINT.stageN       the same of the Nth stage of a dataset, before the last
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from glob import escape, glob
from os import PathLike

from pymar.exceptions import CheckpointMismatch, ExchangeError
from pymar.keyed.exchange import _KEPT_PREFIX, VARIABLE, Exchange, dead, is_name, removed


def of_checkpoint(path: str | PathLike[str]) -> Exchange:
    """Return the exchange that belongs to a checkpoint; make one if there is none yet.

    Raises:
        CheckpointMismatch: the note about it cannot be read or written.
        ExchangeError: another job uses it.
    """
    checkpoint = os.path.abspath(os.fspath(path))
    note = f"{checkpoint}.exchange"
    if not os.path.isdir(os.path.dirname(checkpoint)):
        raise CheckpointMismatch(f"{checkpoint} cannot be written: there is no folder {os.path.dirname(checkpoint)}")
    try:
        with open(note, encoding="utf-8") as file:
            root, _, name = file.read().rstrip("\n").rpartition("/")
    except FileNotFoundError:
        root, name = "", ""
    except OSError as error:
        raise CheckpointMismatch(f"{note} cannot be read: {error.strerror}") from error
    if name and os.path.exists(checkpoint):
        return Exchange(root, name, keeps=True)
    if name.startswith(_KEPT_PREFIX):  # the journal is gone, and with it what these files are of
        with suppress(ExchangeError, OSError):
            removed(os.path.join(root, name))
    found = Exchange(os.environ.get(VARIABLE) or os.path.dirname(checkpoint), keeps=True)
    try:
        with suppress(FileNotFoundError):
            os.remove(note)
        with open(os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f"{found.path}\n")
    except OSError as error:
        found.close()
        raise CheckpointMismatch(f"{note} cannot be written: {error.strerror}") from error
    return found


def journal_of(path: str | PathLike[str], digest: bytes) -> str:
    """Return the path of the journal of the second stage; remove those for other results of the first."""
    found = f"{os.fspath(path)}.reduce-{digest.hex()[:16]}"
    for other in glob(f"{escape(os.fspath(path))}.reduce-*"):
        if not other.startswith(found):
            with suppress(FileNotFoundError):
                os.remove(other)
    return found


def journals_of(path: str) -> list[str]:
    """Return the journals that a checkpoint consists of: its own, and those of further stages of a keyed job."""
    others = (one for one in sorted(glob(f"{escape(path)}.*")) if _belongs(one.removeprefix(path)))
    return [path, *(one for one in others if not re.search(r"(\.exchange|-wal|-shm|-journal)$", one))]


def cleaned(path: str) -> list[str]:
    """Remove a checkpoint of a keyed job with all that belongs to it; or, of a folder, the exchanges of dead processes.

    Returns:
        What was removed; nothing if it is neither.
    """
    if os.path.isdir(path):
        found = list(dead(path))
        return [one for one in found if removed(one)]
    notes, found = [], []
    # A sorted result takes two jobs; a dataset may have several stages before its last one.
    for note in (f"{path}.exchange", f"{path}.sorted.exchange", *glob(f"{escape(path)}.stage*.exchange")):
        try:
            with open(note, encoding="utf-8") as file:
                exchange = file.read().rstrip("\n")
        except (OSError, UnicodeDecodeError):
            continue
        if is_name(exchange.rpartition("/")[2]):  # else it is another program's file
            notes.append(note)
            found += [exchange] if removed(exchange) else []
    if not notes:
        return []
    for one in (path, *sorted(glob(f"{escape(path)}.*")), *sorted(glob(f"{escape(path)}-*"))):
        if one == path or _belongs(one.removeprefix(path)):
            with suppress(FileNotFoundError):
                os.remove(one)
                found.append(one)
    return found


def _belongs(rest: str) -> bool:
    """True for what stands behind the name of a checkpoint in the files that belong to it."""
    return (
        re.fullmatch(r"(\.stage[0-9]+|\.sorted|\.right|\.reduce-[0-9a-f]+|\.exchange|-wal|-shm|-journal)+", rest)
        is not None
    )
