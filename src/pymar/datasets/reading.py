"""Datasets of data: what `pymar.dataset` and `pymar.read_csv` and the like return."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pymar.datasets.lazy import Dataset, place
from pymar.datasets.origins import Read
from pymar.datasource import DataSource, DataSourceFactory, not_records
from pymar.exceptions import UsageError

if TYPE_CHECKING:
    from pymar.engines.base import Engine

__all__ = ["dataset", "read_csv", "read_files", "read_jsonl", "read_parquet", "read_sql", "read_text"]

T = TypeVar("T")
Path = str | os.PathLike[str]
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

#: Rows of a CSV file from which the types of its columns are found.
ROWS_LOOKED_AT = 1_000
#: Texts for what is not there in columns of numbers, besides the empty one.
_NOTHING = ("NA", "N/A", "NULL", "null", "None", "none", "-")


def _settings(engine: Any, parts: Any) -> dict[str, Any]:
    if parts is not None and (type(parts) is not int or parts < 1):
        raise UsageError(f"parts={parts!r:.100}: give how many parts to make, 1 or more, or None for the default")
    return {name: value for name, value in (("engine", engine), ("parts", parts)) if value is not None}


@overload
def dataset(
    data: type[DataSource] | DataSourceFactory,
    /,
    *,
    engine: Engine | str | None = ...,
    parts: int | None = ...,
    **settings: Any,
) -> Dataset[Any]: ...
@overload
def dataset(
    data: Mapping[Any, Any], /, *, engine: Engine | str | None = ..., parts: int | None = ...
) -> Dataset[tuple[Any, Any]]: ...
@overload
def dataset(data: Iterable[T], /, *, engine: Engine | str | None = ..., parts: int | None = ...) -> Dataset[T]: ...
def dataset(
    data: Any, /, *, engine: Engine | str | None = None, parts: int | None = None, **settings: Any
) -> Dataset[Any]:
    """Return a dataset of data in memory, or of a source.

    Args:
        data: a list, a range, a dict (of its items), an array of numpy, any iterable; a DataSource class; a
            DataSourceFactory; the result of a keyed job. An iterator is read by one result only.
        engine: where to compute, as of Producer.
        parts: how many parts to make; by default 256, or as many as there are records if these are fewer.
        settings: class attributes of the source.

    Raises:
        UsageError: it is a text, a DataFrame, or otherwise no data.
    """
    if isinstance(data, Dataset):
        raise UsageError(f"{data!r:.100} is a dataset already")
    if remedy := not_records(data, "pymar.read_text(path)"):
        raise UsageError(f"pymar.dataset() got the {type(data).__name__} {data!r:.100}: {remedy}")
    name = data.__name__ if isinstance(data, type) else type(data).__name__
    return Dataset(Read(data, settings, f"dataset({name})", place()), (), _settings(engine, parts))


def _read(
    call: str,
    source: str,
    batches: str | None,
    path: Any,
    settings: dict[str, Any],
    engine: Any,
    parts: Any,
    complete: Any = None,
) -> Dataset[Any]:
    from pymar import sources

    if not isinstance(path, str | os.PathLike) and not (isinstance(path, list | tuple) and path):
        raise UsageError(f"pymar.{call}({path!r:.100}): give a path, a pattern, or a list of those")
    paths = os.fspath(path) if isinstance(path, str | os.PathLike) else [os.fspath(one) for one in path]
    cls = getattr(sources, source)
    origin = Read(
        cls,
        {"path": paths, **settings},
        f"{call}({paths!r:.100})",
        place(),
        None if batches is None else getattr(sources, batches),
        complete,
    )
    if complete is not None:
        DataSourceFactory(cls, path=paths, **settings)  # refuses settings that it does not have
    return Dataset(origin, (), _settings(engine, parts))


def read_text(
    path: Paths, *, engine: Engine | str | None = None, parts: int | None = None, **settings: Any
) -> Dataset[str]:
    """Return a dataset of the lines of text files, without their ends.

    Args:
        path: a file, a folder, a pattern such as "logs/*.txt", an address such as "s3://bucket/logs/", or a list.
        engine, parts: as of `dataset`.
        settings: of `pymar.sources.TextLines`, such as encoding= or errors=.
    """
    return _read("read_text", "TextLines", None, path, settings, engine, parts)


def read_jsonl(
    path: Paths, *, engine: Engine | str | None = None, parts: int | None = None, **settings: Any
) -> Dataset[Any]:
    """Return a dataset of the values of files of JSON, one a line. Otherwise as `read_text`, of JSONLines."""
    return _read("read_jsonl", "JSONLines", None, path, settings, engine, parts)


#: What pandas and others call settings of CSVRows, and how that is written here.
_ELSEWHERE = {
    "sep": "delimiter=';'",
    "dtype": "types={'n': 'float'}",
    "dtypes": "types={'n': 'float'}",
    "schema": "types={'n': 'float'}",
    "usecols": "columns=['n']",
    "na_values": "null=['', 'NA']",
    "null_values": "null=['', 'NA']",
    "skiprows": "skip_rows=1",
    "parse_dates": "types={'day': 'date'}",
    "nrows": "read_csv(...).take(n)",
    "names": "header=False, columns=['a', 'b']",
}


def read_csv(
    path: Paths, *, engine: Engine | str | None = None, parts: int | None = None, **settings: Any
) -> Dataset[dict[str, Any]]:
    """Return a dataset of the rows of CSV files, as dicts.

    Columns whose values are ints, or numbers, in the first 1,000 rows are ints or floats, and an empty field is None
    (so is NA in a column of numbers). A later value that is none of its type is an error, and never
    another value. Give `types={"n": "float"}`, for some columns or all, and `null=["", "NA"]` to say it yourself:
    types={} leaves all as text.

    Args:
        path, engine, parts: as of `read_text`.
        settings: of `pymar.sources.CSVRows`. With single_line=True (no field has a line end) a file is read in parts.
    """
    for name in settings:
        if name in _ELSEWHERE:
            raise UsageError(f"read_csv() has no option {name}=: write {_ELSEWHERE[name]}")
    if settings.get("as_tuples") or settings.get("types") == {} or settings.get("header") is False:
        return _read("read_csv", "CSVRows", "CSVBatches", path, settings, engine, parts)
    return _read("read_csv", "CSVRows", "CSVBatches", path, settings, engine, parts, with_types)


def read_parquet(
    path: Paths, *, engine: Engine | str | None = None, parts: int | None = None, **settings: Any
) -> Dataset[dict[str, Any]]:
    """Return a dataset of the rows of Parquet files, as dicts. Otherwise as `read_text`, of ParquetRows.

    Grouping by columns, with aggregations of columns, reads those alone, and makes no dicts. Needs pyarrow.
    """
    return _read("read_parquet", "ParquetRows", "ParquetBatches", path, settings, engine, parts)


def read_files(
    path: Paths, *, engine: Engine | str | None = None, parts: int | None = None, **settings: Any
) -> Dataset[tuple[str, bytes]]:
    """Return a dataset of whole files: (path, bytes). Otherwise as `read_text`, of Files."""
    return _read("read_files", "Files", None, path, settings, engine, parts)


def read_sql(
    url: str,
    table: str = "",
    *,
    query: str = "",
    engine: Engine | str | None = None,
    parts: int | None = None,
    **settings: Any,
) -> Dataset[dict[str, Any]]:
    """Return a dataset of the rows of a table of a database, or of a query, as dicts.

    Args:
        url: as SQLAlchemy takes it; `${NAME}` is an environment variable of the process that connects.
        table, query: one of them.
        engine, parts: as of `dataset`.
        settings: of `pymar.sources.SQLRows`, such as columns=, where= or key=.
    """
    from pymar.sources import SQLRows

    shown = f"read_sql({table or query!r:.100})"
    origin = Read(SQLRows, {"url": url, "table": table, "query": query, **settings}, shown, place())
    return Dataset(origin, (), _settings(engine, parts))


def with_types(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the types of the columns of CSV files, and the texts that are None, from the first rows."""
    from pymar.sources import CSVRows
    from pymar.sources.csvtypes import STRICT_FLOAT, STRICT_INT

    nothing = {} if "null" in settings else {"null": [""], "null_typed": list(_NOTHING)}
    factory = DataSourceFactory(CSVRows, **{**settings, "with_path": False, "types": {}}).for_a_job()
    try:
        length = factory.length()
        rows: list[dict[str, Any]] = list(islice(factory.part(length, 0).build_data_source(), ROWS_LOOKED_AT))
    finally:
        factory.release()
    given = settings.get("types") or {}
    types: dict[str, Any] = dict(given)
    for name in rows[0] if rows else ():
        if name in given:
            continue
        texts = {row[name] for row in rows} - {None, *settings.get("null", ("", *_NOTHING))}
        numbers = [text for text in texts if isinstance(text, str)]
        if numbers and all(map(STRICT_INT.fullmatch, numbers)):
            if all(-(1 << 63) <= int(text) < 1 << 63 for text in numbers):  # else no column would hold them
                types[name] = "int"
        elif numbers and all(map(STRICT_FLOAT.fullmatch, numbers)):
            types[name] = "float"
    return {"types": types, "no_leading_zeros": [name for name in types if name not in given], **nothing}
