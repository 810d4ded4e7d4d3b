"""The house stands as drawn: who may import whom, and nothing in it from where it does not belong."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "pymar"

#: From the ground up: a file may import those of lines above its own, and those of its own line.
ORDER = [
    "exceptions loop cores shipped",
    "settings interrupt pace frames byvalue",
    "source seeding",
    "factory checks",
    "datasource",
    "parts",
    "usercode values waitingroom",
    "failures work checkpoint encoded surroundings",
    "child seats slot",
    "slotrun slots",
    "engines engines.base engines.serial engines.processes",
    "job",
    "events plan progress runner",
    "producer",
    "testing",
]
FLOOR = {name: floor for floor, line in enumerate(ORDER) for name in line.split()}


def files():
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }


def imports(path):
    """Modules of ours that a file imports, but for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in for_types and (node.module or "").startswith("pymar."):
            yield node.module.removeprefix("pymar.")


def test_every_file_has_its_place():
    assert files().keys() - {"__init__"} == FLOOR.keys()


@pytest.mark.parametrize("name", FLOOR)
def test_a_file_imports_only_what_stands_below_it(name):
    above = [module for module in imports(files()[name]) if FLOOR[module] > FLOOR[name]]
    assert not above, f"{name} imports {above}"


def test_engines_know_nothing_of_each_other():
    for name in ("engines.serial", "engines.processes"):
        others = [module for module in imports(files()[name]) if module.startswith("engines.")]
        assert not others
