"""The layers hold: who may import whom, whatever kind of import it is; and no circle."""

import ast

import pytest
from places import ROOT

SOURCE = ROOT / "src" / "pymar"

#: From the ground up: what is in a line imports only from lines above its own, and within itself.
LAYERS = [
    "exceptions deprecation version",
    "parts",
    "serialization",
    "datasource events",
    "sources slots",
    "sinks",
    "amqp engines",
    "job",
    "producer",
    "keyed",
    "calls",
    "datasets",
    "joblib",
    "testing",
    "hosts",
    "cli",
    "__main__",
]
LAYER = {name: number for number, line in enumerate(LAYERS) for name in line.split()}
#: Names at the root of the package, at most.
MOST_AT_ROOT = 21
#: Modules that import each other. It may only shrink.
CIRCLES: list[set[str]] = []


def files():
    """Our modules: what they are called below `pymar`, and their files."""
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
        for path in SOURCE.rglob("*.py")
    }


def imports(name, path, known):
    """Modules of ours that a file imports, wherever in it and for whatever: types, lazily, from a package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            found = {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
            inner = {full for full in found if full.removeprefix("pymar.") in known and full != node.module}
            if len(inner) == len(node.names):  # the package is only where they are
                found.discard(str(node.module))
        else:
            continue
        ours = {full.removeprefix("pymar").removeprefix(".") for full in found if full.split(".")[0] == "pymar"}
        yield from (other for other in ours if other in known and other != name)


@pytest.fixture(scope="module")
def graph():
    known = files()
    return {name: set(imports(name, path, known)) for name, path in known.items()}


def circles(graph):
    """Sets of modules that lead to each other."""
    reached = {name: set(others) for name, others in graph.items()}
    for middle in graph:  # Warshall's closure
        for others in reached.values():
            if middle in others:
                others |= reached[middle]
    found = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return [set(circle) for circle in found if len(circle) > 1]


def root_of(name):
    return name.partition(".")[0]


def test_every_package_has_its_layer():
    assert {root_of(name) for name in files()} - {""} == LAYER.keys()


def test_the_root_stays_small():
    names = {entry.name for entry in SOURCE.iterdir()} - {"py.typed", "__pycache__", "__init__.py", "__main__.py"}
    assert len(names) <= MOST_AT_ROOT


def test_packages_import_only_from_layers_below_their_own(graph):
    wrong = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if name and other and root_of(name) != root_of(other) and LAYER[root_of(other)] >= LAYER[root_of(name)]
    ]
    assert not wrong


def test_no_modules_import_each_other(graph):
    assert sorted(map(sorted, circles(graph))) == sorted(map(sorted, CIRCLES))


def test_a_circle_is_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


@pytest.mark.parametrize(
    "text",
    [
        "import pymar.job.plan",
        "from pymar.job import plan",
        "from pymar.job.plan import Plan",
        "def late():\n    from pymar.job.plan import Plan",
        "if TYPE_CHECKING:\n    from pymar.job.plan import Plan",
    ],
)
def test_every_kind_of_import_is_seen(tmp_path, text):
    path = tmp_path / "module.py"
    path.write_text(text)
    assert list(imports("module", path, files())) == ["job.plan"]


def test_engines_know_nothing_of_each_other(graph):
    engines = {"engines.serial", "engines.processes", "engines.dask", "engines.ray", "amqp.producer.engine"}
    assert not [(name, other) for name in engines for other in graph[name] if other in engines]
