"""What an environment on a host contains: this very Pymar, what it needs, and what a job needs; and its key."""

from __future__ import annotations

import sys
import tarfile
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pymar
from pymar.exceptions import UsageError


class Packages(NamedTuple):
    """Pymar as an archive, and the packages, as lines for pip. Immutable."""

    archive: bytes
    pins: list[str]
    requirements: str

    def key(self, facts: dict[str, str], python: str) -> str:
        """Return the name of the environment on a host with these facts."""
        parts = (sha256(self.archive).hexdigest(), *self.pins, self.requirements, facts["platform"], minor(), python)
        return sha256("\n".join(parts).encode()).hexdigest()[:16]


def minor() -> str:
    """Return the minor version of this Python, as "3.11": workers have the same."""
    return "{}.{}".format(*sys.version_info)


def packages(requirements: str, freeze: bool) -> Packages:
    """Return what goes into an environment.

    Args:
        requirements: the path of a file for pip; "" for none.
        freeze: all packages of this environment, in these versions.

    Raises:
        UsageError: the file cannot be read.
    """
    text = ""
    if requirements:
        try:
            text = Path(requirements).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--requirements {requirements}: {getattr(error, 'strerror', None) or error}") from None
        _check(text, requirements)
    if freeze:
        text += "".join(f"{line}\n" for line in frozen()[0])
    return Packages(_archive_of(Path(pymar.__file__).parent), _pins(), text)


def _archive_of(folder: Path) -> bytes:
    """Return the files of this Pymar as a tar archive, the same bytes for the same files."""
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                entry = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
                entry.size, entry.mode = path.stat().st_size, 0o644
                with open(path, "rb") as file:
                    archive.addfile(entry, file)
    return made.getvalue()


def _check(text: str, path: str) -> None:
    """Refuse lines that name files of this host, which the others do not have."""
    for number, line in enumerate(text.splitlines(), 1):
        word = line.split("#")[0].strip()
        if word.startswith((".", "/", "file:", "-e ", "--editable", "-r ", "--requirement", "-c ", "--constraint")):
            raise UsageError(
                f"{path}, line {number}: {word!r} is a file of this host: name packages, or install it there and say "
                "--bare"
            )


def _pins() -> list[str]:
    """Return what Pymar needs, in the versions that it has here."""
    try:
        needed = [one for one in requires("pymar") or [] if "extra ==" not in one]
    except PackageNotFoundError:
        raise UsageError("Pymar is not installed in this environment: pip install . in its checkout") from None
    names = [_name(one) for one in needed]
    return [f"{name}=={version(name)}" for name in names]


def _name(requirement: str) -> str:
    found = requirement
    for end in "[ ;<>=!~(":
        found = found.partition(end)[0]
    return found


def frozen() -> tuple[list[str], list[str]]:
    """Return the packages of this environment, as lines for pip; and the names of those that no index has."""
    lines, left_out = set(), set()
    for one in distributions():
        name = one.metadata["Name"]
        if not name or name.lower() in ("pymar", "pip", "setuptools", "wheel"):
            continue
        if one.read_text("direct_url.json"):
            left_out.add(name)
        else:
            lines.add(f"{name}=={one.version}")
    return sorted(lines, key=str.lower), sorted(left_out)
