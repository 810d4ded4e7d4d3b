"""Text files: their encoding, how they are cut at a byte, and TextLines.

    TextFiles                  what all text files have: encoding, longest record, what is refused before a job begins
      LineFiles                records that end in a delimiter, with the byte at which each batch of them begins
        TextLines              the lines themselves
        jsonlines.JSONLines    a JSON value a line
      csvrows.CSVRows          rows of CSV

A part is a range of bytes over all files, one behind the other; a line belongs to the part in which its first byte is.
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, BinaryIO, ClassVar

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources import cuts
from pymar.sources.checks import check_settings
from pymar.sources.compressed import decompressed
from pymar.sources.cuts import Cut
from pymar.sources.files import FileSource
from pymar.sources.formats import COMPRESSIONS, HEAD, format_of, remedy_of
from pymar.sources.hive import texts_of_files
from pymar.sources.storage import Row, head_of, identity, opened


def without_mark(encoding: str | None) -> str | None:
    """Return the encoding for text that is not at the start of a file, where no byte order mark is expected."""
    return "utf-8" if encoding is not None and codecs.lookup(encoding).name == "utf-8-sig" else encoding


def with_mark(encoding: str) -> str:
    """Return the encoding for text at the start of a file, where UTF-8 may have a byte order mark, which is no text."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def refuse_other_formats(head: bytes, path: str, compression: str = "") -> None:
    """Refuse a file that begins as something else than text.

    Raises:
        SourceError: it does; the message says as what, and what to do.
    """
    if remedy := remedy_of(form := format_of(head)):
        within = f", decompressed ({compression})," if compression else ""
        raise SourceError(f"{redacted(path)}{within} begins as {form}, not as text: {remedy}")


class Started:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int) -> bytes:
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        data: bytes = self._rest.read(size)
        return data


def check_encoding(encoding: str | None) -> None:
    """Refuse an encoding in which a byte of the delimiter may be part of another character.

    Raises:
        SourceError: it is such an encoding, such as UTF-16 or Shift JIS; or Python does not know it.
    """
    if encoding is None:
        return
    try:
        "\n".encode(encoding)  # raises for codecs that do not encode text, such as rot13
        name = codecs.lookup(encoding).name
        if name in ("utf-8", "utf-8-sig", "ascii"):
            return
        # A decoder that waits for more after a single byte belongs to an encoding with characters of several bytes.
        decoder = codecs.getincrementaldecoder(name)
        is_safe = all(decoder("replace").decode(bytes([byte])) for byte in range(256))
    except (LookupError, UnicodeError, TypeError):
        raise SourceError(f"encoding={encoding!r}: Python knows no such text encoding") from None
    if not is_safe:
        raise SourceError(
            f"encoding={encoding!r}: text in it cannot be cut at a byte. Convert the files to UTF-8 first (iconv), or "
            "read whole files (pymar.sources.Files)"
        )


log: logging.Logger = logging.getLogger(__name__)

#: Values of `errors` (https://docs.python.org/3/library/codecs.html#error-handlers).
_ERRORS = ("strict", "replace", "ignore", "backslashreplace", "surrogateescape")


