"""The programs run that the pages on sinks, reduce by key, faults, calls, datasets and the executor show."""

import re

import pytest
from conftest import needed
from places import ROOT


def blocks_of(page):
    """Return the blocks of a page, one after the other."""
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(found)


@pytest.mark.parametrize(
    ("page", "prints"),
    [
        ("sinks.md", "Written(records="),
        ("keyed.md", "Written(records="),
        ("faults.md", "1 of 100 parts failed"),
        ("calls.md", "1 of 100 parts failed"),
        ("datasets.md", "Written(records=3, "),
    ],
)
def test_the_blocks_of_a_page_run_one_after_the_other(script, page, prints):
    assert prints in script(blocks_of(page)).stdout


def test_the_blocks_of_the_page_on_the_executor_print_what_it_says(script):
    for library in ("joblib", "sklearn", "scipy", "emcee"):
        needed(library)
    lines = script(blocks_of("executor.md")).stdout.splitlines()
    assert lines[:4] == ["5.0", "[5.0, 13.0]", "True True", "TypeError('must be real number, not str')"]
    assert lines[-5:] == [
        "[1.0, 2.23606797749979, 3.605551275463989]",
        "stopped",
        "{'C': 10, 'gamma': 0.001}",
        "True",
        "(50, 8, 2)",
    ]
