"""The integral and the word count that docs/benchmarks.md counts: the dataset's are right, and the shortest."""

from runpy import run_path
from types import SimpleNamespace

import pytest
from places import ROOT

WRITTEN = SimpleNamespace(**run_path(str(ROOT / "benchmarks" / "written.py")))
TASKS = pytest.mark.parametrize("task", ["integral", "wordcount"])


@TASKS
def test_a_dataset_takes_at_most_four_lines_and_fewer_than_any_other(task):
    lines = {path.stem: WRITTEN.lines_of(path) for path in WRITTEN.HERE.glob(f"{task}_*.py")}
    ours = lines.pop(f"{task}_pymar")
    assert ours <= 4
    assert ours < min(lines.values())


@TASKS
@pytest.mark.parametrize("form", ["pymar", "pymar_producer"])
def test_both_forms_give_the_answer(task, form, tmp_path):
    text = tmp_path / "text"
    text.write_text(WRITTEN.TEXT)
    assert WRITTEN.ANSWERS[task] in WRITTEN.output_of(WRITTEN.HERE / f"{task}_{form}.py", str(text))
