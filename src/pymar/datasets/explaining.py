"""What a dataset will do, as lines of text: from the same objects that do it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pymar.calls.options import of_producer
from pymar.datasets import origins
from pymar.datasets.producers import LEAST_BYTES, LEAST_BYTES_OF_COLUMNS, Piped
from pymar.datasets.running import Run, Step
from pymar.job.plan import parts_of_files
from pymar.parts import DEFAULT_PARTS
from pymar.serialization.composed import composed

#: What the first stage of a job does with its records.
_DIVIDED = {
    origins.Grouping: "combined by key",
    origins.Joining: "divided by key",
    origins.Sorting: "sorted in runs",
    origins.Distinct: "each once",
}


def explained(dataset: Any, settings: Mapping[str, Any]) -> list[str]:
    """Return the lines that `explain` prints."""
    with Run("explain()", settings, {}) as run:
        functions = {
            f"step_{number}": step.function for number, step in enumerate(_all_steps(dataset)) if step.function
        }
        producer = composed(Piped, "explain", functions, {})(**of_producer(run.options))
        choice = producer._choose()
        lines = [f"engine: {choice.engine.name} ({choice.why})"]
        numbers = iter(range(1, 1 << 30))
        lines += _stages(dataset, run, numbers, is_last=True)
        return lines


def _all_steps(dataset: Any) -> Iterator[Step]:
    yield from dataset.steps
    for upstream in origins.upstreams(dataset.origin):
        yield from _all_steps(upstream)


def _stages(dataset: Any, run: Run, numbers: Iterator[int], is_last: bool) -> Iterator[str]:
    """Yield the lines of a dataset: of the jobs before it, and of the one that computes its steps."""
    origin = dataset.origin
    if isinstance(origin, origins.Staged):
        for upstream in origins.upstreams(origin):
            if isinstance(upstream.origin, origins.Staged):
                yield from _stages(upstream, run, numbers, is_last=False)
        yield from _exchange(origin, run, numbers)
        if not dataset.steps:
            if is_last:
                yield f"result: read from what stage {next(numbers) - 1} has left, in this process, as it is asked for"
            return
        yield f"stage {next(numbers)}: a part a segment of that result"
        yield from _steps([*origin.tail, *dataset.steps])
        return
    is_columnar = is_last and not dataset.steps and origin.is_columnar
    yield f"stage {next(numbers)}: {_read(origin, run, is_columnar)}"
    yield from _steps(dataset.steps)


def _exchange(origin: Any, run: Run, numbers: Iterator[int]) -> Iterator[str]:
    """Yield the lines of a job of two stages."""
    needed = origin.needed() if isinstance(origin, origins.Grouping) else None
    for upstream in origins.upstreams(origin):
        if isinstance(upstream.origin, origins.Staged):
            yield f"stage {next(numbers)}: a part a segment of that result"
            yield from _steps([*upstream.origin.tail, *upstream.steps])
            yield f"    {_DIVIDED[type(origin)]}, record by record"
            continue
        columnar = needed is not None and upstream.origin.columnar(run, needed) is not None
        if isinstance(origin, origins.Joining):
            columnar = origin.is_of_columns() and upstream.origin.columnar(run, None) is not None
        yield f"stage {next(numbers)}: {_read(upstream.origin, run, columnar, needed)}"
        yield from _steps(upstream.steps)
        what = _DIVIDED[type(origin)]
        yield f"    {what}{' by pyarrow, as columns: no record is made of them' if columnar else ', record by record'}"
    yield "    exchange: in files of a private folder (or PYMAR_EXCHANGE); a small side of a join is sent whole"
    yield f"stage {next(numbers)}: {origin.text}, written in {origin.place}; a part for 4 MB exchanged"


def _read(origin: Any, run: Run, is_columnar: bool, needed: Sequence[str] | None = None) -> str:
    factory = origin.columnar(run, needed) if is_columnar else None
    if factory is None:
        factory, is_columnar = origin.factory(run), False
    length = factory.known_length()
    unit = "records" if factory.source is None else factory.source.unit
    if length is None:
        size = "parts of 1,000 records, as they are read"
    else:
        files = factory.prepared.get("files", ())
        least = LEAST_BYTES_OF_COLUMNS if needed else LEAST_BYTES
        parts = min(length, run.options.get("parts") or (parts_of_files(files, least) if files else DEFAULT_PARTS))
        size = f"{length:,} {unit} in {parts:,} part{'' if parts == 1 else 's'}"
    columns = f", the columns {', '.join(needed)}" if is_columnar and needed else ""
    how = f"as Arrow record batches{columns}" if is_columnar else "record by record"
    factory.release()
    return f"{origin.text}, written in {origin.place}: {size}, {how}"


def _steps(steps: Sequence[Step]) -> Iterator[str]:
    for step in steps:
        if step.text:
            yield f"    {step.text}, written in {step.place}"
