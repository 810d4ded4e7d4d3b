"""A folder for the exchanges of one test, which they have to leave empty."""

import gc
import os


def left_empty(tmp_path, monkeypatch):
    """For a fixture: the folder, as PYMAR_EXCHANGE; it is empty once the test has ended."""
    folder = tmp_path / "exchange"
    folder.mkdir()
    monkeypatch.setenv("PYMAR_EXCHANGE", str(folder))
    yield folder
    gc.collect()  # an error keeps what `replay` needs, and is in cycles with its traceback
    assert os.listdir(folder) == []
