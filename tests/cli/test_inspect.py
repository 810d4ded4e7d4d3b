"""`pymar inspect` shows the parts of a source, and its records."""

import re
import subprocess
import sys

JOB = """
from pymar.datasource import DataSourceFactory
from pymar.producer import Producer
from pymar.sources import TextLines

class Words(TextLines):
    path = "words.txt"

class Count(Producer):
    map_fn = staticmethod(lambda lines: [len(list(lines))])
    reduce_fn = staticmethod(sum)

print(Count().map(DataSourceFactory(Words)))
"""


def inspect(folder, *options):
    command = [sys.executable, "-c", "from pymar.cli import main; main()", "inspect", "job.py", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_it_shows_length_parts_records_and_seconds(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "words.txt").write_text("".join(f"word {number}\n" for number in range(1_000)))
    done = inspect(tmp_path, "-n", "20")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Words: 8,890 bytes")
    assert lines[1] == "20 parts, of 444 bytes"
    assert lines[2] == "  part 0: offset 0, limit 444"
    assert "  part 19: offset 8,445, limit 445" in lines
    assert "  'word 0'" in lines
    assert [line for line in lines if line.startswith("part 19: ")]
    assert "1,000" not in done.stdout  # the job below was not run


def test_it_takes_settings_and_names_what_is_wrong(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    done = inspect(tmp_path, "-s", "Words", "--set", "path=wrods.txt")
    assert done.returncode == 1
    assert "wrods.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert re.search("'Wrods'.* Words", inspect(tmp_path, "-s", "Wrods").stderr)
