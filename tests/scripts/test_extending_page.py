"""docs/extending.md shows the programs of examples/extending as they are, and its tests of them pass."""

import re

import pytest
from places import ROOT

EXAMPLES = ROOT / "examples" / "extending"
PAGE = (ROOT / "docs" / "extending.md").read_text()
SOURCE, SOURCE_TEST, ENGINE, ENGINE_TEST = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def examples_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.mark.parametrize(("block", "name"), [(SOURCE, "readings_source.py"), (ENGINE, "paced_engine.py")])
def test_a_block_is_the_program(block, name):
    assert block == (EXAMPLES / name).read_text(), f"copy examples/extending/{name} into docs/extending.md"


def test_the_test_of_the_source_passes(tmp_path):
    names = {}
    exec(SOURCE_TEST, names)
    names["test_each_reading_is_given_once"](tmp_path)


def test_the_test_of_the_engine_is_a_contract_that_passes():
    names = {}
    exec(ENGINE_TEST, names)
    contract = names["TestPacedEngine"]()
    contract.test_partials_are_reduced_in_part_order()
    contract.test_a_raising_part_fails_the_job_and_says_where()


def test_the_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
