"""A job as plain data: names of classes, values of settings, and hashes of code that must be equal on both sides.

The producer makes it, and a worker checks it against its own job file. No name in a definition causes an import: names
are looked up among the classes that the worker's own job file reaches.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pymar.exceptions import UsageError
from pymar.parts import JobSpec, sinks_within, state_of
from pymar.serialization import plain, script
from pymar.serialization.composed import POOL, described, made_of, recomposed
from pymar.serialization.jobfile import (
    OF_PYMAR,
    PRODUCER,
    SINK,
    SOURCE,
    Differs,
    code_of,
    code_of_source,
    find_class,
    full_name,
)
from pymar.serialization.shipped import MAIN
from pymar.serialization.usercode import UserCode, code_in, code_of_job, differences, hash_of, is_rewritten

_FIELDS = {
    "home": str,
    "producer": str | list,
    "source": str | None,
    "settings": list,
    "seed": int,
    "part_timeout": int | float | None,
    "memory_limit": int | None,
    "parts": int | None,
    "sinks": list,
    "modules": dict,
    "texts": dict,
}


def job_file(spec: JobSpec) -> str:
    """Return the path of the file that a worker has to serve for this job.

    Raises:
        UsageError: the job's classes are not in a file, or not at its top level.
    """
    producer = spec.producer
    module = sys.modules.get(producer.__module__)
    path = getattr(module, "__file__", None)
    if path is None:
        raise UsageError(
            f"{producer.__name__} is in no file that workers could load. From a notebook or a prompt, classes are sent "
            "by value: start `pymar worker --pool NAME` with a key and set engine='amqp://host?pool=NAME'"
        )
    sinks = ((type(sink), "sink") for sink in sinks_within(spec.sink))
    is_made = made_of(producer) is not None
    for cls, base in ((producer, "producer"), (spec.source, "source"), *sinks):
        if cls is None or vars(module).get(cls.__name__) is cls or full_name(cls) in OF_PYMAR:
            continue
        if cls is producer and is_made:
            continue
        raise UsageError(
            f"the {base} {cls.__qualname__} is not at the top level of {path}, the file that workers load: "
            f"define or import it there under its own name"
        )
    return str(path)


def modules_of(code: UserCode) -> dict[str, str]:
    """Return the user's modules that some code reaches, and their files."""
    return {name: path for name, path in sorted(code.modules.items()) if path}


def code_that_runs(spec: JobSpec) -> str:
    """Return the hash of the job file as it runs here, even if the file was changed since.

    Raises:
        UsageError: the file was changed since, and its text at that time is not known.
    """
    module = sys.modules[spec.producer.__module__]
    source = script.source_of(module)
    if source is not None:
        return code_of_source(source)
    return _checked(module.__name__, str(module.__file__), code_of_job(spec))


def _modules(code: UserCode, home: str) -> dict[str, str]:
    """Return the hashes of the user's modules, without the job file."""
    found = modules_of(code).items()
    return {name: _checked(name, path, code) for name, path in found if name != home and name not in MAIN}


#: Hashes of the code in each file, by its path, size and time.
_on_disk: dict[tuple[str, int, int], frozenset[str]] = {}


def _checked(name: str, path: str, code: UserCode) -> str:
    """Return the hash of a module's file.

    Raises:
        Differs: the code that runs here is not that of the file, which was changed since it was loaded.
    """
    loaded = [one.__code__ for one in code.functions.values() if one.__module__ == name]
    loaded = [one for one in loaded if one.co_filename == path]
    if loaded and path.endswith(".py") and not is_rewritten(sys.modules.get(name)):
        found = os.stat(path)
        key = path, found.st_size, found.st_mtime_ns
        if key not in _on_disk:
            _on_disk[key] = frozenset(map(hash_of, code_in(path)))
        if not {hash_of(one) for one in loaded} <= _on_disk[key]:
            raise Differs(
                f"{path} was changed after this process had loaded it, and workers would run the new version: "
                "start this process again"
            )
    return code_of(path)


def check_as_loaded(spec: JobSpec, modules: Mapping[str, str]) -> None:
    """Check that modules, given with their files, have not been edited since this process loaded them.

    Raises:
        Differs: one has; the message names it.
    """
    code = code_of_job(spec)
    for name, path in modules.items():
        if name in sys.modules:
            _checked(name, path, code)


