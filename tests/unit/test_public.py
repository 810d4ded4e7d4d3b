"""What is public: each module, name, field, method and parameter of it stands in public.txt, and in no other way.

Run as a script, it prints the list. The policy for what stands there is in docs/releases.md.
"""

import ast
import inspect
import textwrap
from difflib import unified_diff
from importlib import import_module
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("public.txt")
#: From where users import.
MODULES = [
    "pymar",
    "pymar.calls",
    "pymar.calls.options",
    "pymar.datasets",
    "pymar.datasource",
    "pymar.deprecation",
    "pymar.engines",
    "pymar.engines.base",
    "pymar.events",
    "pymar.exceptions",
    "pymar.joblib",
    "pymar.keyed",
    "pymar.parts",
    "pymar.producer",
    "pymar.sinks",
    "pymar.sources",
    "pymar.testing",
]
COLUMNAR = [f"{form}{what}" for form in ("Arrow", "ORC", "Parquet") for what in ("Batches", "Rows")]
#: What parts of Pymar need of each other across these modules, under names without an underscore. Nothing is promised
#: of it; the list says so.
OWN_USE = {
    *(f"pymar.datasource.DataSourceFactory.{name}" for name in ("batches", "for_a_job", "known_length", "release")),
    "pymar.datasource.DataSourceFactory.slices",
    *(f"pymar.exceptions.{name}.{field}" for name in ("PartFailed", "PartLost") for field in ("needs", "rerun")),
    *(f"pymar.parts.JobSpec.{name}" for name in ("classes", "code", "interpreter", "sink")),
    "pymar.engines.Choice.is_trusted",
    *(
        f"pymar.sources.{name}.files"
        for name in (*COLUMNAR, "ArrayBlocks", "CSVRows", "Files", "JSONLines", "TextLines")
    ),
    *(f"pymar.sources.{name}.file_schema" for name in COLUMNAR),
    *(f"pymar.sources.SQLRows.{name}" for name in ("bounds", "counted", "snapshot", "tables")),
    "pymar.sources.ArrayBlocks.layout",
    "pymar.sources.CSVRows.header_names",
}


def public():
    """One line for each public name, sorted by modules."""
    found = [(module, import_module(module)) for module in MODULES]
    homes = {}
    for name, module in reversed(found):  # what pymar itself has is described where it is at home
        for inner in module.__all__:
            homes.setdefault(key(getattr(module, inner)), f"{name}.{inner}")
    for name, module in found:
        yield name
        for inner in [*module.__all__, *(["__version__"] if hasattr(module, "__version__") else [])]:
            for line in described(f"{name}.{inner}", getattr(module, inner), homes):
                yield f"{line}, for its own use" if line.partition("(")[0] in OWN_USE else line


def key(value):
    """Classes and functions are known by what they are, other values by nothing."""
    return id(value) if inspect.isclass(value) or inspect.isfunction(value) else object()


def described(name, value, homes):
    """The lines of a name of a module."""
    home = homes.get(key(value), name)
    if home != name:
        yield f"{name} is {home}"
    elif inspect.isclass(value):
        bases = [homes[key(base)] for base in value.__mro__[1:] if key(base) in homes]
        yield f"{name}, a subclass of {', '.join(bases)}" if bases else f"{name}, a class"
        if hasattr(value, "_fields"):
            yield f"{name}.__new__{parameters(value)}"  # a named tuple: the order of its fields is public too
        yield from (f"{name}.{member}" for member in sorted(members(value, homes)))
    elif inspect.isfunction(value):
        yield name + parameters(value)
    else:
        yield name


def members(cls, homes, ours="pymar"):
    """Public attributes, fields and methods; not those of another public class, which are listed there."""
    found = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith(ours) or (base is not cls and key(base) in homes):
            continue
        names = {*vars(base), *inspect.get_annotations(base), *set_in_methods(base)}
        for name in names:
            value = inspect.getattr_static(base, name, None)
            function = getattr(value, "__func__", value)
            if name[0] != "_" or (name == "__init__" and function.__module__.startswith(ours)):
                found[name] = name + (parameters(function) if inspect.isfunction(function) else "")
    return found.values()


def set_in_methods(cls):
    """Names of attributes that methods of a class set."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls)))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def parameters(function):
    """What may be written in a call: names of parameters, and how they may be given."""
    signature = inspect.signature(function)
    unannotated = [
        parameter.replace(annotation=parameter.empty, default=parameter.empty)
        if parameter.default is parameter.empty
        else parameter.replace(annotation=parameter.empty, default=...)
        for parameter in signature.parameters.values()
    ]
    text = str(signature.replace(parameters=unannotated, return_annotation=signature.empty))
    return text.replace("=Ellipsis", "=...")


def test_what_is_public_is_listed():
    listed, found = LIST.read_text().splitlines(), list(public())
    changes = "\n".join(unified_diff(listed, found, LIST.name, "found", lineterm="", n=0))
    remedy = "if that is meant, say so in CHANGELOG.md and: python tests/unit/test_public.py > tests/unit/public.txt"
    assert not changes, f"what is public has changed:\n{changes}\n\n{remedy}"


@pytest.mark.parametrize("name", MODULES)
def test_public_modules_list_names_once_and_no_internals(name):
    names = import_module(name).__all__
    assert len(names) == len(set(names))
    assert [one for one in names if one[0] == "_"] == []


def test_what_is_said_to_be_for_its_own_use_is_there():
    assert {line.partition("(")[0].partition(",")[0] for line in public() if line.endswith("own use")} == OWN_USE


class Sample:
    kind = 1

    def __init__(self, width, *, height=2):
        self.width, self._height = width, height

    def area(self, scale=1, /, *more, **named):
        pass


def test_fields_methods_and_their_parameters_are_seen():
    assert sorted(members(Sample, {}, ours=__name__)) == [
        "__init__(self, width, *, height=...)",
        "area(self, scale=..., /, *more, **named)",
        "kind",
        "width",
    ]


if __name__ == "__main__":
    print("\n".join(public()))