class TextFiles(FileSource):
    """Text files of any kind: their encoding, and the checks before a job begins.

    Class attributes, besides those of FileSource:
        encoding: of the text. UTF-8, or any with one byte a character.
        errors: what becomes of bytes that are not in this encoding: "strict" (an error), "replace" (U+FFFD), "ignore",
            "backslashreplace" or "surrogateescape", as Python's codecs have them.
        until: "listed" for files that grow, such as logs: what is written after the job has begun is not read, and
            neither is a last line without its end. Local files, with a line a record.
        delimiter: what separates lines, or the fields of a row; each subclass has its own default.
        max_record: bytes of the longest record.
        compression: "infer" by the first bytes of each file; or "gzip", "bz2", "xz", "zstd", "zip" (an archive of one
            file); None to read the bytes as they are. What is compressed cannot be cut: each file is in one part.
    """

    encoding: ClassVar[str | None] = "utf-8"
    errors: ClassVar[str] = "strict"
    until: ClassVar[str] = ""
    compression: ClassVar[str | None] = "infer"
    delimiter: ClassVar[str]
    max_record: ClassVar[int] = 16 << 20
    #: What the error about undecodable bytes advises besides another encoding.
    _other_remedy: ClassVar[str] = ""

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        check_encoding(cls.encoding)
        check_settings(cls, numbers={"max_record": 1})
        if cls.errors not in _ERRORS or (cls.errors != "strict" and cls.encoding is None):
            wanted = ", ".join(map(repr, _ERRORS)) if cls.encoding else "'strict', since lines are bytes"
            raise SourceError(f"{cls.__name__}.errors is {cls.errors!r}: it has to be one of {wanted}")
        if cls.until not in ("", "listed"):
            raise SourceError(f"{cls.__name__}.until is {cls.until!r}: it has to be 'listed', or ''")
        if not cls.delimiter or not isinstance(cls.delimiter, str):
            raise SourceError(f"{cls.__name__}.delimiter is {cls.delimiter!r}: it has to be the text that ends a line")
        try:
            cls.delimiter.encode(without_mark(cls.encoding) or "utf-8")
        except UnicodeEncodeError:
            raise SourceError(f"delimiter={cls.delimiter!r} cannot be written in encoding={cls.encoding!r}") from None
        if cls.compression not in ("infer", None, *COMPRESSIONS):
            raise SourceError(
                f"{cls.__name__}.compression is {cls.compression!r}: it has to be 'infer', None, or one of "
                f"{', '.join(map(repr, COMPRESSIONS))}"
            )
        prepared = super().prepare()
        for row in prepared["files"]:
            row.append(cls._compression_of(row))
            if cls.until:
                cls._end_at_a_line(row)
        pieces = sum(bool(row[3]) for row in prepared["files"])
        if pieces and pieces == len(prepared["files"]):
            log.warning("%s: compressed files cannot be cut, so at most %d parts have work to do", cls.__name__, pieces)
        return prepared

    @classmethod
    def _compression_of(cls, row: Row) -> str:
        if cls.compression != "infer":
            return cls.compression or ""
        head = head_of(row, cls.storage)
        form = format_of(head)
        if form in COMPRESSIONS:
            return form
        refuse_other_formats(head, row[0])
        return ""

    @classmethod
    def _add_folders(cls, files: list[Row], is_wanted: bool | None) -> None:
        """Append to each row what Hive's folders of the file say: {name: text}.

        Raises:
            SourceError: `is_wanted`, the setting `hive`, is none; or files have folders of other names.
        """
        if is_wanted is not None:
            check_settings(cls, flags=("hive",))
        texts, left_out = texts_of_files(cls.path, [row[0] for row in files], is_wanted)
        if left_out:
            log.warning(
                "%s: folders such as %s give no columns here; set hive=True if they shall, or hive=False",
                *(redacted(str(cls.path)), left_out),
            )
        for row, one in zip(files, texts, strict=True):
            row.append(one)

    @classmethod
    def _end_at_a_line(cls, row: Row) -> None:
        """Shorten a file that grows to the lines that are complete now; let its version be what does not change.

        Raises:
            SourceError: it cannot be read so.
        """
        path = row[0]
        if "://" in path or row[3]:
            raise SourceError(f"{redacted(path)}: until='listed' is for local files that are not compressed")
        row[2] = identity(path)
        end = cls._line_end()
        with opened(row, {}, may_grow=True) as file:
            at, rest = int(row[1]), b""
            while at > 0:
                start = max(0, at - cuts.CHUNK)
                file.seek(start)
                rest = file.read(at - start) + rest[: len(end) - 1]
                if (found := rest.rfind(end)) >= 0:
                    row[1] = start + found + len(end)
                    return
                at = start
        row[1] = 0

    @classmethod
    def _line_end(cls) -> bytes:
        """Return what ends a record.

        Raises:
            SourceError: a record may have it within.
        """
        raise NotImplementedError

    def _open(self, row: Row) -> Any:
        return opened(row, self.storage, may_grow=bool(self.until))

    @contextmanager
    def _decompressed(self, row: Row) -> Iterator[Any]:
        """Open the decompressed data of a file, from its start.

        Raises:
            SourceError: it is no text.
        """
        with self._open(row) as file, decompressed(file, row[0], row[3]) as inner:
            head = inner.read(HEAD)
            while len(head) < HEAD and (more := inner.read(HEAD - len(head))):
                head += more
            refuse_other_formats(head, row[0], row[3])
            yield Started(head, inner)

    def _undecodable(self, error: UnicodeDecodeError, path: str, at: int) -> SourceError:
        """Return the error about bytes that are not in `encoding`; what was decoded began at byte `at` of the file."""
        what = error.object[error.start : error.end]
        return SourceError(
            f"{redacted(path)}, byte {at + error.start}: {what!r} is not {self.encoding or 'utf-8'} ({error.reason}). "
            f"Set encoding= to the file's own, latin-1 say{self._other_remedy}; or errors='replace'"
        )


