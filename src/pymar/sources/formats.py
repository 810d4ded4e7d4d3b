"""What a file is, by its first bytes, whatever its name says."""

from __future__ import annotations

import codecs

#: Bytes of the start of a file that are looked at: a tar archive has its mark at byte 257.
HEAD = 512
#: How formats begin. Where the mark is text itself (ORC, PAR1), bytes that are no text have to follow.
_MARKS = {
    "gzip": (b"\x1f\x8b\x08",),
    "bz2": (b"BZh",),
    "xz": (b"\xfd7zXZ\x00",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes((byte,)) + b"\x2a\x4d\x18" for byte in range(0x50, 0x60))),
    "zip": (b"PK\x03\x04", b"PK\x05\x06"),
    "HDF5": (b"\x89HDF\r\n\x1a\n",),
    "netCDF": (b"CDF\x01", b"CDF\x02"),
    "netCDF CDF-5": (b"CDF\x05",),
    "Parquet": (b"PAR1", b"PARE"),
    "Arrow": (b"ARROW1",),
    "Arrow stream": (b"\xff\xff\xff\xff",),
    "Feather version 1": (b"FEA1",),
    "ORC": (b"ORC",),
    "npy": (b"\x93NUMPY",),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c",),
    "RAR": (b"Rar!\x1a\x07",),
    "LZ4": (b"\x04\x22\x4d\x18",),
    "SQLite": (b"SQLite format 3\x00",),
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),  # before UTF-16, with which it begins
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
#: Those that are decompressed.
COMPRESSIONS = ("gzip", "bz2", "xz", "zstd", "zip")
#: What to do with the others, where text was expected.
_REMEDIES = {
    **dict.fromkeys(("7-Zip", "RAR", "LZ4"), "decompress it first"),
    "tar": "unpack it first (tar -x), and read the files in it",
    "HDF5": "read it with pymar.sources.ArrayBlocks",
    "netCDF": "read it with pymar.sources.ArrayBlocks",
    "netCDF CDF-5": "convert it to netCDF 4 first (nccopy -k nc4), and read it with pymar.sources.ArrayBlocks",
    "Parquet": "read it with pymar.sources.ParquetRows",
    "Arrow": "read it with pymar.sources.ArrowRows",
    "Arrow stream": (
        "it has no list of its batches, so it cannot be cut: write it with pyarrow.ipc.new_file instead of new_stream, "
        "and read it with pymar.sources.ArrowRows"
    ),
    "Feather version 1": (
        "write it as version 2 (pyarrow.feather.write_feather(pyarrow.feather.read_table(path), new)), and read it "
        "with pymar.sources.ArrowRows"
    ),
    "ORC": "read it with pymar.sources.ORCRows",
    "npy": "read it with pymar.sources.ArrayBlocks",
    "SQLite": "read it with pymar.sources.SQLRows, url='sqlite:///...'",
    "UTF-16": "convert it to UTF-8 first (iconv -f utf-16 -t utf-8): it cannot be cut at a byte",
    "UTF-32": "convert it to UTF-8 first (iconv -f utf-32 -t utf-8): it cannot be cut at a byte",
}


def format_of(head: bytes) -> str:
    """Return the format of a file that begins with these HEAD bytes, or with all that it has; "" if none is known."""
    if head[257:262] == b"ustar":
        return "tar"
    if _is_utf16(head[:64]):
        return "UTF-16"
    for name, marks in _MARKS.items():
        if head.startswith(marks) and not (marks[0].isalnum() and _is_text(head)):
            return name
    return ""


def _is_utf16(head: bytes) -> bool:
    """True if every second byte is 0, and no other: Latin letters without a byte order mark."""
    return len(head) >= 8 and any(not any(head[start::2]) and all(head[1 - start :: 2]) for start in (0, 1))


def _is_text(head: bytes) -> bool:
    return min(head[:64]) >= 9


def remedy_of(form: str) -> str:
    """Return what to do with a file of a format that is not text; "" for text, and for what is decompressed."""
    return _REMEDIES.get(form, "")
