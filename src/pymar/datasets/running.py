"""One run of a result of a dataset: its options, the producers that it makes, and the stages before the last one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic
from types import FunctionType
from typing import Any, NamedTuple

from pymar.calls import options as known
from pymar.exceptions import JobTimeout, PartFailed, PartsFailed, UsageError
from pymar.serialization.composed import composed, name_of


class Step(NamedTuple):
    """A step as it was written."""

    kind: str
    function: Any = None
    detail: Any = None
    """Plain data."""
    text: str = ""
    """As it was written, about: ".map(parse)"."""
    place: str = ""
    """The file and the line where it was written."""


def compiled(steps: Sequence[Step], first: int = 1) -> tuple[list[list[Any]], dict[str, Any]]:
    """Return steps as plain data (steps.Step), and their functions by the attributes that those name."""
    described, functions = [], {}
    for number, step in enumerate(steps, first):
        name = "" if step.function is None else f"step_{number}"
        if name:
            functions[name] = step.function
        described.append([step.kind, name, step.detail])
    return described, functions


def text_of(argument: Any) -> str:
    """Return an argument of a step as it was written, about."""
    if isinstance(argument, str | tuple) or not callable(argument):
        return repr(argument)
    return "lambda" if isinstance(argument, FunctionType) and argument.__name__ == "<lambda>" else name_of(argument)


#: The arguments of a job of two stages, in its order, and what they are by default.
_OF_STAGES = (
    ("timeout", 0),
    ("on_timeout", "local_mode"),
    ("checkpoint", None),
    ("progress", None),
    ("on_mismatch", "refuse"),
)


class Run:
    """One run of one result. It owns what the stages before the last have left: a context that ends it.

    Thread of the job only.

    Raises:
        UsageError: there is no option of a name.
    """

    def __init__(
        self, call: str, settings: Mapping[str, Any], options: Mapping[str, Any], home: str | None = None
    ) -> None:
        known.check_names(call, options)
        #: The module of all its producers, so that workers that have one file compute all of its stages.
        self._home = home
        self.options: dict[str, Any] = {**settings, **options}
        self._began = monotonic()
        self._jobs = 0
        #: Ends with the run.
        self.stack: ExitStack = ExitStack()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, JobTimeout):  # the seconds of the call, and not what was left of them
            error.seconds = self.options["timeout"]
            error.args = error.seconds, error.done, error.total
        self.stack.close()

    def producer(self, base: type[Any], name: str, functions: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
        """Return a producer of a class with these functions and attributes, and with the options of the run."""
        given = known.attributes_of(self.options)
        if (parts := self.options.get("parts")) is not None:
            given["WORKERS_NUMBER"] = parts
        setup = {"setup_fn": self.options.get("setup")}
        cls = composed(base, name, {**functions, **setup}, {**given, **attributes}, self._home)
        return cls(**known.of_producer(self.options))

    def arguments(self, is_last: bool) -> dict[str, Any]:
        """Return the arguments of the next job: each has its own checkpoint, and what is left of the time.

        Raises:
            JobTimeout: nothing is left.
        """
        found = known.of_run(self.options)
        timeout = found.get("timeout", 0)
        if isinstance(timeout, int | float) and timeout > 0:
            left = timeout - (monotonic() - self._began)
            if left <= 0 and found.get("on_timeout") == "fail":
                raise JobTimeout(timeout, 0, None)
            found["timeout"] = max(left, 0.001)
        path = found.get("checkpoint")
        if path is not None and not is_last:
            self._jobs += 1
            found["checkpoint"] = f"{os.fspath(path)}.stage{self._jobs}"
        return found

    def of_stages(self, is_last: bool) -> tuple[Any, ...]:
        """Return the same for a job of two stages, in its order."""
        found = self.arguments(is_last)
        return tuple(found.get(name, default) for name, default in _OF_STAGES)


#: How the error about a value that is none of its column's type reads.
_TYPED = re.compile(r"SourceError: .*column '.*' is (int|float), and has")
#: Words of producers in errors, and what they are of a dataset.
_WORDS = (
    (re.compile(r"\bKEY reads\b"), "the key reads"),
    (re.compile(r"\bgroup_by\.reduce_fn\b"), "the aggregation"),
    (re.compile(r"\b(group_by|join|sort|distinct)\.map_fn yielded\b"), r"before \1(), the dataset has the record"),
)


@contextmanager
def located(steps: Sequence[Step], hint: str = "") -> Iterator[None]:
    """Within this context, the error of a part names the step and the line where it was written.

    Args:
        hint: a note on errors of the source.
    """
    try:
        yield
    except (PartFailed, PartsFailed) as error:
        for one in error.exceptions if isinstance(error, PartsFailed) else (error,):
            if isinstance(one, PartFailed):
                if hint and _TYPED.search(one.error):
                    one.error = f"{one.error}. {hint}"
                _locate(one, steps)
        raise


def _locate(error: PartFailed, steps: Sequence[Step]) -> None:
    def written(found: re.Match[str]) -> str:
        number = int(found[1])
        if number > len(steps) or not steps[number - 1].text:
            return found[0]
        return f"in {steps[number - 1].text}, {steps[number - 1].place}"

    for name in ("error", "traceback"):
        text = re.sub(r"\bin step (\d+), \w+", written, getattr(error, name))
        for word, instead in _WORDS:
            text = word.sub(instead, text)
        setattr(error, name, text)
    error.args = (error.args[0], error.worker, error.error, error.traceback, error.variables)


def key_of(key: Any, what: str) -> tuple[tuple[str, ...], Any]:
    """Return the columns that a key names, or else its function; neither, for the record itself.

    Raises:
        UsageError: it is something else.
    """
    from pymar.datasets.steps import Columns, Several

    if key is None:
        return (), None
    if isinstance(key, str):
        return (key,), None
    if isinstance(key, tuple | list) and key and all(isinstance(one, str) for one in key):
        return tuple(key), None
    if isinstance(key, tuple | list) and key and all(isinstance(one, str) or callable(one) for one in key):
        return (), Several([Columns(one) if isinstance(one, str) else one for one in key])
    if callable(key):
        return (), key
    raise UsageError(f"{what}={key!r:.100}: give the name of a column, a function, or a tuple of these")