class LineFiles(TextFiles):
    """Text files whose records are lines: how they are cut, read in batches, and found again for a message.

    Class attributes, besides those of TextFiles:
        encoding: None for lines as bytes.
        delimiter: what ends a line; with the default, a carriage return before it is removed too.
    """

    delimiter: ClassVar[str] = "\n"
    _other_remedy: ClassVar[str] = ", or None for lines as bytes"

    def _batches(self, row: Row, start: int, end: int) -> Iterator[tuple[int, list[Any]]]:
        """Yield lines of about CHUNK bytes of a piece of a file, with the byte at which the first one begins."""
        delimiter = self._delimiter()
        cut = Cut(delimiter, self.max_record)
        path = row[0]
        if row[3]:
            if start == 0:
                with self._decompressed(row) as text:
                    for at, piece in cut.pieces(text, 0, None, path):
                        yield at, self._lines(piece, delimiter, path, at)
            return
        with self._open(row) as file:
            first, last = cut.boundary(file, start, path), cut.boundary(file, end, path, int(row[1]))
            if len(delimiter) == 1 and self.errors == "strict":
                yield from self._single_byte_lines(file, first, last, cut, path)
            else:
                for at, piece in cut.pieces(file, first, last, path):
                    yield at, self._lines(piece, delimiter, path, at)

    def _single_byte_lines(
        self, file: BinaryIO, first: int, last: int, cut: Cut, path: str
    ) -> Iterator[tuple[int, list[Any]]]:
        """Yield what `_batches` does for a delimiter of one byte: faster, since only the lines are copied."""
        encoding = without_mark(self.encoding)
        decoder: Any = None
        delimiter: Any = self._delimiter()
        rest: Any = b""
        if self.encoding is not None:
            decoder = codecs.getincrementaldecoder(with_mark(self.encoding) if first == 0 else str(encoding))()
            delimiter, rest = self.delimiter, ""
        cr: Any = b"\r" if decoder is None else "\r"
        file.seek(first)
        at = position = first
        while position < last and (piece := file.read(min(cuts.CHUNK, last - position))):
            position += len(piece)
            try:
                text = piece if decoder is None else decoder.decode(piece, position >= last)
            except UnicodeDecodeError as error:
                raise self._undecodable(error, path, position - len(error.object)) from error
            lines = text.split(delimiter)
            lines[0] = rest + lines[0]
            rest = lines.pop()
            if lines:
                if self.delimiter == "\n" and (cr in text or lines[0][-1:] == cr):
                    lines = [line[:-1] if line[-1:] == cr else line for line in lines]
                yield at, lines
                waiting = len(rest) if decoder is None else len(rest.encode(encoding)) + len(decoder.getstate()[0])
                at = position - waiting
            if len(rest) > self.max_record:
                raise cut.too_long(path, at)
        if rest:
            yield at, [rest]

    def _byte_of(self, row: Row, at: int, number: int) -> int:
        """Return the byte at which line `number` from byte `at` on begins. It reads them again: for messages only."""
        cut = Cut(self._delimiter(), self.max_record)
        with ExitStack() as stack:
            if row[3]:
                pieces = cut.pieces(stack.enter_context(self._decompressed(row)), 0, None, row[0])
            else:
                pieces = cut.pieces(stack.enter_context(self._open(row)), at, int(row[1]), row[0])
            for start, piece in pieces:
                lines = piece.split(cut.delimiter)[: -1 if piece.endswith(cut.delimiter) else None]
                before = 0 if start >= at else piece.count(cut.delimiter, 0, at - start)
                if start + len(piece) > at and number < len(lines) - before:
                    return start + sum(len(line) + len(cut.delimiter) for line in lines[: before + number])
                number -= max(0, len(lines) - before) if start + len(piece) > at else 0
        return at

    @classmethod
    def _delimiter(cls) -> bytes:
        return cls.delimiter.encode(without_mark(cls.encoding) or "utf-8")

    @classmethod
    def _line_end(cls) -> bytes:
        return cls._delimiter()

    def _lines(self, piece: bytes, delimiter: bytes, path: str, at: int) -> list[Any]:
        encoding = self.encoding
        if encoding is None:
            return _split(piece, delimiter, b"\r\n", delimiter == b"\n")
        try:
            text = piece.decode(with_mark(encoding) if at == 0 else str(without_mark(encoding)), self.errors)
        except UnicodeDecodeError as error:
            raise self._undecodable(error, path, at) from error
        return _split(text, self.delimiter, "\r\n", self.delimiter == "\n")


class TextLines(LineFiles):
    """The lines of text files, without what ends them; a line belongs to the part in which it starts.

    Files whose names end in .gz, .bz2, .xz or .zst are not cut: each is in one part. Every byte is read by one part;
    those around a cut by two. A file that changes while it is read is `SourceChanged`.

    Class attributes, besides those of FileSource:
        encoding: of the text; None for lines as bytes. UTF-8, or any with one byte a character.
        delimiter: what ends a line; with the default, a carriage return before it is removed too.
        max_record: bytes of the longest line.

    Raises:
        SourceError: a line is too long, or cannot be read in this encoding; with the file and the byte.
    """

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        return chain.from_iterable(lines for _, lines in self._batches(row, start, end))


def _split(text: Any, delimiter: Any, crlf: Any, is_default: bool) -> list[Any]:
    if is_default and crlf[:1] in text:
        text = text.replace(crlf, delimiter)
    lines: list[Any] = text.split(delimiter)
    if not lines[-1]:
        lines.pop()  # after the last delimiter no further line begins
    return lines
