"""The programs that the pages on sinks, on reduce by key and on faults show run."""

import re

import pytest
from places import ROOT


@pytest.mark.parametrize(
    ("page", "prints"),
    [("sinks.md", "Written(records="), ("keyed.md", "Written(records="), ("faults.md", "1 of 100 parts failed")],
)
def test_the_blocks_of_a_page_run_one_after_the_other(script, page, prints):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert prints in script("\n".join(blocks)).stdout
