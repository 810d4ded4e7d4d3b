"""Run the quick tests on every other Python 3.11 or newer that is found on this machine.

Each gets a virtual environment of its own within the main one, `.venv/py3.13`, with what the quick tests need.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
OLDEST, NEWEST = 11, 15


def interpreters():
    """Paths of other minor versions: those on PATH, and those that pyenv has."""
    home = Path(os.path.expanduser("~"))  # Path.home() raises where there is none
    folders = [*map(Path, os.environ["PATH"].split(os.pathsep)), *home.glob(".pyenv/versions/*/bin")]
    for minor in range(OLDEST, NEWEST + 1):
        if minor == sys.version_info.minor:
            continue
        for folder in folders:
            path = folder / f"python3.{minor}"
            if "shims" not in path.parts and path.exists() and works(path):
                yield minor, path
                break
        else:
            print(f"Python 3.{minor}: not found, so not tested", flush=True)


def works(path):
    return subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0


def run(*command):
    return subprocess.run(list(map(str, command)), cwd=ROOT).returncode


def main():
    failed = []
    for minor, path in interpreters():
        venv = ROOT / ".venv" / f"py3.{minor}"
        python = venv / "bin" / "python"
        if not (venv / "installed").exists():
            run(path, "-m", "venv", venv)
            pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
            if run(*pip, "-e", ".", "hypothesis", "pytest", "pytest-timeout", "pytest-xdist"):
                failed.append(minor)
                continue
            (venv / "installed").touch()
        print(f"Python 3.{minor}: {path}", flush=True)
        quick = (
            "tests/engines/test_contract.py",
            "tests/unit",
            "tests/slots/test_faults.py",
            "tests/scripts/test_scripts.py",
        )
        if run(python, "-m", "pytest", "-q", "-n", "2", *quick):
            failed.append(minor)
    if failed:
        sys.exit(f"failed on Python {', '.join(f'3.{minor}' for minor in failed)}")


if __name__ == "__main__":
    main()
