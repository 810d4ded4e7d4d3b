"""TextSink and JSONLinesSink: a record a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pymar.sinks.files import FileSink, Misfit, Writer, _Encoded, compressed
from pymar.sources.formats import HEAD, format_of


class TextSink(FileSink):
    """Lines of text, in UTF-8: records are text, or bytes, without a line end.

    Raises:
        SinkError: a record is something else, or has a line end in it.
    """

    suffix: ClassVar[str] = ".txt"

    def writer(self, file: Any) -> Writer:
        return _Text(self, compressed(file, self.compression))

    def encode(self, records: list[Any]) -> bytes:
        kinds = set(map(type, records))
        if kinds == {str}:
            text = "\n".join(records) + "\n"
            if text.count("\n") == len(records) and "\r\n" not in text and "\ufeff" not in text:
                try:
                    return text.encode()
                except UnicodeEncodeError:
                    pass  # the loop below finds the record
        elif kinds == {bytes}:
            data = b"\n".join(records) + b"\n"
            if data.count(b"\n") == len(records) and b"\r\n" not in data:
                return data
        return b"".join(map(_line, records))


class _Text(_Encoded):
    """A file of lines, of which the first must not make readers take it for another format."""

    _is_begun = False

    def write(self, unit: Any) -> int:
        data = self._sink.encode(unit)
        if not self._is_begun and (form := format_of(data[:HEAD])):
            raise Misfit(f"{unit[0]!r:.200}, at the beginning of a file, makes it begin as {form}", unit[0])
        self._is_begun = True
        self._file.write(data)
        return len(data)


def _line(record: Any) -> bytes:
    if not isinstance(record, str | bytes):
        raise Misfit(f"it has to be text or bytes, and is {record!r:.200}: str() it, or use JSONLinesSink", record)
    try:
        data = record.encode() if isinstance(record, str) else record
    except UnicodeEncodeError as error:
        raise Misfit(f"{record!r:.200} cannot be written in UTF-8 ({error.reason})", record) from error
    if b"\n" in data or data.endswith(b"\r"):
        raise Misfit(f"{record!r:.200} has a line end, and would be read as other lines: use JSONLinesSink", record)
    if data.startswith(b"\xef\xbb\xbf"):
        raise Misfit(f"{record!r:.200} begins with a byte order mark, which readers drop", record)
    return data + b"\n"


_NESTED = frozenset({dict, list, tuple})


class JSONLinesSink(FileSink):
    """JSON Lines (https://jsonlines.org): a JSON value a line, in UTF-8.

    Args:
        allow_nan: True to write NaN and infinities as Python does (`NaN`), which is no JSON, and which other programs
            may refuse.

    Raises:
        SinkError: a record is not JSON, or its keys are not text; what JSON does not have (dates, sets) is refused.
            Tuples become lists.
    """

    suffix: ClassVar[str] = ".jsonl"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mode: str = "new",
        partition_by: Sequence[str] = (),
        records_a_file: int | None = None,
        bytes_a_file: int = 128 << 20,
        compression: str | None = None,
        storage: Mapping[str, Any] | None = None,
        allow_nan: bool = False,
    ) -> None:
        super().__init__(
            path,
            mode=mode,
            partition_by=partition_by,
            records_a_file=records_a_file,
            bytes_a_file=bytes_a_file,
            compression=compression,
            storage=storage,
        )
        self.allow_nan: bool = allow_nan

    def encode(self, records: list[Any]) -> bytes:
        encode = json.JSONEncoder(ensure_ascii=False, allow_nan=self.allow_nan).encode
        lines = []
        try:
            for record in records:
                if not has_text_keys(record):
                    raise TypeError("keys of a dict are not text, and would be read as other keys")
                lines.append(encode(record))
            lines.append("")
            return "\n".join(lines).encode()
        except UnicodeEncodeError:  # halves of surrogate pairs, which JSON has as escapes
            return "".join(json.dumps(record, allow_nan=self.allow_nan) + "\n" for record in records).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Misfit(f"{record!r:.200} is not JSON: {error}{self._advice(error)}", record) from error

    def _advice(self, error: Exception) -> str:
        if "JSON compliant" in str(error):
            return ". Set allow_nan=True to write them as Python does"
        return ""


def has_text_keys(value: Any) -> bool:
    """True if all keys of dicts, within others too, are text."""
    if isinstance(value, dict):
        return {str}.issuperset(map(type, value)) and all(
            has_text_keys(one) for one in value.values() if type(one) in _NESTED
        )
    return not isinstance(value, list | tuple) or all(has_text_keys(one) for one in value if type(one) in _NESTED)
