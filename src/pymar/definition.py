"""A job as plain data: classes by name, settings by value, and hashes of what both sides must have alike.

The producer writes it, a worker checks it against its own job file. Nothing is imported because a definition names it:
names are looked up among the classes that the worker's own file leads to.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from pymar import plain
from pymar.exceptions import UsageError
from pymar.jobfile import PRODUCER, SOURCE, Differs, code_of, find_class
from pymar.parts import JobSpec
from pymar.settings import is_plain
from pymar.usercode import UserCode, is_users, told

_FIELDS = {
    "producer": str,
    "source": str | None,
    "settings": list,
    "seed": int,
    "part_timeout": int | float | None,
    "memory_limit": int | None,
    "parts": int | None,
    "modules": dict,
    "globals": dict,
}


def job_file(spec: JobSpec) -> str:
    """The file whose path a worker is given for this job.

    Raises:
        UsageError: its classes are in no file; or not at the top level of one.
    """
    producer = spec.producer
    module = sys.modules.get(producer.__module__)
    path = getattr(module, "__file__", None)
    if path is None:
        raise UsageError(
            f"{producer.__name__} is in no file that workers could load. From a notebook or a prompt, classes travel "
            "by value: start `pymar worker --pool NAME` with a key and say engine='amqp://host?pool=NAME'"
        )
    for cls, base in ((producer, "producer"), (spec.source, "source")):
        if cls is None or vars(module).get(cls.__name__) is cls:
            continue
        raise UsageError(
            f"the {base} {cls.__qualname__} does not stand at the top level of {path}, which is what workers load: "
            f"define or import it there under its own name"
        )
    return str(path)


def modules_of(code: UserCode) -> dict[str, str]:
    """The user's modules that some code leads to, and their files."""
    names = {function.__module__ for function in code.functions.values()} | {cls.__module__ for cls in code.classes}
    paths = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(names)}
    return {name: path for name, path in paths.items() if path is not None and is_users(name)}


class _Code:
    """What the producer's and the source's code leads to; found once, since the code of a file does not change."""

    def __init__(self, producer: type, source: type | None) -> None:
        code = UserCode(producer) if source is None else UserCode(producer, source)
        home = producer.__module__
        self.classes = code.classes
        self._globals = [
            (module, name, name if module == home else f"{module}.{name}") for module, name in code.globals
        ]
        #: Hashes of the user's other modules.
        self.modules = {name: code_of(path) for name, path in modules_of(code).items() if name != home}

    def globals(self) -> dict[str, str]:
        """The plain global variables that functions read, as text, as they are now."""
        return {
            shown: told(value, name)
            for module, name, shown in self._globals
            if is_plain(value := vars(sys.modules[module]).get(name))
        }


_looked_at: WeakKeyDictionary[type, WeakKeyDictionary[type, _Code]] = WeakKeyDictionary()


def _code(producer: type, source: type | None) -> _Code:
    known = _looked_at.setdefault(producer, WeakKeyDictionary())
    key = producer if source is None else source
    if key not in known:
        known[key] = _Code(producer, source)
    return known[key]


def define(spec: JobSpec) -> bytes:
    """The definition of a job whose classes are in a file.

    Raises:
        NotPlain: a setting is not plain data.
    """
    home = spec.producer.__module__
    code = _code(spec.producer, spec.source)
    settings = [[*_place(place, home), values] for place, values in spec.settings.items() if not isinstance(place, str)]
    fields = {
        "producer": spec.producer.__name__,
        "source": None if spec.source is None else spec.source.__name__,
        "settings": settings,
        **{name: getattr(spec, name) for name in ("seed", "part_timeout", "memory_limit", "parts")},
        "modules": code.modules,
        "globals": code.globals(),
    }
    return plain.dumps(fields, f"the job {spec.producer.__name__} (its settings)")


def spec_of(definition: bytes, module: ModuleType, producer: str = "", source: str = "") -> JobSpec:
    """The job, made of the classes of this job file; `producer` and `source` are the only ones served, if given.

    Raises:
        Differs: this worker's code is another, or its worker was told to serve other classes.
        UsageError: a class is not there; or this is no definition.
    """
    fields = _fields(definition)
    for kind, asked, serves in (("producer", fields["producer"], producer), ("source", fields["source"], source)):
        if asked is not None and serves and asked != serves:
            raise Differs(f"the worker was started for the {kind} {serves} (-{kind[0]}), and the job is of {asked}")
    cls = find_class(module, fields["producer"], PRODUCER)
    source_class = None if fields["source"] is None else find_class(module, fields["source"], SOURCE)
    home = cls.__module__
    code = _code(cls, source_class)
    _compare(fields, code)
    bases = () if source_class is None else source_class.__mro__
    classes = {_place(found, home): found for found in (*cls.__mro__, *bases, *code.classes)}
    settings: dict[Any, dict[str, Any]] = {}
    for where, name, values in fields["settings"]:
        place = classes.get((where, name))
        if place is None:
            raise Differs(f"the job has settings for the class {name!r}, which this worker's file does not lead to")
        if any(not setting.isidentifier() or setting[0] == "_" for setting in values):
            raise UsageError("this is no job definition: a setting has a name that none can have")
        settings[place] = values
    return JobSpec(
        cls,
        source_class,
        settings,
        fields["seed"],
        fields["part_timeout"],
        fields["memory_limit"],
        fields["parts"],
    )


def _fields(definition: bytes) -> dict[str, Any]:
    try:
        fields = plain.loads(definition)
    except ValueError:
        fields = None
    if (
        type(fields) is not dict
        or fields.keys() != _FIELDS.keys()
        or not all(isinstance(fields[name], kind) for name, kind in _FIELDS.items())
        or not all(map(_is_setting, fields["settings"]))
        or not all(type(text) is str for name in ("modules", "globals") for text in fields[name].values())
    ):
        raise UsageError("this is no job definition")
    return fields


def _is_setting(row: Any) -> bool:
    return type(row) is list and [*map(type, row)] == [str, str, dict] and all(type(name) is str for name in row[2])


def _place(cls: type, home: str) -> tuple[str, str]:
    """Where a class is: its module, "" for the job file itself, and its name there."""
    return "" if cls.__module__ == home else cls.__module__, cls.__qualname__


def _compare(fields: dict[str, Any], code: _Code) -> None:
    here = code.modules
    for name, hashed in fields["modules"].items():
        if here.get(name) != hashed:
            where = getattr(sys.modules.get(name), "__file__", "no file")
            raise Differs(
                f"the module {name} differs: {hashed} at the producer, {here.get(name, 'absent')} here, in {where}. "
                "Copy the producer's file to this host and restart the worker"
            )
    variables = code.globals()
    for name in sorted(fields["globals"].keys() | variables.keys()):
        theirs, ours = fields["globals"].get(name, "absent"), variables.get(name, "absent")
        if theirs != ours:
            raise Differs(
                f"the global variable {name} is {_short(theirs)} at the producer and {_short(ours)} here: make it a "
                "setting, a class attribute of the producer or the source; those travel with the job"
            )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
