"""Job packages: a job as bytes for worker processes, with what their modules and interpreters have to be like for it.

    producer    pack(spec) -> bytes: the script, or its classes by value; texts to compare; values that may differ
    worker      opened()   -> the JobSpec with the worker's own modules, and the values that have to be set in them

Code in importable modules is sent by name. In the worker, the texts that describe it (usercode.py) are compared with
those of a fresh import: values that were changed at the producer are set, and what cannot be set raises Differs.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from pymar.exceptions import NotPicklable, UsageError
from pymar.parts import JobSpec, sinks_within, state_of
from pymar.serialization import loads, script, shipped, travelled
from pymar.serialization.interpreter import Interpreter, interpreter
from pymar.serialization.jobfile import Differs, code_of, importing
from pymar.serialization.script import Script
from pymar.serialization.settings import MISSING, put, put_back
from pymar.serialization.shipped import MAIN, dynamic_modules
from pymar.serialization.usercode import Place, UserCode, code_of_job, differences, is_rewritten, is_users, passing
from pymar.serialization.values import PROTOCOL, dumps, dumps_definition, dumps_to_script

#: Bytes, at most, of a value of an importable module that is sent in case it was changed.
LARGEST_VALUE = 1 << 20


class Packed(NamedTuple):
    """A job as it is sent, and how to encode the data of its parts."""

    definition: bytes
    dumps: Callable[[Any, str], bytes]
    modules: dict[str, str]
    """The user's modules that are sent by name, and their files."""


class Package(NamedTuple):
    """What is sent for a job; all of it plain data or bytes. Unpickling it calls `opened`."""

    script: Script | None
    modules: list[str]
    """Modules to import before anything is compared."""
    texts: dict[str, str]
    """Descriptions of what has to be equal in the worker."""
    files: dict[str, str]
    """Hashes of the files of modules that an import hook has rewritten, so that their code cannot be compared."""
    values: dict[str, tuple[Place, int, bytes]]
    """Values that a fresh import may not give, with numbers of the objects: several modules may hold the same one."""
    interpreter: Interpreter
    job: bytes
    by_value: bool
    only_there: list[str]
    """Modules of the producer that no import finds: what is read of them is sent by value."""
    file: str
    """The file of a script whose classes are sent by value, for tracebacks; else ""."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return opened, tuple(self)


def pack(spec: JobSpec) -> Packed:
    """Return a job for workers that get it as bytes; packed again only if something has changed.

    Raises:
        NotPicklable: a value of it cannot be sent; the message names the variable that holds it.
    """
    code = code_of_job(spec)
    new = {name for name in code.modules if name not in MAIN and not _is_importable(name)} - dynamic_modules
    if new:
        dynamic_modules.update(new)
        code = code_of_job(spec._replace(code=None))
    names = {name: path for name, path in code.modules.items() if name not in MAIN and name not in dynamic_modules}
    reaches_script = any(name in MAIN for name in code.modules)
    loadable = script.loadable(code.functions.values()) if reaches_script else None
    around = interpreter()
    known = _Known(spec, code, loadable, around)
    key = spec.producer, spec.source
    before = _known.pop(key, None)
    job = before[1] if before is not None and before[0].is_same(known) else _packed(spec, code, names, loadable, around)
    if spec.producer in passing:
        return job
    _known[key] = known, job
    while len(_known) > _REMEMBERED:
        del _known[next(iter(_known))]
    return job


class _Known:
    """What a packed job depends on. It keeps the objects alive whose `id` it compares."""

    def __init__(self, spec: JobSpec, code: UserCode, loadable: Script | None, around: Interpreter) -> None:
        self._things = [*code.functions.values(), *code.classes]
        self._is_whole = code.is_whole and not code.unknown
        settings = [(place if isinstance(place, str) else id(place), values) for place, values in spec.settings.items()]
        sink = [(id(type(one)), state_of(one)) for one in sinks_within(spec.sink)]
        self._rest = code.texts, code.order, loadable, around, spec[3:7], sink, list(map(id, self._things))
        self._settings = pickle.dumps(settings, PROTOCOL)

    def is_same(self, other: _Known) -> bool:
        return self._is_whole and other._is_whole and self._rest == other._rest and self._settings == other._settings


#: Number of packed jobs that are kept: a loop that maps again and again packs once.
_REMEMBERED = 8
_known: dict[tuple[type, type | None], tuple[_Known, Packed]] = {}


def _packed(
    spec: JobSpec, code: UserCode, names: dict[str, str], loadable: Script | None, around: Interpreter
) -> Packed:
    by_value = loadable is None and len(names) < len(code.modules)
    encode = dumps if loadable is None else dumps_to_script
    rewritten = {name for name in names if is_rewritten(sys.modules.get(name))}
    package = Package(
        script=loadable,
        modules=[name for name in names if name in sys.modules],
        texts={
            name: text
            for name, text in _texts(code).items()
            if (loadable is not None or name in code.of_modules)
            and not (name.startswith("the code of ") and code.of_modules.get(name) in rewritten)
        },
        files={name: code_of(names[name]) for name in rewritten if os.path.isfile(names[name])},
        values=_values(code, loadable is not None, spec.producer in passing),
        interpreter=around,
        job=_job(spec, code, by_value, encode),
        by_value=by_value,
        only_there=sorted(dynamic_modules & code.modules.keys()),
        file=str(getattr(sys.modules.get("__main__"), "__file__", None) or "") if by_value else "",
    )
    return Packed(pickle.dumps(package, PROTOCOL), encode, names)


def _texts(code: UserCode) -> dict[str, str]:
    return code.fixed_texts(variables_travel=True)


def _job(spec: JobSpec, code: UserCode, by_value: bool, encode: Callable[[Any, str], bytes]) -> bytes:
    what = f"the job {spec.producer.__name__} (its classes and settings)"
    bare = spec._replace(code=None)
    try:
        if by_value:
            return dumps_definition((bare, _looked_up(code)), what, False, _only_here(code))
        return dumps_definition((bare, {}), what, True, _only_here(code))
    except NotPicklable as error:
        raise _explained(error, code, encode) from error.__cause__


def send_by_value_if_needed(name: str) -> None:
    """Note a module if no fresh interpreter would find it by its name: what is sent of it goes by value from now on."""
    if name and name not in MAIN and name not in dynamic_modules and not _is_importable(name):
        dynamic_modules.add(name)


_importable: dict[tuple[str, int], bool] = {}


def _is_importable(name: str) -> bool:
    """True if a fresh interpreter with the import path of this one would find this module's file by its name."""
    module = sys.modules.get(name)
    if module is None:
        return True
    key = name, id(module)
    if key not in _importable:
        _importable[key] = _is_found(name, module)
    return _importable[key]