def define(spec: JobSpec) -> bytes:
    """Return the definition of a job whose classes are in a file.

    Raises:
        NotPlain: a setting is not plain data.
    """
    home = spec.producer.__module__
    made = made_of(spec.producer)
    code = code_of_job(spec, "" if home in MAIN else home)
    settings = [[*_place(place, home), values] for place, values in spec.settings.items() if not isinstance(place, str)]
    fields = {
        "home": home,
        "producer": spec.producer.__name__ if made is None else described(spec.producer, made),
        "source": None if spec.source is None else _name_of(spec.source),
        "settings": settings,
        **{name: getattr(spec, name) for name in ("seed", "part_timeout", "memory_limit", "parts")},
        "sinks": [[_name_of(type(sink)), state_of(sink)] for sink in sinks_within(spec.sink)],
        "modules": _modules(code, home),
        "texts": code.certain_texts(),
    }
    return plain.dumps(fields, f"the job {spec.producer.__name__} (its settings)")


def spec_of(definition: bytes, module: ModuleType, producer: str = "", source: str = "") -> JobSpec:
    """Return the job, with the classes of this job file; `producer` and `source`, if given, are the only ones served.

    Raises:
        Differs: the code here differs from the producer's; or the worker was started for other classes.
        UsageError: a class is missing here; or `definition` is not one.
    """
    fields = _fields(definition)
    named = fields["producer"]
    of_class = POOL if isinstance(named, list) else named
    for kind, asked, serves in (("producer", of_class, producer), ("source", fields["source"], source)):
        if asked is not None and serves and asked != serves:
            raise Differs(f"the worker was started for the {kind} {serves} (-{kind[0]}), and the job is of {asked}")
    cls = recomposed(module, named) if isinstance(named, list) else find_class(module, named, PRODUCER)
    source_class = None if fields["source"] is None else find_class(module, fields["source"], SOURCE)
    home = cls.__module__
    sink = None
    for name, state in reversed(fields["sinks"]):
        sink = _sink(module, name, state, sink)
    classes_of_job = (cls, source_class, *map(type, sinks_within(sink)))
    code = UserCode(*(one for one in classes_of_job if one is not None), home=home)
    _compare(fields, code, home)
    bases = () if source_class is None else source_class.__mro__
    classes = {_place(found, home): found for found in (*cls.__mro__, *bases, *code.classes)}
    settings: dict[Any, dict[str, Any]] = {}
    for where, name, values in fields["settings"]:
        place = classes.get((where, name))
        if place is None:
            raise Differs(
                f"the job has settings for the class {name!r}, which the code of this worker's file does not reach"
            )
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
        sink,
    )


def _name_of(cls: type) -> str:
    """Return the name by which the other side finds a class."""
    return full_name(cls) if full_name(cls) in OF_PYMAR else cls.__name__


def _sink(module: ModuleType, name: str, state: dict[str, Any], within: Any) -> Any:
    """Return a sink; its class is one that the job file names, or a stage, so that no message makes a worker write."""
    cls = find_class(module, name, SINK)
    found = object.__new__(cls)
    vars(found).update(state)
    if within is not None:
        found.sink = within
    return found


def home_of(definition: bytes) -> str:
    """Return the name that the job file has as a module at the producer."""
    return str(_fields(definition)["home"])


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
        or not all(type(one) is list and [*map(type, one)] == [str, dict] for one in fields["sinks"])
        or not all(type(text) is str for name in ("modules", "texts") for text in fields[name].values())
    ):
        raise UsageError("this is no job definition")
    return fields


def _is_setting(row: Any) -> bool:
    return type(row) is list and [*map(type, row)] == [str, str, dict] and all(type(name) is str for name in row[2])


def _place(cls: type, home: str) -> tuple[str, str]:
    """Return the module of a class ("" for the job file itself) and its name there."""
    return "" if cls.__module__ == home else cls.__module__, cls.__qualname__


def _compare(fields: dict[str, Any], code: UserCode, home: str) -> None:
    here = _modules(code, home)
    for name, hashed in fields["modules"].items():
        if here.get(name) != hashed:
            where = getattr(sys.modules.get(name), "__file__", "no file")
            raise Differs(
                f"the module {name} differs: {hashed} at the producer, {here.get(name, 'absent')} here, in {where}. "
                "Copy the producer's file to this host"
            )
    ours = code.certain_texts()
    for name in differences(fields["texts"], ours):
        there, text = _short(fields["texts"].get(name, "absent")), _short(ours.get(name, "absent"))
        if name.startswith("the "):
            raise Differs(
                f"{name} differs: {there} at the producer, {text} here. Copy the producer's files to this host"
            )
        raise Differs(
            f"the variable {name} is {there} at the producer and {text} here: make it a "
            "setting (a public class attribute of the producer or the source, of plain data): those travel with the job"
        )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
