"""The programs that the pages on sinks and on reduce by key show run."""

import re

import pytest
from places import ROOT


@pytest.mark.parametrize("page", ["sinks.md", "keyed.md"])
def test_the_blocks_of_a_page_run_one_after_the_other(script, page):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert "Written(records=" in script("\n".join(blocks)).stdout