def _is_found(name: str, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    path = None
    package = name.rpartition(".")[0]
    if package:
        parent = sys.modules.get(package)
        if parent is None or not _is_importable(package):
            return False
        path = getattr(parent, "__path__", None)
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # a finder of the user's may raise anything: ask the next one
            continue
        if spec is not None:
            return spec.origin is None or file is None or spec.origin == file or spec.cached == file
    return False


def _values(code: UserCode, to_script: bool, is_passing: bool) -> dict[str, tuple[Place, int, bytes]]:
    """Return the values that a fresh import may not give, encoded: they are sent in case it does not.

    Those of a passing job (see usercode) are not kept for the next one.
    """
    found: dict[str, tuple[Place, int, bytes]] = {}
    numbers: dict[int, int] = {}
    for entry, place, value in code.replaceable():
        if place.module in dynamic_modules or (place.module in MAIN and not to_script):
            continue  # it is sent by value
        known = _encoded.get(entry)
        if known is not None and known[0] == code.texts.get(entry) and known[1] is value:
            data = known[2]
        else:
            try:
                data = dumps_definition(value, entry, to_script, {})
            except UsageError:
                data = b""  # then only the texts are compared
            if not is_passing:
                _encoded[entry] = code.texts.get(entry), value, data
        if data and (len(data) <= LARGEST_VALUE or place.module in MAIN):
            found[entry] = place, numbers.setdefault(id(value), len(numbers)), data
    return found


#: What was encoded last, by entry: its text, the value, the bytes.
_encoded: dict[str, tuple[str | None, Any, bytes]] = {}


def _only_here(code: UserCode) -> dict[str, dict[str, Any]]:
    """Return what the job reads of modules that no import finds in a worker, by module and name."""
    found: dict[str, dict[str, Any]] = {name: {} for name in code.modules if name in dynamic_modules}
    for (module, name), value in code.variables.items():
        if module in found:
            found[module][name] = value
    return found


def _looked_up(code: UserCode) -> dict[str, Any]:
    """Return the variables of the script that code looks up by name at run time, if they can be sent."""
    found = {}
    for name, value in code.looked_up.items():
        try:
            dumps(value)
        except NotPicklable:
            continue  # perhaps another thing of that name is meant
        found[name] = value
    return found


def _explained(error: NotPicklable, code: UserCode, encode: Callable[[Any, str], bytes]) -> NotPicklable:
    """Return the error with the variable that holds what cannot be sent, and the function that reads it."""
    # Values before functions and classes: what these reach is then named itself.
    held = sorted(code.held(), key=lambda one: isinstance(one[1], FunctionType | type))
    for entry, value, reader in held:
        try:
            encode(value, entry)
        except NotPicklable as inner:
            of = f", which {reader} reads," if reader else ""
            why = inner.__cause__ or inner
            return NotPicklable(
                f"{entry}{of} holds a {type(value).__name__} that cannot be sent to another process: {why}. Make it "
                "where it is used (in map_fn or setup_fn); or put the job under `if __name__ == '__main__':`, then "
                "workers load the script themselves"
            )
    guard = (
        ""
        if encode is dumps_to_script
        else ". Put the job under `if __name__ == '__main__':`, then workers load the script themselves"
    )
    return NotPicklable(f"{error}{guard}")


# In a worker process.


def opened(*fields: Any) -> JobSpec:
    """Return the job of a package, with the modules of this process.

    Raises:
        Differs: a module differs here; a fresh process may have the right version.
        UsageError: the script cannot be loaded.
    """
    package = Package(*fields)
    dynamic_modules.update(package.only_there)
    if package.script is not None:
        shipped.use(shipped.Definition(script.load(package.script)))
    elif package.by_value:
        definition = shipped.Definition()
        if package.file:
            definition.main.__file__ = package.file
        shipped.use(definition)
    with importing():
        for name in package.modules:
            _import(name)
        spec: JobSpec
        spec, looked_up = loads(package.job)
    for name, value in looked_up.items():
        vars(sys.modules["__main__"]).setdefault(name, value)
    for name, hashed in package.files.items():
        path = getattr(sys.modules.get(name), "__file__", None)
        if path is None or code_of(path) != hashed:
            raise Differs(
                f"the module {name} differs in a worker (its file is {path}): start the worker, or the script, again"
            )
    settings = {
        place: {name: travelled.here(value) for name, value in values.items()}
        for place, values in spec.settings.items()
    }
    for place, values in _changed(package, spec).items():
        settings[place] = {**settings.get(place, {}), **values}
    return spec._replace(settings=settings, interpreter=package.interpreter)


def _import(name: str) -> None:
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        inside = "which the job uses" if name == missing or name.startswith(f"{missing}.") else f"which {name} imports"
        why = travelled.why_absent(missing) or "where it is not there"
        raise Differs(
            f"the module {missing}, {inside}, cannot be imported in a worker, {why}: install it on the workers or, if "
            "it is yours, put it beside the script or into its project: with a key, it travels from there"
        ) from None


def _changed(package: Package, spec: JobSpec) -> dict[Any, dict[str, Any]]:
    """Return the values to set in this process's modules, classes and functions, so that they equal the producer's.

    Raises:
        Differs: something differs here, and its value was not sent.
    """
    found: dict[Any, dict[str, Any]] = {}
    objects: dict[int, Any] = {}
    while True:  # with these values the code may reach other code: compare again
        with _in_place(found):
            code = code_of_job(spec)
            differing = _differing(package, spec, code)
            left = _add(found, objects, package, code, differing)
        if left is not None:
            break
    for entry in left:
        there, here = package.texts.get(entry, "absent"), differing.get(entry, "different")
        raise Differs(
            f"{entry} is {there} at the producer and {here} in a worker, and cannot be sent. Was a file edited since "
            "it was imported? Start the script (or the notebook's kernel) again. If the value was set while it ran, "
            "make it a setting (a public class attribute of the producer or the source, of plain data)"
        )
    return found


@contextmanager
def _in_place(found: dict[Any, dict[str, Any]]) -> Iterator[None]:
    places = [(sys.modules[place] if isinstance(place, str) else place, values) for place, values in found.items()]
    before = [(place, put(place, values)) for place, values in places]
    try:
        yield
    finally:
        for place, values in reversed(before):
            put_back(place, values)


def _add(
    found: dict[Any, dict[str, Any]],
    objects: dict[int, Any],
    package: Package,
    code: UserCode,
    differing: dict[str, str],
) -> list[str] | None:
    """Add the producer's values for what differs to `found`; if there were none, return the entries left."""
    here = {entry: place for entry, place, _ in code.replaceable()} if differing else {}
    classes = {code.label(cls): cls for cls in code.classes} if differing else {}
    # Remove last what the producer does not have: with its values the code may not reach it. From libraries remove
    # nothing, since their texts are not complete.
    absent = {entry: here[entry] for entry in differing if entry in here and entry not in package.texts}
    gone = {entry: (place, -1, b"") for entry, place in absent.items() if is_users(place.module)}
    for values in (package.values, gone):
        is_new, left = False, []
        for entry in differing:
            place, number, data = values.get(entry, (None, -1, b""))
            where = None if place is None else _found(place, code, classes)
            if place is None or where is None:
                left.append(entry)
            elif place.name not in (there := found.setdefault(where, {})):
                if data and number not in objects:
                    objects[number] = travelled.here(loads(data))
                there[place.name] = objects.get(number, MISSING)
                is_new = True
        if is_new:
            return None
        differing = {entry: differing[entry] for entry in left}
    return left


def _found(place: Place, code: UserCode, classes: dict[str, type]) -> Any:
    """Return the function, the class or the module's name of a place in this process; None if it does not exist."""
    if place.of_function or not place.within:
        return code.functions.get(place.within) if place.of_function else place.module
    found: Any = classes.get(place.within, sys.modules.get(place.module))
    for part in place.within.split(".") if place.within not in classes else ():
        found = getattr(found, part, None)
    return found


def _differing(package: Package, spec: JobSpec, code: UserCode) -> dict[str, str]:
    """Return the entries whose texts differ from the producer's, with the texts here; without settings."""
    settings = {code.entry_of(place, name) for place, values in spec.settings.items() for name in values}
    is_all = package.script is not None
    ours = {
        name: text
        for name, text in _texts(code).items()
        if (is_all or name in code.of_modules)
        and (name in package.texts or (name not in code.of_imported and name not in settings))
    }
    return {name: ours.get(name, "absent") for name in differences(package.texts, ours)}
