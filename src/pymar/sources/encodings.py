"""Encodings of text that can be cut at a byte."""

from __future__ import annotations

import codecs
from typing import BinaryIO

from pymar.exceptions import SourceError
from pymar.masks import masked

#: What files in UTF-16 (and one kind of UTF-32) may begin with.
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def without_mark(encoding: str | None) -> str | None:
    """The encoding of what does not stand at a file's start: without a byte order mark."""
    return "utf-8" if encoding is not None and codecs.lookup(encoding).name == "utf-8-sig" else encoding


def refuse_utf_16(file: BinaryIO, path: str) -> None:
    """Look at the first bytes of a file.

    Raises:
        SourceError: it begins as UTF-16.
    """
    if file.read(2) in _UTF_16:
        raise SourceError(
            f"{masked(path)}, byte 0: it begins as UTF-16 or UTF-32, whose text cannot be cut at a byte. Convert it to "
            "UTF-8 first (iconv)"
        )
    file.seek(0)


def check_encoding(encoding: str | None) -> None:
    """Refuse encodings in which a byte of the delimiter may be part of another character."""
    if encoding is None:
        return
    try:
        "\n".encode(encoding)  # others than those of text are refused by this
        name = codecs.lookup(encoding).name
        if name in ("utf-8", "utf-8-sig", "ascii"):
            return
        # A decoder that waits for more after some byte has characters of several.
        decoder = codecs.getincrementaldecoder(name)
        is_safe = all(decoder("replace").decode(bytes([byte])) for byte in range(256))
    except (LookupError, UnicodeError, TypeError):
        raise SourceError(f"encoding={encoding!r}: Python knows no such encoding of text") from None
    if not is_safe:
        raise SourceError(
            f"encoding={encoding!r}: text in it cannot be cut at a byte. Convert the files to UTF-8 first (iconv), or "
            "read whole files (pymar.sources.Files)"
        )
