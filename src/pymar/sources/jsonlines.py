"""JSON Lines: one JSON value on each line; or files of JSON values that take several lines, or are one array."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pymar.exceptions import SourceError
from pymar.serialization.redaction import redacted
from pymar.sources import cuts
from pymar.sources.checks import check_settings
from pymar.sources.hive import kind_of
from pymar.sources.storage import Row
from pymar.sources.text import LineFiles, with_mark

#: Characters of a bad line that its error shows.
_SHOWN = 200
_OF_NUMBERS = re.compile(r"[-+.0-9eE]*")
_SPACES = re.compile(r"[ \t\r\n]*")
#: Lines that are how a value over several lines begins.
_OPEN = ("[", "{", b"[", b"{")


class JSONLines(LineFiles):
    """The values of JSON Lines files (https://jsonlines.org), one a line; empty lines are skipped.

    Cut like TextLines, with the same class attributes, and

        json_array: True for files that are a JSON array, of which each element is a record, or JSON values over several
            lines, one behind the other. Each file is in one part then, and never in memory as a whole.
        hive: True for values with what Hive's folders (`year=2013/`) say, as integers if all of a column are, else
            text; False for values as they are; None: True if `path` is a folder that has such folders.

    Raises:
        SourceError: a line is not JSON; with the file, the byte and the line, cut to 200 characters.
    """

    json_array: ClassVar[bool] = False
    _other_remedy: ClassVar[str] = ""
    hive: ClassVar[bool | None] = None

    @classmethod
    def prepare(cls) -> Mapping[str, Any]:
        check_settings(cls, flags=("json_array",))
        if cls.json_array and cls.until:
            raise SourceError(f"{cls.__name__}: until='listed' is for a value a line, and not for json_array")
        prepared = super().prepare()
        cls._add_folders(prepared["files"], cls.hive)
        for name in prepared["files"][0][4]:
            texts = [row[4][name] for row in prepared["files"]]
            if kind_of(texts) == "int64":
                for row, text in zip(prepared["files"], texts, strict=True):
                    row[4][name] = None if text is None else int(text)
        return prepared

    def _records(self, row: Row, start: int, end: int) -> Iterator[Any]:
        found = self._values(row, start) if self.json_array else self._of_lines(row, start, end)
        return self._with_folders(row, found) if row[4] else found

    def _with_folders(self, row: Row, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            if type(value) is not dict:
                raise SourceError(
                    f"{redacted(row[0])} has {value!r:.{_SHOWN}}, which cannot have what its folder says: set "
                    "hive=False"
                )
            for name, there in row[4].items():
                if value.setdefault(name, there) != there:
                    raise SourceError(
                        f"{redacted(row[0])}: {name!r} is {value[name]!r} in the file, and {there!r} by its folder. "
                        "Which is right? hive=False reads what the file has"
                    )
            yield value

    def _values(self, row: Row, start: int) -> Iterator[Any]:
        if start == 0:
            with self._decompressed(row) if row[3] else self._open(row) as file:
                yield from _Values(self, row[0], file)

    def _of_lines(self, row: Row, start: int, end: int) -> Iterator[Any]:
        loads = json.loads
        for at, lines in self._batches(row, start, end):
            for number, line in enumerate(lines):
                try:
                    yield loads(line)
                except (ValueError, RecursionError) as error:
                    if line.strip():
                        where = f"{redacted(row[0])}, byte {self._byte_of(row, at, number)}"
                        hint = ". If values take several lines, set json_array=True" if line.strip() in _OPEN else ""
                        raise SourceError(
                            f"{where}: this line is not JSON ({error}): {line[:_SHOWN]!r}{hint}"
                        ) from None


class _Values:
    """The JSON values of a file, or the elements of the array that it is; decoded piece by piece."""

    def __init__(self, source: JSONLines, path: str, file: Any) -> None:
        self._source, self._path, self._file = source, path, file
        self._decoder = codecs.getincrementaldecoder(with_mark(source.encoding or "utf-8"))(source.errors)
        #: What is read and not yet decoded as JSON, from `_at` on; and the bytes read.
        self._text, self._at, self._read = "", 0, 0
        self._is_over = False

    def __iter__(self) -> Iterator[Any]:
        decode = json.JSONDecoder().raw_decode
        is_array = self._next() == "["
        if is_array:
            self._at += 1
        expects_value, is_first = True, True
        while (letter := self._next()) or is_array:
            if is_array and letter == "]" and (is_first or not expects_value):
                self._at += 1
                if self._next():
                    raise self._bad("there is more behind the end of the array")
                return
            if is_array and not expects_value:
                if letter != ",":
                    raise self._bad("there has to be a comma or the end of the array")
                self._at, expects_value = self._at + 1, True
                continue
            yield self._value(decode)
            expects_value, is_first = not is_array, False

    def _value(self, decode: Any) -> Any:
        size = cuts.CHUNK
        while True:
            try:
                value, end = decode(self._text, self._at)
                # A number may go on in what is not read yet.
                follows = _OF_NUMBERS.match(self._text, end).end()  # type: ignore[union-attr]  # it always matches
                if self._is_over or follows < len(self._text) or self._text[end - 1] in '"]}':
                    self._at = end
                    return value
                problem = "this number does not end"
            except RecursionError:
                raise self._bad("it is nested too deeply") from None
            except ValueError as error:
                problem = str(getattr(error, "msg", error))
                if self._is_over:
                    raise self._bad(problem) from None
            if len(self._text) - self._at > self._source.max_record:
                raise self._bad(f"no value ends within max_record, {self._source.max_record:,} bytes ({problem})")
            self._more(size)
            size *= 2

    def _next(self) -> str:
        """Return the next letter that is no space; "" at the end."""
        while True:
            self._at = _SPACES.match(self._text, self._at).end()  # type: ignore[union-attr]  # it always matches
            if self._at < len(self._text) or self._is_over:
                return self._text[self._at : self._at + 1]
            self._more(cuts.CHUNK)

    def _more(self, size: int) -> None:
        data = self._file.read(size)
        self._read += len(data)
        self._is_over = not data
        try:
            self._text = self._text[self._at :] + self._decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            raise self._source._undecodable(error, self._path, self._read - len(error.object)) from error
        self._at = 0

    def _bad(self, problem: str) -> SourceError:
        rest = self._text[self._at :]
        encoding = self._source.encoding or "utf-8"
        at = self._read - len(rest.encode(encoding, "replace")) - len(self._decoder.getstate()[0])
        return SourceError(f"{redacted(self._path)}, byte {at}: this is not JSON ({problem}): {rest[:_SHOWN]!r}")
