"""The house stands as drawn: who may import whom, and nothing in it from where it does not belong."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "pymar"

#: From the ground up: a file may import those of lines above its own, and those of its own line.
ORDER = [
    "exceptions loop cores shipped jobfile masks interpreter functionstate output starts plainbounds",
    "settings interrupt pace frames byvalue script plainarrays",
    "source seeding",
    "factory sources.columns",
    "datasource sources sources.extras",
    "sources.stored sources.database",
    "sources.compressed sources.cuts sources.encodings",
    "sources.filesource sources.keyranges sources.postgres sources.partitions sources.array",
    "sources.text sources.files sources.parquet sources.sql",
    "sources.csvrows sources.jsonlines",
    "parts",
    "sourcecheck",
    "usercode values waitingroom reports",
    "failures work plainkinds encoded surroundings attributereads",
    "spelling",
    "checks reducecheck",
    "plain package",
    "checkpoint definition",
    "child seats slotjobs prints",
    "slot",
    "children slotrun",
    "slots",
    "ownpool bundle placement",
    "guest",
    "hosted",
    "engines engines.base engines.serial engines.processes engines.dask engines.ray",
    "spares",
    "job",
    "events plan progress runner",
    "producer",
    "inspection sourceview jobcheck",
    "testing",
    "amqp amqp.times amqp.protocol amqp.keys amqp.address amqp.serving amqp.owner",
    "amqp.wire amqp.outbox amqp.client amqp.assembly amqp.roll",
    "amqp.unconfirmed amqp.pair amqp.status amqp.memory",
    "amqp.link",
    "amqp.outstanding amqp.execution amqp.search",
    "amqp.session amqp.consumers amqp.doctor amqp.place amqp.fetches amqp.answers",
    "amqp.agentjob amqp.run amqp.sessions",
    "amqp.agentjobs amqp.lists amqp.leaving amqp.pausing amqp.engine",
    "amqp.agent amqp.local",
    "cli",
    "__main__",
]
FLOOR = {name: floor for floor, line in enumerate(ORDER) for name in line.split()}


def files():
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }


#: Chosen by their names, or where nobody has chosen: who chooses stands below them.
CHOSEN = {"amqp.local", "plain"}

#: Modules that import each other, however late or for types alone. This list may only shrink.
CIRCLES = [
    {"values", "plain"},
    {"amqp.run", "amqp.session"},
    {"plan", "producer", "runner"},
    {"prints", "slot"},
    {"children", "seats", "slotrun", "slots"},
    {"amqp.agent", "amqp.agentjob", "amqp.agentjobs", "amqp.answers", "amqp.leaving", "amqp.lists", "amqp.pausing"},
]


def imports(path, types=False):
    """Modules of ours that a file imports, wherever in it; those for types alone only if they are asked for."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    known = files()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names = [name if name.removeprefix("pymar.") in known else node.module for name in inner]
        else:
            continue
        if types or node not in for_types:
            yield from {name.removeprefix("pymar.") for name in names if name and name.startswith("pymar.")}


def circles(graph):
    """Sets of modules that lead to each other."""
    reached = {name: set(others) for name, others in graph.items()}
    for middle in graph:  # Warshall's closure
        for others in reached.values():
            if middle in others:
                others |= reached[middle]
    found = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return [set(circle) for circle in found if len(circle) > 1]


def test_modules_import_each_other_only_where_it_is_listed():
    graph = {name: {other for other in imports(path, types=True) if other != name} for name, path in files().items()}
    found = circles(graph)
    assert sorted(map(sorted, found)) == sorted(map(sorted, CIRCLES))


def test_every_file_has_its_place():
    assert files().keys() - {"__init__"} == FLOOR.keys()


@pytest.mark.parametrize("name", FLOOR)
def test_a_file_imports_only_what_stands_below_it(name):
    above = [module for module in imports(files()[name]) if FLOOR[module] > FLOOR[name] and module not in CHOSEN]
    assert not above, f"{name} imports {above}"


def test_engines_know_nothing_of_each_other():
    for name in ("engines.serial", "engines.processes", "engines.dask", "engines.ray"):
        others = [module for module in imports(files()[name]) if module.startswith("engines.")]
        assert not others
